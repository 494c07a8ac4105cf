"""How many series a metric may have. What is beyond is counted, under `other`.

The receivers of a gateway agree on which series there are, and go on with them after a restart: an admission is a line
in a file that they share.
"""

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Generic, TypeVar

from gatehouse.contract.labels import NONE, OTHER

log = logging.getLogger(__name__)

AGAIN_S = 1.0

Metric = TypeVar("Metric")
Values = tuple[str, ...]


class Admission:
    """The label values, `most` of them, that have a series of their own. Without a `file` it is for this process."""

    def __init__(self, most: int, file: Path | None = None) -> None:
        self._most = most
        self._file = file
        self._admitted: set[Values] = set()
        self._due = 0.0

    def admits(self, values: Values) -> bool:
        """Whether `values` have a series, or get one now. None is given while the file can't be written."""
        if values not in self._admitted and len(self._admitted) < self._most and time.monotonic() >= self._due:
            try:
                self._admit(values)
            except OSError as error:
                if not self._due:
                    log.error("new series are counted under %r until %s can be written: %s", OTHER, self._file, error)
                self._due = time.monotonic() + AGAIN_S
            else:
                self._due = 0.0
        return values in self._admitted

    def _admit(self, values: Values) -> None:
        if self._file is None:
            self._admitted.add(values)
            return
        with self._file.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            admitted = {tuple(json.loads(line)) for line in file.read().splitlines()}
            if values not in admitted and len(admitted) < self._most:
                _append(file, json.dumps(values).encode() + b"\n")
                admitted.add(values)
            self._admitted = admitted


def _append(file: FileIO, line: bytes) -> None:
    """All of `line`, or nothing. Raises `OSError`."""
    end = file.tell()
    if file.write(line) < len(line):
        file.truncate(end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Series(dict[Values, Metric], Generic[Metric]):
    """The series of a metric by their label values. `make` makes one, once: its look-up costs more than counting."""

    def __init__(self, make: Callable[..., Metric], names: tuple[str, ...], admission: Admission) -> None:
        super().__init__()
        self._make = make
        self._open = [name in ("user", "model") for name in names]
        self._admission = admission

    def __missing__(self, values: Values) -> Metric:
        shown = values if self._admission.admits(values) else self._others(values)
        series = self.get(shown)
        if series is None:
            series = self[shown] = self._make(*shown)
        return series

    def _others(self, values: Values) -> Values:
        """The same but for what there can be any number of."""
        pairs = zip(values, self._open, strict=True)
        return tuple(OTHER if unbounded and value != NONE else value for value, unbounded in pairs)
