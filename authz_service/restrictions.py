"""The key store's restrictions of keys in files, saved beside the sockets: otherwise a worker that starts while the
store is down would accept a key in a file that the store has revoked."""

import logging
from collections.abc import Callable
from pathlib import Path

from authz_service.keyring import Keyring
from gatehouse.files.atomic_file import replace_file
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json, to_json

log = logging.getLogger(__name__)


def recalled(path: Path) -> list[KeyRecord]:
    """The records saved at `path`; none if there is no readable file."""
    try:
        return [from_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.error("%s can't be read, so keys in files apply without the key store's restrictions: %s", path, error)
        return []


def remembering(keyring: Keyring, path: Path) -> Callable[[], None]:
    """A function that saves the restrictions of `keyring` at `path` if they have changed since it last did."""
    last: list[KeyRecord] = keyring.restrictions()

    def remember() -> None:
        nonlocal last
        now = keyring.restrictions()
        if now == last:
            return
        try:
            replace_file(path, "".join(f"{to_json(record)}\n" for record in now).encode(), durable=False)
        except OSError as error:
            log.error("%s can't be written: %s", path, error.strerror)
        last = now

    return remember
