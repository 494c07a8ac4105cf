"""Which requests the request log knows: read fast, without a look at more than it takes."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from accesslog_service.reconcile.identity import identity, without_id
from gatehouse.files.retention import copies, opened

_BEGIN = b'{"time":"'
_HEAD = re.compile(rb'\{"time":"[^"]*","request_id":"([^"]*)"')
"""Records begin so (`accesslog_service.record`). Quotes in what clients sent are escaped: nothing else looks so."""


def known(directory: Path, day: str) -> Iterator[bytes]:
    """The identities of the whole records in the files of a day; those that a crash has cut short are not known."""
    current = directory / f"requests_{day}.log"
    for path in (*([current] if current.exists() else []), *copies(current)):
        with opened(path) as file:
            yield from _identities(file)


def _identities(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        head = _HEAD.match(line)
        if head is None or not line.endswith(b"}\n") or line.rfind(_BEGIN):
            continue
        yield identity(head[1].decode("ascii", "replace")) if head[1] else _without_id(line)


def _without_id(line: bytes) -> bytes:
    try:
        record = json.loads(line)
        return without_id(record["time"], record["client_ip"], record["status"], record["bytes_out"])
    except (ValueError, KeyError, TypeError):
        return b""
