"""What Prometheus sees of the requests."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram

from accesslog_service.record import Record
from accesslog_service.sinks.exemplars import Exemplars
from accesslog_service.sinks.labels import Labels
from accesslog_service.sinks.series import Admission, Series
from gatehouse.contract import metering
from gatehouse.contract.errors import CODES, UPSTREAM_ERROR
from gatehouse.metrics import label_names, observe_many, series_of

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds: from a refusal at the gate to a long answer of a large model."""
TOKEN_BUCKETS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
"""Seconds a token: 200 a second down to slower than anyone reads."""

LOST_WHERE = ("message", "entry", "sink", "queue", "disk")
"""Where records are lost: messages and entries that can't be read, sinks that fail, a queue or a disk that is full."""

MOST = {
    "requests": 1200,
    "tokens": 1200,
    "cost": 400,
    "uncounted": 100,
    "failed": 100,
    "duration": 40,
    "first_token": 20,
    "per_token": 20,
}
"""Series that a metric may have; those of times are 20 samples each. All in all below 5,000 samples."""


class RequestMetrics:
    """The metrics of requests, in seconds and tokens. Make it after `gatehouse.metrics.share`, once a process."""

    def __init__(self, labels: Labels, directory: Path | None = None, exemplars: Exemplars | None = None) -> None:
        """`directory`: where the receivers of a gateway agree on their series."""
        self._exemplars = exemplars or Exemplars()
        self._labels = labels

        def series(metric: Counter | Histogram, kind: str) -> "Series[Any]":
            # Models that the configuration knows have their times, however many they are.
            most = MOST[kind] + (labels.known_models if isinstance(metric, Histogram) else 0)
            admission = Admission(most, directory / f"{kind}.series" if directory else None)
            return Series(metric.labels, label_names(metric), admission)

        by_request = ("endpoint", "model", "user", "tier", "status")
        self._requests = series(_counter("api_requests_total", "Requests answered.", *by_request), "requests")
        duration = "Time to the end of the answer."
        self._duration = series(_histogram("api_request_duration_seconds", duration, "endpoint", "model"), "duration")
        tokens = "Tokens, as the model server counts."
        self._tokens = series(_counter("api_tokens_total", tokens, "type", "user", "model"), "tokens")
        first = "Time to the first token of streamed answers."
        self._ttft = series(_histogram("api_time_to_first_token_seconds", first, "model"), "first_token")
        per_token = "Time per output token after the first, of streamed answers."
        self._tpot = series(
            _histogram("api_time_per_output_token_seconds", per_token, "model", buckets=TOKEN_BUCKETS), "per_token"
        )
        self._cost = series(_counter("api_cost_usd_total", "Cost, in US dollars.", "user", "model"), "cost")
        by_answer = ("model", "endpoint")
        uncounted = "Successful answers without token counts: they are charged by a guess."
        self._uncounted = series(_counter("api_uncounted_answers_total", uncounted, *by_answer), "uncounted")
        failed = "Successful answers that carried an error of the model server."
        self._failed = series(_counter("api_failed_answers_total", failed, *by_answer), "failed")
        errors = _counter("api_errors_total", "Errors, by their code: the gateway's own, and upstream_error.", "code")
        self._errors = {code: errors.labels(code) for code in CODES}  # from 0: the first of a kind is an increase
        self._lost = _counter("api_access_log_lost_total", "Records that did not get into the request log.")
        by_place = _counter("api_access_log_lost_by_place_total", "The same, by where they were lost.", "where")
        self._lost_at = {where: by_place.labels(where) for where in LOST_WHERE}
        self._received = _counter("api_access_log_entries_total", "Entries that Envoy's access log has sent.")
        unwritten = "Refusals of unknown callers that are in no log, since there were too many."
        self._unwritten = _counter("api_refusals_unwritten_total", unwritten)
        self._dropped = _counter("api_log_dropped_bytes_total", "Logs deleted before their time, for lack of room.")
        self._unsettled = _counter("api_settlements_lost_total", "Ends of requests that the limiter did not hear of.")

    def take(self, records: Sequence[Record]) -> None:
        """Count `records`; the more at a time, the cheaper each."""
        alike: defaultdict[_Alike, list[Record]] = defaultdict(list)
        for record in records:
            alike[record.endpoint, record.model, record.user_id, record.tier, record.status].append(record)
        by_model: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        for group in alike.values():
            by_model[self._count(group)] += group
        for (endpoint, model), group in by_model.items():
            self._time(endpoint, model, group)

    def lost(self, where: str, count: int) -> None:
        """So many records did not get into the request log; those lost at its `queue` or `disk` are counted in the
        other metrics all the same.
        """
        self._lost.inc(count)
        self._lost_at[where].inc(count)

    def unwritten(self, count: int) -> None:
        """So many refusals of unknown callers are counted only."""
        self._unwritten.inc(count)

    def dropped(self, size: int) -> None:
        """A log of so many bytes was deleted before its time."""
        self._dropped.inc(size)

    def received(self, count: int) -> None:
        """Envoy has sent so many entries: of ends of requests, and of requests that still run."""
        self._received.inc(count)

    def unsettled(self, count: int) -> None:
        """`count` requests ended, or ran on, without the limiter hearing of it."""
        self._unsettled.inc(count)

    def _count(self, records: Sequence[Record]) -> tuple[str, str]:
        """Records that have all their labels in common. Returns their endpoint and model, as labels."""
        first = records[0]
        endpoint, model, user = self._labels.endpoint(first), self._labels.model(first), self._labels.user(first)
        self._requests[endpoint, model, user, self._labels.tier(first), str(first.status)].inc(len(records))
        for kind, tokens in (
            ("prompt", sum([record.prompt_tokens or 0 for record in records])),
            ("completion", sum([record.completion_tokens or 0 for record in records])),
            ("cached", sum([record.cached_tokens or 0 for record in records])),
        ):
            if tokens:
                self._tokens[kind, user, model].inc(tokens)
        if cost := sum([record.cost_usd or 0 for record in records]):
            self._cost[user, model].inc(cost)
        for code, count in Counts(record.error_code for record in records).items():
            if code in CODES:
                self._errors[code].inc(count)
        if 200 <= first.status < 300 and first.endpoint in metering.METERED:
            self._count_answers(model, endpoint, records)
        return endpoint, model

    def _count_answers(self, model: str, endpoint: str, records: Sequence[Record]) -> None:
        """Successes that are none, or not to be counted; from 0, so that the first is an increase."""
        uncounted, failed = self._uncounted[model, endpoint], self._failed[model, endpoint]
        if count := sum([metering.uncounted(record) and record.backend is not None for record in records]):
            uncounted.inc(count)
        if count := sum([record.error_code == UPSTREAM_ERROR for record in records]):
            failed.inc(count)

    def _time(self, endpoint: str, model: str, records: Sequence[Record]) -> None:
        observe_many(self._duration[endpoint, model], [record.duration_ms / 1000 for record in records])
        traced = next((record for record in reversed(records) if record.trace_id), None)
        if traced:
            self._note(self._duration[endpoint, model], traced, traced.duration_ms)
            if traced.stream and traced.ttft_ms is not None:
                self._note(self._ttft[model,], traced, traced.ttft_ms)
        if first := [record.ttft_ms / 1000 for record in records if record.stream and record.ttft_ms is not None]:
            observe_many(self._ttft[model,], first)
        if paces := [pace / 1000 for record in records if (pace := record.tpot_ms) is not None]:
            observe_many(self._tpot[model,], paces)

    def _note(self, histogram: Histogram, traced: Record, milliseconds: float) -> None:
        """One exemplar for all that came at once."""
        ended = traced.time.timestamp() + traced.duration_ms / 1000
        self._exemplars.note(series_of(histogram), milliseconds / 1000, traced.trace_id or "", ended)


_Alike = tuple[str, str | None, str | None, str | None, int]


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=None)


def _histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = DURATION_BUCKETS) -> Histogram:
    return Histogram(name, text, labels, registry=None, buckets=buckets)
