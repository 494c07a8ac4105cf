"""F04: a worker of authz that hangs costs no request; one that is late is waited for; with none, the wait is short.

With default settings, and with two processes beside it that want all of the CPU.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence

import aiohttp
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.stopping import stopped
from tests.faults.hogs import hogs
from tests.integration.conftest import LIMITED, MODEL, short_form

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {LIMITED}"}
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
RATE = 40
WORKERS = ("authz-0", "authz-1")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        FakeVllm((MODEL,)) as backend,
        running_gateway(tmp_path_factory.mktemp("f04"), short_form(backend)) as running,
    ):
        yield running


async def ask(session: aiohttp.ClientSession) -> tuple[str, float]:
    """What came of a request ("200", or an error's code), and how long it took."""
    began = time.monotonic()
    async with session.post(CHAT, json=BODY, headers=HEADERS) as answer:
        said = await answer.json()
        return said.get("error", {}).get("code", str(answer.status)), time.monotonic() - began


async def asked(gateway: RunningGateway, seconds: float) -> list[tuple[str, float]]:
    """`RATE` requests a second, whatever becomes of those before."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as session:
        running, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            running.append(asyncio.create_task(ask(session)))
            await asyncio.sleep(1 / RATE)
        return await asyncio.gather(*running)


async def asked_while(
    gateway: RunningGateway, names: Sequence[str], pauses: Sequence[float]
) -> list[tuple[str, float]]:
    """Requests meanwhile, where `names` hang for so long each time, and run for 0.3 s in between."""
    load = asyncio.create_task(asked(gateway, sum(pauses) + 0.3 * len(pauses) + 0.5))
    for pause in pauses:
        await asyncio.sleep(0.3)
        with stopped([gateway.children()[name] for name in names]):
            await asyncio.sleep(pause)
    return await load


def outcomes(answers: list[tuple[str, float]]) -> set[str]:
    return {what for what, _ in answers}


def test_f04_a_worker_that_hangs_costs_no_request(gateway: RunningGateway) -> None:
    """The one that is asked first."""
    with hogs():
        answers = asyncio.run(asked_while(gateway, WORKERS[:1], [5]))
    assert outcomes(answers) == {"200"}
    assert max(took for _, took in answers) < 1, "asked of the other in time"


def test_f04_workers_that_are_late_are_waited_for(gateway: RunningGateway) -> None:
    """A machine without CPU time: nobody answers for a second, again and again."""
    with hogs():
        answers = asyncio.run(asked_while(gateway, WORKERS, [1.0] * 4))
    assert outcomes(answers) == {"200"}
    assert max(took for _, took in answers) > 0.8, "some had to wait"


def test_f04_without_any_worker_it_is_503_within_two_seconds_and_well_at_once(gateway: RunningGateway) -> None:
    answers = asyncio.run(asked_while(gateway, WORKERS, [5]))
    assert outcomes(answers) == {"200", "auth_unavailable"}
    assert max(took for _, took in answers) < 2
    time.sleep(0.5)
    assert outcomes(asyncio.run(asked(gateway, 0.5))) == {"200"}
