"""Whoever is woken by an alert finds what to do."""

import re
from typing import Any

import pytest
import yaml

from testkit.running_gateway import ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
GROUPS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.rules.yml").read_text())["groups"]
ALERTS: dict[str, Any] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
SECTIONS = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))


def test_every_section_is_of_an_alert() -> None:
    assert list(SECTIONS) == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_section_that_it_links_to(name: str) -> None:
    assert ALERTS[name]["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert SECTIONS[name].startswith(f"*{ALERTS[name]['labels']['severity']}* ·")
    assert len(SECTIONS[name].split()) > 20


def test_metrics_that_the_runbook_names_are_in_the_rules_or_on_their_page() -> None:
    known = (ROOT / "docs" / "metrics.md").read_text() + str(GROUPS)
    named = set(re.findall(r"\bapi_[a-z_]+", RUNBOOK)) - {"api_"}
    assert {name for name in named if name not in known} == set()


@pytest.mark.parametrize(
    "page",
    [
        "runbook.md",
        "threat-model.md",
        *(f"operations/{name}.md" for name in ("sizing", "scaling", "upgrades", "backup")),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / "docs" / page
    for link in re.findall(r"\]\(([^)]+)\)", file.read_text()):
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), link
        assert not anchor or re.search(rf"^#+ {anchor}$", target.read_text(), re.MULTILINE | re.IGNORECASE), link
