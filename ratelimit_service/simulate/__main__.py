"""`python -m ratelimit_service.simulate -c NEW.yaml --log FILE…`: prints its results as JSON lines.

`{"progress": "…"}` now and then; with `--refusals` a `{"refused": {…}}` for each request that would be refused; finally
`{"result": {…}}`. Exit status 2: the configuration can't be used; 1: the logs can't be read.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gatehouse.config import Config, ConfigError
from gatehouse.loading.keys_in_files import keys_in_files
from gatehouse.loading.load import load
from gatehouse.usage_report.run import UnreadableLogsError, records_by_start
from ratelimit_service.plan import Plans
from ratelimit_service.simulate.logged import COLUMNS, KeyLimits, Logged
from ratelimit_service.simulate.replay import LEASE_TTL_MS, Replay, Verdict
from ratelimit_service.simulate.tally import Tally, instant

PROGRESS_S = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the replay; returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that temporary files are removed
    try:
        config = load(options.config)
        keys = _key_limits(config, options.config)
        with records_by_start(COLUMNS, options.log, _Progress("reading the logs: {:.0f} %").show) as rows:
            asyncio.run(_replay(config, keys, rows, refusals=options.refusals))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except UnreadableLogsError as error:
        print(f"error {error}", file=sys.stderr)
        return 1
    return 0


async def _replay(
    config: Config, keys: dict[str, KeyLimits], rows: Iterable[tuple[Any, ...]], *, refusals: bool
) -> None:
    tally, strays, tiers, progress = Tally(), Counter[str](), Counter[str](), _Progress("replaying: {:,} requests")
    async for verdict in Replay(Plans(config, lease_ttl_ms=LEASE_TTL_MS), keys).run(_records(rows, strays)):
        tally.add(verdict)
        if verdict.record.tier not in config.rate_limits:
            tiers[verdict.record.tier] += 1
        if refusals and verdict.limit is not None:
            _say("refused", _refused(verdict))
        progress.show(tally.requests)
    _say("result", {**tally.fields(), "tiers_without_limits": dict(tiers), "skipped": dict(strays)})


def _records(rows: Iterable[tuple[Any, ...]], strays: "Counter[str]") -> Iterator[Logged]:
    for stray, *fields in rows:
        if stray is None:
            yield Logged(*fields)
        else:
            strays[stray] += 1


def _key_limits(config: Config, file: Path) -> dict[str, KeyLimits]:
    """The limits of keys in files. Requests carry the limits of their keys, but the log does not record them."""
    records = (key.record for key in keys_in_files(config, file))
    return {record.key_id: KeyLimits(record.limits, record.family) for record in records if record.limits}


def _refused(verdict: Verdict) -> dict[str, Any]:
    record = verdict.record
    return {
        "time": instant(record.start_ms),
        "request_id": record.request_id,
        "user": record.user_id,
        "team": record.team or None,
        "tier": record.tier or None,
        "key": record.key_id or None,
        "model": record.model or None,
        "limit": verdict.limit,
        "was_refused_by": record.limited_by,
    }


def _say(kind: str, what: Any) -> None:
    print(json.dumps({kind: what}))


class _Progress:
    """Prints progress as `words`, at most every `PROGRESS_S`."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._next = 0.0

    def show(self, done: float) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_S
            _say("progress", self._words.format(done))
            sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ratelimit_service.simulate")
    parser.add_argument("-c", "--config", type=Path, required=True, help="the limits to replay against")
    parser.add_argument("--log", type=Path, action="append", required=True, help="a request log; any number of them")
    parser.add_argument("--refusals", action="store_true", help="name each request that would be refused")
    return parser


if __name__ == "__main__":
    sys.exit(main())
