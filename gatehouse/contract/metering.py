"""Whether the limiter was asked about a request that has ended, and whether anybody counted its tokens.

The log's receiver and the replay of old logs must agree on this, so it is written once, for both.
"""

from typing import Protocol

from gatehouse.contract.errors import (
    INVALID_JSON,
    INVALID_VALUE,
    MISSING_MODEL,
    MODEL_NOT_ALLOWED,
    NOT_ALLOWED_HERE,
    REQUEST_TIMEOUT,
    REQUEST_TOO_LARGE,
    TOO_MANY_VALUES,
)
from gatehouse.contract.names import ENDPOINTS

NO_TOKENS = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""Endpoints of model servers that use no tokens."""

METERED = frozenset(ENDPOINTS) - NO_TOKENS
"""Endpoints whose answers should say how many tokens they took."""

NEVER_ASKED = frozenset(
    {
        MODEL_NOT_ALLOWED.code,
        REQUEST_TOO_LARGE.code,
        REQUEST_TIMEOUT.code,
        INVALID_JSON.code,
        MISSING_MODEL.code,
        INVALID_VALUE.code,
        NOT_ALLOWED_HERE.code,
        TOO_MANY_VALUES.code,
    }
)
"""Codes of requests that were refused before the limiter was asked, although the caller was known."""


class Ended(Protocol):
    """What has to be known of a request: the fields of its record."""

    @property
    def user_id(self) -> str | None: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def error_code(self) -> str | None: ...
    @property
    def limited_by(self) -> str | None: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...
    @property
    def aborted(self) -> bool: ...


def asked(ended: Ended) -> bool:
    """Whether the limiter had a say in it, as far as a record can tell. If the client left without an answer, the
    limiter may not have been asked yet."""
    return ended.user_id is not None and ended.endpoint in ENDPOINTS and ended.error_code not in NEVER_ASKED


def admitted(ended: Ended) -> bool:
    """Whether the limiter was asked and may have let it pass: also when nobody waited for its answer any more."""
    return asked(ended) and not ended.limited_by


def failed(ended: Ended) -> bool:
    """Whether it was refused or answered with an error, be it inside a 200."""
    return ended.status >= 400 or ended.error_code is not None


def complete(ended: Ended) -> bool:
    """Whether it was answered well, to the end."""
    return 200 <= ended.status < 300 and not ended.aborted and ended.error_code is None


def counted(ended: Ended) -> bool:
    """Whether it is known what it used: the model server said so, or it can have used nothing."""
    said = ended.prompt_tokens is not None or ended.completion_tokens is not None
    return said or failed(ended) or ended.endpoint in NO_TOKENS


def lacks_prompt(ended: Ended) -> bool:
    """Whether only its output was counted: the guess of its prompt stands."""
    return ended.prompt_tokens is None and ended.completion_tokens is not None


def teaches(ended: Ended) -> bool:
    """Whether it shows how long answers are: it was let through, answered well, to the end, and its output counted."""
    return not ended.limited_by and complete(ended) and ended.completion_tokens is not None


def uncounted(ended: Ended) -> bool:
    """Whether the model server owes a count: it answered well, to the end, and did not say what that took."""
    return ended.endpoint in METERED and complete(ended) and not counted(ended)
