"""What the README shows is what happens."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatehouse.config.model import (
    ApiKey,
    Backend,
    Config,
    Holder,
    JwtIssuer,
    Keys,
    KeyStore,
    Logging,
    Model,
    Price,
    Redis,
    Server,
    Tier,
    Tls,
    Tracing,
    User,
    Vllm,
)
from gatehouse.contract import errors, names
from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from tests.integration.conftest import MODEL

README = (ROOT / "README.md").read_text()
FIELDS = (ROOT / "docs" / "configuration.md").read_text().split("| field |")[1].split("\n\n")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


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


def test_every_setting_that_is_described_exists() -> None:
    described = set(re.findall(r"`(?:\w+\.)*\.?([a-z_]+)`", FIELDS))
    models = (
        Config,
        Server,
        Logging,
        Vllm,
        Model,
        Backend,
        Price,
        Holder,
        ApiKey,
        Keys,
        KeyStore,
        JwtIssuer,
        Tier,
        Tls,
        User,
        Redis,
        Tracing,
    )
    fields = {name for model in models for name in model.model_fields}
    values = {
        "vllm",
        "gh",
        "file",
        "free",
        "standard",
        "sliding_window",
        "fixed_window",
        "token_bucket",
        "info",
        "logs",
        "none",
        "off",
        "true",
        "false",
        "local",
        "allow",
        "deny",
        "limits_unavailable",
        "least_request",
        "round_robin",
        "session_affinity",
        "https",
    }
    periods = {"_minute", "_hour", "_day"}
    assert described - fields - values - periods == set()


def test_every_setting_that_exists_is_described() -> None:
    table = FIELDS
    models = (
        Server,
        Logging,
        Vllm,
        Model,
        Backend,
        Price,
        Holder,
        User,
        ApiKey,
        Keys,
        KeyStore,
        JwtIssuer,
        Redis,
        Tls,
        Tracing,
    )
    missing = [name for model in models for name in model.model_fields if name not in table]
    assert missing == []


def test_the_limits_shown_are_read(tmp_path: Path) -> None:
    from gatehouse.loading.load import load

    shown = next(block for block in blocks("yaml") if "budget_usd_per_month" in block)
    priced = (
        "models: {llama-70b: {backends: [{url: 'http://h/v1'}], price_per_million_tokens: {input: 1, output: 1}}}\n"
    )
    (tmp_path / "gatehouse.yaml").write_text(priced + shown)
    assert load(tmp_path / "gatehouse.yaml", {}).settles()


def test_the_single_sign_on_shown_is_read(tmp_path: Path) -> None:
    from gatehouse.loading.load import load_with_advice

    shown = next(block for block in blocks("yaml") if block.startswith("jwt:"))
    (tmp_path / "gatehouse.yaml").write_text("vllm: {base_url: 'http://h/v1'}\n" + shown)
    loaded = load_with_advice(tmp_path / "gatehouse.yaml", {})
    assert loaded.config.jwt[0].tier_claim == "realm_access.roles"
    assert loaded.warnings == ()


def test_the_error_codes_listed_are_those_of_the_table() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", README.split("| status | codes |")[1].split("\n\n")[0]))
    codes = {value.code for value in vars(errors).values() if isinstance(value, errors.ClientError)}
    assert codes - listed == {"gateway_error"}
    assert listed <= codes


def test_the_endpoints_listed_are_those_that_are_routed() -> None:
    row = next(line for line in README.splitlines() if line.startswith("| `POST"))
    assert tuple(re.findall(r"(?<=[ `])(/[a-z0-9/]+)`", row)) == names.ENDPOINTS


def test_the_metrics_listed_are_there(example: RunningGateway) -> None:
    listed = set(re.findall(r"`(api_[a-z_]+)", README.split("## Metrics")[1].split("```")[0]))
    exposed = example.metrics()
    missing = [name for name in listed if f"# TYPE {name.removesuffix('_total')}" not in exposed]
    # Costs need prices, teams need teams, and limits near their end need use: tests/deploy/test_dashboards.py has them.
    assert sorted(missing) == ["api_cost_usd_total", "api_limit_used_ratio", "api_user_info"]


def test_the_key_commands_shown_exist() -> None:
    from typer.testing import CliRunner

    from gatehouse.cli import app

    shown = set(re.findall(r"^gatehouse keys ([a-z]+)", README, re.MULTILINE))
    assert {"create", "list", "rotate", "revoke", "export", "hash"} <= shown
    for command in shown:
        assert CliRunner().invoke(app, ["keys", command, "--help"]).exit_code == 0
