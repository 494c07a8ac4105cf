"""What a client shows to prove who it is: one API key, in `Authorization: Bearer KEY` or `x-api-key: KEY`.

A header that is there must hold a key and nothing else. A repeated header arrives joined by commas (RFC 9110 §5.3), and
no key has a comma, so whatever was sent twice is refused rather than guessed at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

MAX_KEY_LENGTH = 512
"""Longer keys are refused before they are hashed. No configuration accepts one."""

_KEY = rf"([!-+\--~]{{1,{MAX_KEY_LENGTH}}})"  # visible ASCII but the comma
_FORMS = {"authorization": re.compile(rf"[Bb][Ee][Aa][Rr][Ee][Rr] +{_KEY}"), "x-api-key": re.compile(_KEY)}


@dataclass(frozen=True, slots=True)
class Credential:
    """A key as it was sent: 1 to `MAX_KEY_LENGTH` visible ASCII characters. Nothing prints it."""

    key: str = field(repr=False)


class Unusable(Enum):
    """Why there is no credential: none was sent, or what was sent can't be a key."""

    MISSING = auto()
    INVALID = auto()


def parse(headers: Mapping[str, str]) -> Credential | Unusable:
    """The credential in `headers`, whose names are lower case. Never raises, whatever the values hold.

    The scheme's case does not matter (RFC 9110 §11.1), one or more spaces follow it (RFC 6750 §2.1). A request may
    carry both headers when they carry one key.
    """
    shown = {_read(form, headers[name]) for name, form in _FORMS.items() if name in headers}
    if not shown:
        return Unusable.MISSING
    return shown.pop() if len(shown) == 1 else Unusable.INVALID


def _read(form: re.Pattern[str], value: str) -> Credential | Unusable:
    found = form.fullmatch(value)
    return Credential(found[1]) if found else Unusable.INVALID
