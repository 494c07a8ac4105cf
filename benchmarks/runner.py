"""The field: one upstream, and every contender that this machine can have, all in front of it at once."""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import ALL, Contender, Running
from benchmarks.machine import LOAD_CPUS, NotInstalledError, free_port, running, wait_until_answers


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: metric, contender, setting and round."""

    measure: str
    contender: str
    setting: str
    round: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often; the defaults fit ten minutes."""

    rounds: int = 3
    seconds: float = 1.5
    connections: tuple[int, ...] = (1, 16, 64, 256)
    rate: float = 500.0
    streams: tuple[int, ...] = (1, 100, 1000)
    open_streams: tuple[int, ...] = (1000,)
    body_bytes: tuple[int, ...] = (1024, 100 * 1024, 10 * 1024 * 1024)
    keys: int = 100_000
    models: int = 500
    overload: int = 1024
    limit_s: int = 570


FULL = Effort(rounds=5, seconds=3.0, streams=(1, 100, 300, 1000), open_streams=(1000, 5000), limit_s=3600)


@dataclass(frozen=True, slots=True)
class Field:
    """The running contenders, and the missing ones with reasons. `folder` is deleted afterwards."""

    folder: Path
    upstream: str
    contenders: Sequence[Running]
    absent: dict[str, str] = field(default_factory=dict)

    def named(self, *names: str) -> list[Running]:
        return [contender for contender in self.contenders if contender.name in names]


def installed(only: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """The contenders that this machine has, or has now, and why it can't have the others. `only` names; empty: all."""
    found, absent = [], {}
    for contender in ALL:
        if only and contender.name not in only:
            continue
        try:
            contender.install()
            found.append(contender)
        except (NotInstalledError, OSError) as error:
            absent[contender.name] = str(error)
            say(f"without {contender.name}: {error}")
    return found, absent


@contextmanager
def the_field(contenders: Sequence[Contender]) -> Iterator[Field]:
    """Everything runs inside the block, and nothing after it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gh-bench-", ignore_cleanup_errors=True)))
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(port)]
        upstream = f"http://127.0.0.1:{port}"
        wait_until_answers(f"{upstream}/health", {}, None, stack.enter_context(running(command, folder, LOAD_CPUS)))
        found, absent = [], {}
        for number, contender in enumerate(contenders):
            own = folder / str(number)
            own.mkdir()
            say(f"starting {contender.name}")
            try:
                found.append(stack.enter_context(contender.start(own, upstream)))
            except (NotInstalledError, RuntimeError, OSError) as error:
                absent[contender.name] = str(error)
                say(f"  without it: {error}")
        yield Field(folder, upstream, found, absent)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
