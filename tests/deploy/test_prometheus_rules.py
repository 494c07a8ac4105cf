"""Every alert fires when it should and is silent when it should be, says Prometheus' own rule tester."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from testkit.running_gateway import ROOT

RULES = ROOT / "deploy" / "prometheus"
FILES = ("recording.rules.yml", "alerts.rules.yml")
PROMTOOL = shutil.which("promtool")

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: apt-get install prometheus)")

STEADY, HOUR = "0+60x120", "60m"
"""A counter that grows by 60 each half minute: 2 a second."""
AT = 'instance="a"'


@dataclass(frozen=True)
class Case:
    """Series by which `alert` fires, with `labels`, and others by which it does not; values are one each 30 s."""

    alert: str
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: str = f"{{{AT}}}"


def requests(**by_status: str) -> dict[str, str]:
    return {f'api_requests_total{{model="m",user="u",status="{s[1:]}"}}': values for s, values in by_status.items()}


def one(metric: str, fires: str, quiet: str, labels: str = "") -> tuple[dict[str, str], dict[str, str]]:
    series = f"{metric}{{{AT}{',' if labels else ''}{labels}}}"
    return {series: fires}, {series: quiet}


LATE = "0x110 1x20"
"""A counter that grows once, shortly before the end."""
RECENT = "0x112 3x20"
NEVER = "0x130"
ONCE_LONG_AGO = "0x20 1x110"
BUCKETS = {
    "slow": {"1": "0x130", "10": STEADY, "+Inf": STEADY},
    "fast": {"1": STEADY, "10": STEADY, "+Inf": STEADY},
}


def ttft(kind: str) -> dict[str, str]:
    name = "api_time_to_first_token_seconds_bucket"
    return {f'{name}{{model="m",le="{le}"}}': values for le, values in BUCKETS[kind].items()}


def backends(healthy: int, unhealthy: int) -> dict[str, str]:
    series = 'api_backends{{instance="a",model="m",state="{}"}}'
    return {series.format("healthy"): f"{healthy}x130", series.format("unhealthy"): f"{unhealthy}x130"}


def refreshes(ok: str, failed: str) -> dict[str, str]:
    series = 'api_jwks_refreshes_total{{instance="a",issuer="sso",result="{}"}}'
    return {series.format("ok"): ok, series.format("failed"): failed}


MODEL = '{instance="a",model="m"}'
CASES = [
    Case("GatehouseDown", *one("up", "1x100 0x30", "1x130", 'job="gatehouse"'), f'{{{AT},job="gatehouse"}}'),
    Case("GatehouseMissing", {}, {'up{job="gatehouse"}': "1x130"}, '{job="gatehouse"}'),
    Case("GatehouseErrorsHigh", requests(_200=STEADY, _503=STEADY), requests(_200="0+600x130", _503="0+6x130"), "{}"),
    Case("GatehouseAuthUnavailable", *one("api_auth_unavailable_total", "0x112 3x20", ONCE_LONG_AGO)),
    Case("GatehouseModelDown", backends(0, 2), backends(1, 1), MODEL),
    Case("GatehouseBackendDown", backends(1, 1), backends(0, 2), MODEL),
    Case(
        "GatehouseWorkerRestarts",
        *one("api_worker_starts_total", "1x100 2x4 3x4 5x30", "1x100 2x30", 'worker="authz-0"'),
        f'{{{AT},worker="authz-0"}}',
    ),
    Case(
        "GatehouseStarved",
        *one("api_worker_starved_seconds_total", "0+6x130", "0+0.6x130", 'worker="authz-0"'),
        f'{{{AT},worker="authz-0"}}',
    ),
    Case("GatehouseFirstTokenSlow", ttft("slow"), ttft("fast"), '{model="m"}'),
    Case("GatehouseRequestsQueue", *one("api_requests_queued", "40x130", "3x130", 'model="m"'), MODEL),
    Case("GatehouseLimitsDegraded", *one("api_rate_limit_degraded_total", STEADY, ONCE_LONG_AGO)),
    Case(
        "GatehouseRedisFailing",
        *one("api_rate_limit_store_errors_total", STEADY, LATE, 'kind="oom"'),
        f'{{{AT},kind="oom"}}',
    ),
    Case("GatehouseLimitsBypassed", *one("api_rate_limit_bypassed_total", "0x112 9x20", NEVER, 'model="m"')),
    Case(
        "GatehouseLimiterOverrun",
        {f"api_rate_limit_overrun_total{{{AT}}}": NEVER, f'api_rate_limit_unanswered_total{{{AT},model="m"}}': RECENT},
        {f"api_rate_limit_overrun_total{{{AT}}}": ONCE_LONG_AGO},
    ),
    Case("GatehouseCallersUnidentified", *one("api_rate_limit_unidentified_total", LATE, ONCE_LONG_AGO)),
    Case("GatehouseCountsRestored", *one("api_rate_limit_restored_total", LATE, ONCE_LONG_AGO)),
    Case("GatehouseCountsLost", *one("api_rate_limit_unrestored_total", LATE, NEVER)),
    Case(
        "GatehouseClockStepped",
        *one("api_clock_steps_total", LATE, ONCE_LONG_AGO, 'clock="redis"'),
        f'{{{AT},clock="redis"}}',
    ),
    Case("GatehouseManyRefusals", requests(_200=STEADY, _429=STEADY), requests(_200=STEADY, _429="0+6x130"), "{}"),
    Case(
        "GatehouseBudgetNearlySpent",
        *one("api_limit_used_ratio", "0.95x130", "0.6x130", 'limit="budget_usd_per_month",scope="tier",holder="u"'),
        '{holder="u",limit="budget_usd_per_month",scope="tier"}',
    ),
    Case("GatehouseLogEntriesLost", *one("api_access_log_lost_total", "0x112 7x20", ONCE_LONG_AGO)),
    Case("GatehouseStrangersCounted", *one("api_refusals_unwritten_total", LATE, ONCE_LONG_AGO)),
    Case("GatehouseLogsFull", *one("api_log_dropped_bytes_total", "0x110 1000000x20", NEVER)),
    Case(
        "GatehouseSettlementsLost",
        {f"api_settlements_lost_total{{{AT}}}": LATE, f"api_rate_limit_events_lost_total{{{AT}}}": NEVER},
        {f"api_settlements_lost_total{{{AT}}}": NEVER, f"api_rate_limit_events_lost_total{{{AT}}}": NEVER},
    ),
    Case(
        "GatehouseAnswersUncounted",
        *one("api_uncounted_answers_total", LATE, ONCE_LONG_AGO, 'endpoint="/v1/score",model="m"'),
        '{endpoint="/v1/score",model="m"}',
    ),
    Case("GatehouseConfigRejected", *one("api_config_reloads_total", LATE, ONCE_LONG_AGO, 'result="rejected"')),
    Case("GatehouseCertificateExpires", *one("api_certificate_expiry_timestamp_seconds", "900000x130", "9000000x130")),
    Case("GatehouseKeyStoreStale", *one("api_key_store_age_seconds", "0x100 20 45 75x30", "0x100 10x30")),
    Case("GatehouseIssuerKeysFailing", refreshes("5x130", STEADY), refreshes(STEADY, STEADY), f'{{{AT},issuer="sso"}}'),
    Case("GatehouseKeyLimitsUnreadable", *one("api_key_limits_unreadable_total", LATE, NEVER)),
    Case("GatehouseEnvoyBehind", *one("api_envoy_patches_behind", "2x130", "0x130")),
]


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((RULES / "alerts.rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def simulate(directory: Path, series: dict[str, str], *expected: tuple[str, list[str]]) -> None:
    """Run the rules over `series` for an hour; then each expression must give samples with exactly these labels."""
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    checks = [
        {"expr": expr, "eval_time": HOUR, "exp_samples": [{"labels": labels, "value": 1} for labels in found]}
        for expr, found in expected
    ]
    test = {"interval": "30s", "input_series": inputs, "promql_expr_test": checks}
    document = {"rule_files": [str(RULES / name) for name in FILES], "evaluation_interval": "15s", "tests": [test]}
    file = directory / "test.yml"
    file.write_text(yaml.safe_dump(document))
    promtool("test", "rules", file)


def test_prometheus_takes_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", RULES / "prometheus.yml")


def test_every_alert_has_a_case() -> None:
    assert sorted(case.alert for case in CASES) == sorted(alerts())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires(case: Case, tmp_path: Path) -> None:
    firing = f'max without (alertname, alertstate, severity) (ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    simulate(tmp_path, case.fires, (firing, [case.labels]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_is_silent(case: Case, tmp_path: Path) -> None:
    simulate(tmp_path, case.quiet, (f'ALERTS{{alertname="{case.alert}"}}', []))


def test_nothing_fires_without_traffic(tmp_path: Path) -> None:
    series = {'up{job="gatehouse",instance="a"}': "1x130", **backends(2, 0), **requests(_200="0x130", _503="0x130")}
    simulate(tmp_path, series, ("ALERTS", []))


def test_errors_inside_answers_are_failures(tmp_path: Path) -> None:
    failed = {'api_failed_answers_total{model="m",endpoint="/v1/completions"}': STEADY}
    ratios = ("model:api_requests_failed:ratio5m", "gateway:api_requests_failed:ratio5m")
    of_model, of_all = ratios[0] + '{model="m"}', ratios[1]
    simulate(tmp_path, requests(_200=STEADY) | failed, (of_model, [of_model]), (of_all, [of_all]))
    simulate(tmp_path, requests(_503=STEADY), (of_model, [of_model]), (of_all, [of_all]))


def test_tokens_and_costs_add_up_by_team(tmp_path: Path) -> None:
    series = {
        'api_tokens_total{user="a",model="m",type="prompt"}': "0+15x130",
        'api_tokens_total{user="b",model="m",type="prompt"}': "0+15x130",
        'api_tokens_total{user="c",model="m",type="prompt"}': "0+15x130",
        'api_cost_usd_total{user="a",model="m"}': "0+30x130",
        'api_user_info{user="a",team="search",instance="x"}': "1x130",
        'api_user_info{user="a",team="search",instance="y"}': "1x130",
        'api_user_info{user="b",team="search",instance="x"}': "1x130",
    }
    tokens = 'team:api_tokens:rate5m{team="search",type="prompt"}'
    cost = 'team:api_cost_usd:rate5m{team="search"}'
    simulate(tmp_path, series, (tokens, [tokens]), (cost, [cost]))


@pytest.mark.parametrize("name", sorted(alerts()))
def test_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r".{20,200}[.]", alert["annotations"]["summary"])
    assert len(alert["annotations"]["runbook"]) > 40
