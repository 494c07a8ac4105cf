"""Requests a second, latency and CPU, with connections that each send as soon as they are answered."""

from collections.abc import Iterator, Sequence

from benchmarks.clients.closed import load
from benchmarks.clients.request import BODY
from benchmarks.contenders import Running
from benchmarks.machine import calm
from benchmarks.runner import Effort, Field, Row, say

MEASURE = "throughput"


def measure(field: Field, effort: Effort) -> Iterator[Row]:
    for contender in field.contenders:
        load(contender, 16, 1)  # connections, caches and just-in-time compilers warm up
    yield from rounds(MEASURE, field.contenders, effort, effort.connections)


def rounds(measure: str, contenders: Sequence[Running], effort: Effort, connections: Sequence[int]) -> Iterator[Row]:
    """Each round measures every contender at each number of connections: a busy minute of the machine hits all."""
    for number in range(effort.rounds):
        say(f"{measure}: round {number + 1} of {effort.rounds}")
        for count in connections:
            for contender in contenders:
                yield Row(measure, contender.name, f"c={count}", number, turn(contender, count, effort.seconds))


def turn(contender: Running, connections: int, seconds: float, body: bytes = BODY) -> dict[str, float]:
    """One turn's figures; `cpu_us:ROLE` is a role's CPU time for each request, `failed` the share without a 200."""
    calm()
    before = contender.cpu_s()
    try:
        seen = load(contender, connections, seconds, body)
    except RuntimeError as error:
        say(f"  {error}")
        return {"rate": 0.0, "failed": 1.0}
    costs = {role: max(0.0, used - before.get(role, 0.0)) for role, used in contender.cpu_s().items()}
    cpu_us = {f"cpu_us:{role}": used / max(1, seen.requests) * 1e6 for role, used in costs.items()}
    return {
        "rate": seen.rate,
        "p50_ms": seen.p50_ms,
        "p90_ms": seen.p90_ms,
        "p99_ms": seen.p99_ms,
        "failed": 1 - seen.statuses.get("200", 0) / max(1, seen.requests),
        "cpu_us": sum(cpu_us.values()),
        **cpu_us,
    }
