"""What the key store in a file promises beyond the port: the old content or the new, and nothing for other eyes."""

import asyncio
import fcntl
import os
import time
from pathlib import Path

import pytest

from gatehouse.keys.record_json import to_json
from gatehouse.keys.store import KeyStoreUnavailable
from gatehouse.keys.store_file import FileKeyStore
from tests.contract.test_key_store_contract import Follower, key
from tests.contract.test_key_store_redis import many

pytestmark = pytest.mark.asyncio


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


@pytest.fixture
def store(path: Path) -> FileKeyStore:
    return FileKeyStore(path, patience_s=5)


async def test_a_record_is_a_line_and_files_are_their_owners_alone(store: FileKeyStore, path: Path) -> None:
    await store.put([key(1), key(2)])
    await store.put([key(1, tier="free")])
    await store.used({"key00001": 1.0})
    assert read(path) == f"{to_json(key(1, tier='free'))}\n{to_json(key(2))}\n"
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["keys.jsonl", "keys.jsonl.lock", "keys.jsonl.used", "keys.jsonl.used.lock"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_a_change_is_synced_before_it_takes_the_place_of_the_old(
    store: FileKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), sync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda old, new: (done.append("rename"), rename(old, new))[1])
    await store.put([key(1)])
    assert done == ["fsync", "rename", "fsync"]


async def test_a_disk_that_is_full_leaves_the_old_content(
    store: FileKeyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put([key(1)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(KeyStoreUnavailable, match="No space left on device; see whether the disk is full"):
        await store.put([key(2)])
    monkeypatch.undo()
    assert await store.all() == {key(1).digest: key(1)}
    assert sorted(file.name for file in path.parent.iterdir()) == ["keys.jsonl", "keys.jsonl.lock"]


async def test_what_a_killed_writer_left_is_in_nobodys_way(store: FileKeyStore, path: Path) -> None:
    path.with_name("keys.jsonl.new").write_text('{"half a li')
    await store.put([key(1)])
    assert await store.all() == {key(1).digest: key(1)}
    assert not path.with_name("keys.jsonl.new").exists()


async def test_whoever_holds_the_lock_is_waited_for_but_not_for_ever(path: Path) -> None:
    store = FileKeyStore(path, patience_s=0.2)
    with path.with_name("keys.jsonl.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KeyStoreUnavailable, match="another process is changing it; nothing was changed, try again"):
            await store.put([key(1)])
        assert await store.all() == {}
    await store.put([key(1)])


async def test_a_line_that_cannot_be_read_is_named_and_nothing_is_written_over_it(
    store: FileKeyStore, path: Path
) -> None:
    write(path, f"{to_json(key(1))}\n{{\n")
    for asked in (store.all(), store.put([key(2)])):
        with pytest.raises(
            KeyStoreUnavailable, match=r"keys\.jsonl:2: not a JSON object on one line; correct or remove"
        ):
            await asked
    assert read(path) == f"{to_json(key(1))}\n{{\n"


async def test_a_follower_is_told_of_a_file_that_cannot_be_read(store: FileKeyStore, path: Path) -> None:
    await store.put([key(1)])
    changes = store.changes()
    await anext(changes)
    write(path, "{\n")
    with pytest.raises(KeyStoreUnavailable, match=r"keys\.jsonl:1"):
        await asyncio.wait_for(anext(changes), 5)


async def test_a_line_that_an_editor_removed_is_a_key_that_is_gone(store: FileKeyStore, path: Path) -> None:
    await store.put([key(1), key(2)])
    follower = Follower(FileKeyStore(path))
    await follower.until(lambda: len(follower.known) == 2)
    write(path, f"{to_json(key(2))}\n")
    await follower.until(lambda: follower.known == {key(2).digest: key(2)}, within_s=2)
    await follower.stop()


async def test_a_file_behind_a_link_stays_behind_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    link = tmp_path / "keys.jsonl"
    link.symlink_to(tmp_path / "data" / "real.jsonl")
    await FileKeyStore(link).put([key(1)])
    assert link.is_symlink()
    assert (tmp_path / "data" / "real.jsonl").read_text() == f"{to_json(key(1))}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
async def test_what_root_writes_belongs_to_whom_the_folder_belongs(path: Path, store: FileKeyStore) -> None:
    os.chown(path.parent, 4711, 4712)
    await store.put([key(1)])
    await store.put([key(2)])
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in path.parent.iterdir()}
    assert owners == {(4711, 4712)}


async def test_a_folder_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "none" / "keys.jsonl")
    for asked in (store.all(), store.put([key(1)]), anext(store.changes())):
        with pytest.raises(KeyStoreUnavailable, match=r"create its folder, or correct key_store\.path"):
            await asked


async def test_without_the_kernels_help_changes_are_seen_within_a_second(
    store: FileKeyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwatchable(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("watchfiles.awatch", unwatchable)
    follower = Follower(FileKeyStore(path))
    await follower.until(lambda: bool(follower.changes))
    await store.put([key(1)])
    await follower.until(lambda: key(1).digest in follower.known, within_s=1)
    await follower.stop()


async def test_uses_that_cannot_be_read_are_noted_anew(store: FileKeyStore, path: Path) -> None:
    path.with_name("keys.jsonl.used").write_text("{")
    assert await store.last_used() == {}
    await store.used({"key00001": 1.0})
    assert await store.last_used() == {"key00001": 1.0}


async def test_100_000_keys_are_loaded_and_cost_no_more_each_than_10_000(store: FileKeyStore) -> None:
    """How long that is stands in docs/benchmarks.md: machines differ."""
    keys = many()
    spent = []
    for count in (10_000, 100_000):
        await store.put(keys[:count])
        began = time.process_time()
        assert len(await store.all()) == count
        spent.append(time.process_time() - began)
    few, all_of_them = spent
    assert all_of_them < 10 * few * 2
