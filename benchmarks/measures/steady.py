"""Latency at a usual load: a fixed rate of requests."""

from collections.abc import Iterator

from benchmarks.clients.closed import load
from benchmarks.clients.paced import paced
from benchmarks.machine import calm
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "steady"
_HEADROOM = 1.2


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    """Of those that can keep up at all: in front of the others a queue would grow as long as one measures."""
    able = [each for each in field.contenders if load(each, 16, 1).rate > _HEADROOM * effort.rate]
    for number in range(effort.rounds):
        say(f"{MEASURE}: round {number + 1} of {effort.rounds}")
        for contender in able:
            calm()
            seen = paced(contender, effort.rate, 2 * effort.seconds)
            values = {"p50_ms": seen.p50_ms, "p90_ms": seen.p90_ms, "p99_ms": seen.p99_ms}
            answered = {"failed": 1 - seen.answered / max(1, seen.asked)}
            yield Row(MEASURE, contender.name, f"{effort.rate:g}/s", number, values | answered)
