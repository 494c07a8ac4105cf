"""The process's log, on standard error, as LOG_LEVEL and LOG_FORMAT say."""

import logging
import math
import sys
import time

from gatehouse.process.json_lines import JsonLines

_LEVELS = {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL", "PANIC": "CRITICAL"}


class Seldom:
    """Logs a message at most once in `every_s`, for errors that thousands of calls share."""

    def __init__(self, logger: logging.Logger, every_s: float = 10.0) -> None:
        self._logger = logger
        self._every_s = every_s
        self._next = -math.inf

    def error(self, text: str, *values: object) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every_s
            self._logger.error(text, *values)


def configure(level: str, form: str) -> None:
    """JSON if `form` says so, in any case, else text. Raises `ValueError` for a level that does not exist."""
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines("@timestamp", "@message", {}) if form.lower() == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS.get(level.upper(), level.upper()))
