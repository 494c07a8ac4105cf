"""F25: a gateway that takes over from another refuses no connection and cuts no stream. F26: Envoy is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import httpx2 as httpx
import pytest
import yaml

from gatehouse.gateway import generation
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import ROOT, RunningGateway, first_line, running_gateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, MODEL, short_form

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not generation.possible("/run/e"), reason="needs /dev/shm, where Envoys share memory"),
]

CHAT = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {LIMITED}"}
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
EVENTS = 80
PAUSE_S = 0.02
STREAM = {**BODY, "stream": True, "max_tokens": EVENTS, "ignore_eos": True}


@pytest.fixture
def backend() -> Iterator[FakeVllm]:
    with FakeVllm((MODEL,)) as fake:
        yield fake


@contextmanager
def successor(of: RunningGateway, note: str) -> Iterator[RunningGateway]:
    """`gatehouse up --replace` with a changed configuration."""
    file = of.directory / "gatehouse.yaml"
    document = yaml.safe_load(file.read_text())
    document["users"] = {note: {}}
    file.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "gatehouse.cli", "up", "-c", str(file), "--json", "--replace"]
    with (of.directory / f"stderr-{note}.log").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, start_new_session=True)
    try:
        facts = first_line(process, of.directory)
        yield RunningGateway(process, facts["url"], facts["metrics_url"], of.directory)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


async def stream(session: aiohttp.ClientSession, url: str) -> tuple[str, int, str]:
    """Request id, events and the last line."""
    async with session.post(url + CHAT, json=STREAM, headers=HEADERS) as answer:
        lines = [line.strip() async for line in answer.content if line.strip()]
        return answer.headers["x-request-id"], len(lines), lines[-1].decode()


async def knock(url: str, stop: asyncio.Event) -> Counter[str]:
    """New connections, one after the other, and what came of them."""
    seen = Counter[str]()
    while not stop.is_set():
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(url + CHAT, json=BODY, headers=HEADERS) as answer,
            ):
                await answer.read()
                seen[str(answer.status)] += 1
        except (aiohttp.ClientError, OSError) as error:
            seen[repr(error)] += 1
        await asyncio.sleep(PAUSE_S)
    return seen


async def ask_on(url: str, stop: asyncio.Event) -> Counter[str]:
    """One client that keeps its connection for as long as it may."""
    seen = Counter[str]()
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            async with session.post(url + CHAT, json=BODY, headers=HEADERS) as answer:
                await answer.read()
                seen[str(answer.status)] += 1
            await asyncio.sleep(PAUSE_S)
    return seen


async def replaced_under_load(old: RunningGateway, streams: int) -> tuple[list[tuple[str, int, str]], Counter[str]]:
    stop, connector = asyncio.Event(), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        running = []
        for _ in range(streams):
            running.append(asyncio.ensure_future(stream(session, old.url)))
            await asyncio.sleep(PAUSE_S / 2)  # who begins all at once measures that
        knocking = [asyncio.ensure_future(knock(old.url, stop)) for _ in range(3)]
        asking = asyncio.ensure_future(ask_on(old.url, stop))
        await asyncio.sleep(1)
        taking = successor(old, "second")
        new = await asyncio.to_thread(taking.__enter__)
        try:
            before = len(await asyncio.to_thread(new.records))
            assert not all(each.done() for each in running), "the streams ended before anybody took over"
            await asyncio.sleep(1)
            stop.set()
            answers = sum([await each for each in (*knocking, asking)], Counter[str]())
            ended = await asyncio.gather(*running)
            assert await asyncio.to_thread(old.process.wait, 30) == 0
            assert len(await asyncio.to_thread(new.records, before + 1)) > before
        finally:
            await asyncio.to_thread(taking.__exit__, None, None, None)
    return ended, answers


def hand_over(backend: FakeVllm, directory: Path, streams: int, event_delay_s: float) -> None:
    backend.script = Script(event_delay_s=event_delay_s)
    with running_gateway(directory, {**short_form(backend), "server": {"drain_s": 120}}) as old:
        ended, answers = asyncio.run(replaced_under_load(old, streams))
        assert set(answers) == {"200"}
        assert answers["200"] > 10
        assert {(events, last) for _, events, last in ended} == {(EVENTS + 2, "data: [DONE]")}
        asked = [record for record in old.records(streams + answers["200"]) if record["endpoint"] == CHAT]
        records = Counter(record["request_id"] for record in asked)
        assert {records[request_id] for request_id, _, _ in ended} == {1}
        assert sum(records.values()) == len(records)
        assert len(records) == streams + answers["200"]


def test_f25_streams_go_on_while_another_gateway_takes_over(backend: FakeVllm, tmp_path: Path) -> None:
    hand_over(backend, tmp_path, 100, 0.2)


@pytest.mark.slow
def test_f25_a_thousand_streams_go_on_while_another_gateway_takes_over(backend: FakeVllm, tmp_path: Path) -> None:
    hand_over(backend, tmp_path, 1000, 0.8)


def works(url: str) -> bool:
    try:
        return httpx.post(url + CHAT, json=BODY, headers=HEADERS, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def a_bad_successor(of: RunningGateway) -> int:
    """The exit status of one that would take over, and can't even start."""
    document = yaml.safe_load((of.directory / "gatehouse.yaml").read_text())
    file = of.directory / "bad.yaml"
    file.write_text(yaml.safe_dump({**document, "server": {**document["server"], "nonsense": 1}}))
    command = [sys.executable, "-m", "gatehouse.cli", "up", "-c", str(file), "--replace"]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=30, check=False).returncode


@pytest.mark.slow
def test_f26_a_line_of_gateways_outlives_its_first_and_a_killed_envoy(backend: FakeVllm, tmp_path: Path) -> None:
    """Envoy aborts when the one before it is not there to be told to end: somebody has to stand in for it.

    The first takes over from nobody, so it simply starts.
    """
    with running_gateway(tmp_path, short_form(backend), "--replace") as first:
        assert a_bad_successor(first) == 2
        assert works(first.url)
        with successor(first, "second") as second:
            assert first.process.wait(20) == 0
            with successor(second, "third") as third:
                assert second.process.wait(20) == 0
                pid = third.children()["envoy"]
                assert works(third.url)
                os.kill(pid, signal.SIGKILL)
                until(lambda: third.children().get("envoy") not in (pid, None) and works(third.url), 3, "Envoy")
                with successor(third, "fourth") as fourth:
                    assert third.process.wait(20) == 0
                    assert works(fourth.url)
                    assert fourth.stop() == 0


@pytest.mark.slow
def test_a_gateway_that_was_killed_is_nobody_to_take_over_from(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, short_form(backend)) as killed:
        children = killed.children()
        killed.process.kill()
        killed.process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), 15)
        with successor(killed, "second") as running:
            assert works(running.url)


def test_health_fails_before_the_port_is_closed_and_streams_finish(backend: FakeVllm, tmp_path: Path) -> None:
    backend.script = Script(event_delay_s=0.05)
    server = {"drain_notice_s": 2, "drain_s": 60}
    with running_gateway(tmp_path, {**short_form(backend), "server": server}) as running:
        with httpx.stream("POST", running.url + CHAT, json=STREAM, headers=HEADERS) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            seen = list(health_until_closed(running))
            rest = [line for line in lines if line]
        assert seen[-1] == (503, "draining")
        assert seen.count((503, "draining")) > 3
        assert set(seen) <= {(200, "healthy"), (503, "draining")}
        assert rest[-1] == "data: [DONE]"
        assert running.process.wait(20) == 0
        assert running.record(answer.headers["x-request-id"])["completion_tokens"] == EVENTS


def health_until_closed(running: RunningGateway) -> Iterator[tuple[int, str]]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{running.url}/health", timeout=2)
        except httpx.ConnectError:
            return
        yield answer.status_code, answer.json()["status"]
        time.sleep(0.1)
    raise AssertionError("the port was never closed")


@pytest.mark.slow
def test_a_hook_drains_an_envoy_that_runs_by_itself(backend: FakeVllm, tmp_path: Path) -> None:
    """Here one under a supervisor, which the hook knows nothing of."""
    backend.script = Script(event_delay_s=0.05)
    with running_gateway(tmp_path, short_form(backend)) as running:
        run_dir = str(running.run_dir().path)
        command = [sys.executable, "-m", "gatehouse.cli", "drain", "-c", str(tmp_path / "gatehouse.yaml"), "--json"]
        with httpx.stream("POST", running.url + CHAT, json=STREAM, headers=HEADERS) as answer:
            lines = answer.iter_lines()
            next(lines)
            hook = subprocess.Popen([*command, "--run-dir", run_dir], stdout=subprocess.PIPE, cwd=ROOT)
            rest = [line for line in lines if line]
        told, _ = hook.communicate(timeout=20)
        assert rest[-1] == "data: [DONE]"
        assert (hook.returncode, told.strip()) == (0, b'{"drained": true}')
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/health", timeout=2)


@pytest.mark.slow
def test_stopping_the_new_gateway_lets_the_streams_of_the_old_one_finish(backend: FakeVllm, tmp_path: Path) -> None:
    """Envoy would end the one before it along with itself."""
    backend.script = Script(event_delay_s=0.5)
    with running_gateway(tmp_path, {**short_form(backend), "server": {"drain_s": 60}}) as old:
        with httpx.stream("POST", old.url + CHAT, json=STREAM, headers=HEADERS, timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            with successor(old, "second") as new:
                new.process.send_signal(signal.SIGTERM)
                rest = [line for line in lines if line]
                assert new.process.wait(30) == 0
        assert rest[-1] == "data: [DONE]"
        assert old.process.wait(30) == 0
        assert old.record(answer.headers["x-request-id"])["completion_tokens"] == EVENTS
