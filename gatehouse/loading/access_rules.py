"""Checks of the model and address lists of keys, users, teams and tiers."""

from collections.abc import Iterator

from gatehouse.config.model import Config, Holder, Tier
from gatehouse.config.places import Path
from gatehouse.config.problem import nearest
from gatehouse.contract.model_patterns import MAX_SIZE, is_everything, is_wild, matcher, size
from gatehouse.loading.key_table import Finding, KeyTable


def faults(config: Config) -> Iterator[Finding]:
    """Empty lists, and lists that Envoy could not evaluate. `key_faults` checks those of keys."""
    for path in _names(config):
        if is_everything(str(path[-1])):
            yield path[:-1], f"a model can't be called '{path[-1]}': in lists of models it stands for all of them", None
    for path, holder in _holders(config):
        for field in sorted({_models_field(holder), "allowed_ips"} & holder.model_fields_set):
            if not getattr(holder, field):
                yield (*path, field), "an empty list would allow nothing", "remove it to allow everything"
        if _too_big(config, _patterns(holder)):
            yield (*path, _models_field(holder)), *_TOO_BIG


def key_faults(config: Config, keys: KeyTable) -> Iterator[Finding]:
    """The same for keys. Most of 100,000 keys share their list of models, so each list is checked once."""
    wrong = {models for models in {key.models for key in keys.records.values()} if _too_big(config, models)}
    for path, key in keys.paths() if wrong else ():
        if key.models in wrong:
            yield (*path, "models"), *_TOO_BIG


def advice(config: Config, keys: KeyTable) -> Iterator[Finding]:
    """Users, teams and patterns without effect. Each pattern is reported once."""
    for section in ("users", "teams"):
        for name, holder in getattr(config, section).items():
            if not holder.model_fields_set:
                yield (section, name), "has no effect: nothing is set", "set limits, models or allowed_ips"
    if not config.models:
        return
    known, seen = config.known_models(), set[str]()
    for path, patterns in _lists(config, keys):
        for index, pattern in enumerate(patterns):
            if pattern not in seen and not any(map(matcher([pattern]), known)):
                yield (*path, index), f"no model matches '{pattern}'", nearest(pattern, known)
            seen.add(pattern)


_TOO_BIG = (
    "these patterns are too many or too long for Envoy to evaluate",
    "name models in full, or list the models there are under 'models' instead of 'vllm'",
)


def _too_big(config: Config, patterns: tuple[str, ...]) -> bool:
    everything = any(map(is_everything, patterns))
    return config.vllm is not None and not everything and size([*filter(is_wild, patterns)]) > MAX_SIZE


def _lists(config: Config, keys: KeyTable) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Every list of models, with its path."""
    for path, holder in _holders(config):
        yield (*path, _models_field(holder)), _patterns(holder)
    seen: set[tuple[str, ...]] = set()
    for path, key in keys.paths():
        if key.models not in seen:
            yield (*path, "models"), key.models
        seen.add(key.models)


def _holders(config: Config) -> Iterator[tuple[Path, Holder | Tier]]:
    """Every tier, user and team, with its path."""
    for section in ("rate_limits", "users", "teams"):
        yield from (((section, name), holder) for name, holder in getattr(config, section).items())


def _models_field(holder: Holder | Tier) -> str:
    return "allowed_models" if isinstance(holder, Tier) else "models"


def _patterns(holder: Holder | Tier) -> tuple[str, ...]:
    patterns: tuple[str, ...] = getattr(holder, _models_field(holder))
    return patterns


def _names(config: Config) -> Iterator[Path]:
    """The path of each name of a model; its last part is the name."""
    if config.vllm and config.vllm.default_model:
        yield "vllm", "default_model", config.vllm.default_model
    for model, entry in config.models.items():
        yield from (("models", model, name) for name in (model, *entry.aliases))
