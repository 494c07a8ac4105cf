"""What Prometheus sees of the requests."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from prometheus_client import Counter, Histogram

from accesslog_service.record import Record
from accesslog_service.sinks.labels import Labels

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds: from a refusal at the gate to a long answer of a large model."""
TOKEN_BUCKETS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
"""Seconds a token: 200 a second down to slower than anyone reads."""

LOST_WHERE = ("message", "entry", "sink", "queue", "disk")
"""Where records are lost: messages and entries that can't be read, sinks that fail, a queue or a disk that is full."""

Metric = TypeVar("Metric")


class Series(dict[tuple[str, ...], Metric]):
    """The series of a metric by their label values. `make` makes one, once: its look-up costs more than counting."""

    def __init__(self, make: Callable[..., Metric]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, labels: tuple[str, ...]) -> Metric:
        series = self[labels] = self._make(*labels)
        return series


class RequestMetrics:
    """The metrics of requests, in seconds and tokens. Make it after `gatehouse.metrics.share`, once a process."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        by_request = ("endpoint", "model", "user", "tier", "status")
        self._requests = Series(_counter("api_requests_total", "Requests answered.", *by_request).labels)
        self._duration = Series(
            _histogram("api_request_duration_seconds", "Time to the end of the answer.", "endpoint", "model").labels
        )
        self._tokens = Series(
            _counter("api_tokens_total", "Tokens, as the model server counts.", "type", "user", "model").labels
        )
        first = "Time to the first token of streamed answers."
        self._ttft = Series(_histogram("api_time_to_first_token_seconds", first, "model").labels)
        per_token = "Time per output token after the first, of streamed answers."
        self._tpot = Series(
            _histogram("api_time_per_output_token_seconds", per_token, "model", buckets=TOKEN_BUCKETS).labels
        )
        self._cost = Series(_counter("api_cost_usd_total", "Cost, in US dollars.", "user", "model").labels)
        lost = _counter("api_access_log_lost_total", "Records that did not get into the request log.", "where")
        self._lost = {where: lost.labels(where) for where in LOST_WHERE}
        self._received = _counter("api_access_log_entries_total", "Entries that Envoy's access log has sent.")
        self._unsettled = _counter("api_settlements_lost_total", "Ends of requests that the limiter did not hear of.")

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            self._count(record)

    def lost(self, where: str, count: int) -> None:
        """So many records did not get into the request log; those lost at its `queue` or `disk` are counted in the
        other metrics all the same.
        """
        self._lost[where].inc(count)

    def received(self, count: int) -> None:
        """Envoy has sent so many entries: of ends of requests, and of requests that still run."""
        self._received.inc(count)

    def unsettled(self, count: int) -> None:
        """`count` requests ended, or ran on, without the limiter hearing of it."""
        self._unsettled.inc(count)

    def _count(self, record: Record) -> None:
        endpoint, model, user = self._labels.endpoint(record), self._labels.model(record), self._labels.user(record)
        self._requests[endpoint, model, user, self._labels.tier(record), str(record.status)].inc()
        self._duration[endpoint, model].observe(record.duration_ms / 1000)
        for kind, tokens in (
            ("prompt", record.prompt_tokens),
            ("completion", record.completion_tokens),
            ("cached", record.cached_tokens),
        ):
            if tokens:
                self._tokens[kind, user, model].inc(tokens)
        if record.cost_usd:
            self._cost[user, model].inc(record.cost_usd)
        if record.stream and record.ttft_ms is not None:
            self._ttft[model,].observe(record.ttft_ms / 1000)
        if (tpot_ms := record.tpot_ms) is not None:
            self._tpot[model,].observe(tpot_ms / 1000)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=None)


def _histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = DURATION_BUCKETS) -> Histogram:
    return Histogram(name, text, labels, registry=None, buckets=buckets)
