"""Bodies on record (`logging.bodies`): what Envoy has tapped becomes lines of `bodies_YYYY-MM-DD.log`.

Envoy writes a file for each tapped request (`envoy.data.tap.v3.TraceWrapper` as JSON). Of its headers only the id, path
and status are kept, so whatever else may be in them is not. The request log says who it was, by the id.
"""

import asyncio
import json
import logging
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gatehouse.config.model import Logging
from gatehouse.files.daily_file import DailyFile

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
WRITTEN_WITHIN_S = 5.0
"""By then Envoy has written a file to its end."""


@asynccontextmanager
async def collecting(directory: Path, settings: Logging) -> AsyncIterator[DailyFile]:
    """Collect what Envoy puts into `directory` while the block runs, and what is there in the end; into the file that
    the block is given."""
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    days = DailyFile(Path(settings.dir), "bodies", settings.retention_days, mode=0o600)
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_collect_until(over, directory, days))
        try:
            yield days
        finally:
            over.set()
    days.close()


async def _collect_until(over: asyncio.Event, directory: Path, days: DailyFile) -> None:
    while not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), LOOK_EVERY_S)
        await asyncio.to_thread(collect, directory, days)


def collect(directory: Path, days: DailyFile) -> None:
    """Make a line of each file in `directory`, and delete it. Never raises: bodies are no reason to stop."""
    try:
        for path in sorted(directory.iterdir()):
            _collect(path, days)
    except OSError as error:
        log.error("bodies can't be collected: %s", error)


def _collect(path: Path, days: DailyFile) -> None:
    ended = path.stat().st_mtime
    try:
        text = line(json.loads(path.read_bytes()), datetime.fromtimestamp(ended, UTC))
    except (ValueError, KeyError, TypeError, AttributeError):
        if time.time() - ended < WRITTEN_WITHIN_S:
            return
        log.error("a tapped body can't be read, and is deleted")
    else:
        days.append(text)
    path.unlink(missing_ok=True)


def line(trace: Mapping[str, Any], ended: datetime) -> bytes:
    """The line of one tapped request. Raises `KeyError` and its like for what is none."""
    buffered = trace["http_buffered_trace"]
    asked, answered = buffered["request"], buffered.get("response") or {}
    seen = {header["key"]: header["value"] for header in (*asked["headers"], *answered.get("headers", ()))}
    status = seen.get(":status", "")
    fields = {
        "time": ended.isoformat(timespec="milliseconds"),
        "request_id": seen.get("x-request-id", ""),
        "endpoint": seen.get(":path", "").partition("?")[0],
        "status": int(status) if status.isdecimal() else 0,
        **_body("request", asked),
        **_body("response", answered),
    }
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"


def _body(name: str, message: Mapping[str, Any]) -> dict[str, object]:
    """As text; what is no UTF-8 is shown as such."""
    body = message.get("body") or {}
    text = b64decode(body.get("as_bytes", "")).decode("utf-8", "replace")
    return {name: text, f"{name}_cut": bool(body.get("truncated"))}
