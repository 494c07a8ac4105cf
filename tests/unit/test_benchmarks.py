"""What the benchmark says of its rows, without running anything."""

import math
from pathlib import Path

import pytest

from benchmarks.report import markdown
from benchmarks.runner import Row
from benchmarks.targets import Medians, verdicts
from gatehouse.gateway.envoy_binary import envoy_path


def row(contender: str, setting: str, **values: float) -> Row:
    return Row("throughput", contender, setting, 0, values)


ROWS = [
    *(row("Gatehouse", "c=16", rate=rate) for rate in (900.0, 1_000.0, 5_000.0)),
    row("LiteLLM", "c=16", rate=50.0),
    row("FastAPI + httpx", "c=16", rate=500.0),
]


def test_a_busy_round_does_not_move_the_median() -> None:
    assert Medians(ROWS).of("throughput", "Gatehouse", "c=16", "rate") == 1_000
    assert Medians(ROWS).ratio("throughput", "c=16", "rate", "LiteLLM") == 20


def test_a_promise_is_kept_missed_or_not_measured() -> None:
    kept = {verdict.promise: verdict.kept for verdict in verdicts(ROWS, 100, 5)}
    assert kept["requests/s over LiteLLM's, c=16"] is True
    assert kept["requests/s over FastAPI's, c=16"] is False
    assert kept["added over bare Envoy at c=1, p50, ms"] is None


def test_the_report_names_who_is_absent_and_what_has_no_figure() -> None:
    rows = [*ROWS, row("Portkey", "c=256", rate=0.0, p99_ms=math.nan)]
    text = markdown(rows, verdicts(rows, 100, 5), {"smg": "there is no wheel"})
    assert "* without smg: there is no wheel" in text
    assert "| Portkey | c=256 | 0 | – |" in text
    assert "| Gatehouse | c=16 | 1,000 (900–5,000) |" in text


def test_functions_of_envoy_have_names_though_its_binary_has_no_symbols() -> None:
    pytest.importorskip("elftools", reason="a part of the benchmarks: make bench")
    from benchmarks.envoy_stacks import Names

    binary = Path(envoy_path())
    names = Names(binary)
    assert names.of(0) is None, "there is no code at the beginning of the file"
    size = binary.stat().st_size
    found = {names.of(offset) or "" for offset in range(0, size, size // 100_000)}
    assert any(name.startswith("Envoy::Router::") for name in found)
    assert all("#" in name or name.startswith("0x") for name in found if name)
