"""Tells Envoy which keys' running streams must end: `cut.lua` reads this file while streams pass."""

import logging
from collections.abc import Callable
from pathlib import Path

from authz_service.keyring import Keyring
from gatehouse.files.atomic_file import lock, replace_file

PATIENCE_S = 0.1
"""With another worker that writes the file; it writes the same."""

log = logging.getLogger(__name__)


def cutting(keyring: Keyring, path: Path) -> Callable[[], None]:
    """A function that writes the ids of `keyring.cut` to `path` if they have changed since it last did."""
    last: frozenset[str] = frozenset()

    def cut() -> None:
        nonlocal last
        now = keyring.cut
        if now == last:
            return
        try:
            with lock(path, PATIENCE_S):  # every worker writes it
                replace_file(path, "".join(f"{key_id}\n" for key_id in sorted(now)).encode(), durable=False)
        except OSError as error:
            log.error("%s can't be written, so running streams of revoked keys are not ended: %s", path, error.strerror)
            return
        last = now

    return cut
