"""`python -m scripts.fields`: write docs/fields.md, every field of `gatehouse.yaml`; `--check`: say whether it is so.

Types, bounds and defaults are those of `gatehouse/config/model.py`, the words are the texts below its fields.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatehouse.config import descriptions, model
from gatehouse.loading.fixed import FIXED

PAGE = Path(__file__).parents[1] / "docs" / "fields.md"

HEAD = """\
# Fields of gatehouse.yaml

<!-- written by `make fields` from gatehouse/config/model.py -->

Every field, section by section. [Configuration](configuration.md) explains how the file is read and changed.
`gatehouse schema` prints the same as a JSON Schema, for editors; `gatehouse check` reports every mistake with its line.

Names that end in `_s` are seconds, in `_ms` milliseconds, in `_mb` MiB. Fields marked ↻ take effect with a restart
(`gatehouse up --replace`), all others within two seconds of a change to the file.
"""

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("The sections", "Config", ()),
    ("server", "Server", ("server",)),
    ("server.tls", "Tls", ("server", "tls")),
    ("vllm", "Vllm", ("vllm",)),
    ("models.NAME", "Model", ("models",)),
    ("models.NAME.backends[]", "Backend", ("models",)),
    ("models.NAME.price_per_million_tokens", "Price", ("models",)),
    ("rate_limits.TIER", "Tier", ("rate_limits",)),
    ("Limits of a user, team, tier or key", "Limits", ("rate_limits",)),
    ("users.NAME", "User", ("users",)),
    ("teams.NAME", "Holder", ("teams",)),
    ("api_keys.KEY", "ApiKey", ("api_keys",)),
    ("keys", "Keys", ("keys",)),
    ("key_store", "KeyStore", ("key_store",)),
    ("jwt[]", "JwtIssuer", ("jwt",)),
    ("redis", "Redis", ("redis",)),
    ("limits", "LimitsPolicy", ("limits",)),
    ("logging", "Logging", ("logging",)),
    ("tracing", "Tracing", ("tracing",)),
)
"""Heading, class, and where its fields stand in the file."""

_KINDS = {"string": "text", "integer": "number", "boolean": "flag"}
_ANY_NUMBER = 10**9
"""Bounds from here on are effectively unlimited."""
_STATED_DEFAULT = re.compile(r" Default: ([^.]*)\.")
"""A computed default, stated in the text of a field."""


def page() -> str:
    schema, described = descriptions.raw_schema(), descriptions.descriptions()
    parts = {**schema["$defs"], "Config": schema}
    assert set(parts) == {name for _, name, _ in SECTIONS}, "a class of the model has no section in scripts/fields.py"
    return "\n".join([HEAD, *(_section(heading, parts[name], at, described) for heading, name, at in SECTIONS)])


def _section(heading: str, part: dict[str, Any], at: tuple[str, ...], described: descriptions.Texts) -> str:
    cls = getattr(model, part["title"])
    texts = descriptions.of_model(described, cls)
    if silent := part["properties"].keys() - texts.keys():
        raise SystemExit(f"gatehouse/config/model.py: write a text below {part['title']}.{', '.join(sorted(silent))}")
    left_out = model.Limits.model_fields if cls is model.Tier else {}
    rows = [
        f"| `{field}`{_restart((*at, field))} | {_type(spec)} | {_default(cls, field, spec, texts[field])} "
        f"| {_STATED_DEFAULT.sub('', texts[field])} |"
        for field, spec in part["properties"].items()
        if field not in left_out
    ]
    intro = " ".join(part["description"].split())
    return "\n".join(
        [f"## {heading}", "", intro, "", "| field | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _restart(path: tuple[str, ...]) -> str:
    return " ↻" if any(path[: len(fixed)] == fixed for fixed in FIXED) else ""


def _type(spec: dict[str, Any]) -> str:
    if ref := spec.get("$ref"):
        name = ref.rsplit("/", 1)[1]
        heading = next(heading for heading, cls, _ in SECTIONS if cls == name)
        return f"[{heading if heading[0].islower() else 'limits'}](#{_anchor(heading)})"
    if "enum" in spec:
        return " · ".join(f"`{value}`" for value in spec["enum"])
    kinds = [_type(each) for each in spec.get("anyOf", []) if each.get("type") != "null"]
    return " or ".join(kinds) or _plain(spec)


def _anchor(heading: str) -> str:
    kept = "".join(each for each in heading.lower() if each.isalnum() or each in " -_")
    return kept.replace(" ", "-")


def _plain(spec: dict[str, Any]) -> str:
    kind = spec.get("type")
    if kind == "array":
        return f"list of {_type(spec['items'])}"
    if kind == "object":
        values = spec.get("additionalProperties") or next(iter(spec["patternProperties"].values()))
        return f"name: {_type(values)}"
    return f"{_KINDS.get(str(kind), kind)}{_bounds(spec)}"


def _bounds(spec: dict[str, Any]) -> str:
    least, most = spec.get("minimum"), spec.get("maximum", _ANY_NUMBER)
    if most < _ANY_NUMBER:
        return f" {_number(least)}–{most:,}" if least is not None else f" above {spec['exclusiveMinimum']} to {most:,}"
    above = spec.get("exclusiveMinimum")
    return f" ≥ {_number(least)}" if least is not None else "" if above is None else f" > {above}"


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) else f"{value:f}"


def _default(cls: type[Any], field: str, spec: dict[str, Any], text: str) -> str:
    if stated := _STATED_DEFAULT.search(text):
        return stated[1]
    if cls.model_fields[field].is_required():
        return "required"
    value = spec.get("default")
    return "–" if value in (None, [], {}) or isinstance(value, dict) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _differences(wanted: str) -> Iterator[str]:
    if not PAGE.exists() or PAGE.read_text() != wanted:
        yield "docs/fields.md is not as gatehouse/config/model.py describes it: make fields"


def main() -> int:
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted)
        return 0
    problems = list(_differences(wanted))
    print(*problems, sep="\n", end="\n" if problems else "")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
