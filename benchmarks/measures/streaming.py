"""What a gateway adds to streams: before the first event, and to each of the others."""

from collections.abc import Iterator

from benchmarks.clients.streams import streams
from benchmarks.machine import calm
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "streaming"
_INTERVAL_MS = {1: 20, 100: 50}
_SLOW_MS = 200
"""With a thousand streams even a bare proxy could not do more on two cores."""


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    for count in effort.streams:
        say(f"{MEASURE}: {count} streams")
        interval_ms = _INTERVAL_MS.get(count, _SLOW_MS)
        events = max(10, int(effort.seconds * 1000 / interval_ms))
        for number in range(1 if count > 100 else 2):
            for contender in field.contenders:
                calm()
                before = contender.cpu_s()
                seen = streams(contender, count, events, interval_ms)
                used = sum(contender.cpu_s().values()) - sum(before.values())
                values = {
                    "ttft_p50": seen.ttft_p50,
                    "ttft_p99": seen.ttft_p99,
                    "transit_p50": seen.transit_p50,
                    "transit_p99": seen.transit_p99,
                    "unfinished": 1 - seen.finished / count,
                    "cpu_us_event": used / max(1, seen.events) * 1e6,
                }
                yield Row(MEASURE, contender.name, f"{count} streams", number, values)
