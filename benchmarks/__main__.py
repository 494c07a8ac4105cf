"""`make bench` and `make bench-full`: Gatehouse beside what a user could pick instead, on this machine, in one run.

    python -m benchmarks [--full] [--only NAME …] [--measure NAME …] [--out bench-results]

It writes `results.json` (every row), `results.md` (tables, promises) and pictures, and ends in time whatever happens.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from benchmarks import plots, report
from benchmarks.clients.closed import h2load
from benchmarks.contenders import BY_NAME
from benchmarks.machine import NotInstalledError, allow_many_files
from benchmarks.measures import bodies, growth, memory, overload, steady, streaming, throughput
from benchmarks.runner import FULL, Effort, Field, Row, installed, say, the_field
from benchmarks.targets import verdicts

MEASURES: dict[str, Callable[[Field, Effort], Iterator[Row]]] = {
    module.MEASURE: module.measure for module in (throughput, steady, streaming, memory, growth, overload, bodies)
}


class _TimeIsUp(BaseException):
    """Only the report may catch this."""


def main() -> int:
    options = _parser().parse_args()
    effort = FULL if options.full else Effort()
    try:
        h2load()
    except NotInstalledError as error:
        print(error, file=sys.stderr)
        return 2
    allow_many_files()
    rows: list[Row] = []
    contenders, absent = installed(options.only)
    _be_done_in(effort.limit_s)
    with suppress(_TimeIsUp), the_field(contenders) as field:
        absent |= field.absent
        for name in options.measure or MEASURES:
            for row in _measured(name, field, effort):
                rows.append(row)
            _note(rows, absent, options.out)
    signal.alarm(0)
    _write(rows, absent, effort, options.out)
    return 0


def _measured(name: str, field: Field, effort: Effort) -> Iterator[Row]:
    """A measure's rows up to its first error; the other measures still run."""
    try:
        yield from MEASURES[name](field, effort)
    except Exception as error:
        say(f"{name} ended early: {error}")


def _be_done_in(seconds: int) -> None:
    def stop(number: int, _frame: FrameType | None) -> None:
        say("time is up: no more is measured" if number == signal.SIGALRM else "stopping")
        raise _TimeIsUp

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.alarm(seconds)


def _note(rows: Sequence[Row], absent: dict[str, str], folder: Path) -> None:
    """Write every row so far, so that a later error loses none."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"machine": report.machine(), "absent": absent, "rows": [asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(found, indent=1))


def _write(rows: Sequence[Row], absent: dict[str, str], effort: Effort, folder: Path) -> None:
    _note(rows, absent, folder)
    text = report.markdown(rows, verdicts(rows, effort.keys, effort.models), absent)
    (folder / "results.md").write_text(text)
    try:
        plots.draw(rows, folder)
    except ImportError:
        say("no pictures without matplotlib: pip install -e '.[bench]'")
    print(text)
    say(f"written to {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Gatehouse beside its peers.")
    parser.add_argument("--full", action="store_true", help="an hour at most, instead of ten minutes")
    parser.add_argument("--only", nargs="*", default=[], choices=list(BY_NAME), metavar="NAME", help=", ".join(BY_NAME))
    parser.add_argument(
        "--measure", nargs="*", default=[], choices=list(MEASURES), metavar="NAME", help=", ".join(MEASURES)
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), help="where to write (default: bench-results)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
