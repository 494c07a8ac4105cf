"""What the gateway writes is for its own user and group: logs name people, sockets lead inside."""

import os
from pathlib import Path

_OTHERS = 0o027
"""What they don't get: the group no writing, all others nothing."""


def keep_from_others() -> None:
    """From here on, files of this process and of those it starts are 0640 at most, directories 0750. Envoy would make
    its logs 0644."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def close_logs(directory: Path) -> None:
    """Take from others what they may do with logs that are there already. Those of another user stay as they are."""
    for file in directory.glob("*.log*"):
        found = file.lstat()
        if found.st_uid == os.geteuid() and not file.is_symlink():
            file.chmod(found.st_mode & 0o777 & ~_OTHERS)
