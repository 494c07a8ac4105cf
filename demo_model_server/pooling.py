"""`/v1/embeddings`, `/v1/score` and `/v1/rerank`: numbers made from texts, the same for the same text."""

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from itertools import count
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from demo_model_server import tokens
from demo_model_server.api import Call, PlainRequest, plain_text
from demo_model_server.errors import bad_parameter
from demo_model_server.wire import Json

DIMENSIONS = 8


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector that belongs to the text. Texts that differ point in unrelated directions."""
    blocks = (hashlib.sha256(f"{number}:{text}".encode()).digest() for number in count())
    raw = b"".join(next(blocks) for _ in range((4 * dimensions + 31) // 32))
    values = [number / 2**31 - 1 for number in struct.unpack_from(f"<{dimensions}I", raw)]
    length = math.hypot(*values)
    return [value / length for value in values]


def likeness(one: str, other: str) -> float:
    """From 0 to 1: the tokens that two texts share, out of all they have (the Jaccard index)."""
    ones, others = set(tokens.split(one)), set(tokens.split(other))
    return len(ones & others) / max(1, len(ones | others))


def usage(texts: Sequence[str]) -> Json:
    """The usage of a request that reads texts and makes none."""
    total = sum(map(tokens.count, texts))
    return {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0, "prompt_tokens_details": None}


def batch(value: object) -> object:
    """One text, or one list of token ids, is a batch of one."""
    ids = isinstance(value, list) and bool(value) and all(isinstance(each, int) for each in value)
    return [value] if ids or isinstance(value, str) else value


class EmbeddingsRequest(PlainRequest):
    """https://platform.openai.com/docs/api-reference/embeddings; the input may also be token ids."""

    input: Annotated[list[str | list[int]], BeforeValidator(batch)]
    dimensions: Annotated[int, Field(ge=1, le=4096)] = DIMENSIONS
    encoding_format: Literal["float", "base64"] = "float"

    def respond(self, call: Call) -> Json:
        texts = [plain_text("input", each) for each in self.input]
        data = [{"index": i, "object": "embedding", "embedding": self._encoded(text)} for i, text in enumerate(texts)]
        head: Json = {"id": f"embd-{call.id}", "object": "list", "created": call.created, "model": call.model}
        return head | {"data": data, "usage": usage(texts)}

    def _encoded(self, text: str) -> list[float] | str:
        values = vector(text, self.dimensions)
        if self.encoding_format == "float":
            return values
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


class ScoreRequest(PlainRequest):
    """vLLM's score API: one text against one or many, or as many against as many, pair by pair."""

    text_1: str | Annotated[list[str], Field(min_length=1)] = Field(validation_alias=AliasChoices("text_1", "queries"))
    text_2: str | Annotated[list[str], Field(min_length=1)] = Field(
        validation_alias=AliasChoices("text_2", "documents")
    )

    def respond(self, call: Call) -> Json:
        pairs = self._pairs()
        data = [{"index": i, "object": "score", "score": likeness(*pair)} for i, pair in enumerate(pairs)]
        head: Json = {"id": f"score-{call.id}", "object": "list", "created": call.created, "model": call.model}
        return head | {"data": data, "usage": usage([text for pair in pairs for text in pair])}

    def _pairs(self) -> list[tuple[str, str]]:
        ones = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        others = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(ones) not in (1, len(others)):
            raise bad_parameter("text_2", f"{len(ones)} texts cannot be paired with {len(others)}.")
        return list(zip(ones * (len(others) // len(ones)), others, strict=True))


class RerankRequest(PlainRequest):
    """Jina's and Cohere's rerank API as vLLM has it: the documents most like the query first."""

    query: str
    documents: list[str]
    top_n: int = 0  # 0: all of them

    def respond(self, call: Call) -> Json:
        scores = [likeness(self.query, document) for document in self.documents]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.top_n or None]
        results = [{"index": i, "document": {"text": self.documents[i]}, "relevance_score": scores[i]} for i in best]
        total = sum(map(tokens.count, [self.query] * len(scores) + self.documents))
        cost: Json = {"prompt_tokens": total, "total_tokens": total}
        return {"id": f"rerank-{call.id}", "model": call.model, "usage": cost, "results": results}
