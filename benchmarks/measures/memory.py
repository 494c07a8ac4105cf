"""Memory of a whole gateway while many streams are open; PSS, so that shared pages count once."""

from collections.abc import Iterator

from benchmarks.clients.streams import held_open
from benchmarks.machine import allow_many_files
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "memory"
_FILES_A_STREAM = 2


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    for contender in field.contenders:
        yield Row(MEASURE, contender.name, "idle", 0, _mib(contender.pss_mib()))
    for count in effort.open_streams:
        if count * _FILES_A_STREAM > allow_many_files():
            say(f"{MEASURE}: skipped {count} streams: the limit on open files is too low")
            continue
        say(f"{MEASURE}: {count} open streams")
        for contender in field.contenders:
            with held_open(contender, count) as opened:
                values = _mib(contender.pss_mib())
            yield Row(MEASURE, contender.name, f"{count} streams", 0, {**values, "opened": opened})


def _mib(by_role: dict[str, float]) -> dict[str, float]:
    return {"pss_mib": sum(by_role.values()), **{f"pss_mib:{role}": found for role, found in by_role.items()}}
