"""A process's samples in a mapped file whose disk space is allocated before it is written to.

prometheus_client maps sparse files; if a hole can't be filled, because the disk is full, the kernel kills the process
(SIGBUS, mmap(2)). Here space is allocated first. If there is none, samples are kept in the process's own memory and
copied to the file when there is room again: until then a scrape sees the last values in the file.
"""

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

log = logging.getLogger(__name__)

FIRST_BYTES = 1 << 16
AGAIN_S = 1.0


class SampleFile(MmapedDict):
    """Like its base class, which `prometheus_client.values` calls, one call at a time."""

    def __init__(self, filename: str) -> None:
        self._fname = filename
        self._f: Any = None
        self._positions: dict[str, int] = {}
        self._due = 0.0
        self._m: Any = None
        try:
            self._attach(max(FIRST_BYTES, _size(filename)))
        except OSError as error:
            self._detach(FIRST_BYTES, error)
        self._capacity = len(self._m or b"")
        self._used = max(8, int.from_bytes((self._m or b"")[:4], "little"))
        self._note_used()
        for key, _, _, position in self._read_all_values():  # type: ignore[no-untyped-call]
            self._positions[key] = position

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        if self._f is None and time.monotonic() >= self._due:
            self._return()
        super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._m is not None:
            self._m.close()
            self._m = None
        if self._f is not None:
            self._f.close()
            self._f = None

    def _init_value(self, key: str) -> None:
        """Allocate the space first, so that the base class never has to grow the file."""
        if self._used + len(key.encode()) + 64 > self._capacity:
            self._grow(self._capacity * 2)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        if self._f is not None:
            try:
                self._map(self._f.fileno(), capacity)
            except OSError as error:
                self._detach(capacity, error)
        else:
            self._detach(capacity)
        self._capacity = capacity

    def _attach(self, capacity: int) -> None:
        """Raises `OSError`, and leaves no empty file, which readers could not parse."""
        file = open(self._fname, "a+b")  # noqa: SIM115
        try:
            self._map(file.fileno(), capacity)
        except OSError:
            if os.fstat(file.fileno()).st_size == 0:
                os.unlink(self._fname)
            file.close()
            raise
        self._f = file

    def _map(self, descriptor: int, capacity: int) -> None:
        os.posix_fallocate(descriptor, 0, capacity)
        self._m = mmap.mmap(descriptor, capacity)

    def _detach(self, capacity: int, error: OSError | None = None) -> None:
        """Continue in memory, with the samples so far."""
        kept = self._m[:] if self._m is not None else b""
        self._m = mmap.mmap(-1, capacity)
        self._m[: len(kept)] = kept
        if self._f is not None:
            self._f.close()
            self._f = None
        self._due = time.monotonic() + AGAIN_S
        if error:
            log.error("%s can't be written, samples stay in memory until it can: %s", self._fname, error)

    def _return(self) -> None:
        """Switch back to the file if there is room again."""
        self._due = time.monotonic() + AGAIN_S
        kept = self._m
        assert kept is not None
        with suppress(OSError):
            self._attach(self._capacity)
            assert self._m is not None
            self._m[: self._used] = kept[: self._used]
            log.info("samples are in %s again", self._fname)

    def _note_used(self) -> None:
        assert self._m is not None
        self._m[:4] = self._used.to_bytes(4, "little")


def _size(filename: str) -> int:
    try:
        return os.path.getsize(filename)
    except FileNotFoundError:
        return 0
