"""Two supervisors agree on who follows whom, and a gateway that is no more is followed by nobody."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gatehouse.config.model import Server
from gatehouse.gateway import generation, socket_dir
from gatehouse.gateway.generation import Generation
from gatehouse.gateway.handover import CannotReplaceError, Predecessor, Succession, place, predecessor

pytestmark = pytest.mark.asyncio


@pytest.fixture
def runs(tmp_path: Path) -> Generation:
    return Generation(4711, 2, str(tmp_path / "e"))


def offering(found: Generation | None) -> Callable[[], Awaitable[Generation | None]]:
    async def prepare() -> Generation | None:
        return found

    return prepare


async def met(at: Path) -> Predecessor:
    found = await predecessor(at)
    assert found is not None
    return found


async def test_the_next_generation_follows_the_one_that_runs(runs: Generation, tmp_path: Path) -> None:
    succession = Succession(offering(runs))
    async with succession.offered(tmp_path / "s"):
        old = await met(tmp_path / "s")
        assert old.following == replace(runs, epoch=3)
        assert not succession.taken.is_set()
        await old.release()
        await asyncio.wait_for(succession.taken.wait(), 5)
        old.close()


async def test_one_that_goes_away_has_taken_nothing_and_another_may_come(runs: Generation, tmp_path: Path) -> None:
    succession = Succession(offering(runs))
    async with succession.offered(tmp_path / "s"):
        (await met(tmp_path / "s")).close()
        second = await met(tmp_path / "s")
        assert not succession.taken.is_set()
        second.close()


async def test_the_end_of_the_old_one_is_noticed_and_its_place_held(runs: Generation, tmp_path: Path) -> None:
    async with Succession(offering(runs)).offered(tmp_path / "s"):
        old = await met(tmp_path / "s")
        await old.release()
        outliving = asyncio.ensure_future(old.outlive())
        await asyncio.sleep(0.05)
        assert not old.gone.is_set()
    await asyncio.wait_for(outliving, 5)
    assert old.gone.is_set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as child:
        child.sendto(b"end", f"{runs.sockets}_parent_{4711 * 10 + 2}")
    old.close()


async def test_who_still_takes_over_is_waited_for(runs: Generation, tmp_path: Path) -> None:
    answers = [None, runs]

    async def prepare() -> Generation | None:
        return answers.pop(0)

    async with Succession(prepare).offered(tmp_path / "s"):
        (await met(tmp_path / "s")).close()
    assert answers == []


async def test_nobody_there_is_no_gateway(tmp_path: Path) -> None:
    assert await predecessor(tmp_path / "none") is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    assert await predecessor(tmp_path / "left") is None


async def test_one_that_can_not_say_what_it_runs_is_not_replaced(tmp_path: Path) -> None:
    async def prepare() -> Generation | None:
        raise OSError("no base id")

    async with Succession(prepare).offered(tmp_path / "s"):
        with pytest.raises(CannotReplaceError, match="does not answer"):
            await predecessor(tmp_path / "s")


async def test_the_socket_goes_with_its_gateway_and_not_with_the_one_before(runs: Generation, tmp_path: Path) -> None:
    at = tmp_path / "s"
    async with Succession(offering(runs)).offered(at):
        async with Succession(offering(runs)).offered(at):
            pass
        assert not at.exists()
        async with Succession(offering(runs)).offered(at):
            pass


async def test_the_place_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    at = place(Server(host="127.0.0.1", port=8000))
    assert at.name == "127.0.0.1-8000"
    assert at.parent.stat().st_mode & 0o077 == 0
    at.parent.chmod(0o777)
    with pytest.raises(CannotReplaceError, match="not a private directory of this user"):
        place(Server())


async def test_a_place_that_others_could_have_made_first_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    for variable in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "TMPDIR"):
        monkeypatch.setenv(variable, str(shared))
    monkeypatch.setenv("HOME", str(shared))
    monkeypatch.setattr(socket_dir, "_SYSTEM", ())
    with pytest.raises(CannotReplaceError, match="XDG_RUNTIME_DIR"):
        place(Server())
    assert list(shared.iterdir()) == []


async def test_an_envoy_that_was_started_again_begins_a_new_line(runs: Generation, tmp_path: Path) -> None:
    file = tmp_path / "base-id"
    assert generation.current(file, runs.sockets, runs) == runs
    file.write_text("99")
    assert generation.current(file, runs.sockets, runs) == Generation(99, 0, runs.sockets)


async def test_every_envoy_speaks_where_only_its_user_can(runs: Generation, tmp_path: Path) -> None:
    private_sockets = ("--socket-path", runs.sockets, "--socket-mode", "600")
    assert runs.next().arguments[-4:] == private_sockets
    assert generation.first(tmp_path / "base-id", runs.sockets)[-4:] in (private_sockets, ("--disable-hot-restart",))
    assert generation.first(tmp_path / "base-id", None) == ("--disable-hot-restart",)


async def test_what_ended_envoys_have_left_is_swept_and_nothing_else(runs: Generation, tmp_path: Path) -> None:
    for name in ("e_parent_1", "e_child_1", "other"):
        (tmp_path / name).touch()
    generation.sweep(runs.sockets)
    assert os.listdir(tmp_path) == ["other"]
