"""The routes. A request that matches none of them never reaches a model server.

A POST is routed twice: first by its path alone, then, once the body is read, by the model in it. Until then the last
route of its endpoint is in effect, and Envoy decides by that one which filters run at all: a filter disabled there
stays disabled. So it disables none (`_while_reading`); a later route overrides what it does not need.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from gatehouse.config.model import Config, served
from gatehouse.contract import errors, names
from gatehouse.contract.errors import ClientError
from gatehouse.envoy import (
    cors,
    expect_continue,
    model_access,
    model_lookup,
    own_limits,
    request_reader,
    tracing,
    unknown_urls,
)
from gatehouse.envoy.message import Message, disabled, header
from gatehouse.envoy.model_routes import to_backends

_ENDPOINT = "|".join(map(re.escape, names.ENDPOINTS))
_ANYTHING: Message = {"prefix": "/"}
_BODY_FILTERS = (
    names.READER,
    names.WHOLE_BODY,
    names.MODEL_NAME,
    names.MODEL_ACCESS,
    names.LIMITS,
    names.ANSWERS,
)
_BUFFER_MARGIN = 1024 * 1024
"""If the buffer were full before the size limit is reached, Envoy would stop reading and wait for a body filter that
waits for more."""
_ALL_FILTERS = (names.CLIENT_IP, names.AUTHZ, *_BODY_FILTERS)


def routes(config: Config) -> Message:
    """The route configuration that RDS serves."""
    inference = model_lookup.matcher(_ENDPOINT, "POST", _by_body(config), _without_a_model(config))
    host = {
        "name": "gatehouse",
        "domains": ["*"],
        "request_body_buffer_limit": config.server.max_body_bytes + _BUFFER_MARGIN,
        **cors.policy(config.server),
        "matcher": {
            "matcher_list": {"matchers": [inference]},
            "on_no_match": model_lookup.route_list(_everything_else(config)),
        },
    }
    return {"name": names.ROUTES, "virtual_hosts": [host]}


def _everything_else(config: Config) -> list[Message]:
    return [
        _two_hosts(),
        *_pages(config, "/health"),
        _http_1_0(),
        *_https_required(config),
        *_preflights(config),
        *_pages(config, "/", "/metrics", *names.USAGE_PAGE),
        *_own_api(),
        _too_large(config),
        *({**route, **_without(_ALL_FILTERS)} for route in _unknown_urls()),
        _refusal(errors.NOT_FOUND, {"connect_matcher": {}}, without=_ALL_FILTERS),  # CONNECT has no path
    ]


def _unknown_urls() -> Iterator[Message]:
    yield from unknown_urls.wrong_methods()
    yield from unknown_urls.misspelled()
    yield unknown_urls.any_other(_ANYTHING)


def _method(*methods: str) -> Message:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(methods)}}}


def _without(filters: Iterable[str], but: Message | None = None) -> Message:
    """Disables `filters`, and adds the per-filter configuration `but`."""
    return {"typed_per_filter_config": {**{name: disabled() for name in filters}, **(but or {})}}


def _refusal(error: ClientError, match: Message, without: Iterable[str] = ()) -> Message:
    """A direct response, named after its code for the access log."""
    headers = [header("content-type", "application/json")]
    if error.retry_after_s is not None:
        headers.append(header("retry-after", str(error.retry_after_s)))
    return {
        "name": error.code,
        "match": match,
        "direct_response": {"status": error.status, "body": {"inline_string": error.json().decode()}},
        "response_headers_to_add": headers,
        **_without(without),
    }


def _body_refusal(error: ClientError, match: Message) -> Message:
    """A refusal to a known caller, of a body that names no known model: there is no access to check."""
    return {**_refusal(error, match), "typed_per_filter_config": {names.MODEL_ACCESS: model_access.unrestricted()}}


def _body_refusal_with_reason(error: ClientError) -> Message:
    """The same, with the reader's message: what is wrong with which member."""
    message = f"{error.message} %DYNAMIC_METADATA({names.LLM}:problem)%".lstrip()
    with_reason = replace(error, message=message, param=error.param or f"%DYNAMIC_METADATA({names.LLM}:param)%")
    route = _body_refusal(error, _ANYTHING)
    route["direct_response"]["body_format"] = {"json_format": with_reason.body(), "content_type": "application/json"}
    return route


def _pages(config: Config, *paths: str) -> list[Message]:
    """Public pages."""
    return [
        {
            "name": path,
            "match": {"path": path, "headers": [_method("GET", "HEAD")]},
            "route": _gateway(),
            **tracing.never(config),
            **_without(_ALL_FILTERS, but=own_limits.per_address()),
        }
        for path in paths
    ]


def _preflights(config: Config) -> list[Message]:
    """Preflights of pages of other sites. Envoy's filter answers those of allowed origins, and only on a route to a
    cluster; that cluster answers the others with a 404."""
    if not config.server.cors:
        return []
    asks = {"name": "access-control-request-method", "present_match": True}
    match = {**_ANYTHING, "headers": [_method("OPTIONS"), asks]}
    return [{"name": "preflight", "match": match, "route": _gateway(), **_without(_ALL_FILTERS)}]


def _own_api() -> list[Message]:
    """The gateway's own API, for known callers; it gets headers about them that model servers don't."""
    caller = [
        header(name, f"%DYNAMIC_METADATA({names.AUTHZ}:{field})%") for name, field in names.CALLER_HEADERS.items()
    ]
    return [
        {
            "name": path.get("path", "/v1/models"),
            "match": {**path, "headers": [_method("GET", "HEAD")]},
            "route": _gateway(),
            "request_headers_to_add": caller,
            **_without(_BODY_FILTERS, but=own_limits.per_user()),
        }
        for path in ({"path": "/v1/models"}, {"prefix": "/v1/models/"}, {"path": "/v1/usage"})
    ]


def _gateway() -> Message:
    """Retries for about as long as the standby of portal_service takes to take over, so that clients only wait."""
    retry = {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 20,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},
    }
    return {"cluster": names.PORTAL, "timeout": "10s", "retry_policy": retry}


def _two_hosts() -> Message:
    """Envoy joins several Host lines to one; a server must refuse them (RFC 9112 §3.2)."""
    several = {"name": ":authority", "string_match": {"contains": ","}}
    return _refusal(errors.BAD_REQUEST, {**_ANYTHING, "headers": [several]}, without=_ALL_FILTERS)


def _http_1_0() -> Message:
    """HTTP/1.0 is refused, except for probes (`/health` comes before): no client uses it any more."""
    old = {"name": names.HTTP_VERSION_HEADER, "string_match": {"exact": "HTTP/1.0"}}
    return _refusal(errors.UPGRADE_REQUIRED, {**_ANYTHING, "headers": [old]}, without=_ALL_FILTERS)


def _https_required(config: Config) -> list[Message]:
    """Plaintext is answered with 426; `/health` comes before, for probes inside the machine."""
    if not config.server.require_https and config.server.tls is None:
        return []
    plain = {"name": "x-forwarded-proto", "string_match": {"exact": "http"}}
    return [_refusal(errors.HTTPS_REQUIRED, {**_ANYTHING, "headers": [plain]}, without=_ALL_FILTERS)]


def _too_large(config: Config) -> Message:
    """A body whose declared length is too large is refused before any other check."""
    range_match = {"start": config.server.max_body_bytes + 1, "end": 2**63 - 1}
    declared = {"name": "content-length", "range_match": range_match}
    return _refusal(errors.REQUEST_TOO_LARGE, {**_ANYTHING, "headers": [declared]}, without=_ALL_FILTERS)


_BY_READER = (
    errors.INVALID_JSON,
    errors.INVALID_VALUE,
    errors.MISSING_MODEL,
    errors.MODEL_NOT_FOUND,
    errors.NOT_ALLOWED_HERE,
    errors.TOO_MANY_VALUES,
    errors.GATEWAY_ERROR,
)
"""The errors with which the reader refuses a body."""


def _by_body(config: Config) -> dict[str, list[Message]]:
    """The routes of each name that a body may use, and of each refusal; in the short form any name is valid
    (`_without_a_model`)."""
    models = [] if config.vllm else [(name, model) for model in config.models for name in _names_of(config, model)]
    return {
        **{model_lookup.model_key(name): to_backends(config, model, _ANYTHING) for name, model in models},
        **{model_lookup.refusal_key(error.code): [_body_refusal_with_reason(error)] for error in _BY_READER},
    }


def _names_of(config: Config, model: str) -> tuple[str, ...]:
    return (model, *config.models[model].aliases)


def _without_a_model(config: Config) -> list[Message]:
    """The routes until the body is read, and for names that are not in the configuration."""
    named = {"filter": names.LLM, "path": [{"key": "model"}], "value": {"present_match": True}}
    any_name = {**_ANYTHING, "dynamic_metadata": [named]}
    return [
        _two_hosts(),
        _http_1_0(),
        *_https_required(config),
        _too_large(config),
        _encoded(),
        _expecting(config),
        *(_to_the_one_server(config, any_name) if config.vllm else [_body_refusal(errors.MODEL_NOT_FOUND, any_name)]),
        _while_reading(config),
    ]


def _expecting(config: Config) -> Message:
    tap = () if config.logging.bodies == "off" else (names.TAP,)
    return expect_continue.route(without=(*_BODY_FILTERS, *tap))


def _encoded() -> Message:
    """Refuses a body that would have to be decoded."""
    name = "content-encoding"
    plain = {"safe_regex": {"regex": "(?i)(identity)?"}}
    headers = [{"name": name, "present_match": True}, {"name": name, "string_match": plain, "invert_match": True}]
    return _refusal(errors.ENCODED_BODY, {**_ANYTHING, "headers": headers}, without=_ALL_FILTERS)


def _to_the_one_server(config: Config, match: Message) -> list[Message]:
    return to_backends(config, next(iter(served(config))), match)


def _while_reading(config: Config) -> Message:
    """The route until the body is read. No request is forwarded by it: without a model, the access filter denies it.

    It is a route to a cluster and not a direct response, since Envoy limits bodies only on those.
    """
    return {
        "name": "reading",
        "match": _ANYTHING,
        "metadata": request_reader.settings(config),
        "route": {"cluster": names.model_cluster(next(iter(served(config)))), "timeout": "0s"},
    }
