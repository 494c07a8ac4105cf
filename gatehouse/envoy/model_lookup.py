"""The route of a model, looked up by its name: with 500 models it costs what it costs with one.

Envoy tries routes one after the other. A matcher (`VirtualHost.matcher`) looks up instead, but knows request headers
and filter state only, not what a body filter has read. So a filter copies the name there, where no client can put
anything and any text is just a text.
"""

from collections.abc import Mapping, Sequence

from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension

_KEY = "gatehouse.model"


def named(model: str) -> str:
    """Where the routes of a model are found."""
    return f":{model}"


def refused(code: str) -> str:
    """Where the route of a request is found that can't be read; no name of a model leads there."""
    return f"{code}:"


def name_filter() -> Message:
    """Notes the name that the body gives, once it is read, or why it is refused; then the route is chosen again."""
    value = {
        "object_key": _KEY,
        "factory_key": "envoy.string",
        "format_string": {
            "text_format_source": {
                "inline_string": f"%DYNAMIC_METADATA({names.LLM}:refused)%:%DYNAMIC_METADATA({names.LLM}:model)%"
            },
            "omit_empty_values": True,
        },
    }
    kind = "envoy.extensions.filters.http.set_filter_state.v3.Config"
    return extension(names.MODEL_NAME, kind, on_request_headers=[value], clear_route_cache=True)


def matcher(path: str, method: str, by_key: Mapping[str, Sequence[Message]], unnamed: Sequence[Message]) -> Message:
    """What matches requests by `method` whose path, without its query, is the regular expression `path`.

    The routes in `by_key` are tried in order where the body leads to that key (`named`, `refused`); where it leads
    nowhere, or is not read yet, those `unnamed`.
    """
    of_models = {
        "matcher_tree": {
            "input": _filter_state(),
            "exact_match_map": {"map": {name: tried(routes) for name, routes in by_key.items()}},
        },
        "on_no_match": tried(unnamed),
    }
    conditions = [
        _header(":path", safe_regex={"google_re2": {}, "regex": rf"(?:{path})(?:\?.*)?"}),
        _header(":method", exact=method),
    ]
    return {"predicate": {"and_matcher": {"predicate": conditions}}, "on_match": {"matcher": of_models}}


def tried(routes: Sequence[Message]) -> Message:
    """The first of `routes` that matches."""
    return {"action": extension("routes", "envoy.config.route.v3.RouteList", routes=list(routes))}


def _filter_state() -> Message:
    kind = "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
    return extension("envoy.matching.inputs.filter_state", kind, key=_KEY)


def _header(name: str, **value: object) -> Message:
    kind = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    shown = extension("envoy.matching.inputs.request_headers", kind, header_name=name)
    return {"single_predicate": {"input": shown, "value_match": value}}
