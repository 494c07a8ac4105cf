"""Far more than a gateway can do: the requests it still answers, the status of the rest, and its recovery."""

from collections.abc import Iterator

from benchmarks.clients.closed import load
from benchmarks.contenders import Running
from benchmarks.machine import calm
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "overload"


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    for contender in field.named("bare Envoy", "Gatehouse", "FastAPI + httpx"):
        say(f"{MEASURE}: {contender.name}")
        calm()
        for number, (setting, count) in enumerate(
            (("before", 16), (f"c={effort.overload}", effort.overload), ("after", 16))
        ):
            yield Row(MEASURE, contender.name, setting, number, _turn(contender, count, 2 * effort.seconds))


def _turn(contender: Running, connections: int, seconds: float) -> dict[str, float]:
    try:
        seen = load(contender, connections, seconds)
    except RuntimeError as error:
        say(f"  {error}")
        return {"rate": 0.0}
    by_class = {f"{kind}xx": sum(n for code, n in seen.statuses.items() if code[0] == str(kind)) for kind in (2, 4, 5)}
    return {"rate": seen.rate, "p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms, **by_class}
