"""Errors for unknown URLs: a known path with a wrong method, a path that is nearly an endpoint, and any other."""

import re
from collections.abc import Iterable, Iterator

from gatehouse.contract import errors
from gatehouse.contract.errors import ClientError
from gatehouse.contract.names import ENDPOINTS, USAGE_PAGE
from gatehouse.envoy.message import Message, header

_PAGES = ("/", "/health", "/metrics", *USAGE_PAGE, "/v1/models", "/v1/usage")
_PATH = "%REQ(:METHOD)% %PATH(NQ:PATH):200%"
"""Without the query, which may hold secrets."""

_NO_PREFLIGHT: Message = {"name": ":method", "string_match": {"exact": "OPTIONS"}, "invert_match": True}


def any_other(match: Message) -> Message:
    """404 with the path."""
    return _direct_response(errors.NOT_FOUND, f"Unknown request URL: {_PATH}.", match)


def wrong_methods() -> Iterator[Message]:
    """405 with the allowed methods. OPTIONS is for preflights of other sites, and is answered elsewhere."""
    yield _wrong_method((*map(re.escape, _PAGES), "/v1/models/.+"), "GET, HEAD")
    yield _wrong_method(map(re.escape, ENDPOINTS), "POST")


def _wrong_method(paths: Iterable[str], allowed: str) -> Message:
    match = {"safe_regex": {"regex": "|".join(paths)}, "headers": [_NO_PREFLIGHT]}
    text = f"{_PATH}: this URL takes {allowed.replace(', ', ' and ')} only."
    return _direct_response(errors.METHOD_NOT_ALLOWED, text, match, header("allow", allowed))


def misspelled() -> Iterator[Message]:
    """404 with the endpoint that was meant: the path lacks `/v1`, or has it twice, is in the singular, has a trailing
    slash, is below another path, or in capitals. The longest names come first: `completions` ends two of them."""
    for endpoint in sorted((*ENDPOINTS, "/v1/models"), key=len, reverse=True):
        words = map(re.escape, endpoint.removeprefix("/v1").strip("/").split("/"))
        meant = "/+".join(re.sub("s$", "s?", word) for word in words)
        text = f"Unknown request URL: {_PATH}. Did you mean {endpoint}?"
        yield _direct_response(
            errors.NOT_FOUND, text, {"safe_regex": {"regex": f"(?i)(/.*)?/{meant}s?/*"}, "headers": [_NO_PREFLIGHT]}
        )


def _direct_response(error: ClientError, text: str, match: Message, *headers: Message) -> Message:
    """A direct response with command operators that Envoy fills in."""
    body = {"json_format": error.with_message(text).body(), "content_type": "application/json"}
    return {
        "name": error.code,
        "match": match,
        "direct_response": {
            "status": error.status,
            "body": {"inline_string": error.json().decode()},
            "body_format": body,
        },
        "response_headers_to_add": [header("content-type", "application/json"), *headers],
    }
