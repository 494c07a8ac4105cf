"""Whether the limiter was asked about a finished request, and whether its tokens were counted.

The log receiver and the replay of old logs must agree on this, so both use these rules.
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
"""Endpoints whose responses should report their token usage."""

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
"""Codes of requests that were rejected before the limiter was asked, although the caller was known."""


class Ended(Protocol):
    """The fields of a request's record that are needed here."""

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
    """Whether the limiter was asked, as far as the record shows. If the client disconnected without a response, it may
    not have been asked yet."""
    return ended.user_id is not None and ended.endpoint in ENDPOINTS and ended.error_code not in NEVER_ASKED


def admitted(ended: Ended) -> bool:
    """Whether the limiter was asked and may have admitted it, even if the client had disconnected by then."""
    return asked(ended) and not ended.limited_by


def failed(ended: Ended) -> bool:
    """Whether it was rejected or got an error, including an error inside a 200."""
    return ended.status >= 400 or ended.error_code is not None


def complete(ended: Ended) -> bool:
    """Whether it got a complete response without an error."""
    return 200 <= ended.status < 300 and not ended.aborted and ended.error_code is None


def counted(ended: Ended) -> bool:
    """Whether its usage is known: the model server reported it, or it can't have used any tokens."""
    said = ended.prompt_tokens is not None or ended.completion_tokens is not None
    return said or failed(ended) or ended.endpoint in NO_TOKENS


def lacks_prompt(ended: Ended) -> bool:
    """Whether only its output was counted: the estimate of its prompt remains."""
    return ended.prompt_tokens is None and ended.completion_tokens is not None


def teaches(ended: Ended) -> bool:
    """Whether it can be used to estimate output lengths: admitted, completed without an error, output counted."""
    return not ended.limited_by and complete(ended) and ended.completion_tokens is not None


def uncounted(ended: Ended) -> bool:
    """Whether a count is missing: the model server completed the response without an error or its token usage."""
    return ended.endpoint in METERED and complete(ended) and not counted(ended)
