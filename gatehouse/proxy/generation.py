"""Envoys that follow each other on the same sockets (hot restart), and what holds them together.

https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/hot_restart
"""

import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")
_AT_A_TIME = 3
"""Envoy counts epochs modulo this in the names of its sockets (its source/server/hot_restart_impl.h)."""
_ADDRESS_BYTES = 108
"""Of a unix socket's address. Envoy binds abstract names padded to that length, and the padding counts (unix(7))."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One Envoy in a line of them. `epoch` counts from 0: that one has taken over from nobody."""

    base_id: int
    epoch: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """How it is started while the one before it runs."""
        return ("--base-id", str(self.base_id), "--restart-epoch", str(self.epoch), "--skip-hot-restart-parent-stats")

    def next(self) -> "Generation":
        return Generation(self.base_id, self.epoch + 1)

    @property
    def shared_memory(self) -> Path:
        return _SHARED_MEMORY / f"envoy_shared_memory_{self.base_id}0"

    def forget(self) -> None:
        """Remove the shared memory, which Envoy leaves behind. For the last of the line, when it has ended."""
        self.shared_memory.unlink(missing_ok=True)

    def stand_in(self) -> socket.socket | None:
        """Receive in the place of this one, which has ended, what its successor has still to tell it: to end.

        Envoy aborts when its parent is not there to be told. What arrives need not be read. None: the place is taken.
        """
        name = f"\0envoy_domain_socket_parent_{self.base_id * 10 + self.epoch % _AT_A_TIME}"
        grave = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            grave.bind(name.encode().ljust(_ADDRESS_BYTES, b"\0"))
        except OSError as error:
            grave.close()
            log.warning("nobody stands in for the Envoy that has ended: %s", error)
            return None
        return grave


def possible() -> bool:
    """Whether Envoys can follow each other here: they share memory."""
    return os.access(_SHARED_MEMORY, os.W_OK)


def first(base_id_file: Path) -> tuple[str, ...]:
    """How the first of a line is started; it notes its base id in `base_id_file`, and every start begins a new line."""
    if not possible():
        return ("--disable-hot-restart",)
    return ("--use-dynamic-base-id", "--base-id-path", str(base_id_file))


def forget_left(base_id_file: Path, started_as: Generation | None = None) -> bool:
    """Remove what an Envoy that was killed has left of the line noted in `base_id_file`, or of the one it began in.

    Whether nothing of it is left: another of the line may run. Raises `OSError`.
    """
    try:
        line = current(base_id_file, started_as)
    except (FileNotFoundError, ValueError):
        return True
    if line.shared_memory.exists() and _mapped(line.shared_memory):
        return False
    line.forget()
    return True


def _mapped(file: Path) -> bool:
    """Whether a process has it in its memory (proc(5))."""
    name = f" {file}\n".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended, or is another user's
            if name in maps.read_bytes():
                return True
    return False


def current(base_id_file: Path, started_as: Generation | None) -> Generation:
    """The one that runs: `started_as`, unless it had to be started again. Raises `OSError` or `ValueError`: none."""
    if started_as and not base_id_file.exists():
        return started_as
    return Generation(int(base_id_file.read_text()), 0)
