"""Envoys that take over the same sockets from each other (hot restart), and their shared resources.

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
    """One Envoy in a sequence of hot restarts. `epoch` counts from 0, the first.

    `sockets` is the prefix of the paths of the sockets by which successive Envoys communicate. Anyone who can connect
    there gets the listeners, so they are in a directory of the gateway's user alone.
    """

    base_id: int
    epoch: int
    sockets: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments to start it while its predecessor runs."""
        line = ("--base-id", str(self.base_id), "--restart-epoch", str(self.epoch), "--skip-hot-restart-parent-stats")
        return (*line, *_speaking(self.sockets))

    def next(self) -> "Generation":
        return replace(self, epoch=self.epoch + 1)

    @property
    def shared_memory(self) -> Path:
        return _SHARED_MEMORY / f"envoy_shared_memory_{self.base_id}0"

    def forget(self) -> None:
        """Remove the shared memory and the sockets, which Envoy leaves behind. For the last of the line, when it has
        ended."""
        self.shared_memory.unlink(missing_ok=True)
        sweep(self.sockets)

    def stand_in(self) -> socket.socket | None:
        """Receive in the place of this one, which has ended, what its successor has still to tell it: to end.

        Envoy aborts when its parent is not there to be told. What arrives need not be read. None: it can't be done.
        """
        place = Path(f"{self.sockets}_parent_{self.base_id * 10 + self.epoch % _AT_A_TIME}")
        grave = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            place.unlink(missing_ok=True)
            grave.bind(str(place))
            place.chmod(0o600)
        except OSError as error:
            grave.close()
            log.warning("nobody stands in for the Envoy that has ended: %s", error)
            return None
        return grave


def possible(sockets: str) -> bool:
    """Whether Envoys can follow each other here: they share memory, and `sockets` is short enough for their names."""
    return os.access(_SHARED_MEMORY, os.W_OK) and len(f"{sockets}_parent_4294967295") <= _LONGEST


def first(base_id_file: Path, sockets: str | None) -> tuple[str, ...]:
    """How the first of a line is started; it notes its base id in `base_id_file`, and every start begins a new line.

    Without `sockets` nobody can take over from it.
    """
    if sockets is None or not possible(sockets):
        return ("--disable-hot-restart",)
    return ("--use-dynamic-base-id", "--base-id-path", str(base_id_file), *_speaking(sockets))


def forget_left(base_id_file: Path, started_as: Generation | None = None) -> bool:
    """Remove the shared memory that a killed Envoy has left of the line in `base_id_file`, or of the one it began in.

    Whether nothing of it is left: another of the line may run. Raises `OSError`.
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
    """Whether a process has it in its memory (proc(5))."""
    name = f" {file}\n".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended, or is another user's
            if name in maps.read_bytes():
                return True
    return False


def current(base_id_file: Path, sockets: str, started_as: Generation | None) -> Generation:
    """The one that runs: `started_as`, unless it had to be started again. Raises `OSError` or `ValueError`: none."""
    if started_as and not base_id_file.exists():
        return started_as
    return Generation(int(base_id_file.read_text()), 0, sockets)


def sweep(sockets: str) -> None:
    """Remove what Envoys that have ended left there."""
    prefix = Path(sockets)
    for left in prefix.parent.glob(f"{glob.escape(prefix.name)}_*"):
        left.unlink(missing_ok=True)


def _speaking(sockets: str) -> tuple[str, ...]:
    """Envoy's default are abstract sockets, which have no permissions: whichever local user speaks there is handed the
    listeners."""
    return ("--socket-path", sockets, "--socket-mode", "600")
