"""Rows into Markdown: the promises, then a table for each measure with medians and, in brackets, the spread."""

import math
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.runner import Row
from benchmarks.targets import Verdict

_TITLES = {
    "throughput": "As fast as it is answered",
    "steady": "By the clock",
    "streaming": "Streams",
    "memory": "Memory",
    "bodies": "Bodies",
    "growth": "Growth",
    "overload": "Overload",
}
_UNITS = {
    "rate": "requests/s",
    "p50_ms": "p50 ms",
    "p90_ms": "p90 ms",
    "p99_ms": "p99 ms",
    "failed": "failed",
    "cpu_us": "CPU µs a request",
    "ttft_p50": "first event p50 ms",
    "ttft_p99": "p99 ms",
    "transit_p50": "other events p50 ms",
    "transit_p99": "of others p99 ms",
    "unfinished": "unfinished",
    "cpu_us_event": "CPU µs an event",
    "pss_mib": "PSS MiB",
    "opened": "opened",
    "start_s": "start s",
    "authz_mib": "authz MiB",
    "2xx": "2xx",
    "4xx": "4xx",
    "5xx": "5xx",
}


def markdown(rows: Sequence[Row], verdicts: Sequence[Verdict], absent: Mapping[str, str]) -> str:
    lines = ["# Benchmark", "", machine(), "", "| promise | wanted | found | |", "|---|---|---|---|"]
    lines += [_verdict(verdict) for verdict in verdicts]
    lines += ["", *(f"* without {name}: {reason}" for name, reason in absent.items())]
    for measure in dict.fromkeys(row.measure for row in rows):
        lines += ["", f"## {_TITLES[measure]}", "", *_table([row for row in rows if row.measure == measure])]
    return "\n".join(lines) + "\n"


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next(line.partition(":")[2].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = os.getloadavg()[0]
    return (
        f"{model}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, load {load:.1f} at the end."
    )


def _verdict(verdict: Verdict) -> str:
    found = "not measured" if verdict.found is None else f"{verdict.found:.3g}"
    said = {True: "kept", False: "missed", None: ""}[verdict.kept]
    return f"| {verdict.promise} | {'≥' if verdict.at_least else '≤'} {verdict.wanted:g} | {found} | {said} |"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    shown = [name for name in _UNITS if any(name in row.values for row in rows)]
    parts = sorted({name for row in rows for name in row.values if ":" in name})
    heads = ["contender", "at", *(_UNITS[name] for name in shown), *(["of these"] if parts else [])]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for setting, contender in dict.fromkeys((row.setting, row.contender) for row in rows):
        mine = [row.values for row in rows if (row.setting, row.contender) == (setting, contender)]
        cells = [_cell([values[name] for values in mine if name in values], name) for name in shown]
        detail = [f"{name.partition(':')[2]} {_median(mine, name):.0f}" for name in parts if name in mine[0]]
        detail = [", ".join(detail)] if parts else []
        yield "| " + " | ".join([contender, setting, *cells, *detail]) + " |"


def _median(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.median(values[name] for values in rows if name in values)


def _cell(found: Sequence[float], name: str) -> str:
    if not found:
        return ""
    if name in ("failed", "unfinished"):
        return f"{statistics.median(found):.1%}"
    middle, spread = _number(statistics.median(found)), f" ({_number(min(found))}–{_number(max(found))})"
    return middle + (spread if len(found) > 1 else "")


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
