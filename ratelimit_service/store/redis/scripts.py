"""The Lua scripts, assembled from their parts, with their SHA-1 digests.

Each begins with `#!lua`: Redis (7.0 and newer) that is out of memory or a read-only replica then refuses a script that
may write as a whole, before it has written anything.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ratelimit_service.store.clock_steps import STEP_MS
from ratelimit_service.store.port import GRACE_MS, RESERVATION_TTL_MS, SETTLED_TTL_MS

_FOLDER = Path(__file__).parent
_CONSTANTS = "".join(
    f"local {name} = {value}\n"
    for name, value in {
        "GRACE_MS": GRACE_MS,
        "RESERVATION_TTL_MS": RESERVATION_TTL_MS,
        "SETTLED_TTL_MS": SETTLED_TTL_MS,
        "STEP_MS": STEP_MS,
    }.items()
)


@dataclass(frozen=True, slots=True)
class Script:
    source: str
    sha: str


def _script(name: str, shebang: str = "#!lua", constants: str = "") -> Script:
    parts = [(_FOLDER / f"{part}.lua").read_text("utf-8") for part in ("algorithms", "buckets", name)]
    source = "\n".join([shebang, _CONSTANTS + constants, *parts])
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


DECIDE = _script("decide", constants="local CONSUME = true\n")
PEEK = _script("decide", "#!lua flags=no-writes", "local CONSUME = false\n")
SETTLE = _script("settle")
UNDO = _script("undo")
RENEW = _script("renew")
