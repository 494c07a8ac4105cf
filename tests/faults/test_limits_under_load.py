"""Exactly N of N with the default settings, whatever the machine and Redis are busy with: real workers, real Redis, 200
clients. The same behind a whole gateway is in `test_gateway_under_load`.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ratelimit_service.store.limits import Algorithm
from testkit.late_network import jitter, late
from testkit.redis_server import RedisServer, redis_server
from testkit.stopping import pauses
from testkit.storm import CLIENTS, HOUR_S, Heard, clear_of_the_end_of_an_hour, cpu_hogs, limiter, settings, storm

pytestmark = [pytest.mark.alone, pytest.mark.asyncio]

LIMIT, ASKED = 300, 600


@contextmanager
def redis_url(kind: str) -> Iterator[tuple[RedisServer, str]]:
    """Redis as a gateway reaches it over a network; with `jitter`, each answer is up to half a second late."""
    with redis_server() as server:
        if kind != "jitter":
            yield server, f"redis://127.0.0.1:{server.port}/0"
        else:
            with late(server.port, jitter(0.5)) as port:
                yield server, f"redis://127.0.0.1:{port}/0"


async def exact(kind: str, algorithm: Algorithm) -> None:
    """600 requests of 200 clients on 300 an hour."""
    heard = Heard()
    with cpu_hogs(), redis_url(kind) as (server, url):
        async with limiter(settings(url, LIMIT, algorithm)) as calls:
            await clear_of_the_end_of_an_hour()
            began = time.monotonic()
            enough = lambda heard: heard.answered >= ASKED  # noqa: E731
            if kind == "pauses":
                async with pauses(server):
                    await storm(calls, {"alice": heard}, enough)
            else:
                await storm(calls, {"alice": heard}, enough)
            took_s = time.monotonic() - began
    refilled = int(LIMIT * took_s / HOUR_S) + 1 if algorithm is Algorithm.TOKEN_BUCKET else 0
    assert LIMIT <= heard.admitted <= LIMIT + refilled, heard.facts
    assert (heard.unknown, heard.degraded) == (0, 0), heard.facts


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_exactly_n_of_n_on_a_busy_machine(algorithm: Algorithm) -> None:
    await exact("busy", algorithm)


_QUICK = [pytest.param(each, marks=() if each is Algorithm.SLIDING_WINDOW else pytest.mark.slow) for each in Algorithm]


@pytest.mark.parametrize("algorithm", _QUICK)
async def test_exactly_n_of_n_while_redis_is_paused_200_ms_every_2_s(algorithm: Algorithm) -> None:
    await exact("pauses", algorithm)


@pytest.mark.parametrize("algorithm", _QUICK)
async def test_exactly_n_of_n_while_redis_is_late_by_0_to_500_ms(algorithm: Algorithm) -> None:
    await exact("jitter", algorithm)


@pytest.mark.parametrize("algorithm", _QUICK)
async def test_redis_gone_flapping_and_back_costs_one_share_once(algorithm: Algorithm) -> None:
    """Half of the limit is used with Redis; then it comes and goes, with its counts."""
    heard = Heard()

    def more(answers: int) -> Callable[[Heard], bool]:
        enough = heard.answered + answers
        return lambda heard: heard.answered >= enough

    with cpu_hogs(), redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        async with limiter(settings(server.url, LIMIT, algorithm)) as calls:
            await clear_of_the_end_of_an_hour()
            await storm(calls, {"alice": heard}, more(LIMIT // 2))
            with flapping(server, times=3) as flaps:
                while flaps.is_alive():
                    await storm(calls, {"alice": heard}, more(CLIENTS))
                await storm(calls, {"alice": heard}, more(ASKED))
    share = -(-LIMIT // 2)
    assert LIMIT <= heard.admitted <= LIMIT + share, heard.facts


@contextmanager
def flapping(server: RedisServer, times: int) -> Iterator[threading.Thread]:
    """Redis is killed and started again on the same files, so many times; then it runs until the block has ended."""
    running = [server.process]

    def flap() -> None:
        for _ in range(times):
            running[-1].kill()
            running[-1].wait()
            time.sleep(0.7)
            running.append(subprocess.Popen(running[0].args, stdout=subprocess.DEVNULL))
            time.sleep(1.5)

    thread = threading.Thread(target=flap)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
        running[-1].kill()
        running[-1].wait()
