"""The metrics of OpenTelemetry's conventions for generative AI, for requests that went to a model server.

Names, units, bounds and attributes: open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from accesslog_service.record import Record
from accesslog_service.sinks.histogram import Histogram
from accesslog_service.sinks.labels import Labels
from gatehouse.config.model import Config
from gatehouse.contract import gen_ai, metering
from gatehouse.contract.labels import OTHER

TOKEN_BOUNDS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
DURATION_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

ABORTED = "aborted"
"""The error of an answer that began well and did not reach its end."""

Attributes = dict[str, str | int]


class Operation(NamedTuple):
    """What the series of a metric differ by; "" where there is nothing to say. `model` and `server` are bounded."""

    name: str
    model: str
    server: str
    token_type: str = ""
    error: str = ""


OVERFLOW = Operation("", "", "")


class GenAiMetrics:
    """Tokens and times, in tokens and seconds, of what reached a model server. What was refused before is not here."""

    def __init__(self, config: Config, labels: Labels) -> None:
        self._labels = labels
        self.adopt(config)
        self.tokens = _histogram("gen_ai.client.token.usage", "{token}", "Input and output tokens used.", TOKEN_BOUNDS)
        self.duration = _histogram(
            "gen_ai.server.request.duration", "s", "Time to the last byte or output token.", DURATION_BOUNDS
        )
        self.first_token = _histogram(
            "gen_ai.server.time_to_first_token", "s", "Time to the first token of streamed answers.", FIRST_TOKEN_BOUNDS
        )
        self.per_token = _histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Time per output token after the first, of streamed answers.",
            PER_TOKEN_BOUNDS,
        )

    def adopt(self, config: Config) -> None:
        """Name models as `config` does."""
        self._model_of: Callable[[str], str] | None = config.model_of if config.models else None

    @property
    def histograms(self) -> tuple[Histogram[Operation], ...]:
        return self.tokens, self.duration, self.first_token, self.per_token

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            name = gen_ai.OPERATIONS.get(record.endpoint)
            if name is not None and record.backend is not None:
                self._count(Operation(name, self._labels.model(record), self._labels.backend(record)), record)

    def _count(self, of: Operation, record: Record) -> None:
        self.duration.observe(of._replace(error=_error(record)), record.duration_ms / 1000)
        for kind, tokens in (("input", record.prompt_tokens), ("output", record.completion_tokens)):
            if tokens:
                self.tokens.observe(of._replace(token_type=kind), tokens)
        if record.stream and record.ttft_ms is not None:
            self.first_token.observe(of, record.ttft_ms / 1000)
        if (tpot_ms := record.tpot_ms) is not None:
            self.per_token.observe(of, tpot_ms / 1000)

    def attributes(self, of: Operation) -> Attributes:
        """The conventions' attributes of a series."""
        if of == OVERFLOW:
            return {"otel.metric.overflow": True}
        found: Attributes = {gen_ai.OPERATION: of.name, gen_ai.PROVIDER: gen_ai.VLLM}
        if of.model:
            found[gen_ai.REQUEST_MODEL] = of.model
        if self._model_of and of.model not in ("", OTHER):
            found[gen_ai.RESPONSE_MODEL] = self._model_of(of.model)
        address, _, port = of.server.rpartition(":")
        if address and port.isdecimal():
            found[gen_ai.SERVER_ADDRESS] = address.strip("[]")
            found[gen_ai.SERVER_PORT] = int(port)
        if of.token_type:
            found[gen_ai.TOKEN_TYPE] = of.token_type
        if of.error:
            found[gen_ai.ERROR_TYPE] = of.error
        return found


def _error(record: Record) -> str:
    if metering.failed(record):
        return record.error_code or str(record.status)
    return ABORTED if record.aborted else ""


def _histogram(name: str, unit: str, description: str, bounds: tuple[float, ...]) -> Histogram[Operation]:
    return Histogram(name, unit, description, bounds, OVERFLOW)
