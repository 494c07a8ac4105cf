"""Names of OpenTelemetry's conventions for generative AI, for traces and metrics.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai: spans and metrics.
"""

from collections.abc import Mapping

OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
TOKEN_TYPE = "gen_ai.token.type"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITTEN_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
ERROR_TYPE, SERVER_ADDRESS, SERVER_PORT = "error.type", "server.address", "server.port"

VLLM = "vllm"
"""The provider: the conventions allow custom names."""

OPERATIONS: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
}
"""Endpoint -> operation. The conventions define the first three and allow others; tokenizing is not an operation."""
