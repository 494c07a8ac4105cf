"""What must hold between the parts of a configuration, beyond the shape of each: errors, and advice."""

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import combinations
from urllib.parse import urlsplit

from gatehouse.config.model import MEASURES, PERIODS, Config, Limits, base_path
from gatehouse.config.problem import nearest
from gatehouse.config.source import Path
from gatehouse.keys.digest import is_plain

Finding = tuple[Path, str, str | None]
"""Path, message, hint."""


def faults(config: Config, written_keys: list[str]) -> Iterator[Finding]:
    """Everything that makes `config` unusable. `written_keys` are the keys as the file writes them, in its order."""
    yield from _model_faults(config)
    for path, limits in _all_limits(config, written_keys):
        yield from _never_binding(path, limits)
        priced = any(model.price_per_million_tokens for model in config.models.values())
        if limits.budget_usd_per_month is not None and not priced:
            yield (*path, "budget_usd_per_month"), "no model has a price", "set models.NAME.price_per_million_tokens"
    yield from _model_limit_faults(config)
    yield from _key_faults(config, written_keys)
    yield from _jwt_faults(config)


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
        if len({(urlsplit(backend.url).scheme, base_path(backend.url)) for backend in model.backends}) > 1:
            yield ("models", name, "backends"), "backends of one model must have the same scheme and path", None
        for alias in (name, *model.aliases):
            if alias in seen:
                yield ("models", name), f"two models answer to the name '{alias}'", None
            seen.add(alias)


def _all_limits(config: Config, written_keys: list[str]) -> Iterator[tuple[Path, Limits]]:
    """Every set of limits, with the path at which it stands."""
    for name, tier in config.rate_limits.items():
        yield ("rate_limits", name), tier
        yield from ((("rate_limits", name, "models", model), limits) for model, limits in tier.models.items())
    for section in ("users", "teams"):
        yield from (((section, name, "limits"), holder.limits) for name, holder in getattr(config, section).items())
    for written, key in zip(written_keys, config.api_keys.values(), strict=False):
        if key.limits:
            yield ("api_keys", written, "limits"), key.limits


def _never_binding(path: Path, limits: Limits) -> Iterator[Finding]:
    """A longer window that the shorter one can't even fill is a mistake in one of the two."""
    for measure in MEASURES:
        for (short, few), (long, many) in combinations(limits.windows(measure), 2):
            reach = few * (PERIODS[long] // PERIODS[short])
            if many >= reach:
                message = f"can never bind: {measure}_per_{short} ({few}) already allows at most {reach} per {long}"
                yield (*path, f"{measure}_per_{long}"), message, f"lower it below {reach} or remove it"


def _model_limit_faults(config: Config) -> Iterator[Finding]:
    """Limits on a model that nobody could ask for."""
    if config.vllm:
        return
    for name, tier in config.rate_limits.items():
        for model in tier.models:
            if model not in config.models:
                yield ("rate_limits", name, "models", model), "there is no such model", nearest(model, config.models)


def _key_faults(config: Config, written_keys: list[str]) -> Iterator[Finding]:
    if len(config.api_keys) < len(written_keys):
        yield ("api_keys",), "one key stands here both in plain text and hashed", "remove one of the two"
        return
    ids: dict[str, str] = {}
    for written, key in zip(written_keys, config.api_keys.values(), strict=True):
        if config.rate_limits and key.tier not in config.rate_limits:
            hint = nearest(key.tier, config.rate_limits) or f"rate_limits has {', '.join(config.rate_limits)}"
            yield ("api_keys", written, "tier"), f"no tier is called '{key.tier}'", hint
        if key.name is not None and key.name in ids:
            yield ("api_keys", written, "name"), "another key has this name", "logs tell keys apart by it"
        ids[key.name or ""] = written


def _jwt_faults(config: Config) -> Iterator[Finding]:
    for index, issuer in enumerate(config.jwt):
        before = config.jwt[:index]
        if any(other.issuer == issuer.issuer for other in before):
            yield ("jwt", index, "issuer"), "this issuer stands here twice", "keep one; its audience may be a list"
        elif any(other.label == issuer.label for other in before):
            message = f"another issuer is called '{issuer.label}'"
            yield ("jwt", index, "name"), message, "metrics tell them apart by it"
        if config.rate_limits and issuer.tier not in config.rate_limits:
            hint = nearest(issuer.tier, config.rate_limits) or f"rate_limits has {', '.join(config.rate_limits)}"
            yield ("jwt", index, "tier"), f"no tier is called '{issuer.tier}'", hint
        if issuer.jwks_url is None and not issuer.discoverable:
            yield ("jwt", index, "issuer"), "is no URL that could be asked for its keys", "set jwks_url"
        if issuer.max_stale_s < issuer.refresh_s:
            message = f"keys would be dropped before they are fetched again, after {issuer.refresh_s} s"
            yield ("jwt", index, "max_stale_s"), message, "raise it, or lower refresh_s"


def advice(config: Config, written_keys: list[str]) -> Iterator[Finding]:
    """What works but is probably not meant, or not wise."""
    plain = [key for key in written_keys if is_plain(key)]
    if plain:
        count = f"{len(plain)} key{'s' if len(plain) > 1 else ''}"
        yield ("api_keys", plain[0]), f"{count} in plain text", "write 'sha256:…' instead: gatehouse keys hash"
    if not config.api_keys and not config.jwt:
        yield ("api_keys",), "there is no key: every request will be answered 401", None
    if not config.rate_limits:
        yield ("rate_limits",), "there are no limits: every key may use everything", None
    yield from _jwt_advice(config)
    used = {key.tier for key in config.api_keys.values()} | {issuer.tier for issuer in config.jwt}
    if any(issuer.tier_claim for issuer in config.jwt):
        used.update(config.rate_limits)
    for name in config.rate_limits:
        if config.api_keys and name not in used and name not in ("premium", "standard", "free"):
            yield ("rate_limits", name), "no key is of this tier", None
    if config.redis.url is None and "on_failure" in config.redis.model_fields_set:
        yield ("redis", "on_failure"), "has no effect without redis.url", None


def _jwt_advice(config: Config) -> Iterator[Finding]:
    for index, issuer in enumerate(config.jwt):
        url = urlsplit(issuer.keys_from)
        if url.scheme == "http" and not _loopback(url.hostname or ""):
            field = "jwks_url" if issuer.jwks_url else "issuer"
            message = "keys come over plain HTTP: whoever is on the way can put in theirs"
            yield ("jwt", index, field), message, "use https"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
