"""Samples outlive a full disk: in memory meanwhile, in the file before and after."""

import errno
import logging
import os
import time
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from gatehouse.files import sample_file
from gatehouse.files.sample_file import SampleFile


def stands(file: Path) -> dict[str, float]:
    """What a scrape reads."""
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file))}


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Append, and the disk has no room; clear, and it has."""
    allocate, state = os.posix_fallocate, list[bool]()

    def allocated(descriptor: int, offset: int, length: int) -> None:
        if state:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", allocated)
    monkeypatch.setattr(sample_file, "AGAIN_S", 0.0)
    return state


def test_what_is_written_stands_in_the_file_and_is_found_again(tmp_path: Path) -> None:
    file = SampleFile(str(tmp_path / "a.db"))
    for number in range(3000):
        file.write_value(f"key-{number}", number, 0.0)
    file.close()
    assert stands(tmp_path / "a.db") == {f"key-{number}": number for number in range(3000)}
    again = SampleFile(str(tmp_path / "a.db"))
    assert again.read_value("key-2999") == (2999, 0.0)
    assert len(list(again.read_all_values())) == 3000


def test_no_byte_of_the_file_is_a_hole(tmp_path: Path) -> None:
    SampleFile(str(tmp_path / "a.db")).write_value("key", 1.0, 0.0)
    found = (tmp_path / "a.db").stat()
    assert found.st_blocks * 512 >= found.st_size


def test_a_disk_that_is_full_at_the_start_is_used_when_it_has_room(tmp_path: Path, full: list[bool]) -> None:
    full.append(True)
    file = SampleFile(str(tmp_path / "a.db"))
    file.write_value("key", 1.0, 0.0)
    assert not (tmp_path / "a.db").exists(), "nobody could read an empty one"
    full.clear()
    file.write_value("key", 2.0, 0.0)
    assert stands(tmp_path / "a.db") == {"key": 2.0}


def test_a_disk_that_fills_later_costs_no_sample(
    tmp_path: Path, full: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = SampleFile(str(tmp_path / "a.db"))
    file.write_value("first", 1.0, 0.0)
    full.append(True)
    for number in range(3000):
        file.write_value(f"key-{number}", number, 0.0)
    assert stands(tmp_path / "a.db")["first"] == 1.0
    assert file.read_value("key-2999") == (2999, 0.0)
    full.clear()
    time.sleep(0.01)
    file.write_value("last", 5.0, 0.0)
    file.close()
    assert stands(tmp_path / "a.db") == {"first": 1.0, "last": 5.0, **{f"key-{n}": n for n in range(3000)}}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
