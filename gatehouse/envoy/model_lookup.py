"""Looks up the route of a model by its name, at the same cost for 500 models as for one.

Envoy tries routes one after the other. A matcher (`VirtualHost.matcher`) looks them up instead, but only by request
headers and filter state, not by what a body filter has read. So a filter copies the name to the filter state, where no
client can write and any text is just text.
"""

from collections.abc import Mapping, Sequence

from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension

_KEY = "gatehouse.model"


def model_key(model: str) -> str:
    """The key of a model's routes."""
    return f":{model}"


def refusal_key(code: str) -> str:
    """The key of the route for a request that is refused; no model's name can produce it."""
    return f"{code}:"


def name_filter() -> Message:
    """Stores the model in the body, once it is read, or why it is refused; then the route is selected again."""
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


def matcher(path: str, method: str, by_key: Mapping[str, Sequence[Message]], otherwise: Sequence[Message]) -> Message:
    """Matches requests with `method` whose path, without its query, matches the regular expression `path`.

    If the body gives a key of `by_key` (`model_key`, `refusal_key`), the routes there are tried in order; if it gives
    none of them, or is not read yet, those in `otherwise`.
    """
    of_models = {
        "matcher_tree": {
            "input": _filter_state(),
            "exact_match_map": {"map": {name: route_list(routes) for name, routes in by_key.items()}},
        },
        "on_no_match": route_list(otherwise),
    }
    conditions = [
        _header(":path", safe_regex={"google_re2": {}, "regex": rf"(?:{path})(?:\?.*)?"}),
        _header(":method", exact=method),
    ]
    return {"predicate": {"and_matcher": {"predicate": conditions}}, "on_match": {"matcher": of_models}}


def route_list(routes: Sequence[Message]) -> Message:
    """The first of `routes` that matches."""
    return {"action": extension("routes", "envoy.config.route.v3.RouteList", routes=list(routes))}


def _filter_state() -> Message:
    kind = "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
    return extension("envoy.matching.inputs.filter_state", kind, key=_KEY)


def _header(name: str, **value: object) -> Message:
    kind = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    source = extension("envoy.matching.inputs.request_headers", kind, header_name=name)
    return {"single_predicate": {"input": source, "value_match": value}}
