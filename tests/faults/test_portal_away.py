"""Pages need no accesslog_service, and records and settlements need no portal."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from gatehouse.files import tally_file
from portal_service.limits_left import LimitsLeft
from portal_service.tally.usage_db import UsageDb
from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

KEY = "sk-portal-0000001"
HEADERS = {"Authorization": f"Bearer {KEY}"}
BODY = {"model": "m", "messages": [{"role": "user", "content": "count me"}], "max_tokens": 4}
TAKES_OVER_S = 2.5
"""Two seconds, and half a second for a machine with little to spare."""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    with FakeVllm(("m",)) as backend:
        config = {
            "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
            "api_keys": {KEY: {"user_id": "u", "team": "t", "tier": "open"}},
            "rate_limits": {"open": {"tokens_per_hour": 1_000_000}},
        }
        with running_gateway(tmp_path, config) as running:
            yield running


def portal(gateway: RunningGateway) -> tuple[int, int]:
    """The process that works, and the standby."""
    children = gateway.children()
    by_size = sorted((children["portal-0"], children["portal-1"]), key=_private)
    return by_size[1], by_size[0]


def _private(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1])


def call(gateway: RunningGateway, times: int = 1) -> list[int]:
    with gateway.client(headers=HEADERS) as client:
        return [client.post("/v1/chat/completions", json=BODY).status_code for _ in range(times)]


def get(url: str, timeout: float = 5) -> httpx.Response | None:
    try:
        return httpx.get(url, headers=HEADERS, timeout=timeout)
    except httpx.HTTPError:
        return None


def operators(gateway: RunningGateway, path: str) -> str:
    return gateway.metrics_url.removesuffix("/metrics") + path


def health(gateway: RunningGateway) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{gateway.url}/health", timeout=5).json()
    return found


def used(gateway: RunningGateway) -> int:
    answer = get(f"{gateway.url}/v1/usage")
    return int(answer.json()["today"]["requests"]) if answer and answer.is_success and answer.json()["today"] else -1


def recorded(gateway: RunningGateway) -> int:
    return len([each for each in gateway.records() if each["endpoint"] == "/v1/chat/completions"])


def stop(gateway: RunningGateway, service: str) -> list[int]:
    pids = [pid for name, pid in gateway.children().items() if name.startswith(service)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


@pytest.mark.parametrize("service", ["accesslog", "ratelimit", "authz"])
def test_pages_are_answered_while_a_service_is_away_and_health_says_so(gateway: RunningGateway, service: str) -> None:
    assert call(gateway) == [200]
    until(lambda: set(health(gateway)["services"].values()) == {"healthy"}, 5)
    pids = stop(gateway, service)
    try:
        until(lambda: health(gateway)["services"][service] == "unavailable", 5)
        for _ in range(5):
            asked = time.monotonic()
            answer = httpx.get(f"{gateway.url}/health", timeout=5)
            assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
            assert time.monotonic() - asked < 1
        others = set(health(gateway)["services"].values())
        assert others == {"healthy", "unavailable"}
        for path in ("/ui", "/ui/data", "/metrics", "/health"):
            answer = httpx.get(operators(gateway, path), timeout=5)
            assert answer.status_code == 200, path
        if service == "accesslog":
            asked_for = ("/", "/usage", "/v1/models", "/v1/usage")
            answered = [get(gateway.url + path) for path in asked_for]
            assert [answer.status_code for answer in answered if answer] == [200] * len(asked_for)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_pages_are_answered_while_receivers_are_killed(gateway: RunningGateway) -> None:
    statuses: list[int | None] = []
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for name, pid in gateway.children().items():
            if name.startswith("accesslog"):
                os.kill(pid, signal.SIGKILL)
        for path in ("/health", "/v1/models"):
            answer = get(gateway.url + path)
            statuses.append(answer.status_code if answer else None)
        answer = get(operators(gateway, "/ui"))
        statuses.append(answer.status_code if answer else None)
    assert set(statuses) == {200}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_the_standby_serves_within_two_seconds_and_the_tally_goes_on_exactly(
    gateway: RunningGateway, number: signal.Signals
) -> None:
    assert set(call(gateway, 10)) == {200}
    until(lambda: used(gateway) == 10, 10)
    assert gateway.metric("api_user_info", user="u") == 1
    working, standby = portal(gateway)
    os.kill(working, number)
    ended = time.monotonic()
    assert set(call(gateway, 10)) == {200}, "model traffic does not notice"
    behind_envoy = get(f"{gateway.url}/health")
    assert behind_envoy, "no answer"
    assert behind_envoy.status_code == 200, "whoever asks meanwhile waits"
    until(lambda: get(operators(gateway, "/metrics"), 0.3), max(0.1, ended + TAKES_OVER_S - time.monotonic()))
    until(lambda: used(gateway) == 20, 10)
    reason = "hung" if number == signal.SIGSTOP else "ended"
    assert gateway.metric("api_portal_takeovers_total", reason=reason) == 1
    assert gateway.metric("api_user_info", user="u") == 1, "of this moment, and not also of the process before"
    until(lambda: {"portal-0", "portal-1"} <= gateway.children().keys(), 10, "a standby again")
    assert standby in gateway.children().values(), "it is the one that works now"
    until(lambda: recorded(gateway) == 20, 10)


def test_model_traffic_goes_on_without_any_portal(gateway: RunningGateway) -> None:
    assert set(call(gateway, 5)) == {200}
    deadline = time.monotonic() + 3
    statuses = []
    while time.monotonic() < deadline:
        for name, pid in gateway.children().items():
            if name.startswith("portal"):
                os.kill(pid, signal.SIGKILL)
        statuses += call(gateway, 5)
    assert set(statuses) == {200}
    until(lambda: recorded(gateway) == 5 + len(statuses), 10, "a record of each")
    until(lambda: used(gateway) == 5 + len(statuses), 20, "the tally has them all")


def test_pages_that_many_ask_for_delay_no_record_and_no_settlement(gateway: RunningGateway) -> None:
    call(gateway, 20)
    over = threading.Event()

    def ask(url: str) -> int:
        times = 0
        with httpx.Client(headers=HEADERS, timeout=20) as client:
            while not over.is_set():
                with suppress(httpx.HTTPError):  # of the operators' port, while nobody has it
                    times += client.get(url).is_success
        return times

    def slowest(times: int) -> float:
        return max(_until_recorded(gateway) for _ in range(times))

    working, _ = portal(gateway)
    with ThreadPoolExecutor(8) as pool:
        urls = [operators(gateway, path) for path in ("/metrics", "/ui/data")] + [f"{gateway.url}/v1/usage"]
        asking = [pool.submit(ask, url) for url in urls for _ in range(2)]
        try:
            with_many_who_ask = slowest(30)
            os.kill(working, signal.SIGSTOP)  # the slowest that there is; the standby ends it
            with_a_stopped_portal = slowest(5)
        finally:
            over.set()
        assert sum(each.result() for each in asking) > 20
    assert with_a_stopped_portal < 2
    assert max(with_many_who_ask, with_a_stopped_portal) < 2
    until(lambda: _counted(gateway) == recorded(gateway), 10, "every record is in the metrics")


def _until_recorded(gateway: RunningGateway) -> float:
    """Seconds from the end of a request to its record and its settlement: what is charged is what was used."""
    with gateway.client(headers=HEADERS) as client:
        answer = client.post("/v1/chat/completions", json=BODY)
    ended = time.monotonic()
    gateway.record(answer.headers["x-request-id"])
    own = [each for each in gateway.records() if each["endpoint"] == "/v1/chat/completions"]
    tokens = sum(each["prompt_tokens"] + each["completion_tokens"] for each in own)
    until(lambda: _charged(gateway) == tokens, 5, f"{tokens} tokens charged")
    return time.monotonic() - ended


def _charged(gateway: RunningGateway) -> int:
    left = LimitsLeft([gateway.run_dir().socket("ratelimit", 0)])
    (limit,) = asyncio.run(left.of("u", "t", "open", "", "m"))["limits"]
    return int(limit["used"])


def _counted(gateway: RunningGateway) -> float:
    return gateway.metric("api_requests_total", endpoint="/v1/chat/completions")


def test_a_gateway_that_has_stopped_leaves_a_tally_of_all_its_records(gateway: RunningGateway) -> None:
    assert set(call(gateway, 10)) == {200}
    assert gateway.stop() == 0
    with UsageDb(gateway.directory / "logs" / tally_file.NAME).reading() as db:
        assert db.execute("SELECT sum(requests) FROM days").fetchone() == (10,)
