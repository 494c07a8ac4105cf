"""Exemplars: which trace to look at for a bucket of a histogram (OpenMetrics 1.0, section 4.6.1).

prometheus_client keeps none when several processes share samples. So each receiver writes its newest into a file of its
own, and whoever answers a scrape puts them where they belong (`gatehouse.metrics`).
"""

import asyncio
import json
import logging
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gatehouse.files.atomic_file import replace_file
from gatehouse.metrics import Exemplar, Observed, exemplar_file

log = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0


class Exemplars:
    """The newest of each bucket; as many as there are buckets."""

    def __init__(self, directory: Path | None = None, process: str = "") -> None:
        """Without a `directory`, none is kept."""
        self._file = exemplar_file(directory, process) if directory else None
        self._newest: dict[tuple[str, tuple[str, ...], float], Exemplar] = {}
        self._changed = False

    def note(self, series: Observed, value: float, trace_id: str, time: float) -> None:
        """`value` was observed at `time` (Unix seconds), in the trace."""
        if self._file is not None:
            metric, labels, bounds = series
            bound = bounds[bisect_left(bounds, value)]
            self._newest[metric, tuple(labels.values()), bound] = Exemplar(metric, labels, bound, trace_id, value, time)
            self._changed = True

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write what has changed, every `WRITE_EVERY_S`, while the block runs."""
        task = asyncio.create_task(self._write_on())
        try:
            yield
        finally:
            task.cancel()

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            if self._changed:
                self.write()

    def write(self) -> None:
        """Never raises: exemplars are a convenience."""
        assert self._file is not None
        self._changed = False
        try:
            replace_file(self._file, json.dumps(list(self._newest.values())).encode(), durable=False)
        except OSError as error:
            log.warning("exemplars can't be written: %s", error)
