"""Configurations whose rendering tests look at: one of each shape, and any that is valid."""

from typing import Any

from hypothesis import strategies as st

from gatehouse.config import Config
from gatehouse.envoy.endpoints import SYSTEM_AUTHORITIES

PLAIN_KEY, HASHED_KEY = "sk-canary-plain-4711", "sha256:" + "0123456789abcdef" * 4
KEYS = {
    PLAIN_KEY: {"user_id": "alice", "models": ["llama*"]},
    HASHED_KEY: {"user_id": "bob"},
}

SHORT = {"vllm": {"base_url": "http://localhost:8100/v1", "default_model": "llama"}, "api_keys": KEYS}
NAMELESS = {"vllm": {"base_url": "http://localhost:8100/v1"}}
PREFIXED = {"vllm": {"base_url": "http://localhost:8100/llm/v1", "default_model": "llama"}}
LONG = {
    "models": {
        "llama": {
            "backends": [
                {"url": "http://gpu-a:8100/v1", "weight": 3},
                {"url": "http://gpu-b:8100/v1", "priority": 7},
            ],
            "aliases": ["gpt-4o", "gpt-4o-mini"],
        },
        "mistral": {"backends": [{"url": "https://gpu-c/llm/v1"}, {"url": "https://gpu-d/llm/v1"}]},
        "qwen": {"backends": [{"url": "http://10.0.0.5"}, {"url": "http://[fd00::5]:8100/v1"}]},
    },
    "api_keys": KEYS,
}
REPLICAS = {
    "models": {
        "llama": {
            "backends": [
                {"url": "http://gpu-a:8100/v1"},
                {"url": "https://gpu-b:8100/v1", "ca_file": SYSTEM_AUTHORITIES},
                {"url": "https://gpu-c/v1", "priority": 1},
            ],
            "aliases": ["gpt-4o"],
            "balance": "session_affinity",
            "concurrent_requests_per_backend": 16,
            "queued_requests": 20,
            "upstream_api_key": "env:VLLM_KEY",
        },
        "mistral": {"backends": [{"url": "http://gpu-d"}], "balance": "round_robin"},
    },
    "default_model": "gpt-4o",
    "rate_limits": {"premium": {"weight": 4}, "staff": {"weight": 4}, "standard": {"weight": 2}, "free": {}},
    "api_keys": KEYS,
}
"""Everything a model may have."""
WITH_DEFAULT = {**LONG, "default_model": "gpt-4o"}
HTTPS_ONLY = {**LONG, "server": {"require_https": True}}
TRACED = {**LONG, "tracing": {"otlp_endpoint": "http://otel:4317", "sample": 0.1}}
TRACED_OVER_TLS = {**SHORT, "tracing": {"otlp_endpoint": "https://otel.example.com"}}
BEHIND_PROXIES = {**SHORT, "server": {"trusted_proxy_hops": 2, "host": "::1", "max_body_mb": 1}}

SHAPES: dict[str, dict[str, Any]] = {
    "short": SHORT,
    "nameless": NAMELESS,
    "prefixed": PREFIXED,
    "long": LONG,
    "replicas": REPLICAS,
    "with-default": WITH_DEFAULT,
    "https-only": HTTPS_ONLY,
    "behind-proxies": BEHIND_PROXIES,
    "traced": TRACED,
    "traced-over-tls": TRACED_OVER_TLS,
}
CONFIGS = {name: Config.model_validate(shape) for name, shape in SHAPES.items()}

_PLAIN = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
_NAMES = st.text(_PLAIN, min_size=1, max_size=20) | st.sampled_from(["%", "100%REQ(x)%", "a/b:c", 'quo"te', "\\1", "*"])
_PATHS = st.sampled_from(["", "/v1", "/llm/v1", "/a-b/c.d~e", "/%7Euser/v1", "/v2/v1"])
_HOSTS = st.sampled_from(["gpu", "gpu-a.example.com:8100", "127.0.0.1:8100", "[::1]:8100"])


@st.composite
def _models(draw: st.DrawFn) -> dict[str, Any]:
    path = draw(_PATHS)
    backends = st.fixed_dictionaries(
        {"url": st.builds(lambda scheme, host: f"{scheme}://{host}{path}", st.sampled_from(["http", "https"]), _HOSTS)},
        optional={
            "weight": st.integers(1, 128),
            "priority": st.integers(0, 127),
            "ca_file": st.just(SYSTEM_AUTHORITIES),
        },
    )
    choices = st.fixed_dictionaries(
        {"backends": st.lists(backends, min_size=1, max_size=4)},
        optional={
            "balance": st.sampled_from(["least_request", "round_robin", "session_affinity"]),
            "session_header": st.sampled_from(["x-session-id", "x-conversation", "a.b~c"]),
            "upstream_api_key": st.sampled_from(["env:NOT_SET_HERE", "file:/not/here", "file:a b: c"]),
            "concurrent_requests_per_backend": st.integers(1, 16384),
            "queued_requests": st.integers(0, 16384),
        },
    )
    return draw(choices)


@st.composite
def _long_form(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(_NAMES, min_size=1, max_size=6, unique=True))
    models = {name: draw(_models()) for name in names[: draw(st.integers(1, len(names)))]}
    for alias in names[len(models) :]:
        models[draw(st.sampled_from(list(models)))].setdefault("aliases", []).append(alias)
    default = draw(st.none() | st.sampled_from(names))
    return {"models": models, **({"default_model": default} if default else {})}


_SHORT_FORM = st.builds(
    lambda host, path, default: {"vllm": {"base_url": f"http://{host}{path}", "default_model": default}},
    _HOSTS,
    _PATHS,
    st.none() | _NAMES,
)
_SERVER = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["0.0.0.0", "::", "127.0.0.1", "::1", "localhost"]),
        "port": st.integers(1, 65535),
        "workers": st.integers(1, 256),
        "require_https": st.booleans(),
        "trusted_proxy_hops": st.integers(0, 10),
        "max_body_mb": st.integers(1, 1024),
        "max_connections": st.integers(1, 10_000_000),
        "max_memory_mb": st.integers(64, 1024 * 1024),
        "stream_idle_timeout_s": st.integers(1, 31_536_000),
    },
)

_OTHERS = st.fixed_dictionaries(
    {},
    optional={
        "logging": st.fixed_dictionaries(
            {"bodies": st.sampled_from(["off", "errors", "sampled"])}, optional={"body_sample": st.floats(1e-6, 1)}
        ),
        "key_store": st.just({"type": "file", "path": "keys.jsonl"}),
        "redis": st.just({"url": "redis://redis:6379/0"}),
        "tracing": st.fixed_dictionaries(
            {"otlp_endpoint": st.sampled_from(["http://otel:4317", "https://otel.example.com", "http://[::1]:4317"])},
            optional={"sample": st.floats(0, 1)},
        ),
    },
)

_TIER_NAMES = st.text(_PLAIN, min_size=1, max_size=20).filter(lambda name: not any(map(str.isspace, name)))
_TIERS = st.dictionaries(_TIER_NAMES, st.fixed_dictionaries({}, optional={"weight": st.integers(1, 100)}), max_size=4)

valid_configs: st.SearchStrategy[Config] = st.builds(
    lambda backends, server, tiers, others: Config.model_validate(
        {**backends, **others, "server": server, "rate_limits": tiers}
    ),
    _SHORT_FORM | _long_form(),
    _SERVER,
    _TIERS,
    _OTHERS,
)
"""Any valid configuration, varied in the fields that Envoy's configuration depends on."""
