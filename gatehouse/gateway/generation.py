"""A chain of Envoys that take over the same listening sockets (hot restart), with its shared memory and sockets.

https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/hot_restart
"""

import glob
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

log = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")
_AT_A_TIME = 3
"""Envoy counts epochs modulo this in the names of its sockets (its source/server/hot_restart_impl.h)."""
_LONGEST = 107
"""Bytes of a unix socket's path (unix(7))."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One Envoy of a chain. `epoch` is its position: 0 is the first, which took over from no other.

    `sockets` is the path prefix of the sockets by which the chain's Envoys talk to each other. A process that can
    connect there gets the listeners, so they are in a private directory of the gateway's user.
    """

    base_id: int
    epoch: int
    sockets: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Envoy's arguments to take over from its running predecessor."""
        line = ("--base-id", str(self.base_id), "--restart-epoch", str(self.epoch), "--skip-hot-restart-parent-stats")
        return (*line, *_speaking(self.sockets))

    def next(self) -> "Generation":
        return replace(self, epoch=self.epoch + 1)

    @property
    def shared_memory(self) -> Path:
        return _SHARED_MEMORY / f"envoy_shared_memory_{self.base_id}0"

    def forget(self) -> None:
        """Remove the shared memory and the sockets, which Envoy leaves behind: after the last of the chain ended."""
        self.shared_memory.unlink(missing_ok=True)
        sweep(self.sockets)

    def stand_in(self) -> socket.socket | None:
        """After this Envoy has ended, open its socket for the successor's last message (terminate).

        Envoy aborts if it can't send to its parent. The message need not be read. None if the socket can't be opened.
        """
        place = Path(f"{self.sockets}_parent_{self.base_id * 10 + self.epoch % _AT_A_TIME}")
        grave = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            place.unlink(missing_ok=True)
            grave.bind(str(place))
            place.chmod(0o600)
        except OSError as error:
            grave.close()
            log.warning("can't open the socket of the Envoy that has ended: %s", error)
            return None
        return grave


def possible(sockets: str) -> bool:
    """Whether hot restart works here: /dev/shm is writable, and socket paths with the prefix `sockets` are not too
    long."""
    return os.access(_SHARED_MEMORY, os.W_OK) and len(f"{sockets}_parent_4294967295") <= _LONGEST


def first(base_id_file: Path, sockets: str | None) -> tuple[str, ...]:
    """Envoy's arguments to start a new chain; it writes its base id to `base_id_file`.

    Without `sockets` no other Envoy can take over from it.
    """
    if sockets is None or not possible(sockets):
        return ("--disable-hot-restart",)
    return ("--use-dynamic-base-id", "--base-id-path", str(base_id_file), *_speaking(sockets))


def forget_left(base_id_file: Path, started_as: Generation | None = None) -> bool:
    """Remove the shared memory that a killed Envoy left, of the chain in `base_id_file` or else of `started_as`.

    False if another Envoy of the chain still uses it. Raises `OSError`.
    """
    try:
        line = current(base_id_file, "", started_as)
    except (FileNotFoundError, ValueError):
        return True
    if line.shared_memory.exists() and _mapped(line.shared_memory):
        return False
    line.shared_memory.unlink(missing_ok=True)
    return True


def _mapped(file: Path) -> bool:
    """Whether a process has mapped `file` (proc(5))."""
    name = f" {file}\n".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended, or is another user's
            if name in maps.read_bytes():
                return True
    return False


def current(base_id_file: Path, sockets: str, started_as: Generation | None) -> Generation:
    """The active one: `started_as`, unless Envoy was restarted since. Raises `OSError` or `ValueError` if none is."""
    if started_as and not base_id_file.exists():
        return started_as
    return Generation(int(base_id_file.read_text()), 0, sockets)


def sweep(sockets: str) -> None:
    """Remove the sockets that ended Envoys left."""
    prefix = Path(sockets)
    for left in prefix.parent.glob(f"{glob.escape(prefix.name)}_*"):
        left.unlink(missing_ok=True)


def _speaking(sockets: str) -> tuple[str, ...]:
    """Envoy's default is abstract sockets, which have no permissions: any local user could connect and get the
    listeners."""
    return ("--socket-path", sockets, "--socket-mode", "600")
