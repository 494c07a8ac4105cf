"""The route that Envoy takes, computed from its configuration: first the matcher, then the routes it selects."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.contract import names
from gatehouse.envoy import model_lookup, render

Node = dict[str, Any]
Route = dict[str, Any]
Metadata = Mapping[tuple[str, str], str | None]


def virtual_host(config: Config) -> Node:
    (table,) = render(config, RunDir(Path("/run/gatehouse")), "/dev/null").routes["resources"]
    (host,) = table["virtual_hosts"]
    found: Node = host
    return found


def routes(config: Config) -> list[Route]:
    """All routes, at any depth of the matcher."""
    return [route for found in _lists(virtual_host(config)["matcher"]) for route in found]


def routes_of_pages(config: Config) -> list[Route]:
    """The routes for everything but model requests."""
    found: list[Route] = _routes(virtual_host(config)["matcher"]["on_no_match"])
    return found


def route_for(
    config: Config,
    method: str,
    path: str,
    model: str | None = None,
    headers: Mapping[str, str] | None = None,
    tier: str | None = None,
    refused: str | None = None,
) -> Route:
    """The route that Envoy takes; `model` is what the body names, None before it is read."""
    metadata = {(names.LLM, "model"): model, (names.AUTHZ, "tier"): tier}
    seen = {":method": method, ":path": path, "x-forwarded-proto": "https", "content-length": "9", **(headers or {})}
    found = _led_to(virtual_host(config)["matcher"], seen, _key(model, refused))
    return next(route for route in found if matches(route["match"], path.partition("?")[0], metadata, seen))


def tried(host: Node, method: str, path: str, model: str | None) -> list[Route]:
    """The routes that Envoy tries one after the other."""
    return _led_to(host["matcher"], {":method": method, ":path": path}, _key(model, None))


def _key(model: str | None, refused: str | None) -> str | None:
    if refused is not None:
        return model_lookup.refusal_key(refused)
    return None if model is None else model_lookup.model_key(model)


def _lists(node: Any) -> Iterator[list[Route]]:
    if isinstance(node, list):
        for each in node:
            yield from _lists(each)
    elif isinstance(node, dict):
        if "action" in node:
            yield _routes(node)
        else:
            yield from _lists(list(node.values()))


def _routes(on_match: Node) -> list[Route]:
    found: list[Route] = on_match["action"]["typed_config"]["routes"]
    return found


def _led_to(matcher: Node, headers: Mapping[str, str], model: str | None) -> list[Route]:
    on_match = matcher["on_no_match"]
    if "matcher_tree" in matcher:
        on_match = matcher["matcher_tree"]["exact_match_map"]["map"].get(model, on_match)
    for each in matcher.get("matcher_list", {}).get("matchers", ()):
        if all(_condition_holds(condition, headers) for condition in each["predicate"]["and_matcher"]["predicate"]):
            on_match = each["on_match"]
    return _led_to(on_match["matcher"], headers, model) if "matcher" in on_match else _routes(on_match)


def _condition_holds(condition: Node, headers: Mapping[str, str]) -> bool:
    single = condition["single_predicate"]
    return text_matches(
        {"string_match": single["value_match"]}, headers[single["input"]["typed_config"]["header_name"]]
    )


def matches(match: Node, path: str, metadata: Metadata, headers: Mapping[str, str]) -> bool:
    return (
        path_matches(match, path)
        and all(header_matches(wanted, headers.get(wanted["name"])) for wanted in match.get("headers", ()))
        and all(
            text_matches(wanted["value"], metadata[wanted["filter"], wanted["path"][0]["key"]])
            for wanted in match.get("dynamic_metadata", ())
        )
    )


def path_matches(match: Node, path: str) -> bool:
    if "safe_regex" in match:
        return bool(re.fullmatch(match["safe_regex"]["regex"], path))
    return path == match["path"] if "path" in match else path.startswith(match["prefix"])


def header_matches(wanted: Node, value: str | None) -> bool:
    if wanted.get("invert_match"):  # a missing header matches nothing
        return value is not None and not text_matches(wanted, value)
    if value is None or "string_match" in wanted or wanted.get("present_match"):
        return text_matches(wanted, value)
    return bool(wanted["range_match"]["start"] <= int(value) < wanted["range_match"]["end"])


def text_matches(wanted: Node, value: str | None) -> bool:
    if value is None or wanted.get("present_match"):
        return value is not None
    kind = wanted["string_match"]
    return bool(re.fullmatch(kind["safe_regex"]["regex"], value)) if "safe_regex" in kind else value == kind["exact"]
