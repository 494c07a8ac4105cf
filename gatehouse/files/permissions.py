"""The gateway's files are only for its own user and group: logs name people, sockets give access to the services."""

import os
from pathlib import Path

_OTHERS = 0o027
"""The permissions removed: writing for the group, everything for others."""


def keep_from_others() -> None:
    """From now on, files of this process and its children are at most 0640, directories 0750. Envoy's default for its
    logs is 0644."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def close_logs(directory: Path) -> None:
    """Remove other users' access to existing logs. Logs that belong to another user are left alone."""
    for file in directory.glob("*.log*"):
        found = file.lstat()
        if found.st_uid == os.geteuid() and not file.is_symlink():
            file.chmod(found.st_mode & 0o777 & ~_OTHERS)
