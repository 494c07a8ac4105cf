"""ratelimit_service dead, hung or busy, behind a whole gateway with the default settings: away is not late."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.redis_server import redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.stopping import stopped
from testkit.waiting import until

pytestmark = pytest.mark.alone

KEY = "sk-limiter-away-001"
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


def chat(gateway: RunningGateway) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-api-key": KEY}, timeout=20)


def config(backend: FakeVllm, **more: Any) -> dict[str, Any]:
    return {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
        "api_keys": {KEY: {"user_id": "u", "tier": "t"}},
        "rate_limits": {"t": {"requests_per_hour": 1000}},
        **more,
    }


def limiters(gateway: RunningGateway) -> list[int]:
    return [pid for name, pid in gateway.children().items() if name.startswith("ratelimit-")]


@contextmanager
def dead(gateway: RunningGateway) -> Iterator[None]:
    """Every worker of ratelimit, as often as it is started again."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.01):
            for pid in limiters(gateway):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("on_failure", ["allow", "deny"])
def test_f05_while_the_limiter_is_dead_the_policy_decides(tmp_path: Path, on_failure: str) -> None:
    with FakeVllm() as backend:
        settings = config(backend, limits={"on_failure": on_failure})
        with running_gateway(tmp_path, settings) as gateway:
            assert chat(gateway).status_code == 200
            with dead(gateway):
                time.sleep(0.2)
                answers = [chat(gateway) for _ in range(20)]
            if on_failure == "allow":
                assert [answer.status_code for answer in answers] == [200] * 20
                marked = sum("x-ratelimit-degraded" in answer.headers for answer in answers)
                assert marked >= 10, "the others met a worker that had just been started again"
                until(lambda: gateway.metric("api_rate_limit_bypassed_total") == marked)
            else:
                refused = [answer for answer in answers if answer.status_code == 503]
                assert {answer.json()["error"]["code"] for answer in refused} == {"limits_unavailable"}
                assert {answer.headers["retry-after"] for answer in refused} == {"1"}
                passed = [answer for answer in answers if answer not in refused]
                assert len(passed) <= 10, "these met a worker that had just been started again"
                assert all("x-ratelimit-remaining-requests" in answer.headers for answer in passed), "and were counted"
            answer = until(lambda: counted(gateway), 10, "the limiter, which is back,")
            assert int(answer.headers["x-ratelimit-remaining-requests"]) >= 900


def counted(gateway: RunningGateway) -> httpx.Response | None:
    answer = chat(gateway)
    return answer if "x-ratelimit-remaining-requests" in answer.headers else None


def test_f06_a_worker_that_hangs_is_left_for_another(tmp_path: Path) -> None:
    with FakeVllm() as backend, redis_server() as redis:
        settings = config(backend, redis={"url": redis.url})
        with running_gateway(tmp_path, settings) as gateway:
            assert chat(gateway).status_code == 200
            with stopped([gateway.children()["ratelimit-0"]]):
                began = time.monotonic()
                answers = [chat(gateway) for _ in range(5)]
                took_s = time.monotonic() - began
            assert [answer.status_code for answer in answers] == [200] * 5
            assert not any("x-ratelimit-degraded" in answer.headers for answer in answers)
            assert took_s < 8
            time.sleep(0.5)
            left = int(chat(gateway).headers["x-ratelimit-remaining-requests"])
            assert left == 1000 - 7, "each of them is counted, and once"


def test_f06_a_service_that_hangs_is_waited_for_and_then_away(tmp_path: Path) -> None:
    """That it hangs can't be told from that it is busy at first: nobody passes uncounted meanwhile."""
    with FakeVllm() as backend, redis_server() as redis:
        settings = config(backend, redis={"url": redis.url})
        with running_gateway(tmp_path, settings) as gateway:
            assert chat(gateway).status_code == 200
            with stopped(limiters(gateway)):
                began = time.monotonic()
                first = chat(gateway)
                assert time.monotonic() - began < 4
                assert (first.status_code, first.json()["error"]["code"]) == (503, "limits_unavailable")
                passed = until(lambda: (a := chat(gateway)).status_code == 200 and a, 8, "a service that is away")
                assert passed.headers["x-ratelimit-degraded"] == "true"
            until(lambda: counted(gateway), 5, "the limiter, which goes on,")


def test_leases_of_a_caller_in_turn_are_given_back_while_redis_is_gone(tmp_path: Path) -> None:
    """Several workers admit on their own; the end of a request is told to the one that holds its lease."""
    with FakeVllm() as backend, redis_server() as redis:
        settings = config(backend, redis={"url": redis.url}, server={"workers": 4})
        settings["rate_limits"] = {"t": {"concurrent_requests": 4}}
        with running_gateway(tmp_path, settings) as gateway, gateway.client(headers={"x-api-key": KEY}) as client:
            assert client.post("/v1/chat/completions", json=BODY).status_code == 200
            redis.stop()
            answers = [client.post("/v1/chat/completions", json=BODY) for _ in range(60)]
            assert [answer.status_code for answer in answers] == [200] * 60
            assert answers[-1].headers["x-ratelimit-degraded"] == "true"
            report = client.get("/v1/usage").json()
            assert report["degraded"] is True
