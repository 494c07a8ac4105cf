"""A request as its record tells of it, in the limiter's words."""

from collections.abc import Mapping
from typing import NamedTuple

from gatehouse.envoy.names import ENDPOINTS
from gatehouse.errors import MODEL_NOT_ALLOWED, REQUEST_TIMEOUT, REQUEST_TOO_LARGE
from ratelimit_service.caller import Caller
from ratelimit_service.estimate import Tokens

NEVER_ASKED = {MODEL_NOT_ALLOWED.code, REQUEST_TOO_LARGE.code, REQUEST_TIMEOUT.code}
"""Refused before the limits were looked at, though it was known by whom."""
_UNCOUNTED = {"/tokenize", "/detokenize"}

COLUMNS = {
    "start_ms": "epoch_ms(time)",
    "duration_ms": "CAST(round(coalesce(duration_ms, 0)) AS BIGINT)",
    "request_id": "coalesce(request_id, '')",
    "user": "user_id",
    "team": "coalesce(team, '')",
    "tier": "coalesce(tier, '')",
    "key_id": "coalesce(key_id, '')",
    "model": "coalesce(model, '')",
    "endpoint": "coalesce(endpoint, '')",
    "status": "status",
    "error_code": "error_code",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "coalesce(completion_tokens, 0)",
    "cached_tokens": "coalesce(cached_tokens, 0)",
    "attempts": "coalesce(attempts, 0)",
    "bytes_in": "coalesce(bytes_in, 0)",
    "limited_by": "limited_by",
}
"""What is read of a record, in the order of the fields of `Logged`: see `gatehouse.usage_report.sql.by_start`."""


class Logged(NamedTuple):
    """One record. `prompt_tokens` is None when nobody counted."""

    start_ms: int
    duration_ms: int
    request_id: str
    user: str | None
    team: str
    tier: str
    key_id: str
    model: str
    endpoint: str
    status: int
    error_code: str | None
    prompt_tokens: int | None
    completion_tokens: int
    cached_tokens: int
    attempts: int
    bytes_in: int
    limited_by: str | None

    @property
    def was_asked(self) -> bool:
        """Whether the limiter had a say in it: whether it was somebody's, for a model, and had come in whole."""
        came_in = self.status > 0 or self.attempts > 0
        return self.user is not None and self.endpoint in ENDPOINTS and self.error_code not in NEVER_ASKED and came_in

    @property
    def tokens(self) -> Tokens | None:
        """What it used; None when that is not known, because nobody counted or because it was refused by a limit."""
        if self.limited_by is not None:
            return None
        counted = self.prompt_tokens is not None or self.status >= 400 or self.endpoint in _UNCOUNTED
        return Tokens(self.prompt_tokens or 0, self.completion_tokens, self.cached_tokens) if counted else None


class KeyLimits(NamedTuple):
    """The limits of a key itself, in JSON, and the key whose counters it goes on with."""

    limits: str
    family: str


def caller(record: Logged, number: int, keys: Mapping[str, KeyLimits]) -> Caller:
    """Who asked. `number` names the request, for an id may stand in a log twice."""
    key = keys.get(record.key_id)
    return Caller(
        user=record.user or "",
        team=record.team,
        tier=record.tier,
        key_id=record.key_id,
        model=record.model,
        request_id=str(number),
        body_bytes=record.bytes_in,
        key_limits=key.limits if key else "",
        key_family=key.family if key else "",
    )
