"""Checks between the parts of a configuration, beyond the schema: errors and advice."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from itertools import combinations
from urllib.parse import urlsplit

from gatehouse.config.model import MEASURES, PERIODS, Config, Limits
from gatehouse.config.places import Path
from gatehouse.config.problem import nearest
from gatehouse.contract.key_digest import PEPPERED, pepper_of
from gatehouse.keys.record import KeyRecord
from gatehouse.loading import access_rules, backend_rules
from gatehouse.loading.key_table import Finding, KeyTable, limits_of


def faults(config: Config, keys: KeyTable) -> Iterator[Finding]:
    """The errors of `config`, with `keys` as its `api_keys`."""
    yield from _server_faults(config)
    yield from _model_faults(config)
    for path, limits in _all_limits(config):
        yield from _limit_faults(config, path, limits)
    yield from _model_limit_faults(config)
    yield from key_faults(config, keys)
    yield from _key_store_faults(config)
    yield from _jwt_faults(config)
    yield from access_rules.faults(config)


def _server_faults(config: Config) -> Iterator[Finding]:
    server = config.server
    if server.max_body_mb >= server.max_memory_mb:
        message = f"one body of max_body_mb ({server.max_body_mb}) would not fit into max_memory_mb"
        yield ("server", "max_memory_mb"), message, f"{server.max_memory_mb} now: raise it, or lower max_body_mb"


def _limit_faults(config: Config, path: Path, limits: Limits) -> Iterator[Finding]:
    yield from _never_binding(path, limits)
    priced = any(model.price_per_million_tokens for model in config.models.values())
    if limits.budget_usd_per_month is not None and not priced:
        yield (*path, "budget_usd_per_month"), "no model has a price", "set models.NAME.price_per_million_tokens"


def _model_faults(config: Config) -> Iterator[Finding]:
    if config.vllm and config.models:
        yield ("vllm",), "vllm and models can't both be set", "keep one of the two forms"
    if not config.vllm and not config.models:
        yield (), "there is no model server to proxy", "set vllm.base_url, VLLM_BASE_URL or models"
    if config.vllm and config.default_model:
        yield ("default_model",), "the short form names its default model in vllm.default_model", None
    if config.models and config.default_model and config.default_model not in config.known_models():
        hint = nearest(config.default_model, config.known_models())
        yield ("default_model",), f"no model is called '{config.default_model}'", hint
    seen: set[str] = set()
    for name, model in config.models.items():
        yield from backend_rules.faults(config, name, model)
        for alias in (name, *model.aliases):
            if alias in seen:
                yield ("models", name), f"two models answer to the name '{alias}'", None
            seen.add(alias)


def _all_limits(config: Config) -> Iterator[tuple[Path, Limits]]:
    """Every set of limits except those of keys, with its path."""
    for name, tier in config.rate_limits.items():
        yield ("rate_limits", name), tier
        yield from ((("rate_limits", name, "models", model), limits) for model, limits in tier.models.items())
    for section in ("users", "teams"):
        for name, holder in getattr(config, section).items():
            if holder.limits:
                yield (section, name, "limits"), holder.limits


def _never_binding(path: Path, limits: Limits) -> Iterator[Finding]:
    """Limits of a longer period that the shorter period's limit makes unreachable: one of the two is a mistake."""
    for measure in MEASURES:
        for (short, few), (long, many) in combinations(limits.windows(measure), 2):
            reach = few * (PERIODS[long] // PERIODS[short])
            if many >= reach:
                message = f"can never bind: {measure}_per_{short} ({few}) already allows at most {reach} per {long}"
                yield (*path, f"{measure}_per_{long}"), message, f"lower it below {reach} or remove it"


def _model_limit_faults(config: Config) -> Iterator[Finding]:
    """Limits on models that do not exist."""
    if config.vllm:
        return
    for name, tier in config.rate_limits.items():
        for model in tier.models:
            if model not in config.models:
                yield ("rate_limits", name, "models", model), "there is no such model", nearest(model, config.models)


def key_faults(config: Config, keys: KeyTable) -> Iterator[Finding]:
    """The errors of `keys`, the keys of one file, under `config`."""
    yield from access_rules.key_faults(config, keys)
    wrong = {
        text: found
        for text, limits in limits_of(keys.records).items()
        if (found := list(_limit_faults(config, ("limits",), limits)))
    }
    if not wrong and _flawless(config, keys.records):
        return
    names: set[str] = set()
    for path, key in keys.paths():
        if config.rate_limits and key.tier not in config.rate_limits:
            hint = nearest(key.tier, config.rate_limits) or f"rate_limits has {', '.join(config.rate_limits)}"
            yield (*path, "tier"), f"no tier is called '{key.tier}'", hint
        if key.name and key.name in names:
            yield (*path, "name"), "another key has this name", "logs tell keys apart by it"
        names.add(key.name)
        yield from ((path + inside, message, hint) for inside, message, hint in wrong.get(key.limits, ()))
        yield from _pepper_faults(config, path, key.digest)


def _flawless(config: Config, records: Mapping[str, KeyRecord]) -> bool:
    """A quick check that avoids looking at each of 100,000 keys."""
    names = [key.name for key in records.values() if key.name]
    tiers = {key.tier for key in records.values()} if config.rate_limits else set()
    peppered = any(digest.startswith(PEPPERED) for digest in records)
    return len(set(names)) == len(names) and tiers <= config.rate_limits.keys() and not peppered


def _pepper_faults(config: Config, path: Path, digest: str) -> Iterator[Finding]:
    version = pepper_of(digest)
    if version is not None and version not in config.keys.peppers:
        hint = nearest(version, config.keys.peppers) or "set keys.peppers"
        yield path, f"no pepper has the version '{version}'", hint


def _key_store_faults(config: Config) -> Iterator[Finding]:
    store = config.key_store
    if store.type == "redis" and config.redis.url is None:
        yield ("key_store", "type"), "there is no Redis to keep keys in", "set redis.url, or use type: file"
    if store.type == "file" and store.path is None:
        yield ("key_store",), "a key store of type file needs a path", "such as path: keys.jsonl"
    if store.type != "file" and store.path is not None:
        yield ("key_store", "path"), "has no effect without type: file", "set type: file or remove it"


def _jwt_faults(config: Config) -> Iterator[Finding]:
    for index, issuer in enumerate(config.jwt):
        before = config.jwt[:index]
        if any(other.issuer == issuer.issuer for other in before):
            yield ("jwt", index, "issuer"), "this issuer is listed twice", "keep one; its audience may be a list"
        elif any(other.label == issuer.label for other in before):
            message = f"another issuer is called '{issuer.label}'"
            yield ("jwt", index, "name"), message, "metrics tell them apart by it"
        if config.rate_limits and issuer.tier not in config.rate_limits:
            hint = nearest(issuer.tier, config.rate_limits) or f"rate_limits has {', '.join(config.rate_limits)}"
            yield ("jwt", index, "tier"), f"no tier is called '{issuer.tier}'", hint
        if issuer.jwks_url is None and not issuer.discoverable:
            yield ("jwt", index, "issuer"), "is not a URL, so its keys can't be discovered", "set jwks_url"
        if issuer.max_stale_s < issuer.refresh_s:
            message = f"keys would be dropped before they are fetched again, after {issuer.refresh_s} s"
            yield ("jwt", index, "max_stale_s"), message, "raise it, or lower refresh_s"


def advice(config: Config, keys: KeyTable) -> Iterator[Finding]:
    """Settings that are valid but probably unintended or unwise."""
    if keys.plain:
        count = f"{len(keys.plain)} key{'s' if len(keys.plain) > 1 else ''}"
        yield ("api_keys", keys.plain[0]), f"{count} in plain text", "write 'sha256:…' instead: gatehouse keys hash"
    if not keys.records and not config.key_files and config.key_store.type == "none" and not config.jwt:
        yield ("api_keys",), "there is no key: every request will be answered 401", None
    if not config.rate_limits:
        yield ("rate_limits",), "there are no limits: every key may use everything", None
    if config.logging.bodies != "off":
        where = f"prompts and answers are written to {config.logging.dir}/bodies_*.log"
        yield ("logging", "bodies"), where, "tell your users, or set it to off"
    yield from _jwt_advice(config)
    used = {key.tier for key in keys.records.values()} | {issuer.tier for issuer in config.jwt}
    if any(issuer.tier_claim for issuer in config.jwt):
        used.update(config.rate_limits)
    if config.key_files or config.key_store.type != "none":
        used.update(config.rate_limits)
    for name in config.rate_limits:
        if used and name not in used and name not in ("premium", "standard", "free"):
            yield ("rate_limits", name), "no key is of this tier", None
    yield from access_rules.advice(config, keys)
    yield from backend_rules.advice(config)
    if config.redis.url is None and "on_failure" in config.redis.model_fields_set:
        yield ("redis", "on_failure"), "has no effect without redis.url", None
    yield from _tracing_advice(config)


def _tracing_advice(config: Config) -> Iterator[Finding]:
    tracing = config.tracing
    if tracing.otlp_endpoint is None:
        for field in sorted(tracing.model_fields_set & {"sample", "metrics_interval_s"}):
            yield ("tracing", field), "has no effect without tracing.otlp_endpoint", None
    elif urlsplit(tracing.otlp_endpoint).port == 4318:
        yield ("tracing", "otlp_endpoint"), "4318 is the port of OTLP over HTTP", "OTLP over gRPC uses 4317"


def _jwt_advice(config: Config) -> Iterator[Finding]:
    for index, issuer in enumerate(config.jwt):
        url = urlsplit(issuer.keys_from)
        if url.scheme == "http" and not _loopback(url.hostname or ""):
            field = "jwks_url" if issuer.jwks_url else "issuer"
            message = "keys come over plain HTTP: anyone on the network path can replace them"
            yield ("jwt", index, field), message, "use https"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
