"""Pictures of the rows; they need matplotlib (`pip install -e '.[bench]'`)."""

import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.runner import Row

_SHOWN = 3
"""Bars are cut off at this multiple of Gatehouse's."""


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write what there is to see. Raises `ImportError` where there is no matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    wanted = (
        ("throughput", "rate", "connections", "requests a second"),
        ("throughput", "p99_ms", "connections", "p99, ms"),
        ("streaming", "transit_p99", "streams", "p99 of an event's way, ms"),
        ("streaming", "ttft_p50", "streams", "first event, p50, ms"),
    )
    curves = [_curves(rows, *each, folder) for each in wanted if any(row.measure == each[0] for row in rows)]
    return [*curves, *_costs(rows, folder)]


def _curves(rows: Sequence[Row], measure: str, value: str, across: str, up: str, folder: Path) -> Path:
    from matplotlib import pyplot

    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.measure == measure and value in row.values:
            at = int(re.sub(r"\D", "", row.setting))
            points[row.contender][at].append(row.values[value])
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, found in points.items():
        xs = sorted(found)
        axes.plot(xs, [statistics.median(found[x]) for x in xs], marker="o", label=name)
        axes.fill_between(xs, [min(found[x]) for x in xs], [max(found[x]) for x in xs], alpha=0.15)
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    path = folder / f"{measure}-{value}.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _costs(rows: Sequence[Row], folder: Path) -> list[Path]:
    """CPU a request at 16 connections, by process."""
    from matplotlib import pyplot

    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if (row.measure, row.setting) == ("throughput", "c=16"):
            for name, value in row.values.items():
                if name.startswith("cpu_us:"):
                    found[row.contender][name.partition(":")[2]].append(value)
    if not found:
        return []
    roles = dict.fromkeys(role for costs in found.values() for role in costs)
    colours = {role: f"C{number % 10}" for number, role in enumerate(roles)}
    totals = {name: sum(map(statistics.median, costs.values())) for name, costs in found.items()}
    most = _SHOWN * totals.get("Gatehouse", max(totals.values()))
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for contender, costs in found.items():
        left = 0.0
        for role, values in costs.items():
            width = statistics.median(values)
            axes.barh(contender, width, left=left, color=colours[role])
            left += width
        axes.text(min(left, most) + most / 100, contender, f"{left:,.0f}", va="center", fontsize="small")
    axes.set(xlim=(0, 1.1 * most), xlabel="CPU µs a request, 16 connections; longer bars are cut")
    axes.legend([pyplot.Rectangle((0, 0), 1, 1, color=colours[role]) for role in roles], list(roles), fontsize="small")
    axes.invert_yaxis()
    path = folder / "throughput-cpu.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return [path]
