"""File permissions: only the gateway's user and group may read its files. Logs name people, sockets lead inside."""

import os
from pathlib import Path

_OTHERS = 0o027
"""The umask: no write permission for the group, none at all for others."""


def keep_from_others() -> None:
    """From here on, files of this process and of those it starts are 0640 at most, directories 0750. Envoy would make
    its logs 0644."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def close_logs(directory: Path) -> None:
    """Remove other users' permissions from existing logs. Logs of another owner stay as they are."""
    for file in directory.glob("*.log*"):
        found = file.lstat()
        if found.st_uid == os.geteuid() and not file.is_symlink():
            file.chmod(found.st_mode & 0o777 & ~_OTHERS)
