"""Panels and dashboards, and the JSON that Grafana reads (dashboard JSON model, schema version 39: Grafana 11)."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

WIDTH = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Number:
    """One number, as it is now. From `warn` and `bad` on it changes its colour."""

    title: str
    query: str
    unit: str
    warn: float | None = None
    bad: float | None = None
    width, height = 6, 4

    def json(self) -> Json:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"}
        defaults = {"unit": self.unit, "thresholds": _thresholds(self.warn, self.bad)}
        return {
            "type": "stat",
            "title": self.title,
            "options": options,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": [_target("A", self.query, "")],
        }


@dataclass(frozen=True)
class Lines:
    """A time series: `queries` by the legend of their series."""

    title: str
    queries: dict[str, str]
    unit: str
    stacked: bool = False
    width, height = 12, 8

    def json(self) -> Json:
        custom = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if self.stacked else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if self.stacked else "none"},
        }
        defaults = {"unit": self.unit, "min": 0, "custom": custom}
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {
            "type": "timeseries",
            "title": self.title,
            "options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": [_target(chr(65 + i), query, name) for i, (name, query) in enumerate(self.queries.items())],
        }


@dataclass(frozen=True)
class Bars:
    """The current top values."""

    title: str
    name: str
    query: str
    unit: str
    warn: float | None = None
    bad: float | None = None
    width, height = 12, 8

    def json(self) -> Json:
        options = {"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"calcs": ["lastNotNull"]}}
        defaults = {"unit": self.unit, "min": 0, "thresholds": _thresholds(self.warn, self.bad)}
        return {
            "type": "bargauge",
            "title": self.title,
            "options": options,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": [{**_target("A", self.query, self.name), "instant": True, "range": False}],
        }


class Dashboard:
    """A page of panels, laid out in rows from left to right. `name` is that of its file."""

    def __init__(self, name: str, question: str, *panels: Number | Lines | Bars) -> None:
        self.name = name
        self._question = question
        self._panels = panels

    def json(self) -> Json:
        return {
            "uid": f"gatehouse-{self.name}",
            "title": f"Gatehouse: {self.name}",
            "description": f"{self._question}.",
            "tags": ["gatehouse"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "links": [{"type": "dashboards", "tags": ["gatehouse"], "title": "Gatehouse", "asDropdown": True}],
            "templating": {"list": [_which_prometheus()]},
            "panels": self._laid_out(),
        }

    def _laid_out(self) -> list[Json]:
        x, y = 0, 0
        found: list[dict[str, Any]] = []
        for number, panel in enumerate(self._panels, 1):
            if x + panel.width > WIDTH:
                x, y = 0, y + found[-1]["gridPos"]["h"]
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            found.append({"id": number, **panel.json(), "datasource": _DATASOURCE, "gridPos": place})
            x += panel.width
        return found


def _which_prometheus() -> Json:
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}


def _target(letter: str, query: str, name: str) -> Json:
    return {"refId": letter, "expr": query, "legendFormat": name, "datasource": _DATASOURCE}


def _thresholds(warn: float | None, bad: float | None) -> Json:
    steps: list[Json] = [{"color": "blue" if warn is None else "green", "value": None}]
    steps += [{"color": c, "value": v} for c, v in (("orange", warn), ("red", bad)) if v is not None]
    return {"mode": "absolute", "steps": steps}
