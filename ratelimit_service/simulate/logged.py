"""A recorded request, in the limiter's terms."""

from collections.abc import Mapping
from typing import NamedTuple

from gatehouse.contract import metering
from gatehouse.contract.asks import Asks
from ratelimit_service.caller import Caller
from ratelimit_service.estimate.guess import Tokens, uncounted

COLUMNS = {
    "start_ms": "epoch_ms(time)",
    "duration_ms": "CAST(round(coalesce(duration_ms, 0)) AS BIGINT)",
    "request_id": "coalesce(request_id, '')",
    "user_id": "user_id",
    "team": "coalesce(team, '')",
    "tier": "coalesce(tier, '')",
    "key_id": "coalesce(key_id, '')",
    "model": "coalesce(model, '')",
    "endpoint": "coalesce(endpoint, '')",
    "status": "status",
    "error_code": "error_code",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "cached_tokens": "coalesce(cached_tokens, 0)",
    "attempts": "coalesce(attempts, 0)",
    "bytes_in": "coalesce(bytes_in, 0)",
    "bytes_out": "coalesce(bytes_out, 0)",
    "limited_by": "limited_by",
    "aborted": "coalesce(aborted, false)",
    "max_tokens": "max_tokens",
    "n": "n",
    "prompt_bytes": "prompt_bytes",
    "images": "images",
}
"""SQL columns of a record, in the order of the fields of `Logged`: see `gatehouse.usage_report.sql.by_start`."""


class Logged(NamedTuple):
    """One record. `prompt_tokens` and `completion_tokens` are None without a count; `max_tokens`, `n`, `prompt_bytes`
    and `images` are None if the body was not read, or the log is of an older version."""

    start_ms: int
    duration_ms: int
    request_id: str
    user_id: str | None
    team: str
    tier: str
    key_id: str
    model: str
    endpoint: str
    status: int
    error_code: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int
    attempts: int
    bytes_in: int
    bytes_out: int
    limited_by: str | None
    aborted: bool
    max_tokens: int | None
    n: int | None
    prompt_bytes: int | None
    images: int | None

    @property
    def was_asked(self) -> bool:
        """Whether the limiter was asked about it, and it had arrived completely."""
        return metering.asked(self) and (self.status > 0 or self.attempts > 0)

    @property
    def asks(self) -> Asks:
        """What it asked for. If the log does not say, its whole body counts as prompt."""
        if self.n is None:
            return Asks(prompt_bytes=self.bytes_in)
        return Asks(self.max_tokens, self.n, self.prompt_bytes or 0, self.images or 0)

    def used(self, guess: Tokens) -> Tokens | None:
        """The tokens it used; None when unknown: they were not counted, or a limit refused it."""
        if self.limited_by is not None:
            return None
        if metering.counted(self):
            prompt = guess.input if metering.lacks_prompt(self) else self.prompt_tokens or 0
            return Tokens(prompt, self.completion_tokens or 0, self.cached_tokens)
        return uncounted(self.asks, guess, self.bytes_out) if metering.complete(self) else None

    @property
    def _lacks_prompt(self) -> bool:
        return self.prompt_tokens is None and self.completion_tokens is not None

    @property
    def teaches(self) -> bool:
        """Whether answer lengths can be learned from it."""
        return self.limited_by is None and metering.complete(self) and self.completion_tokens is not None


class KeyLimits(NamedTuple):
    """The limits of a key itself, in JSON, and the key whose counters it continues."""

    limits: str
    family: str


def caller(record: Logged, number: int, keys: Mapping[str, KeyLimits]) -> Caller:
    """The caller. `number` names the request, since an id may occur twice in a log."""
    key = keys.get(record.key_id)
    return Caller(
        user=record.user_id or "",
        team=record.team,
        tier=record.tier,
        key_id=record.key_id,
        model=record.model,
        request_id=str(number),
        asks=record.asks,
        key_limits=key.limits if key else "",
        key_family=key.family if key else "",
    )
