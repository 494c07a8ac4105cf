"""A dashboard as a web page: its panels, drawn from what Prometheus answers to their queries.

This is no Grafana: it draws the same queries over the same layout, and the page says so.
"""

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Series = list[Json]

COLOURS = ("#3b5bdb", "#e8850c", "#2b8a3e", "#c92a2a", "#7048e8", "#0c8599", "#a61e4d", "#5c940d", "#495057", "#d9480f")
STATES = {"blue": "#3b5bdb", "green": "#2b8a3e", "orange": "#e8850c", "red": "#c92a2a"}
STYLE = """
body { margin: 0; padding: 16px; background: #f6f7f9; color: #1a1f27; font: 13px/1.4 system-ui, sans-serif; }
h1 { font-size: 17px; margin: 0 0 2px; } p { margin: 0 0 12px; color: #5b6573; }
main { display: grid; grid-template-columns: repeat(24, 1fr); gap: 8px; }
section { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 8px 12px; min-width: 0; }
h2 { font-size: 13px; margin: 0 0 4px; font-weight: 600; }
b { font-size: 26px; font-weight: 600; } svg { display: block; width: 100%; height: 170px; }
.legend span { white-space: nowrap; }
.legend { color: #5b6573; font-size: 12px; height: 34px; overflow: hidden; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 4px 0 8px; }
.bar { background: #e7eaef; border-radius: 4px; height: 9px; } .bar div { height: 9px; border-radius: 4px; }
.row { display: flex; justify-content: space-between; margin-top: 5px; } text { font-size: 11px; fill: #5b6573; }
"""


@dataclass(frozen=True)
class Source:
    """How to ask Prometheus: for the present, and for the time that the picture shows."""

    now: Callable[[str], Series]
    over: Callable[[str], Series]


def page(dashboard: Path, source: Source, said: str) -> str:
    """The HTML of `dashboard`; `said` stands below its title."""
    document = json.loads(dashboard.read_text())
    draw = {"stat": _stat, "timeseries": _lines, "bargauge": _bars}
    panels = "".join(_placed(panel, draw[panel["type"]](panel, source)) for panel in document["panels"])
    head = f"<h1>{document['title']}</h1><p>{document['description']} {html.escape(said)}</p>"
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{head}<main>{panels}</main>"


def _placed(panel: Json, content: str) -> str:
    style = f"grid-column: span {panel['gridPos']['w']}"
    return f'<section style="{style}"><h2>{html.escape(panel["title"])}</h2>{content}</section>'


def _stat(panel: Json, source: Source) -> str:
    found = source.now(panel["targets"][0]["expr"])
    if not found:
        return "<b>–</b>"
    value = float(found[0]["value"][1])
    return f'<b style="color: {_state(panel, value)}">{shown(value, _unit(panel))}</b>'


def _bars(panel: Json, source: Source) -> str:
    target = panel["targets"][0]
    found = sorted(source.now(target["expr"]), key=lambda each: -float(each["value"][1]))[:6]
    values = [float(each["value"][1]) for each in found]
    most = 1.0 if _unit(panel) == "percentunit" else max(values, default=1) or 1
    rows = ""
    for each, value in zip(found, values, strict=True):
        width = min(100, 100 * value / most)
        name = html.escape(named(target["legendFormat"], each["metric"]))
        rows += f'<div class="row"><span>{name}</span><span>{shown(value, _unit(panel))}</span></div>'
        rows += f'<div class="bar"><div style="width: {width:.1f}%; background: {_state(panel, value)}"></div></div>'
    return rows


def _lines(panel: Json, source: Source) -> str:
    found = [
        (named(target["legendFormat"], each["metric"]), each["values"])
        for target in panel["targets"]
        for each in source.over(target["expr"])
    ]
    found.sort(key=lambda each: each[0])
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    times = sorted({time for _, values in found for time, _ in values})
    below = dict.fromkeys(times, 0.0)
    drawn = []
    for name, values in found:
        own = [(time, float(value)) for time, value in values if not math.isnan(float(value))]
        tops = [(time, value + (below[time] if stacked else 0)) for time, value in own]
        drawn.append((name, tops, [(time, below[time] if stacked else 0.0) for time, _ in own]))
        below.update(tops if stacked else ())
    most = max((value for _, tops, _ in drawn for _, value in tops), default=0) or 1
    return _svg(drawn, times, most, stacked, _unit(panel)) + _legend([name for name, _ in found])


Points = list[tuple[float, float]]


def _svg(drawn: Sequence[tuple[str, Points, Points]], times: list[float], most: float, stacked: bool, unit: str) -> str:
    first, last = (times[0], times[-1]) if times else (0, 1)

    def at(point: tuple[float, float]) -> str:
        x = 52 + 540 * (point[0] - first) / ((last - first) or 1)
        return f"{x:.1f},{140 - 130 * point[1] / most:.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = 140 - 130 * share
        parts.append(f'<path d="M52 {y}H592" stroke="#dfe3e8"/><text x="46" y="{y + 4}" text-anchor="end">')
        parts.append(f"{shown(most * share, unit)}</text>")
    for index, (_, tops, bottoms) in enumerate(drawn):
        colour = COLOURS[index % len(COLOURS)]
        area = " ".join(map(at, [*tops, *reversed(bottoms)]))
        parts.append(f'<polygon points="{area}" fill="{colour}" opacity="{0.3 if stacked else 0.06}"/>')
        line = " ".join(map(at, tops))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return f'<svg viewBox="0 0 600 146" preserveAspectRatio="none">{"".join(parts)}</svg>'


def _legend(names: list[str]) -> str:
    colours = (f'<i style="background: {COLOURS[i % len(COLOURS)]}"></i>' for i in range(len(names)))
    items = (f"<span>{colour}{html.escape(name)}</span> " for colour, name in zip(colours, names, strict=True))
    return f'<div class="legend">{"".join(items)}</div>'


def named(form: str, labels: Json) -> str:
    """Grafana's legend: `{{user}} {{limit}}`."""
    for name, value in labels.items():
        form = form.replace(f"{{{{{name}}}}}", value or "(none)")
    return form


def shown(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{100 * value:.1f} %"
        case "s":
            return f"{value:.2g} s" if value >= 1 else f"{1000 * value:.0f} ms"
        case "currencyUSD":
            return f"${value:.2f}" if value >= 1 else f"${value:.4f}"
        case "reqps":
            return f"{value:.3g}/s"
    return f"{value / 1000:.1f} k" if value >= 10_000 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _unit(panel: Json) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _state(panel: Json, value: float) -> str:
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return STATES[[step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]]
