"""What a process asks of the kernel about its relatives (`man 2 prctl`, Linux). Elsewhere nothing is asked."""

import ctypes
import signal
import sys

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else lambda *_: 0


def die_with_parent() -> None:
    """From now on SIGTERM comes when the parent dies. May run between fork and exec."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans(adopt: bool = True) -> None:
    """Be the parent of every descendant whose own parent has ended, from now on, or no longer."""
    _prctl(_SET_CHILD_SUBREAPER, int(adopt))
