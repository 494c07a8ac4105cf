"""Unix sockets that a process of the gateway listens on."""

import socket
from pathlib import Path


def bound(path: Path) -> socket.socket:
    """A socket bound to `path`, for its owner and group (0660). Replaces one that a killed process left.

    Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(str(path))
        path.chmod(0o660)  # before anyone can connect
    except OSError:
        made.close()
        raise
    return made
