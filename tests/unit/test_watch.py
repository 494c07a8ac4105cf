"""A change of a file is noticed however it is made, and only once it has come to rest."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gatehouse.files import watch
from gatehouse.files.watch import changed, fingerprint

WITHIN_S = 1.5


def mounted(folder: Path, text: str) -> Path:
    """A volume as Kubernetes mounts it: the file is a link into `..data`, a link to a folder that never changes."""
    version = folder / "..v1"
    version.mkdir()
    (version / "keys.yaml").write_text(text)
    (folder / "..data").symlink_to("..v1")
    (folder / "keys.yaml").symlink_to("..data/keys.yaml")
    return folder / "keys.yaml"


def swap(folder: Path, text: str) -> None:
    version = folder / f"..{time.monotonic_ns()}"
    version.mkdir()
    (version / "keys.yaml").write_text(text)
    (folder / "..data_tmp").symlink_to(version.name)
    (folder / "..data_tmp").rename(folder / "..data")


def in_place(file: Path) -> None:
    file.write_text("changed")


def renamed(file: Path) -> None:
    (file.parent / ".swp").write_text("a")  # as long as before
    (file.parent / ".swp").rename(file)


def removed(file: Path) -> None:
    file.unlink()


def touched(file: Path) -> None:
    os.utime(file, (1, 1))


async def noticed(file: Path, change: Callable[[], None], poll_s: float = 1.0) -> float:
    """Seconds from `change` until it was noticed."""
    waiting = asyncio.create_task(changed(fingerprint([file]), poll_s))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    began = time.monotonic()
    change()
    await asyncio.wait_for(waiting, 5)
    return time.monotonic() - began


@pytest.mark.asyncio
@pytest.mark.parametrize("how", [in_place, renamed, removed, touched])
async def test_a_change_is_noticed(tmp_path: Path, how: Callable[[Path], None]) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("a")
    assert await noticed(file, lambda: how(file)) < WITHIN_S


@pytest.mark.asyncio
async def test_a_swapped_link_on_the_way_is_noticed(tmp_path: Path) -> None:
    file = mounted(tmp_path, "a")
    assert await noticed(file, lambda: swap(tmp_path, "b")) < WITHIN_S


@pytest.mark.asyncio
async def test_a_link_further_away_is_noticed_by_looking(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    mounted(tmp_path / "far", "a")
    (tmp_path / "keys.yaml").symlink_to("far/keys.yaml")
    assert await noticed(tmp_path / "keys.yaml", lambda: swap(tmp_path / "far", "b")) < WITHIN_S


@pytest.mark.asyncio
async def test_a_file_in_a_folder_that_is_not_there_yet_is_noticed(tmp_path: Path) -> None:
    def appear() -> None:
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "keys.yaml").write_text("a")

    assert await noticed(tmp_path / "later" / "keys.yaml", appear, 0.5) < WITHIN_S


@pytest.mark.asyncio
async def test_without_notifications_looking_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> object:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.awatch", refuses)
    file = tmp_path / "keys.yaml"
    assert await noticed(file, lambda: in_place(file), 0.2) < WITHIN_S


@pytest.mark.asyncio
async def test_a_change_from_before_the_waiting_began_is_noticed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    seen = fingerprint([file])
    file.write_text("a")
    await asyncio.wait_for(changed(seen), 1)


@pytest.mark.asyncio
async def test_a_file_is_not_read_while_it_is_being_written(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("a")
    waiting = asyncio.create_task(changed(fingerprint([file])))
    with file.open("w") as writing:
        for _ in range(8):
            writing.write("half ")
            writing.flush()
            await asyncio.sleep(watch._REST_S / 2)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 2)


@pytest.mark.asyncio
async def test_what_happens_to_other_files_is_not_a_change(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("a")
    waiting = asyncio.create_task(changed(fingerprint([file]), 0.1))
    for number in range(5):
        (tmp_path / f"other-{number}").write_text("x")
        await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
