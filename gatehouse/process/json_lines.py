"""A line of a process's log as JSON."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Formats a record as one line: its time, `level`, the `fixed` fields, its text, and a traceback as `exception`."""

    def __init__(self, time: str, message: str, fixed: Mapping[str, str], *, with_logger: bool = False) -> None:
        """`time` and `message` name the two fields, `with_logger` adds the name of the logger."""
        super().__init__()
        self._time, self._message = time, message
        self._fixed = fixed
        self._with_logger = with_logger

    def format(self, record: logging.LogRecord) -> str:
        line = {
            self._time: datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._fixed,
            **({"logger": record.name} if self._with_logger else {}),
            self._message: record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
