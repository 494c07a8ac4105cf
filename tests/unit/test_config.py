"""gatehouse.yaml: the short form runs as it stands, and every mistake is named with its line."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config import Config, ConfigError
from gatehouse.contract.key_digest import digest_of
from gatehouse.loading.load import load, load_with_advice

SHORT_FORM = (Path(__file__).parents[2] / "gatehouse.yaml").read_text()
KEY = "sk-internal-dev-key-001"


def read(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Config:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(text)
    return load(file, environment or {})


def faults(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environment)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_the_short_form_is_read_as_it_stands(tmp_path: Path) -> None:
    config = read(tmp_path, SHORT_FORM)
    assert config.server.workers == 4
    assert config.vllm is not None
    assert config.vllm.base_url == "http://localhost:8100/v1"
    assert config.effective_default_model == "meta-llama/Llama-2-7b-chat-hf"
    assert config.rate_limits["premium"].windows("requests") == [("minute", 100), ("hour", 1000)]
    assert config.api_keys[digest_of(KEY)].user_id == "dev-team"


def test_a_key_is_kept_only_as_its_digest(tmp_path: Path) -> None:
    config = read(tmp_path, SHORT_FORM)
    assert KEY not in repr(config)
    assert KEY not in config.model_dump_json()


VLLM = "vllm: {base_url: 'http://localhost:8100/v1'}\n"
JWT = "jwt: [{issuer: 'https://a', audience: a"

MISTAKES = [
    ("server: {prot: 1}\n" + VLLM, "gatehouse.yaml:1: server.prot: unknown field (did you mean 'port'?)"),
    (VLLM + "sevrer: {}\n", "gatehouse.yaml:2: sevrer: unknown field (did you mean 'server'?)"),
    ("server: {port: '8000'}\n" + VLLM, "gatehouse.yaml:1: server.port: must be a whole number"),
    ("server: {port: 70000}\n" + VLLM, "gatehouse.yaml:1: server.port: must be less than or equal to 65535"),
    ("server: {workers: 0}\n" + VLLM, "gatehouse.yaml:1: server.workers: must be greater than or equal to 1"),
    ("server: 8000\n" + VLLM, "gatehouse.yaml:1: server: must be a mapping of fields"),
    ("vllm:\n  base_url: localhost:8100\n", "gatehouse.yaml:2: vllm.base_url: must be a URL such as"),
    ("vllm:\n  base_url: http://me:pw@host/v1\n", "gatehouse.yaml:2: vllm.base_url: must not carry credentials"),
    ("vllm:\n  base_url: http://host:99999/v1\n", "gatehouse.yaml:2: vllm.base_url: Port out of range"),
    (
        "vllm:\n  base_url: http://host/v1/chat/completions\n",
        "gatehouse.yaml:2: vllm.base_url: must end before '/chat/completions', which is added to it: http://host/v1",
    ),
    (
        "vllm:\n  base_url: http://host/x/v1/models/\n",
        "gatehouse.yaml:2: vllm.base_url: must end before '/models', which is added to it",
    ),
    ("vllm:\n  default_model: x\n", "gatehouse.yaml:1: vllm.base_url: is missing"),
    ("server: {}\n", "gatehouse.yaml:1: there is no model server to proxy"),
    ("", "gatehouse.yaml: there is no model server to proxy"),
    ("[]\n", "gatehouse.yaml:1: must contain settings"),
    (VLLM + "models: {a: {backends: [{url: 'http://a/v1'}]}}\n", "gatehouse.yaml:1: vllm: vllm and models can't both"),
    ("models: {a: {backends: []}}\n", "gatehouse.yaml:1: models.a.backends: must have at least one"),
    (
        "models: {a: {backends: [{url: 'http://a/v1', wieght: 1}]}}\n",
        "gatehouse.yaml:1: models.a.backends[0].wieght: unknown field (did you mean 'weight'?)",
    ),
    (
        "models: {a: {backends: [{url: 'http://a/v1'}]}}\ndefault_model: b\n",
        "gatehouse.yaml:2: default_model: no model is called 'b'",
    ),
    (
        "models:\n  a: {backends: [{url: 'http://a/v1'}], aliases: [x]}\n  b: {backends: [{url: 'http://b/v1'}],"
        " aliases: [x]}\n",
        "gatehouse.yaml:3: models.b: two models answer to the name 'x'",
    ),
    (
        "models:\n  a:\n    backends:\n      - {url: 'http://a', ca_file: ca.pem}\n",
        "gatehouse.yaml:4: models.a.backends[0].ca_file: has no effect without https",
    ),
    (
        "models:\n  a:\n    backends:\n      - {url: 'https://a', ca_file: /not/here.pem}\n",
        "gatehouse.yaml:4: models.a.backends[0].ca_file: can't be read: No such file",
    ),
    (
        "models:\n  a:\n    backends:\n      - {url: 'https://a', ca_file: /etc/hosts}\n",
        "gatehouse.yaml:4: models.a.backends[0].ca_file: /etc/hosts contains no certificate",
    ),
    (
        "models:\n  a:\n    backends:\n      - {url: 'http://a/v1'}\n      - {url: 'http://a', priority: 1}\n",
        "gatehouse.yaml:5: models.a.backends[1].url: this backend is listed twice",
    ),
    (
        "models:\n  a: {backends: [{url: 'http://a'}], concurrent_requests_per_backend: 1}\n"
        "rate_limits: {free: {}, premium: {weight: 2}}\n",
        "gatehouse.yaml:2: models.a.concurrent_requests_per_backend: a single slot can't be shared between tiers",
    ),
    (
        "models: {a: {backends: [{url: 'http://a'}], balance: random}}\n",
        "gatehouse.yaml:1: models.a.balance: must be 'least_request'",
    ),
    (
        "models: {a: {backends: [{url: 'http://a'}], upstream_api_key: sk-1}}\n",
        "gatehouse.yaml:1: models.a.upstream_api_key: must say where it is kept: env:NAME",
    ),
    (
        "models: {a: {backends: [{url: 'http://a'}], session_header: X_Id}}\n",
        "gatehouse.yaml:1: models.a.session_header: has characters that",
    ),
    (
        VLLM + "rate_limits: {free: {requests_per_minute: 1}}\napi_keys:\n  sk-secret-1: {user_id: a, tier: fre}\n",
        "gatehouse.yaml:4: api_keys.<key>.tier: no tier is called 'fre' (did you mean 'free'?)",
    ),
    (
        VLLM + "rate_limits:\n  free:\n    requests_per_minute: 10\n    requests_per_hour: 600\n",
        "gatehouse.yaml:5: rate_limits.free.requests_per_hour: can never bind",
    ),
    (
        VLLM + "rate_limits: {free: {requests_per_minute: 0}}\n",
        "gatehouse.yaml:2: rate_limits.free.requests_per_minute: must be greater than or equal to 1",
    ),
    (
        VLLM + "rate_limits: {free: {request_per_minute: 1}}\n",
        "gatehouse.yaml:2: rate_limits.free.request_per_minute: unknown field (did you mean 'requests_per_minute'?)",
    ),
    (
        VLLM + "rate_limits: {free: {algorithm: leaky}}\n",
        "gatehouse.yaml:2: rate_limits.free.algorithm: must be 'sliding_window'",
    ),
    (VLLM + "api_keys:\n  sk-secret-1: {}\n", "gatehouse.yaml:3: api_keys.<key>.user_id: is missing"),
    (
        VLLM + "api_keys:\n  sk-secret-1: {user_id: 'a b'}\n",
        "gatehouse.yaml:3: api_keys.<key>.user_id: has characters that are not allowed here",
    ),
    (
        VLLM + "api_keys:\n  'sk secret 1': {user_id: a}\n",
        "gatehouse.yaml:3: api_keys.<key>: a key is 8 to 512 visible",
    ),
    (VLLM + "api_keys:\n  'sha256:123': {user_id: a}\n", "gatehouse.yaml:3: api_keys.<key>: a hashed key is"),
    (
        VLLM + "api_keys:\n  12345678: {user_id: a}\n",
        "gatehouse.yaml:3: api_keys: a name must be text; put it in quotes",
    ),
    (
        VLLM + "api_keys:\n  sk-secret-1: {user_id: a}\n  sk-secret-1: {user_id: b}\n",
        "gatehouse.yaml:4: api_keys: this name is used twice here",
    ),
    (
        VLLM + f"api_keys:\n  sk-secret-1: {{user_id: a}}\n  '{digest_of('sk-secret-1')}': {{user_id: a}}\n",
        "gatehouse.yaml:2: api_keys: one key is listed both in plain text and hashed",
    ),
    (
        VLLM + "api_keys:\n  sk-secret-1: {user_id: a, name: n}\n  sk-secret-2: {user_id: a, name: n}\n",
        "gatehouse.yaml:4: api_keys.<key>.name: another key has this name",
    ),
    (
        VLLM + "api_keys:\n  sk-secret-1: {user_id: a, allowed_ips: ['10.0.0.0/33']}\n",
        "gatehouse.yaml:3: api_keys.<key>.allowed_ips[0]: '10.0.0.0/33' is not an address or a network",
    ),
    (VLLM + "jwt: [{issuer: 'https://a'}]\n", "gatehouse.yaml:2: jwt[0].audience: is missing"),
    (
        VLLM + "jwt: [{issuer: 'https://a', audience: []}]\n",
        "gatehouse.yaml:2: jwt[0].audience: must have at least one",
    ),
    (
        VLLM + JWT + ", algorithms: [HS256]}]\n",
        "gatehouse.yaml:2: jwt[0].algorithms[0]: HS256 is symmetric: anyone who can verify a token",
    ),
    (VLLM + JWT + ", algorithms: [RS256, none]}]\n", "gatehouse.yaml:2: jwt[0].algorithms[1]: 'none' is no signature"),
    (VLLM + JWT + ", algorithms: RS257}]\n", "gatehouse.yaml:2: jwt[0].algorithms[0]: must be one of RS256, RS384"),
    (VLLM + JWT + ", algorithms: []}]\n", "gatehouse.yaml:2: jwt[0].algorithms: must have at least one"),
    (
        VLLM + JWT + ", jwks_url: 'https://u:p@a/keys'}]\n",
        "gatehouse.yaml:2: jwt[0].jwks_url: must have neither credentials",
    ),
    (
        VLLM + JWT + ", jwks_url: 'ftp://a/keys'}]\n",
        "gatehouse.yaml:2: jwt[0].jwks_url: must be a URL such as https://",
    ),
    (
        VLLM + JWT + ", user_clam: x}]\n",
        "gatehouse.yaml:2: jwt[0].user_clam: unknown field (did you mean 'user_claim'?)",
    ),
    (
        VLLM + JWT + ", max_stale_s: 10}]\n",
        "gatehouse.yaml:2: jwt[0].max_stale_s: keys would be dropped before they are fetched again",
    ),
    (
        VLLM + "jwt: [{issuer: 'urn:a', audience: a}]\n",
        "gatehouse.yaml:2: jwt[0].issuer: is not a URL, so its keys can't be discovered",
    ),
    (VLLM + "jwt: [{issuer: 'https://[a', audience: a}]\n", "gatehouse.yaml:2: jwt[0].issuer: Invalid IPv6 URL"),
    (
        VLLM + "rate_limits: {free: {requests_per_minute: 1}}\n" + JWT + ", tier: fre}]\n",
        "gatehouse.yaml:3: jwt[0].tier: no tier is called 'fre' (did you mean 'free'?)",
    ),
    (
        VLLM + "jwt:\n  - {issuer: 'https://a', audience: a}\n  - {issuer: 'https://a', audience: b}\n",
        "gatehouse.yaml:4: jwt[1].issuer: this issuer is listed twice (keep one; its audience may be a list)",
    ),
    (
        VLLM + "jwt:\n  - {issuer: 'https://a/x', audience: a}\n  - {issuer: 'https://a/y', audience: a}\n",
        "gatehouse.yaml:4: jwt[1].name: another issuer is called 'a'",
    ),
    (
        VLLM + "key_store: {type: redis}\n",
        "gatehouse.yaml:2: key_store.type: there is no Redis to keep keys in (set redis.url, or use",
    ),
    (
        VLLM + "key_store: {type: file}\n",
        "gatehouse.yaml:2: key_store: a key store of type file needs a path (such as path: keys.jsonl)",
    ),
    (VLLM + "key_store: {path: a.jsonl}\n", "gatehouse.yaml:2: key_store.path: has no effect without type: file"),
    (
        VLLM + "keys: {peppers: {'1': canary-4711}}\n",
        "gatehouse.yaml:2: keys.peppers.1: must say where it is kept",
    ),
    (VLLM + "keys: {prefix: 'g h'}\n", "gatehouse.yaml:2: keys.prefix: has characters that are not allowed here"),
    (
        VLLM + f"api_keys:\n  'hmac-sha256:7:{'0' * 64}': {{user_id: a}}\nkeys: {{peppers: {{'6': 'env:P'}}}}\n",
        "gatehouse.yaml:3: api_keys.<key>: no pepper has the version '7'",
    ),
    (VLLM + "redis: {url: 'localhost:6379'}\n", "gatehouse.yaml:2: redis.url: must be redis://"),
    (VLLM + "redis: {on_failure: crash}\n", "gatehouse.yaml:2: redis.on_failure: must be 'local', 'allow' or 'deny'"),
    (
        VLLM + "tracing: {otlp_endpoint: 'otel:4317'}\n",
        "gatehouse.yaml:2: tracing.otlp_endpoint: must be a URL such as",
    ),
    (
        VLLM + "tracing: {otlp_endpoint: 'http://a:b@otel'}\n",
        "gatehouse.yaml:2: tracing.otlp_endpoint: must not carry credentials",
    ),
    (
        VLLM + "tracing: {otlp_endpoint: 'http://otel:4318/v1/traces'}\n",
        "gatehouse.yaml:2: tracing.otlp_endpoint: must have no path",
    ),
    (
        VLLM + "tracing: {otlp_endpoint: 'http://otel:99999'}\n",
        "gatehouse.yaml:2: tracing.otlp_endpoint: Port out of range",
    ),
    (VLLM + "tracing: {sample: 10}\n", "gatehouse.yaml:2: tracing.sample: must be less than or equal to 1"),
    (VLLM + "tracing: {sample: -0.1}\n", "gatehouse.yaml:2: tracing.sample: must be greater than or equal to 0"),
    (VLLM + "server: {\n", "gatehouse.yaml:3: not valid YAML"),
    (VLLM + "\tserver: {}\n", "gatehouse.yaml:2: not valid YAML"),
    (VLLM + "a: &a [*a]\n", "gatehouse.yaml:2: a[0]: aliases expand to more than a configuration can hold"),
    (
        VLLM + "logging: {level: loud}\n",
        "gatehouse.yaml:2: logging.level: must be 'debug', 'info', 'warning' or 'error'",
    ),
    (VLLM + "logging: {dir: !!python/object:os.system x}\n", "gatehouse.yaml:2: logging.dir: this value can't be read"),
    (
        VLLM + "server: {max_memory_mb: 100, max_body_mb: 100}\n",
        "gatehouse.yaml:2: server.max_memory_mb: one body of max_body_mb (100) would not fit into max_memory_mb",
    ),
    (
        VLLM + "server: {max_connections: 0}\n",
        "gatehouse.yaml:2: server.max_connections: must be greater than or equal",
    ),
    (VLLM + "server: {host: example.com}\n", "gatehouse.yaml:2: server.host: must be an IP address such as"),
    (
        VLLM + "server:\n  drain_s: 5\n  max_body_mb: 32 MB\n",
        "gatehouse.yaml:4: server.max_body_mb: must be a whole number",
    ),
    (
        VLLM + "teams:\n  search:\n    limits:\n      tokens_per_fortnight: 1\n",
        "gatehouse.yaml:5: teams.search.limits.tok",
    ),
    (VLLM + "key_files: {a: b}\n", "gatehouse.yaml:2: key_files: must be a list"),
    (
        VLLM
        + "rate_limits: {free: {}}\n"
        + "\n" * 997
        + "api_keys:\n  sk-secret-1: {user_id: a, tier: free, expires_at: soon}\n",
        "gatehouse.yaml:1001: api_keys.<key>.expires_at: must be a date such as 2027-01-01",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    said = faults(tmp_path, text)
    assert said.startswith(expected)
    assert "secret" not in said


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    said = faults(tmp_path, "server: {prot: 1}\nlogging: {lvl: info}\n" + VLLM)
    assert len(said.splitlines()) == 2


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    assert "aliases expand to more" in faults(tmp_path, "\n".join(lines))


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load(tmp_path / "none.yaml", {})


def test_a_file_that_is_not_text_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(tmp_path / "binary.yaml", {})


@given(st.text(max_size=200))
def test_no_text_makes_the_loader_fail_in_another_way(text: str) -> None:
    from gatehouse.config.source import parse

    with suppress(ConfigError):
        parse(text, "fuzz")


ENVIRONMENT = [
    ({"VLLM_BASE_URL": "http://other:1/v1"}, lambda c: c.vllm.base_url, "http://other:1/v1"),
    ({"VLLM_DEFAULT_MODEL": "123"}, lambda c: c.vllm.default_model, "123"),
    ({"REQUIRE_HTTPS": "true"}, lambda c: c.server.require_https, True),
    ({"LOG_LEVEL": "DEBUG"}, lambda c: c.logging.level, "debug"),
    ({"REDIS_URL": "redis://r:6379/0"}, lambda c: c.redis.url, "redis://r:6379/0"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://o"}, lambda c: c.tracing.otlp_endpoint, "http://o:4317"),
    ({"GATEHOUSE_SERVER__PORT": "8080"}, lambda c: c.server.port, 8080),
    ({"GATEHOUSE_LOGGING__DIR": "/var/log"}, lambda c: c.logging.dir, "/var/log"),
    ({"GATEHOUSE_SERVER__PORT": ""}, lambda c: c.server.port, 8000),
    ({"GATEHOUSE_PORT": "tcp://10.0.0.1:80"}, lambda c: c.server.port, 8000),
]


@pytest.mark.parametrize(("environment", "field", "expected"), ENVIRONMENT)
def test_the_environment_wins_over_the_file(tmp_path, environment, field, expected) -> None:  # type: ignore[no-untyped-def]
    assert field(read(tmp_path, SHORT_FORM, environment)) == expected


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    said = faults(tmp_path, SHORT_FORM, {"GATEHOUSE_SERVER__PROT": "1", "REQUIRE_HTTPS": "maybe"})
    assert "environment variable GATEHOUSE_SERVER__PROT: server.prot: unknown field (did you mean 'port'?)" in said
    assert "environment variable REQUIRE_HTTPS: server.require_https: must be a valid boolean" in said


def test_a_plain_key_is_warned_about_without_showing_it(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(SHORT_FORM)
    loaded = load_with_advice(file, {})
    assert ["1 key in plain text" in str(warning) for warning in loaded.warnings] == [True]
    assert KEY not in str(loaded.warnings[0])
    assert loaded.plain_key == KEY


def test_values_without_effect_are_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(VLLM + "rate_limits: {gold: {requests_per_minute: 1}, free: {}}\nredis: {on_failure: deny}\n")
    said = "\n".join(map(str, load_with_advice(file, {}).warnings))
    assert "redis.on_failure: has no effect without redis.url" in said
    assert "there is no key" in said


def test_tracing_that_can_not_work_is_warned_about(tmp_path: Path) -> None:
    assert "tracing.sample: has no effect without" in "\n".join(advice(tmp_path, VLLM + "tracing: {sample: 0.5}\n"))
    over_http = advice(tmp_path, VLLM + "tracing: {otlp_endpoint: 'http://otel:4318'}\n")
    assert "tracing.otlp_endpoint: 4318 is the port of OTLP over HTTP" in over_http


def test_what_of_a_model_has_no_effect_is_said(tmp_path: Path) -> None:
    text = "models: {a: {backends: [{url: 'http://a'}], session_header: x-chat, queued_requests: 5}}\n"
    said = "\n".join(advice(tmp_path, text))
    assert "models.a.session_header: has no effect without balance: session_affinity" in said
    assert "models.a.queued_requests: has no effect without concurrent_requests_per_backend" in said


def advice(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(text)
    return [f"{found.path}: {found.message}" for found in load_with_advice(file, {}).warnings]


def test_an_issuer_needs_little(tmp_path: Path) -> None:
    (issuer,) = read(tmp_path, VLLM + "jwt: [{issuer: 'https://sso.example.com/', audience: llm}]\n").jwt
    assert issuer.audience == ("llm",)
    assert issuer.label == "sso.example.com"
    assert issuer.keys_from == "https://sso.example.com/.well-known/openid-configuration"
    assert (issuer.user_claim, issuer.tier, issuer.leeway_s) == ("sub", "standard", 30)


@pytest.mark.parametrize(
    ("where", "advised"),
    [
        ("issuer: 'http://sso.example.com', audience: a", ["jwt[0].issuer"]),
        ("issuer: 'https://a', audience: a, jwks_url: 'http://10.0.0.1/keys'", ["jwt[0].jwks_url"]),
        ("issuer: 'http://sso.example.com', audience: a, jwks_url: 'https://sso.example.com/keys?p=x'", []),
        ("issuer: 'http://127.0.0.1:9', audience: a", []),
        ("issuer: x, audience: a, jwks_url: 'http://localhost/keys'", []),
        ("issuer: x, audience: a, jwks_url: 'http://[::1]/keys'", []),
    ],
)
def test_keys_over_plain_http_are_warned_about_unless_from_this_machine(
    tmp_path: Path, where: str, advised: list[str]
) -> None:
    text = VLLM + f"rate_limits: {{standard: {{}}}}\njwt: [{{{where}}}]\n"
    assert [line.split(": keys come over")[0] for line in advice(tmp_path, text)] == advised
