"""What must hold of the lists of models and addresses that keys, users, teams and tiers may have."""

from collections.abc import Iterator

from gatehouse.config.model import ApiKey, Config, Holder, Tier
from gatehouse.config.problem import nearest
from gatehouse.config.source import Path
from gatehouse.model_patterns import MAX_SIZE, is_everything, is_wild, matcher, size

Finding = tuple[Path, str, str | None]


def faults(config: Config, written_keys: list[str]) -> Iterator[Finding]:
    """Lists that can't be meant, or that Envoy could not evaluate."""
    for path in _names(config):
        if is_everything(str(path[-1])):
            yield path[:-1], f"a model can't be called '{path[-1]}': in lists of models it stands for all of them", None
    for path, holder in _holders(config, written_keys):
        for field in sorted({_models_field(holder), "allowed_ips"} & holder.model_fields_set):
            if not getattr(holder, field):
                yield (*path, field), "an empty list would allow nothing", "remove it to allow everything"
        patterns = _patterns(holder)
        if config.vllm and not any(map(is_everything, patterns)) and size([*filter(is_wild, patterns)]) > MAX_SIZE:
            hint = "name models in full, or list the models there are under 'models' instead of 'vllm'"
            yield (*path, _models_field(holder)), "these patterns are too many or too long for Envoy to evaluate", hint


def advice(config: Config, written_keys: list[str]) -> Iterator[Finding]:
    """Lists and holders that have no effect, or not the one meant. Each pattern is reported once."""
    for section in ("users", "teams"):
        for name, holder in getattr(config, section).items():
            if not holder.model_fields_set:
                yield (section, name), "has no effect: nothing is set", "set limits, models or allowed_ips"
    known = config.known_models()
    seen: set[str] = set()
    for path, holder in _holders(config, written_keys) if config.models else ():
        for index, pattern in enumerate(_patterns(holder)):
            if pattern not in seen and not any(map(matcher([pattern]), known)):
                yield (*path, _models_field(holder), index), f"no model matches '{pattern}'", nearest(pattern, known)
            seen.add(pattern)


def _holders(config: Config, written_keys: list[str]) -> Iterator[tuple[Path, ApiKey | Holder | Tier]]:
    """Whatever may have such lists, with the path at which it stands."""
    for section in ("rate_limits", "users", "teams"):
        yield from (((section, name), holder) for name, holder in getattr(config, section).items())
    yield from ((("api_keys", written), key) for written, key in zip(written_keys, config.api_keys.values()))  # noqa: B905 - of two spellings of one key only one is left


def _models_field(holder: ApiKey | Holder | Tier) -> str:
    return "allowed_models" if isinstance(holder, Tier) else "models"


def _patterns(holder: ApiKey | Holder | Tier) -> tuple[str, ...]:
    patterns: tuple[str, ...] = getattr(holder, _models_field(holder))
    return patterns


def _names(config: Config) -> Iterator[Path]:
    """The path of each name of a model; its last part is the name."""
    if config.vllm and config.vllm.default_model:
        yield "vllm", "default_model", config.vllm.default_model
    for model, entry in config.models.items():
        yield from (("models", model, name) for name in (model, *entry.aliases))
