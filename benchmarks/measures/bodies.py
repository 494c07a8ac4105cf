"""Small and large request bodies."""

from collections.abc import Iterator

from benchmarks.clients.request import body
from benchmarks.measures.throughput import turn
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "bodies"
_CONNECTIONS = 4


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    for size in effort.body_bytes:
        say(f"{MEASURE}: {size // 1024} KiB")
        sent = body(size)
        for contender in field.contenders:
            values = turn(contender, _CONNECTIONS, effort.seconds, sent)
            yield Row(MEASURE, contender.name, f"{size // 1024} KiB", 0, values)
