"""The GenAI metrics: what is measured, under which attributes, and how it leaves."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from accesslog_service.record import Record
from accesslog_service.sinks.gen_ai import OVERFLOW, GenAiMetrics, Operation
from accesslog_service.sinks.histogram import MAX_SERIES, Histogram
from accesslog_service.sinks.labels import MAX_BACKENDS, Labels
from accesslog_service.sinks.otlp import Sender
from gatehouse.config import Config
from gatehouse.contract import gen_ai, names
from gatehouse.contract.labels import MAX_MODELS
from tests.unit.test_record import RECORD

SHORT = Config.model_validate({"vllm": {"base_url": "http://localhost:8100/v1", "default_model": "llama"}})
LONG = Config.model_validate(
    {"models": {"llama": {"backends": [{"url": "http://gpu-a:8100/v1"}], "aliases": ["gpt-4o"]}}}
)


def chat(**fields: Any) -> Record:
    usual = {"endpoint": "/v1/chat/completions", "model": "llama", "backend": "10.0.0.1:8100", "status": 200}
    counts = {"prompt_tokens": 20, "completion_tokens": 11, "duration_ms": 1100.0, "ttft_ms": 100.0, "stream": True}
    return replace(RECORD, **{**usual, **counts, "aborted": False, "error_code": None, **fields})


def counted(*records: Record, config: Config = SHORT) -> GenAiMetrics:
    metrics = GenAiMetrics(config, Labels(config))
    metrics.take(records)
    return metrics


def attributes(metrics: GenAiMetrics, histogram: Histogram[Operation]) -> dict[str, str | int]:
    (operation,) = histogram.series
    return metrics.attributes(operation)


@pytest.mark.parametrize(("value", "bucket"), [(0, 0), (1, 0), (2, 1), (4, 1), (4.5, 2), (67108864, 13), (10**9, 14)])
def test_a_bound_belongs_to_the_bucket_below_it(value: float, bucket: int) -> None:
    metrics = GenAiMetrics(SHORT, Labels(SHORT))
    metrics.tokens.observe(Operation("chat", "llama", ""), value)
    (series,) = metrics.tokens.series.values()
    assert (len(series.buckets), series.buckets.index(1), series.total) == (15, bucket, value)


def test_a_streamed_answer_is_measured_in_tokens_and_times() -> None:
    metrics = counted(chat(), chat())
    assert {of.token_type: series.total for of, series in metrics.tokens.series.items()} == {"input": 40, "output": 22}
    for histogram, total in ((metrics.duration, 2.2), (metrics.first_token, 0.2), (metrics.per_token, 0.2)):
        (series,) = histogram.series.values()
        assert series.total == pytest.approx(total)
        assert sum(series.buckets) == 2
    assert attributes(metrics, metrics.duration) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "llama",
        "server.address": "10.0.0.1",
        "server.port": 8100,
    }


def test_an_answer_in_one_piece_has_no_first_token() -> None:
    metrics = counted(chat(stream=False))
    assert not metrics.first_token.series
    assert not metrics.per_token.series
    assert len(metrics.tokens.series) == 2


@pytest.mark.parametrize(
    "record",
    [
        chat(backend=None, status=429, error_code="rate_limit_exceeded"),
        chat(endpoint="/tokenize"),
        chat(endpoint="/v1/usage", backend=None),
    ],
)
def test_what_is_no_operation_of_a_model_server_is_not_here(record: Record) -> None:
    assert [histogram.series for histogram in counted(record).histograms] == [{}, {}, {}, {}]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": 503, "error_code": "backend_unavailable"}, "backend_unavailable"),
        ({"status": 500}, "500"),
        ({"status": 200, "error_code": "upstream_error"}, "upstream_error"),
        ({"aborted": True}, "aborted"),
        ({"status": 0, "aborted": True}, "aborted"),
        ({}, None),
    ],
)
def test_an_error_has_a_type(fields: dict[str, Any], error: str | None) -> None:
    metrics = counted(chat(**fields))
    assert attributes(metrics, metrics.duration).get("error.type") == error


def test_every_endpoint_is_an_operation_or_tokenizes() -> None:
    assert set(names.ENDPOINTS) - set(gen_ai.OPERATIONS) == {"/tokenize", "/detokenize", "/v1/messages/count_tokens"}


def test_an_alias_says_which_model_answered() -> None:
    metrics = counted(chat(model="gpt-4o"), config=LONG)
    found = attributes(metrics, metrics.duration)
    assert (found["gen_ai.request.model"], found["gen_ai.response.model"]) == ("gpt-4o", "llama")


def test_an_unknown_model_is_other_and_a_missing_one_is_left_out() -> None:
    metrics = counted(chat(model="made-up", status=404), config=LONG)
    assert attributes(metrics, metrics.duration)["gen_ai.request.model"] == "other"
    assert "gen_ai.response.model" not in attributes(metrics, metrics.duration)
    metrics = counted(chat(model=""))
    assert "gen_ai.request.model" not in attributes(metrics, metrics.duration)


def test_nobody_can_make_many_series() -> None:
    metrics = counted(*(chat(model=f"m{i}", backend="a:1") for i in range(1000)))
    assert len(metrics.duration.series) <= MAX_MODELS + 2
    metrics = counted(*(chat(backend=f"10.0.{i // 256}.{i % 256}:80") for i in range(1000)))
    assert len(metrics.duration.series) <= MAX_BACKENDS + 1


def test_beyond_the_most_series_all_is_counted_as_overflow() -> None:
    metrics = counted(*(chat(model=f"m{i % 200}", backend=f"10.0.0.{i // 200}:80") for i in range(3000)))
    assert len(metrics.duration.series) == MAX_SERIES
    assert sum(sum(series.buckets) for series in metrics.duration.series.values()) == 3000
    assert metrics.attributes(OVERFLOW) == {"otel.metric.overflow": True}


def test_an_ipv6_server_has_an_address_and_a_port() -> None:
    metrics = counted(chat(backend="[fd00::5]:8100"))
    found = attributes(metrics, metrics.duration)
    assert (found["server.address"], found["server.port"]) == ("fd00::5", 8100)
    metrics = counted(chat(backend="model:llama", status=503))
    assert "server.address" not in attributes(metrics, metrics.duration)


def test_who_has_no_receiver_does_without_opentelemetry() -> None:
    code = "import sys, accesslog_service.__main__; print([name for name in sys.modules if 'opentelemetry' in name])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


class Wire:
    """An export that does what a test says."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self.sent: list[Any] = []

    def export(self, data: Any) -> str | None:
        if self.failure is None:
            self.sent.append(data)
        return self.failure


def sender(metrics: GenAiMetrics, wire: Wire, interval_s: float = 0.02) -> Sender:
    return Sender(metrics, wire.export, "host:8000/accesslog-0", interval_s)


def test_what_is_collected_is_cumulative_and_says_whose_it_is() -> None:
    data = sender(counted(chat()), Wire()).collected()
    assert data is not None
    (group,) = data.resource_metrics
    resource = group.resource.attributes
    assert (resource["service.name"], resource["service.instance.id"]) == ("gatehouse", "host:8000/accesslog-0")
    (scope,) = group.scope_metrics
    assert {metric.name: metric.unit for metric in scope.metrics} == {
        "gen_ai.client.token.usage": "{token}",
        "gen_ai.server.request.duration": "s",
        "gen_ai.server.time_to_first_token": "s",
        "gen_ai.server.time_per_output_token": "s",
    }
    assert {metric.data.aggregation_temporality.name for metric in scope.metrics} == {"CUMULATIVE"}


@pytest.mark.asyncio
async def test_what_came_last_is_sent_on_leaving() -> None:
    metrics, wire = counted(), Wire()
    async with sender(metrics, wire, interval_s=60).sending():
        metrics.take([chat()])
    assert len(wire.sent) == 1


@pytest.mark.asyncio
async def test_failures_are_logged_once_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wire = Wire()
    wire.failure = "nobody listens"
    async with sender(counted(chat()), wire).sending():
        await asyncio.sleep(0.2)
        wire.failure = None
        await asyncio.sleep(0.2)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["metrics can't be sent, they are kept until they can: nobody listens", "metrics are sent again"]


@pytest.mark.asyncio
async def test_nobody_waits_to_leave_for_a_receiver_that_is_gone() -> None:
    wire = Wire()
    wire.failure = "nobody listens"
    async with sender(counted(chat()), wire).sending():
        await asyncio.sleep(0.1)
        wire.failure = None
        wire.sent.clear()
        await asyncio.sleep(0)
    assert len(wire.sent) <= 1
