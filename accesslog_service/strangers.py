"""Refusals of callers that nobody knows: beyond a rate they are counted and not written, or a scan would fill the disk.

Metrics count them all. While a receiver leaves some out of the request log, Envoy is asked to leave them all out of its
own (`gatehouse.envoy.access_log`); what known callers do is always written.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from accesslog_service.record import Record
from gatehouse.contract.access_log import STRANGERS_LOGGED

log = logging.getLogger(__name__)

AT_ONCE, PER_SECOND = 2000.0, 20.0
"""Of one receiver: 1.7 million lines a day at most."""
LOOK_S = 2.0
CALM_S = 60.0
"""After so long with nothing left out, Envoy's log is whole again."""


class Strangers:
    """`count` is told of how many were left out."""

    def __init__(self, count: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._room, self._looked = AT_ONCE, clock()
        self.left_out = 0

    def worth_writing(self, records: Sequence[Record]) -> Sequence[Record]:
        """`records` without the refusals of strangers for which there is no room."""
        strangers = sum([_is_refusal(record) for record in records])
        if not strangers:
            return records
        now = self._clock()
        self._room = min(AT_ONCE, self._room + (now - self._looked) * PER_SECOND)
        self._looked = now
        written = min(strangers, int(self._room))
        self._room -= written
        if written == strangers:
            return records
        self.left_out += strangers - written
        self._count(strangers - written)
        return _first(records, written)

    async def tell(self, post: Callable[[str], Awaitable[None]]) -> None:
        """Have Envoy, by `post` to its admin interface, leave strangers out of its log as well while some are. For
        ever."""
        told, quiet_since = self.left_out, float("-inf")
        while True:
            await asyncio.sleep(LOOK_S)
            flooded, now = self.left_out > told, self._clock()
            if flooded:
                if quiet_since < now - CALM_S:
                    log.warning("more refusals of unknown callers than are written: beyond these they are counted only")
                told, quiet_since = self.left_out, now
                await _asked(post, 0)
            elif now - quiet_since >= CALM_S and quiet_since > float("-inf"):
                log.info("refusals of unknown callers are written again; %d were only counted", self.left_out)
                quiet_since = float("-inf")
                await _asked(post, 100)


async def _asked(post: Callable[[str], Awaitable[None]], percent: int) -> None:
    try:
        await post(f"/runtime_modify?{STRANGERS_LOGGED}={percent}")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.debug("Envoy does not hear of it now: %s", error)


def _is_refusal(record: Record) -> bool:
    return record.user_id is None and 400 <= record.status < 500


def _first(records: Sequence[Record], strangers: int) -> list[Record]:
    """All but strangers beyond so many."""
    kept = []
    for record in records:
        if _is_refusal(record):
            strangers -= 1
            if strangers < 0:
                continue
        kept.append(record)
    return kept
