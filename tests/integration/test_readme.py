"""What the README and the docs show is what happens."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatehouse.contract import errors, names
from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL

README = (ROOT / "README.md").read_text()
PAGES = ("README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The configuration that the README shows, in front of a fake vLLM."""
    import yaml

    with FakeVllm((MODEL,)) as backend:
        config = yaml.safe_load(blocks("yaml")[0])
        config["vllm"]["base_url"] = f"{backend.url}/v1"
        del config["server"]
        with running_gateway(tmp_path_factory.mktemp("readme"), config) as running:
            yield running


def here(text: str, gateway: RunningGateway) -> str:
    assert "http://localhost:8000" in text
    return text.replace("http://localhost:8000", gateway.url)


def test_the_configuration_shown_is_the_one_shipped() -> None:
    shipped = [line for line in (ROOT / "gatehouse.yaml").read_text().splitlines() if not line.startswith("#")]
    assert blocks("yaml")[0].splitlines() == shipped


def test_the_curl_line_streams_an_answer(example: RunningGateway) -> None:
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    line = here(next(block for block in blocks("sh") if block.startswith("curl -N")), example)
    output = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=True).stdout
    assert output.rstrip().endswith("data: [DONE]")


def test_the_python_program_runs_as_shown(example: RunningGateway, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(here(blocks("python")[0], example))
    output = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=30, check=True)
    assert output.stdout.strip()


def test_every_field_of_the_model_has_a_text_and_the_page_of_fields_is_fresh() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "scripts.fields", "--check"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_every_setting_that_a_page_names_exists() -> None:
    """`section.field`, as pages write them."""
    from gatehouse.config.model import Config

    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    plain = {name: cls for name, cls in sections.items() if hasattr(cls, "model_fields")}
    named = re.compile(rf"`({'|'.join(plain)})\.([a-z_]+)")
    unknown = {
        f"{name}: {section}.{field}"
        for name in PAGES
        for section, field in named.findall((ROOT / name).read_text())
        if field not in getattr(plain[section], "model_fields", {})
    }
    assert unknown == set()


def test_the_limits_shown_are_read(tmp_path: Path) -> None:
    from gatehouse.loading.load import load

    shown = next(block for block in blocks("yaml", page("rate-limits.md")) if "budget_usd_per_month" in block)
    priced = (
        "models: {llama-70b: {backends: [{url: 'http://h/v1'}], price_per_million_tokens: {input: 1, output: 1}}}\n"
    )
    (tmp_path / "gatehouse.yaml").write_text(priced + shown)
    assert load(tmp_path / "gatehouse.yaml", {}).settles()


def test_the_single_sign_on_shown_is_read(tmp_path: Path) -> None:
    from gatehouse.loading.load import load_with_advice

    shown = next(block for block in blocks("yaml", page("single-sign-on.md")) if block.startswith("jwt:"))
    (tmp_path / "gatehouse.yaml").write_text("vllm: {base_url: 'http://h/v1'}\n" + shown)
    loaded = load_with_advice(tmp_path / "gatehouse.yaml", {})
    assert loaded.config.jwt[0].tier_claim == "realm_access.roles"
    assert loaded.warnings == ()


def test_the_error_codes_listed_are_those_of_the_table() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", page("http-api.md").split("| status | codes |")[1].split("\n\n")[0]))
    codes = {value.code for value in vars(errors).values() if isinstance(value, errors.ClientError)}
    assert codes - listed == {"gateway_error"}
    assert listed <= codes


def test_the_endpoints_listed_are_those_that_are_routed() -> None:
    row = next(line for line in page("http-api.md").splitlines() if line.startswith("| `POST"))
    assert tuple(re.findall(r"(?<=[ `])(/[a-z0-9/_]+)`", row)) == names.ENDPOINTS


# Costs need prices, teams need teams, and limits near their end need use: tests/deploy/test_dashboards.py has them.
# The certificate's end needs TLS, refusals of tokens and fetches of keys need an issuer.
NOT_OF_THE_EXAMPLE = {
    "api_certificate_expiry_timestamp_seconds",
    "api_cost_usd_total",
    "api_jwks_refreshes_total",
    "api_jwt_refusals_total",
    "api_limit_used_ratio",
    "api_user_info",
}


def test_the_metrics_listed_are_there(example: RunningGateway) -> None:
    listed = set(re.findall(r"`(api_[a-z_]+)", page("metrics.md").split("## Queries")[0]))

    def missing() -> set[str]:
        exposed = example.metrics()
        return {name for name in listed if f"# TYPE {name.removesuffix('_total')}" not in exposed}

    until(lambda: missing() == NOT_OF_THE_EXAMPLE, what="the metrics that docs/metrics.md lists")


def test_the_commands_shown_exist() -> None:
    from typer.testing import CliRunner

    from gatehouse.cli import app

    text = "\n".join(block for name in PAGES for block in blocks("sh", (ROOT / name).read_text()))
    shown = set(re.findall(r"^gatehouse (keys [a-z]+|[a-z]+)", text, re.MULTILINE))
    assert {"check", "up", "doctor", "usage", "simulate", "keys create", "keys rotate", "keys revoke"} <= shown
    for command in shown:
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160
