"""The services' own log: JSON lines in `app_YYYY-MM-DD.log`, and warnings also on standard error."""

import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gatehouse.config.model import Logging
from gatehouse.files.daily_file import DailyFile
from gatehouse.process.json_lines import JsonLines


class _DailyHandler(logging.Handler):
    def __init__(self, file: DailyFile, process: str) -> None:
        super().__init__()
        self._process = process
        self._file = file
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.append(self.format(record).encode() + b"\n", datetime.fromtimestamp(record.created, UTC))
            self._failing = False
        except OSError as error:
            self._tell(error)
        except Exception:  # as every handler of the standard library: whoever logs must not fail for it
            self.handleError(record)

    def _tell(self, error: OSError) -> None:
        """Once for each time that the disk begins to fail, on the console: warnings go there, too."""
        if not self._failing and sys.stderr:
            with suppress(OSError):
                reason = f"{type(error).__name__}: {error}"
                print(f"WARNING {self._process}: the log can't be written for now: {reason}", file=sys.stderr)
        self._failing = True

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
        super().close()


def configure(settings: Logging, process: str) -> None:
    """Write this process's log where `settings` say. `process` is its name in each line, such as `authz-0`.

    Call it again when they have changed.
    """
    file = _DailyHandler(DailyFile(Path(settings.dir), "app", settings.retention_days), process)
    file.setFormatter(JsonLines("time", "message", {"process": process}, with_logger=True))
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter(f"%(levelname)s {process}: %(message)s"))
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [file, console]
    for handler in before:
        handler.close()
    root.setLevel(settings.level.upper())
