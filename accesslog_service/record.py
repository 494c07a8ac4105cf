"""A record: one line of the request log. It holds no prompt, no completion, no key and no query string."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from json.encoder import encode_basestring_ascii
from math import isfinite
from operator import attrgetter
from typing import Any

_UNWRITTEN = {"written": False}


@dataclass(slots=True)  # not frozen: that would take 3 of the 40 microseconds that an entry costs
class Record:
    """What happened to one request; the fields are those of a line, in its order. `key_limits`, `key_family`, `asks`
    and `leased_by` are in no line: they are the limiter's, to whom the request's end is told; the last is the one of
    its workers that admitted the request on its own, without Redis.

    `_ms` are milliseconds from the start of the request, `bytes_` count bodies. What is not known, or does not apply,
    is None; `model` is "" when the endpoint takes a model and the request named none that could be read. `status` is 0
    when the client left before it got an answer. `flags` are Envoy's response flags, comma-joined. `aborted`: the
    answer did not reach its end, because the client left or the stream was cut. `max_tokens`, `n`, `prompt_bytes` and
    `images` are what the request asked for (`gatehouse.contract.asks`, of which `asks` is the text).
    """

    time: datetime
    request_id: str
    trace_id: str | None
    user_id: str | None
    team: str | None
    tier: str | None
    key_id: str | None
    method: str
    endpoint: str
    model: str | None
    backend: str | None
    status: int
    error_code: str | None
    stream: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost_usd: float | None
    duration_ms: float
    ttft_ms: float | None
    attempts: int
    bytes_in: int
    bytes_out: int
    client_ip: str | None
    user_agent: str | None
    limited_by: str | None
    flags: str
    aborted: bool
    max_tokens: int | None = None
    n: int | None = None
    prompt_bytes: int | None = None
    images: int | None = None
    key_limits: str | None = field(default=None, metadata=_UNWRITTEN)
    key_family: str | None = field(default=None, metadata=_UNWRITTEN)
    asks: str | None = field(default=None, metadata=_UNWRITTEN)
    leased_by: int | None = field(default=None, metadata=_UNWRITTEN)

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first, in milliseconds; None unless the answer was streamed in several."""
        if not self.stream or self.ttft_ms is None or (self.completion_tokens or 0) < 2:
            return None
        return (self.duration_ms - self.ttft_ms) / ((self.completion_tokens or 0) - 1)

    def line(self) -> bytes:
        """The record as one line of JSON, newline included. ASCII only: no text of a client ends or colours it."""
        return (_LINE % tuple([_JSON[type(value)](value) for value in _values(self)])).encode("ascii")


NAMES = tuple(each.name for each in fields(Record) if each.metadata.get("written", True))
_values = attrgetter(*NAMES)


_LINE = "{" + ",".join(f'"{name}":%s' for name in NAMES) + "}\n"


def _number(value: float) -> str:
    if not isfinite(value):
        raise ValueError("JSON has no such number")
    return repr(value)


def _instant(value: datetime) -> str:
    return f'"{value.isoformat(timespec="milliseconds")}"'


_JSON: Mapping[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: repr,
    float: _number,
    bool: ("false", "true").__getitem__,
    type(None): lambda _: "null",
    datetime: _instant,
}
"""How each kind of value is written; in half the time of the json module, which has to expect more kinds."""
