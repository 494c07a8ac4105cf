"""What a running gateway can't change is told by field, and nothing else is needed from a restart."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import render
from gatehouse.loading.files import Files
from gatehouse.loading.fixed import FIXED, changed_fields, restart_needed
from gatehouse.loading.key_table import KeyRetention
from gatehouse.loading.load import load

BASE: dict[str, Any] = {
    "models": {"m": {"backends": [{"url": "http://a:1/v1"}]}},
    "rate_limits": {"free": {}},
    "tracing": {"otlp_endpoint": "http://otel:4317"},
    "redis": {"url": "redis://r"},
}

CHANGES: Mapping[str, Any] = {
    "server.host": "127.0.0.1",
    "server.port": 8001,
    "server.workers": 77,
    "server.metrics_host": "127.0.0.2",
    "server.metrics_port": 9091,
    "server.trusted_proxy_hops": 1,
    "server.max_body_mb": 1,
    "server.max_json_values": 1000,
    "server.max_connections": 7,
    "server.max_memory_mb": 1234,
    "logging.dir": "elsewhere",
    "logging.bodies": "errors",
    "logging.body_sample": 0.5,
    "keys.peppers": {"1": "env:PEPPER"},
    "key_store.type": "redis",
    "key_store.path": "keys.jsonl",
    "key_store.max_stale_s": 1,
    "redis.url": "redis://other",
    "redis.on_failure": "deny",
    "redis.gateways": 2,
    "redis.timeout_ms": 11,
    "limits.on_failure": "deny",
    "tracing.otlp_endpoint": "http://other:4317",
    "tracing.sample": 1,
    "tracing.metrics_interval_s": 1,
    "server.cors": ["https://chat.example.com"],
    "server.metrics_names": ["gatehouse.internal"],
    "server.public_metrics": False,
    "server.require_https": True,
    "server.stream_idle_timeout_s": 1,
    "server.drain_s": 1,
    "server.drain_notice_s": 2,
    "server.tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
    "logging.level": "debug",
    "logging.retention_days": 1,
    "logging.max_gb": 1,
    "keys.prefix": "xx",
    "keys.failures_per_minute": 1,
    "models": {"n": {"backends": [{"url": "https://b:1/v1", "priority": 1}], "aliases": ["o"]}},
    "default_model": "m",
    "rate_limits": {"free": {"requests_per_minute": 1}, "paid": {"concurrent_requests": 1}},
    "users": {"u": {"disabled": True}},
    "teams": {"t": {"limits": {"requests_per_minute": 1}}},
    "api_keys": {"sk-key-0001": {"user_id": "u", "tier": "free"}},
    "key_files": ["keys.yaml"],
    "jwt": [{"issuer": "https://sso.example.com", "audience": "llm"}],
    "vllm": {"base_url": "http://c:1/v1"},
}
"""A different value for each field there is."""

FIXED_FIELDS = [field for field in CHANGES if tuple(field.split("."))[:1] in FIXED or tuple(field.split(".")) in FIXED]


def changed(field: str) -> Config:
    section, _, name = field.partition(".")
    value = {**BASE.get(section, {}), name: CHANGES[field]} if name else CHANGES[field]
    rest = {key: entry for key, entry in BASE.items() if not (field == "vllm" and key == "models")}
    return Config.model_validate({**rest, section: value})


def fields() -> Iterator[str]:
    """Every field of a configuration: of sections that are always there, the fields inside."""
    config = Config.model_validate(BASE)
    for section in Config.model_fields:
        value = getattr(config, section)
        inside = type(value).model_fields if isinstance(value, BaseModel) else None
        yield from (f"{section}.{name}" for name in inside) if inside else [section]


def test_every_field_has_been_thought_of() -> None:
    assert set(fields()) == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_a_fixed_field_is_named_and_any_other_leaves_envoys_bootstrap_as_it_is(field: str) -> None:
    old, new = Config.model_validate(BASE), changed(field)
    assert old != new
    assert [".".join(map(str, path)) for path in restart_needed(old, new)] == [field] * (field in FIXED_FIELDS)
    if field not in FIXED_FIELDS:
        before, after = (render(config, RunDir(Path("/run")), "log").bootstrap for config in (old, new))
        assert before == after


@pytest.mark.parametrize("field", CHANGES)
def test_every_changed_field_is_named(field: str) -> None:
    named = changed_fields(Config.model_validate(BASE), changed(field))
    assert any(name == field or name.startswith(f"{field}.") for name in named)
    assert len(named) <= 2  # the short form gives way to the long one: vllm and models


def test_nothing_is_needed_where_nothing_changes(tmp_path: Path) -> None:
    assert restart_needed(Config.model_validate(BASE), Config.model_validate(BASE)) == []


FILE = """\
vllm: {base_url: "http://localhost:1"}
server:
  port: 8000
  require_https: false
redis:
  on_failure: local
"""


def test_a_change_that_needs_a_restart_is_refused_whole_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(FILE)
    files = Files(file, KeyRetention.NOTHING, {})
    before = files.load()
    file.write_text(FILE.replace("8000", "8001").replace("false", "true").replace("local\n", "deny\n"))
    told = list(map(str, files.reload()))
    assert [line.split(f"{file}:")[1].split(": can't change")[0] for line in told] == [
        "3: server.port",
        "6: redis.on_failure",
    ]
    assert all("restart with: gatehouse up --replace, which cuts no stream" in line for line in told)
    assert files.config is before
    file.write_text(FILE.replace("false", "true"))
    assert files.reload() == []
    assert files.config.server.require_https


def test_a_fixed_field_that_is_taken_out_is_told_at_its_section(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(FILE.replace("8000", "8001"))
    files = Files(file, KeyRetention.NOTHING, {})
    files.load()
    file.write_text(FILE.replace("  port: 8000\n", ""))
    assert str(files.reload()[0]).startswith(f"{file}:2: server.port: can't change while the gateway runs")


def test_what_the_environment_says_does_not_change_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(FILE)
    files = Files(file, KeyRetention.NOTHING, {"GATEHOUSE_SERVER__PORT": "8005", "VLLM_BASE_URL": "http://env:1"})
    files.load()
    file.write_text(FILE.replace("8000", "8001").replace("localhost:1", "localhost:2"))
    assert files.reload() == []
    assert files.config.server.port == 8005
    assert files.config.vllm is not None
    assert files.config.vllm.base_url == "http://env:1"


def test_at_the_start_nothing_is_fixed(tmp_path: Path) -> None:
    (tmp_path / "gatehouse.yaml").write_text(FILE)
    assert load(tmp_path / "gatehouse.yaml", {}).server.port == 8000
