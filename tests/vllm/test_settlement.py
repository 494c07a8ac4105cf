"""What Redis has charged is what the request log says, and that is what vLLM has counted, to the token."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from gatehouse.loading.load import load
from gatehouse.redis_client.client import connect
from ratelimit_service.caller import Caller
from ratelimit_service.plan import LEASE_TTL_MS, Plans
from ratelimit_service.store.port import Decision
from ratelimit_service.store.redis.store import RedisStore
from testkit.redis_server import RedisServer, redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.vllm.conftest import Vllm

pytestmark = pytest.mark.vllm

KEY = "sk-vllm-settlement-1"
LIMIT = 1_000_000_000
CLIENTS = 8
LONGEST = 1500
PATIENCE = 5
"""How often a client calls before it believes a 503: vLLM takes all cores, and authz has but 200 ms."""
SHORT = {"max_tokens": 12, "ignore_eos": True}
SOON_STOPPED = {"max_tokens": LONGEST, "stop": ["a", "e", "i", "s"]}  # reserves much, uses little
RESERVED = """
local hits = 0
for _, charge in pairs(cmsgpack.unpack(redis.call('GET', KEYS[1]))) do hits = hits + charge[1] end
return hits
"""
Call = Callable[[], int | None]


@dataclass(frozen=True)
class Setup:
    """A gateway in front of vLLM that counts in a Redis of its own."""

    gateway: RunningGateway
    redis: RedisServer
    vllm: Vllm

    def unary(self, **options: Any) -> int:
        """One call, answered whole. All calls return the tokens that vLLM told the client of."""
        return int(self._post(options).json()["usage"]["total_tokens"])

    def stream(self, **options: Any) -> int:
        answer = self._post({**options, "stream": True, "stream_options": {"include_usage": True}})
        *_, last, done, _ = answer.text.split("\n\n")
        assert done == "data: [DONE]"
        return int(json.loads(last.removeprefix("data: "))["usage"]["total_tokens"])

    def leave(self, lines: int) -> None:
        """Begin a long stream, read so many of its lines, and hang up: nobody has told the client of any tokens."""
        body = self._body({"max_tokens": LONGEST, "ignore_eos": True, "stream": True})
        for _ in range(PATIENCE):
            with httpx.stream("POST", self._url, json=body, headers=_HEADERS, timeout=120) as answer:
                if answer.status_code != 503:
                    assert sum(1 for _ in zip(range(lines), answer.iter_lines(), strict=False)) == lines
                    break

    def all_of(self, calls: Sequence[Call]) -> list[int | None]:
        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(lambda call: call(), calls))

    def counted(self) -> tuple[int, int]:
        """Prompt and generated tokens by vLLM's own counters, once nothing runs there."""
        until(lambda: self.vllm.metrics()["vllm:num_requests_running"] == 0, 30, "vLLM's last request to end")
        metrics = self.vllm.metrics()
        return int(metrics["vllm:prompt_tokens_total"]), int(metrics["vllm:generation_tokens_total"])

    def records(self) -> list[dict[str, Any]]:
        """What the request log says of calls that vLLM has answered."""
        return [r for r in self.gateway.records() if (r["user_id"], r["status"]) == ("settler", 200)]

    def logged(self, records: int) -> tuple[int, int]:
        """Prompt and generated tokens of the request log, once it holds so many records."""
        until(lambda: len(self.records()) >= records, 30, "the record of every request")
        found = self.records()
        assert len(found) == records
        return sum(r["prompt_tokens"] for r in found), sum(r["completion_tokens"] for r in found)

    def look(self) -> Decision:
        """What stands in Redis, as the store sees it."""

        async def peek() -> Decision:
            plan = Plans(load(self.gateway.directory / "gatehouse.yaml")).plan(Caller("settler", tier="paid"))
            store = RedisStore(connect(self.redis.url, timeout_s=10, connect_timeout_s=10))
            try:
                return await store.peek(plan.ask)
            finally:
                await store.close()

        return asyncio.run(peek())

    @property
    def charged(self) -> int:
        return LIMIT - self.look().outcomes[0].remaining

    @property
    def running(self) -> int:
        """How many leases are held."""
        return self.look().leases[0].in_use

    def reserved(self) -> list[int]:
        """The guesses that still wait for the true count, one for each request."""
        client = self.redis.client()
        return [client.eval(RESERVED, 1, key) for key in client.scan_iter("gh:r:*") if client.strlen(key)]

    def _post(self, options: dict[str, Any]) -> httpx.Response:
        for _ in range(PATIENCE):
            answer = httpx.post(self._url, json=self._body(options), headers=_HEADERS, timeout=120)
            if answer.status_code != 503:
                break
        assert answer.status_code == 200, answer.text
        return answer

    @property
    def _url(self) -> str:
        return f"{self.gateway.url}/v1/chat/completions"

    def _body(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.vllm.model, "messages": [{"role": "user", "content": "the quick brown fox"}], **options}


_HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def setup(vllm: Vllm, tmp_path: Path) -> Iterator[Setup]:
    config = {
        "vllm": {"base_url": f"{vllm.url}/v1", "default_model": vllm.model},
        "api_keys": {KEY: {"user_id": "settler", "tier": "paid"}},
        "rate_limits": {"paid": {"tokens_per_hour": LIMIT, "concurrent_requests": LIMIT}},
    }
    with (
        redis_server() as redis,
        running_gateway(tmp_path, {**config, "redis": {"url": redis.url}}) as gateway,
    ):
        yield Setup(gateway, redis, vllm)


def finished(setup: Setup, count: int) -> list[Call]:
    """Calls that run to their end: whole and streamed, short ones and ones that reserve much."""
    kinds = [partial(way, **options) for way in (setup.unary, setup.stream) for options in (SHORT, SOON_STOPPED)]
    return [kinds[i % len(kinds)] for i in range(count)]


def test_tokens_charged_are_the_tokens_logged_are_the_tokens_counted(setup: Setup) -> None:
    prompt, generated = setup.counted()
    told = setup.all_of(finished(setup, 140))
    logged, counted = setup.logged(140), setup.counted()
    assert logged == (counted[0] - prompt, counted[1] - generated)
    assert sum(logged) == sum(tokens or 0 for tokens in told)

    left: list[Call] = [partial(setup.leave, lines) for lines in range(2, 62, 2)]
    setup.all_of([call for pair in zip(left, finished(setup, 30), strict=True) for call in pair])
    logged, counted = setup.logged(200), setup.counted()
    residue = counted[1] - generated - logged[1]
    print(f"vLLM made {residue} tokens more for {len(left)} clients that left than ever reached the gateway")
    assert logged[0] == counted[0] - prompt
    assert 0 <= residue < LONGEST, "tokens that vLLM made between the last chunk and the end of the connection"
    ends = [record["aborted"] or record["completion_tokens"] == LONGEST for record in setup.records()]
    assert sum(ends) == len(left), "whoever left is in the log as such, unless vLLM had said all of it already"

    until(lambda: setup.running == 0 and not setup.reserved(), 30, "the settlement of every request")
    assert setup.charged == sum(logged)
    assert not setup.redis.client().keys("gh:*:l"), "a lease is left"


@pytest.mark.parametrize("victim", ["accesslog-0", "accesslog-1"])
def test_a_killed_receiver_loses_no_charge_and_holds_no_lease(setup: Setup, victim: str) -> None:
    """Of a request whose settlement died with it the reservation stays, which is no less than the truth."""
    count = 80
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(call) for call in finished(setup, count)]
        answers[count // 4].result()
        os.kill(setup.gateway.children()[victim], signal.SIGKILL)
        told = sum(answer.result() or 0 for answer in answers)
    until(
        lambda: setup.running == 0 and setup.charged >= told, 2 * LEASE_TTL_MS / 1000, "the end of leases, and charges"
    )
    unsettled, lost = setup.reserved(), count - len(setup.records())
    print(f"{len(unsettled)} of {count} unsettled, {lost} without a record; {setup.charged} charged, {told} used")
    assert setup.charged <= told + sum(unsettled)
    assert max(len(unsettled), lost) <= 2 * CLIENTS, "no more than what the receiver had in hand"
