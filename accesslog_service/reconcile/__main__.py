"""`python -m accesslog_service.reconcile -c gatehouse.yaml`; `gatehouse usage reconcile` shows it to people.

Prints JSON lines: `{"progress": 0.5}` while it goes on, and the report at the end. Exit status 1: it could not be done,
and `{"error": …}` says why; 2: the configuration can't be used.
"""

import argparse
import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

from accesslog_service.entry import record
from accesslog_service.reconcile.compare import LATE, Reconciliation, Report
from accesslog_service.reconcile.settling import Settling
from gatehouse.config import Config, ConfigError
from gatehouse.config.prices import prices
from gatehouse.config.run_dir import RunDir, found_run_dir, workers
from gatehouse.contract.failures import GatehouseError
from gatehouse.files.daily_file import DailyFile
from gatehouse.loading.files import Files
from gatehouse.loading.key_table import KeyRetention

LOCK = ".reconcile.lock"


class BusyError(GatehouseError):
    """Another reconciliation is under way."""


def main() -> int:
    options = _parser().parse_args()
    try:
        config = Files(options.config, KeyRetention.NOTHING).load()
    except ConfigError as error:
        _say({"error": str(error)})
        return 2
    directory = Path(config.logging.dir)
    try:
        with _alone(directory):
            report = reconcile(config, options.run_dir or found_run_dir(directory), options.since)
    except BusyError:
        _say({"error": f"another reconciliation of {directory} is under way; wait for it to end"})
        return 1
    except OSError as error:
        _say({"error": str(error)})
        return 1
    _say({**asdict(report), "late_s": LATE.seconds})
    return 0


def reconcile(config: Config, run_dir: Path | None, since: date | None) -> Report:
    """Bring the request log of `config` up to what Envoy's log knows. Raises `OSError`."""
    directory = Path(config.logging.dir)
    sockets = []
    if run_dir is not None:
        sockets = [RunDir(run_dir).socket("ratelimit", index) for index in range(workers(config, "ratelimit"))]
    request_log = DailyFile(directory, "requests", config.logging.retention_days)
    try:
        return Reconciliation(
            directory,
            request_log,
            partial(record, default_model=config.effective_default_model, prices=prices(config)),
            Settling(sockets, everyone=config.settles()).tell,
            lambda share: _say({"progress": round(share, 4)}),
            since,
        ).run(datetime.now(UTC))
    finally:
        request_log.close()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Two at a time would both restore what both found missing."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError from None
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m accesslog_service.reconcile")
    parser.add_argument("-c", "--config", type=Path, default=Path("gatehouse.yaml"), help="gatehouse.yaml")
    parser.add_argument(
        "--run-dir", type=Path, help="where the limiter's sockets are (default: as the log folder says)"
    )
    parser.add_argument(
        "--since", type=date.fromisoformat, help="the first day to look at, UTC (default: all there are)"
    )
    return parser


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main())
