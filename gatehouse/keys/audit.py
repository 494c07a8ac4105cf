"""Who changed which key, when and how: `audit.log` beside the other logs, append-only JSON lines (0600), never deleted.

An entry is on disk before the change is made; a change that can't be logged is not made.
"""

import json
import os
import pwd
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gatehouse.contract.failures import GatehouseError
from gatehouse.files.atomic_file import own_like, sync_folder, write_all

Entry = Mapping[str, Any]


class AuditUnavailable(GatehouseError):  # noqa: N818 - it names a state, and reads so where it is caught
    """The audit log can't be written, so nothing may be changed. The message says why and what to do."""


class AuditLog:
    """Appends to `audit.log` in `folder`, which is made if need be."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "audit.log"

    def note(self, *entries: Entry) -> None:
        """Return once `entries` are on the disk, each with the time and who we are.

        Raises `AuditUnavailable`. Secrets are for the caller to leave out.
        """
        stamp = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **who()}
        lines = "".join(json.dumps({**stamp, **entry}, ensure_ascii=False) + "\n" for entry in entries)
        try:
            self._append(lines.encode())
        except OSError as error:
            fix = "run this as the user the gateway runs as" if isinstance(error, PermissionError) else "make room"
            message = f"the audit log {self._path} can't be written ({error.strerror}), so nothing was changed; {fix}"
            raise AuditUnavailable(message) from None

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = not self._path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if new:
                own_like(descriptor, self._path.parent)
            write_all(descriptor, lines)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self._path.parent)


def who() -> dict[str, str]:
    """The operating system's user, and who became that user by sudo."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        user = str(os.getuid())
    sudo = os.environ.get("SUDO_USER", "")
    return {"user": user} | ({"sudo_user": sudo} if sudo else {})


def operator() -> str:
    """The person behind the process, as far as known."""
    found = who()
    return found.get("sudo_user", found["user"])


def entries(what: str, key_ids: Iterable[str], **details: Any) -> list[Entry]:
    """One entry a key; details that are None or empty are left out."""
    told = {name: value for name, value in details.items() if value not in (None, "", ())}
    return [{"what": what, "key_id": key_id, **told} for key_id in key_ids]
