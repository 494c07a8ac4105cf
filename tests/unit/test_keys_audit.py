"""The audit log: on the disk before anything is done, or nothing is done."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gatehouse.keys.audit import AuditLog, AuditUnavailable, entries


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]


def test_an_entry_says_who_when_and_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "zoe")
    before = datetime.now(UTC).replace(microsecond=0)
    AuditLog(tmp_path).note(*entries("revoke", ["a1"], because="leaked", cut=False, team=""))
    (entry,) = lines(tmp_path)
    assert before <= datetime.fromisoformat(entry.pop("time")) <= datetime.now(UTC)
    assert entry.pop("user")
    assert entry == {"sudo_user": "zoe", "what": "revoke", "key_id": "a1", "because": "leaked", "cut": False}


def test_entries_are_added_and_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "logs"
    for number in range(3):
        AuditLog(folder).note(*entries("create", [f"a{number}", f"b{number}"]))
    assert [entry["key_id"] for entry in lines(folder)] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert (folder / "audit.log").stat().st_mode & 0o777 == 0o600


def test_an_entry_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_write, real_sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda *a: (done.append("write"), real_write(*a))[1])
    monkeypatch.setattr(os, "fsync", lambda *a: (done.append("fsync"), real_sync(*a))[1])
    AuditLog(tmp_path).note(*entries("create", ["a1"]))
    assert done == ["write", "fsync", "fsync"]  # the file, and the folder that it is new in


def test_a_log_that_cannot_be_written_is_said_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    with pytest.raises(
        AuditUnavailable, match=r"audit.log can't be written \(Is a directory\), so nothing was changed"
    ):
        AuditLog(tmp_path).note(*entries("create", ["a1"]))


def test_a_log_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditUnavailable):
        AuditLog(tmp_path).note(*entries("create", ["a1"]))
    assert not (tmp_path / "elsewhere").exists()
