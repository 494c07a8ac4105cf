"""Every panel and every alert asks for what a gateway in use really exposes."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testkit.demo_traffic import Scene, load, needs_prometheus, scene
from testkit.running_gateway import ROOT

DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus"
LOAD_S = 25


def panels() -> list[tuple[str, str, str]]:
    """Dashboard, panel and query, of all there are."""
    return [
        (file.stem, panel["title"], target["expr"])
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


def rules() -> list[dict[str, Any]]:
    files = (RULES / "recording.rules.yml", RULES / "alerts.rules.yml")
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """After some load: a worker was killed, a bad configuration refused, and Redis away for a moment."""
    directory: Path = tmp_path_factory.mktemp("scene")
    with scene(directory) as running:
        asyncio.run(load(running.gateway.url, LOAD_S))
        os.kill(running.gateway.children()["authz-0"], signal.SIGKILL)
        good = running.config().read_text()
        running.config().write_text(good.replace("user_id", "user_di"))
        running.redis.process.send_signal(signal.SIGSTOP)
        asyncio.run(load(running.gateway.url, 3))
        running.redis.process.send_signal(signal.SIGCONT)
        running.config().write_text(good)
        asyncio.run(load(running.gateway.url, 5))
        time.sleep(2)
        yield running


@pytest.mark.slow
@needs_prometheus
def test_no_panel_is_empty(used: Scene) -> None:
    empty = [
        (dashboard, title, query)
        for dashboard, title, query in panels()
        if not used.over(query.replace("$__rate_interval", "20s"), 40, 2)
    ]
    assert empty == []


@pytest.mark.slow
@needs_prometheus
def test_every_recording_rule_records(used: Scene) -> None:
    empty = [rule["record"] for rule in rules() if "record" in rule and not used.now(rule["record"])]
    assert empty == []


@pytest.mark.slow
@needs_prometheus
def test_every_alert_asks_for_metrics_that_exist(used: Scene) -> None:
    names = {name for rule in rules() for name in re.findall(r"\b(?:\w+:)?api_\w+(?::\w+)?", rule["expr"])}
    assert len(names) > 15
    assert [name for name in sorted(names) if not used.now(f"count({name})")] == []


@pytest.mark.slow
@needs_prometheus
def test_the_alerts_of_what_happened_are_there(used: Scene) -> None:
    alerts = {series["metric"]["alertname"] for series in used.now("ALERTS")}
    assert {"GatehouseModelDown", "GatehouseBackendDown", "GatehouseConfigRejected"} <= alerts
    assert not {"GatehouseDown", "GatehouseMissing", "GatehouseLogEntriesLost", "GatehouseSettlementsLost"} & alerts


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_do_not_overlap_and_fill_their_rows(file: Path) -> None:
    taken: set[tuple[int, int]] = set()
    document = json.loads(file.read_text())
    for panel in document["panels"]:
        place = panel["gridPos"]
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not squares & taken
        assert max(x for x, _ in squares) < 24
        taken |= squares
    assert document["uid"] == f"gatehouse-{file.stem}"
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


def test_provisioning_is_read_as_meant() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "gatehouse.yaml").read_text())
    providers = yaml.safe_load((folder / "dashboards" / "gatehouse.yaml").read_text())
    assert sources["datasources"][0]["type"] == "prometheus"
    assert providers["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"
