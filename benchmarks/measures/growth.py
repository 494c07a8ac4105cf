"""How Gatehouse grows: many keys and many models beside few, in time to start, memory, and cost of a request."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.contenders import Running, gatehouse
from benchmarks.measures.throughput import rounds, turn
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "growth"


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    """The plain one is started anew beside the others, so that all have served as little."""
    sizes = {
        "10 keys, 1 model": (10, 1),
        f"{effort.keys} keys": (effort.keys, 1),
        f"{effort.models} models": (10, effort.models),
    }
    with ExitStack() as stack:
        grown: list[Running] = []
        for number, (name, (keys, models)) in enumerate(sizes.items()):
            say(f"{MEASURE}: starting with {name}")
            folder = Path(field.folder, f"growth-{number}")
            folder.mkdir()
            started = gatehouse.start(folder, field.upstream, keys=keys, models=models, name=f"Gatehouse, {name}")
            grown.append(stack.enter_context(started))
        for contender in grown:
            turn(contender, 16, 1)
            weight = contender.pss_mib()
            values = {"start_s": contender.start_s, "pss_mib": sum(weight.values()), "authz_mib": weight["authz"]}
            yield Row(MEASURE, contender.name, "at rest", 0, values)
        yield from rounds(MEASURE, grown, effort, (1, 16))
