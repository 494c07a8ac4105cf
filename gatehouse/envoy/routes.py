"""What may be asked for, and who answers. Nothing that no route names reaches a model server.

A POST is routed twice: first by its path alone, then, once the body is read, by the model in it. Until then the last
route of its endpoint is in effect, and Envoy decides by that one which filters the request meets at all: a filter that
is disabled there stays away for good. So it disables none (`_while_reading`); what a later route does without, it
overrides.
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
    wrong_turns,
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
"""Were the buffer full before the size limit is passed, Envoy would stop reading and wait for a body filter that waits
for more."""
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
            "on_no_match": model_lookup.tried(_everything_else(config)),
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
        *({**turn, **_without(_ALL_FILTERS)} for turn in _wrong_turns()),
        _refusal(errors.NOT_FOUND, {"connect_matcher": {}}, without=_ALL_FILTERS),  # CONNECT has no path
    ]


def _wrong_turns() -> Iterator[Message]:
    yield from wrong_turns.wrong_methods()
    yield from wrong_turns.nearly_right()
    yield wrong_turns.of_others(_ANYTHING)


def _method(*methods: str) -> Message:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(methods)}}}


def _without(filters: Iterable[str], but: Message | None = None) -> Message:
    """None of `filters`, and what `but` says of others."""
    return {"typed_per_filter_config": {**{name: disabled() for name in filters}, **(but or {})}}


def _refusal(error: ClientError, match: Message, without: Iterable[str] = ()) -> Message:
    """A direct response, named by its code so that the access log can tell."""
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


def _unread(error: ClientError, match: Message) -> Message:
    """A refusal to a caller we know, of a body that names no model we have: there is no access to decide on."""
    return {**_refusal(error, match), "typed_per_filter_config": {names.MODEL_ACCESS: model_access.unrestricted()}}


def _told(error: ClientError) -> Message:
    """The same, in the words of the reader: what is wrong with which member."""
    message = f"{error.message} %DYNAMIC_METADATA({names.LLM}:problem)%".lstrip()
    told = replace(error, message=message, param=error.param or f"%DYNAMIC_METADATA({names.LLM}:param)%")
    route = _unread(error, _ANYTHING)
    route["direct_response"]["body_format"] = {"json_format": told.body(), "content_type": "application/json"}
    return route


def _pages(config: Config, *paths: str) -> list[Message]:
    """Pages for anyone."""
    return [
        {
            "name": path,
            "match": {"path": path, "headers": [_method("GET", "HEAD")]},
            "route": _gateway(),
            **tracing.never(config),
            **_without(_ALL_FILTERS, but=own_limits.of_strangers()),
        }
        for path in paths
    ]


def _preflights(config: Config) -> list[Message]:
    """What pages of other sites ask first. Envoy's filter answers those that may, and does so only on a route to a
    cluster; the others are told there that there is nothing."""
    if not config.server.cors:
        return []
    asks = {"name": "access-control-request-method", "present_match": True}
    match = {**_ANYTHING, "headers": [_method("OPTIONS"), asks]}
    return [{"name": "preflight", "match": match, "route": _gateway(), **_without(_ALL_FILTERS)}]


def _own_api() -> list[Message]:
    """What the gateway answers itself, to callers it knows; it is told of them what model servers are not."""
    told = [header(name, f"%DYNAMIC_METADATA({names.AUTHZ}:{field})%") for name, field in names.CALLER_HEADERS.items()]
    return [
        {
            "name": path.get("path", "/v1/models"),
            "match": {**path, "headers": [_method("GET", "HEAD")]},
            "route": _gateway(),
            "request_headers_to_add": told,
            **_without(_BODY_FILTERS, but=own_limits.of_callers()),
        }
        for path in ({"path": "/v1/models"}, {"prefix": "/v1/models/"}, {"path": "/v1/usage"})
    ]


def _gateway() -> Message:
    """Repeated for about as long as the standby of portal_service takes to take over: whoever asks then just waits."""
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
    """Probes are answered (`/health` stands before it), and no client speaks it any more."""
    old = {"name": names.HTTP_VERSION_HEADER, "string_match": {"exact": "HTTP/1.0"}}
    return _refusal(errors.UPGRADE_REQUIRED, {**_ANYTHING, "headers": [old]}, without=_ALL_FILTERS)


def _https_required(config: Config) -> list[Message]:
    """Plaintext is answered 426; `/health` stands before it, for probes inside the machine."""
    if not config.server.require_https and config.server.tls is None:
        return []
    plain = {"name": "x-forwarded-proto", "string_match": {"exact": "http"}}
    return [_refusal(errors.HTTPS_REQUIRED, {**_ANYTHING, "headers": [plain]}, without=_ALL_FILTERS)]


def _too_large(config: Config) -> Message:
    """A body that says it is too large is refused before anyone is asked about it."""
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
"""Why the reader refuses a body."""


def _by_body(config: Config) -> dict[str, list[Message]]:
    """The routes of each name that a body may give; in the short form any is good (`_without_a_model`). And of each
    refusal."""
    models = [] if config.vllm else [(name, model) for model in config.models for name in _called(config, model)]
    return {
        **{model_lookup.named(name): to_backends(config, model, _ANYTHING) for name, model in models},
        **{model_lookup.refused(error.code): [_told(error)] for error in _BY_READER},
    }


def _called(config: Config, model: str) -> tuple[str, ...]:
    return (model, *config.models[model].aliases)


def _without_a_model(config: Config) -> list[Message]:
    """Until the body is read, and for a name that is none of the configuration's."""
    named = {"filter": names.LLM, "path": [{"key": "model"}], "value": {"present_match": True}}
    any_name = {**_ANYTHING, "dynamic_metadata": [named]}
    return [
        _two_hosts(),
        _http_1_0(),
        *_https_required(config),
        _too_large(config),
        _encoded(),
        _expecting(config),
        *(_to_the_one_server(config, any_name) if config.vllm else [_unread(errors.MODEL_NOT_FOUND, any_name)]),
        _while_reading(config),
    ]


def _expecting(config: Config) -> Message:
    tap = () if config.logging.bodies == "off" else (names.TAP,)
    return expect_continue.route(without=(*_BODY_FILTERS, *tap))


def _encoded() -> Message:
    """A body that would have to be decoded is not read."""
    name = "content-encoding"
    plain = {"safe_regex": {"regex": "(?i)(identity)?"}}
    headers = [{"name": name, "present_match": True}, {"name": name, "string_match": plain, "invert_match": True}]
    return _refusal(errors.ENCODED_BODY, {**_ANYTHING, "headers": headers}, without=_ALL_FILTERS)


def _to_the_one_server(config: Config, match: Message) -> list[Message]:
    return to_backends(config, next(iter(served(config))), match)


def _while_reading(config: Config) -> Message:
    """The route until the body is read. Nobody gets through by it: with no model named, the access filter denies.

    It is a route to a cluster, though, and no direct response: Envoy applies the limit on bodies to those alone.
    """
    return {
        "name": "reading",
        "match": _ANYTHING,
        "metadata": request_reader.settings(config),
        "route": {"cluster": names.model_cluster(next(iter(served(config)))), "timeout": "0s"},
    }
