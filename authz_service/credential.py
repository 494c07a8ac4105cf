"""The client's credential: one API key, in `Authorization: Bearer KEY` or `x-api-key: KEY`.

A JSON Web Token may take the place of a key. A header that is present must hold a key and nothing else. Envoy joins
repeated headers by commas (RFC 9110 §5.3), and no key has a comma, so a header that was sent twice is always rejected.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

MAX_KEY_LENGTH = 512
"""Longer keys are refused before they are hashed. No configuration accepts one."""

MAX_TOKEN_LENGTH = 8192
"""Longer JSON Web Tokens are refused before anything in them is read."""

# Three parts in base64url (RFC 7515 §7.1), the first of which begins a JSON object: `{"`. The last may be empty: what
# has no signature is refused as a token.
_TOKEN = rf"eyJ(?=.{{0,{MAX_TOKEN_LENGTH - 3}}}\Z)[\w-]*\.[\w-]+\.[\w-]*"
_SHAPE = re.compile(_TOKEN, re.ASCII)
_KEY = rf"([!-+\--~]{{1,{MAX_KEY_LENGTH}}}|{_TOKEN})"  # visible ASCII but the comma
_FORMS = {
    "authorization": re.compile(rf"[Bb][Ee][Aa][Rr][Ee][Rr] +{_KEY}", re.ASCII),
    "x-api-key": re.compile(_KEY, re.ASCII),
}


@dataclass(frozen=True, slots=True)
class Credential:
    """A key as it was sent: 1 to `MAX_KEY_LENGTH` visible ASCII characters; a token may be longer. Never printed."""

    key: str = field(repr=False)

    @property
    def looks_like_a_token(self) -> bool:
        """Whether it has the shape of a JSON Web Token."""
        return _SHAPE.fullmatch(self.key) is not None


class Unusable(Enum):
    """Why there is no credential: none was sent, or its value can't be a key."""

    MISSING = auto()
    INVALID = auto()


def parse(headers: Mapping[str, str]) -> Credential | Unusable:
    """The credential in `headers`, whose names are lower case. Never raises, whatever the values hold.

    The scheme's case does not matter (RFC 9110 §11.1), one or more spaces follow it (RFC 6750 §2.1). A request may
    carry both headers when they carry one key.
    """
    shown = [_read(form, headers[name]) for name, form in _FORMS.items() if name in headers]
    if not shown:
        return Unusable.MISSING
    return shown[0] if all(other == shown[0] for other in shown[1:]) else Unusable.INVALID


def _read(form: re.Pattern[str], value: str) -> Credential | Unusable:
    found = form.fullmatch(value)
    return Credential(found[1]) if found else Unusable.INVALID
