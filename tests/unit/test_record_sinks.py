"""Where records go: the request log and Prometheus."""

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import values
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from accesslog_service.record import Record
from accesslog_service.sinks import jsonl, series
from accesslog_service.sinks.exemplars import Exemplars
from accesslog_service.sinks.jsonl import RequestLog
from accesslog_service.sinks.labels import ENDPOINTS, MAX_USERS, Labels
from accesslog_service.sinks.prometheus import LOST_WHERE, RequestMetrics
from accesslog_service.sinks.series import Admission
from gatehouse import metrics
from gatehouse.config import Config
from gatehouse.contract.labels import MAX_MODELS, Names
from gatehouse.files.daily_file import CutShortError, DailyFile
from testkit.waiting import until_async
from tests.unit.test_record import RECORD

SHORT = Config.model_validate({"vllm": {"base_url": "http://localhost:8100/v1", "default_model": "llama"}})
LONG = Config.model_validate(
    {
        "models": {"llama": {"backends": [{"url": "http://gpu-a:8100/v1"}], "aliases": ["gpt-4o"]}},
        "rate_limits": {"standard": {}, "free": {}},
    }
)


class Disk:
    """A file whose disk does what a test says. `open` lets writes through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.failure: OSError | None = None
        self.written = b""
        self.writes = 0
        self.calls: list[str] = []

    def append(self, lines: bytes) -> None:
        self.open.wait()
        if self.failure:
            raise self.failure
        self.written += lines
        self.writes += 1
        self.calls.append("append")

    def sync(self) -> None:
        self.calls.append("sync")

    def close(self) -> None:
        self.calls.append("close")


def ids(written: bytes) -> list[str]:
    return [json.loads(line)["request_id"] for line in written.splitlines()]


def records(count: int) -> list[Record]:
    return [replace(RECORD, request_id=f"r-{number}") for number in range(count)]


class Lost:
    """Notes what it is told of losses."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def take(self, where: str, count: int) -> None:
        self.seen.append((where, count))


@pytest.mark.asyncio
async def test_f08_everything_taken_is_synced_to_the_disk_at_the_end() -> None:
    disk, lost = Disk(), Lost()
    requests = RequestLog(disk, lost.take)
    async with requests.writing():
        requests.take(records(3))
    assert ids(disk.written) == ["r-0", "r-1", "r-2"]
    assert disk.calls == ["append", "sync", "close"]
    assert lost.seen == []


@pytest.mark.asyncio
async def test_records_are_written_without_waiting_for_more() -> None:
    disk = Disk()
    requests = RequestLog(disk, lambda where, count: None)
    async with requests.writing():
        requests.take(records(1))
        await until_async(lambda: disk.writes == 1)
        requests.take(records(1))
        await until_async(lambda: disk.writes == 2)


@pytest.mark.asyncio
async def test_what_was_written_is_brought_to_the_disk_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "SYNC_EVERY_S", 0.02)
    disk = Disk()
    requests = RequestLog(disk, Lost().take)
    async with requests.writing():
        requests.take(records(1))
        await until_async(lambda: disk.calls == ["append", "sync"])
        await asyncio.sleep(0.1)
        assert disk.calls == ["append", "sync"], "what is there already is not synced again"


@pytest.mark.asyncio
async def test_f09_a_blocked_disk_costs_a_bounded_backlog_and_the_rest_is_counted() -> None:
    disk, lost = Disk(), Lost()
    requests = RequestLog(disk, lost.take, max_pending_bytes=10 * len(RECORD.line()))
    disk.open.clear()
    async with requests.writing():
        for record in records(100):
            requests.take([record])
            await asyncio.sleep(0)
        assert set(lost.seen) == {("queue", 1)}
        assert len(lost.seen) == 90
        disk.open.set()
    assert ids(disk.written) == [f"r-{number}" for number in range(10)]


@pytest.mark.asyncio
async def test_f09_what_waited_for_a_blocked_disk_goes_out_in_one_write() -> None:
    disk = Disk()
    requests = RequestLog(disk, lambda where, count: None)
    disk.open.clear()
    async with requests.writing():
        requests.take(records(1))
        await asyncio.sleep(0.02)
        for record in records(50):
            requests.take([record])
        disk.open.set()
        await until_async(lambda: len(ids(disk.written)) == 51)
    assert disk.writes == 2


@pytest.mark.asyncio
async def test_records_that_a_disk_took_before_it_was_full_are_not_lost() -> None:
    disk, lost = Disk(), Lost()
    requests = RequestLog(disk, lost.take)
    disk.failure = CutShortError(OSError(28, "No space left on device"), 3)
    async with requests.writing():
        requests.take(records(5))
        await until_async(lambda: lost.seen != [])
    assert lost.seen == [("disk", 2)]


@pytest.mark.asyncio
async def test_records_a_full_disk_refuses_are_counted_and_later_ones_are_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, lost = Disk(), Lost()
    requests = RequestLog(disk, lost.take)
    disk.failure = OSError(28, "No space left on device")
    async with requests.writing():
        for refused in (1, 2):
            requests.take(records(2))
            await until_async(lambda refused=refused: len(lost.seen) == refused)  # type: ignore[misc]
        disk.failure = None
        requests.take(records(1))
    assert lost.seen == [("disk", 2), ("disk", 2)]
    assert ids(disk.written) == ["r-0"]
    assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()] != []
    assert len(caplog.records) == 1


@pytest.mark.asyncio
async def test_the_request_log_is_a_file_a_day(tmp_path: Path) -> None:
    requests = RequestLog(DailyFile(tmp_path, "requests", 30), lambda where, count: None)
    async with requests.writing():
        requests.take(records(2))
    [file] = os.listdir(tmp_path)
    assert re.fullmatch(r"requests_\d{4}-\d\d-\d\d\.log", file)
    assert ids((tmp_path / file).read_bytes()) == ["r-0", "r-1"]


def test_in_the_long_form_only_configured_models_are_named() -> None:
    labels = Labels(LONG)
    assert [labels.model(replace(RECORD, model=name)) for name in ("llama", "gpt-4o", "x")] == [
        "llama",
        "gpt-4o",
        "other",
    ]


def test_in_the_short_form_a_model_is_named_once_its_server_has_answered_for_it() -> None:
    labels = Labels(SHORT)
    refused, answered = replace(RECORD, model="tiny", status=404), replace(RECORD, model="tiny")
    assert [labels.model(record) for record in (refused, answered, refused)] == ["other", "tiny", "tiny"]


def test_in_the_short_form_the_number_of_named_models_is_capped() -> None:
    labels = Labels(SHORT)
    assert {labels.model(replace(RECORD, model=f"m{n}")) for n in range(MAX_MODELS + 50)} == {
        "other",
        *(f"m{n}" for n in range(MAX_MODELS)),
    }


def test_users_beyond_the_cap_are_other() -> None:
    labels = Labels(SHORT)
    seen = [labels.user(replace(RECORD, user_id=f"u{n}")) for n in range(MAX_USERS + 1)]
    assert seen == [*(f"u{n}" for n in range(MAX_USERS)), "other"]
    assert labels.user(replace(RECORD, user_id="u0")) == "u0"


def test_tiers_nobody_defined_are_other() -> None:
    labels = Labels(LONG)
    assert [labels.tier(replace(RECORD, tier=tier)) for tier in ("free", "gold", None)] == ["free", "other", ""]


@pytest.mark.parametrize(
    ("endpoint", "label"),
    [
        ("/v1/messages", "/v1/messages"),
        ("/v1/models/llama", "/v1/models/{id}"),
        ("/scale_elastic_ep", "other"),
        ("/v1/chat/completions/", "other"),
    ],
)
def test_endpoints_are_the_known_routes(endpoint: str, label: str) -> None:
    assert Labels(SHORT).endpoint(replace(RECORD, endpoint=endpoint)) == label


@given(names=st.lists(st.text()), room=st.integers(0, 5))
def test_no_sequence_of_names_makes_more_labels_than_there_is_room_for(names: list[str], room: int) -> None:
    values = Names(("known",), room)
    assert len({values.label(name) for name in names} - {"known", "", "other"}) <= room


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, float]]:
    """Samples as a scrape sees them: `name{label="value",…}` -> value."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    metrics.share(tmp_path, "accesslog-0")

    def scrape() -> dict[str, float]:
        families = text_string_to_metric_families(metrics.exposition(tmp_path).decode())
        return {
            sample.name
            + "{"
            + ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            + "}": sample.value
            for family in families
            for sample in family.samples
        }

    return scrape


def test_a_request_is_counted_with_its_duration_and_tokens(samples: Callable[[], dict[str, float]]) -> None:
    RequestMetrics(Labels(LONG)).take([RECORD, RECORD])
    seen = samples()
    labels = "endpoint=/v1/chat/completions,model=llama,status=200,tier=standard,user=alice"
    assert seen[f"api_requests_total{{{labels}}}"] == 2
    assert seen["api_request_duration_seconds_sum{endpoint=/v1/chat/completions,model=llama}"] == pytest.approx(1.8)
    assert seen["api_request_duration_seconds_bucket{endpoint=/v1/chat/completions,le=1.0,model=llama}"] == 2
    assert seen["api_request_duration_seconds_bucket{endpoint=/v1/chat/completions,le=0.5,model=llama}"] == 0
    assert seen["api_tokens_total{model=llama,type=prompt,user=alice}"] == 24
    assert seen["api_tokens_total{model=llama,type=completion,user=alice}"] == 62
    assert seen["api_tokens_total{model=llama,type=cached,user=alice}"] == 16
    assert seen["api_time_to_first_token_seconds_sum{model=llama}"] == pytest.approx(0.6)
    assert seen["api_time_per_output_token_seconds_sum{model=llama}"] == pytest.approx(0.04)


def test_a_refusal_is_counted_without_tokens(samples: Callable[[], dict[str, float]]) -> None:
    refusal = replace(
        RECORD,
        status=401,
        user_id=None,
        tier=None,
        model=None,
        prompt_tokens=None,
        completion_tokens=None,
        cached_tokens=None,
        ttft_ms=None,
    )
    RequestMetrics(Labels(LONG)).take([refusal])
    seen = samples()
    assert seen["api_requests_total{endpoint=/v1/chat/completions,model=,status=401,tier=,user=}"] == 1
    assert not [name for name in seen if name.startswith(("api_tokens", "api_time_"))]


ANSWERS = "endpoint=/v1/chat/completions,model=llama"


def test_answers_that_nobody_counted_are_counted_from_zero(samples: Callable[[], dict[str, float]]) -> None:
    bare = replace(RECORD, prompt_tokens=None, completion_tokens=None, cached_tokens=None)
    counted = RequestMetrics(Labels(LONG))
    cut, failed = replace(bare, aborted=True), replace(bare, error_code="upstream_error")
    free, preflight = replace(bare, endpoint="/tokenize"), replace(bare, backend=None)
    counted.take([RECORD, cut, failed, free, preflight, replace(bare, status=500), replace(bare, completion_tokens=1)])
    assert samples()[f"api_uncounted_answers_total{{{ANSWERS}}}"] == 0
    assert not [name for name in samples() if name.startswith("api_uncounted") and "tokenize" in name]
    counted.take([bare, bare])
    assert samples()[f"api_uncounted_answers_total{{{ANSWERS}}}"] == 2


def test_errors_inside_answers_are_failures(samples: Callable[[], dict[str, float]]) -> None:
    RequestMetrics(Labels(LONG)).take([RECORD, replace(RECORD, error_code="upstream_error")])
    assert samples()[f"api_failed_answers_total{{{ANSWERS}}}"] == 1
    assert samples()["api_errors_total{code=upstream_error}"] == 1


def test_the_first_token_of_an_answer_in_one_piece_is_not_timed(samples: Callable[[], dict[str, float]]) -> None:
    RequestMetrics(Labels(LONG)).take([replace(RECORD, stream=False)])
    assert not [name for name in samples() if name.startswith("api_time_")]


def test_losses_are_visible_before_there_are_any(samples: Callable[[], dict[str, float]]) -> None:
    counted = RequestMetrics(Labels(LONG))
    names = [f"api_access_log_lost_by_place_total{{where={where}}}" for where in LOST_WHERE]
    assert [samples()[name] for name in names] == [0] * len(names)
    counted.lost("disk", 3)
    assert samples()["api_access_log_lost_by_place_total{where=disk}"] == 3


def test_a_process_that_starts_again_goes_on_counting(samples: Callable[[], dict[str, float]], tmp_path: Path) -> None:
    RequestMetrics(Labels(LONG)).lost("queue", 3)
    metrics.share(tmp_path, "accesslog-0")
    RequestMetrics(Labels(LONG)).lost("queue", 1)
    assert samples()["api_access_log_lost_by_place_total{where=queue}"] == 4


def attack(prefix: str, count: int = 10_000) -> list[Record]:
    """Every model, user and path another one, and all of it answered."""
    return [
        replace(
            RECORD,
            model=f"{prefix}-m-{number}",
            user_id=f"{prefix}-u-{number}",
            endpoint=(*ENDPOINTS, f"/v1/{prefix}/{number}")[number % (len(ENDPOINTS) + 1)],
            status=(200, 404, 429, 503)[number % 4],
            cost_usd=0.01,
            stream=True,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("config", [SHORT, LONG], ids=["short", "long"])
def test_under_attack_the_receivers_together_stay_below_5000_series(
    samples: Callable[[], dict[str, float]], tmp_path: Path, config: Config
) -> None:
    for name in ("accesslog-0", "accesslog-1", "accesslog-0"):  # which starts again
        metrics.share(tmp_path, name)
        RequestMetrics(Labels(config), tmp_path).take(attack(name))
    assert len(samples()) < 5000
    total = sum(value for name, value in samples().items() if name.startswith("api_requests_total"))
    assert total == 30_000, "none is left out"


def test_models_that_are_configured_have_their_times_however_many(
    samples: Callable[[], dict[str, float]], tmp_path: Path
) -> None:
    backends = [{"url": "http://gpu-a:8100/v1"}]
    models = [f"m-{number}" for number in range(60)]
    config = Config.model_validate({"models": {model: {"backends": backends} for model in models}})
    RequestMetrics(Labels(config), tmp_path).take([replace(RECORD, model=model, stream=True) for model in models])
    timed = [name for name in samples() if name.startswith("api_time_to_first_token_seconds_count")]
    assert len(timed) == 60
    assert not [name for name in timed if "other" in name]


TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_who_scrapes_openmetrics_is_shown_a_trace_for_each_bucket(
    samples: Callable[[], dict[str, float]], tmp_path: Path
) -> None:
    traced = replace(RECORD, trace_id=TRACE, stream=True, duration_ms=900.0, ttft_ms=300.0)
    for name in ("accesslog-0", "accesslog-1"):
        metrics.share(tmp_path, name)
        exemplars = Exemplars(tmp_path, name)
        counted = RequestMetrics(Labels(LONG), tmp_path, exemplars)
        counted.take(
            [replace(traced, trace_id=name, time=traced.time - timedelta(seconds=9)), replace(traced, trace_id=None)]
        )
        counted.take([traced])
        exemplars.write()
    text = metrics.exposition(tmp_path, openmetrics=True).decode()
    found = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for family in openmetrics_families(text)
        for sample in family.samples
        if sample.exemplar
    }
    assert {key: (each.labels, each.value) for key, each in found.items()} == {
        ("api_request_duration_seconds_bucket", "1.0"): ({"trace_id": TRACE}, 0.9),
        ("api_time_to_first_token_seconds_bucket", "0.5"): ({"trace_id": TRACE}, 0.3),
    }
    assert "trace_id" not in metrics.exposition(tmp_path).decode()


def test_a_full_disk_costs_no_count_but_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is new is `other` meanwhile; half a line would be nobody's."""
    monkeypatch.setattr(series, "AGAIN_S", 0.0)
    admission = Admission(10, tmp_path / "a.series")
    assert admission.admits(("one",))
    with monkeypatch.context() as full:
        full.setattr(series, "_append", refuse)
        assert [admission.admits(values) for values in (("one",), ("two",), ("two",))] == [True, False, False]
    assert admission.admits(("two",))
    assert Admission(10, tmp_path / "a.series").admits(("two",))
    assert len(caplog.records) == 1


def refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")
