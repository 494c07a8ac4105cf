"""Every field of `gatehouse.yaml` says what it means: to editors, by the JSON Schema, and on the page of all fields."""

import pytest

from gatehouse.config import descriptions, model
from scripts import fields

SCHEMA = descriptions.schema()
CLASSES = {**SCHEMA["$defs"], "Config": SCHEMA}
PAGE = fields.page()


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_has_a_text_without_links_in_the_schema(name: str) -> None:
    texts = {field: spec.get("description", "") for field, spec in CLASSES[name]["properties"].items()}
    assert [field for field, text in texts.items() if not text] == []
    assert [field for field, text in texts.items() if "](" in text] == []


def test_one_text_serves_all_periods_of_a_limit_and_no_other_fields() -> None:
    texts = descriptions.descriptions()["Limits"]
    of_requests = {field for field, text in texts.items() if text == texts["requests_per_month"]}
    assert of_requests == {f"requests_per_{period}" for period in model.PERIODS}
    shared = {text for text in texts.values() if list(texts.values()).count(text) > 1}
    assert len(shared) == len(model.MEASURES)


def test_inherited_fields_keep_their_text() -> None:
    texts = descriptions.of_model(descriptions.descriptions(), model.User)
    assert texts.keys() == {"limits", "models", "allowed_ips", "disabled"}


def row(field: str) -> str:
    (found,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{field}`")]
    return found


def test_a_row_has_type_bounds_default_and_whether_it_needs_a_restart() -> None:
    assert row("port") == "| `port` ↻ | number 1–65,535 | `8000` | The public port. |"
    assert row("retention_days").startswith("| `retention_days` | number ≥ 1 | `30` |")


def test_a_default_that_is_no_plain_value_is_said_once() -> None:
    assert row("max_gb").startswith("| `max_gb` | number > 0 | half of the disk |")
    assert "Default" not in row("max_gb")
