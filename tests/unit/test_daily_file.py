"""A file a day, whole lines of every process in it, and old days forgotten."""

import fcntl
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.files.daily_file import CutShortError, DailyFile

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def daily(directory: Path, retention_days: int = 30) -> DailyFile:
    return DailyFile(directory, "requests", retention_days)


def test_a_line_is_in_the_file_of_its_day(tmp_path: Path) -> None:
    daily(tmp_path).append(b"one\n", NOON)
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"one\n"


def test_without_a_time_it_is_today(tmp_path: Path) -> None:
    before = datetime.now(UTC).date()
    daily(tmp_path).append(b"one\n")
    (written,) = tmp_path.iterdir()
    assert written.name in {f"requests_{day}.log" for day in (before, datetime.now(UTC).date())}


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\nthree\n"):
        file = daily(tmp_path)
        file.append(line, NOON)
        file.close()
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"one\ntwo\nthree\n"


def test_a_new_day_begins_a_new_file_at_midnight_utc(tmp_path: Path) -> None:
    file = daily(tmp_path)
    midnight = datetime(2026, 11, 2, tzinfo=UTC)
    file.append(b"last\n", midnight - timedelta(microseconds=1))
    file.append(b"first\n", midnight)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "requests_2026-11-01.log": b"last\n",
        "requests_2026-11-02.log": b"first\n",
    }


def test_a_new_day_gives_the_old_descriptor_back(tmp_path: Path) -> None:
    file = daily(tmp_path)
    file.append(b"x\n", NOON)
    open_before = len(os.listdir("/proc/self/fd"))
    for days in range(1, 20):
        file.append(b"x\n", NOON + timedelta(days=days))
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_directory_is_made(tmp_path: Path) -> None:
    daily(tmp_path / "deep" / "logs").append(b"one\n", NOON)
    assert (tmp_path / "deep" / "logs" / "requests_2026-11-01.log").exists()


def test_the_world_can_not_read_it(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        daily(tmp_path).append(b"one\n", NOON)
    finally:
        os.umask(mask)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


WRITER = """
import sys
from pathlib import Path
from gatehouse.files.daily_file import DailyFile
file = DailyFile(Path(sys.argv[1]), "requests", 30)
line = sys.argv[2].encode() * 3000 + b"\\n"
print("ready", flush=True)
sys.stdin.read()
for _ in range(1000):
    file.append(line)
"""


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # now they all write
    assert [writer.wait(30) for writer in writers] == [0] * 4
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert Counter(lines) == {name * 3000: 1000 for name in "abcd"}


@given(st.binary(max_size=50).map(lambda text: text + b"\n"), st.integers(1, 7))
def test_a_disk_that_takes_little_at_a_time_gets_it_all(
    tmp_path_factory: pytest.TempPathFactory, line: bytes, at_once: int
) -> None:
    directory, write = tmp_path_factory.mktemp("short"), os.write
    file = daily(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:at_once]))
        file.append(line, NOON)
        file.append(line, NOON)
    file.close()
    assert (directory / "requests_2026-11-01.log").read_bytes() == line * 2


def test_what_comes_together_is_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        calls.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    daily(tmp_path).append(b"one\ntwo\n", NOON)
    assert calls == [b"one\ntwo\n"]


def test_what_is_renamed_or_removed_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    file, path = daily(tmp_path / "logs"), tmp_path / "logs" / "requests_2026-11-01.log"
    file.append(b"one\n", NOON)
    path.rename(path.with_suffix(".log.1"))
    file.append(b"two\n", NOON)
    assert (path.with_suffix(".log.1").read_bytes(), path.read_bytes()) == (b"one\n", b"two\n")
    shutil.rmtree(tmp_path / "logs")
    file.append(b"three\n", NOON)
    assert path.read_bytes() == b"three\n"
    assert [record.message for record in caplog.records] == [f"{path} was removed; created it again"]


def test_what_is_cut_to_nothing_is_written_on(tmp_path: Path) -> None:
    file, path = daily(tmp_path), tmp_path / "requests_2026-11-01.log"
    file.append(b"one\n", NOON)
    os.truncate(path, 0)
    file.append(b"two\n", NOON)
    assert path.read_bytes() == b"two\n"


def test_what_is_removed_while_it_is_written_to_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, path, write = daily(tmp_path), tmp_path / "requests_2026-11-01.log", os.write
    file.append(b"one\n", NOON)

    def removed_meanwhile(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        path.unlink()
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", removed_meanwhile)
    file.append(b"two\n", NOON)
    assert path.read_bytes() == b"two\n"


def test_a_disk_that_refuses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file, not a directory")
    with pytest.raises(OSError, match="logs"):
        daily(tmp_path / "logs").append(b"one\n", NOON)


def test_what_is_closed_opens_again(tmp_path: Path) -> None:
    file = daily(tmp_path)
    file.sync()
    file.append(b"one\n", NOON)
    file.sync()
    file.close()
    file.close()
    file.append(b"two\n", NOON)
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"one\ntwo\n"


def test_what_a_crash_has_cut_short_does_not_spoil_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "requests_2026-11-01.log"
    path.write_bytes(b"one\ntw")
    daily(tmp_path).append(b"three\n", NOON)
    assert path.read_bytes() == b"one\ntw\nthree\n"


def refusing(room: int) -> Callable[[int, bytes], int]:
    """A `write(2)` to a disk with so many bytes left."""
    write, left = os.write, [room]

    def full(descriptor: int, data: bytes) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: left.pop()])

    return full


@pytest.mark.parametrize("room", range(1, 12))
def test_what_a_full_disk_has_cut_short_is_taken_back_to_the_last_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    file, lines = daily(tmp_path), b"two\nthree\nfour\n"
    file.append(b"one\n", NOON)
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", refusing(room))
        with pytest.raises(CutShortError, match="No space") as short:
            file.append(lines, NOON)
    whole = lines[: lines[:room].rfind(b"\n") + 1]
    assert short.value.lines == whole.count(b"\n")
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"one\n" + whole
    file.append(b"five\n", NOON)
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"one\n" + whole + b"five\n"


def test_a_first_line_that_is_cut_short_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = daily(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", refusing(2))
        with pytest.raises(CutShortError):
            file.append(b"one\n", NOON)
    file.append(b"two\n", NOON)
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"two\n"


def test_what_can_not_be_taken_back_stays_a_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, size: int) -> None:
        raise OSError(1, "append only (chattr +a)")

    file = daily(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", refusing(2))
        disk.setattr(os, "ftruncate", refused)
        with pytest.raises(CutShortError):
            file.append(b"one\n", NOON)
    file.append(b"two\n", NOON)
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"on\ntwo\n"


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(37, "No locks available")

    file = daily(tmp_path)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", refusing(2))
        with pytest.raises(CutShortError):
            file.append(b"one\n", NOON)
    file.append(b"two\n", NOON)
    assert (tmp_path / "requests_2026-11-01.log").read_bytes() == b"on\ntwo\n"
