"""Parent-death signal and subreaper (`man 2 prctl`, Linux). Does nothing on other systems."""

import ctypes
import signal
import sys

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else lambda *_: 0


def die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies. May be called between fork and exec."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans(adopt: bool = True) -> None:
    """Become the parent of every orphaned descendant (a subreaper), or stop being it."""
    _prctl(_SET_CHILD_SUBREAPER, int(adopt))
