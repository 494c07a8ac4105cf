"""A soak: load for an hour, a fault a minute, and promises that must hold all the while.

    python -m tests.soak --minutes 60 --rate 150 --json soak.json

Ctrl-C ends it early, with the same report. Exit status 1 when anything was violated. It leaves nothing behind but the
JSON; meanwhile it takes 2 GB in the temporary directory, or of memory where it may mount a file system of its own.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from benchmarks.machine import allow_many_files
from tests.soak.faults import FAULTS
from tests.soak.report import Report
from tests.soak.soak import Plan, Soak
from tests.soak.stage import Stage, staged


def say(line: str) -> None:
    print(line, flush=True)


async def soaked(stage: Stage, plan: Plan) -> Report:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    return await Soak(stage, plan, over, say).run()


def plan() -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(description="Load, a fault a minute, and what must hold all the while.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=150, help="requests a second, half of them streams")
    parser.add_argument("--every", type=float, default=60, help="seconds from one fault to the next")
    parser.add_argument("--seed", type=int, default=1, help="another order of the faults")
    parser.add_argument("--only", default="", help="faults whose names have this in them")
    parser.add_argument("--list", action="store_true", help="name the faults, and do nothing")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    if options.list:
        parser.exit(message="".join(f"{each.name}\n" for each in FAULTS))
    if not any(options.only in each.name for each in FAULTS):
        parser.error(f"no fault has {options.only!r} in its name; --list names them")
    return Plan(options.minutes, options.rate, options.every, options.seed, options.only), options.json


def main() -> int:
    chosen, file = plan()
    allow_many_files()
    say("starting the gateway")
    with staged() as stage:
        report = asyncio.run(soaked(stage, chosen))
    for line in report.lines():
        say(line)
    if file:
        file.write_text(report.json())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
