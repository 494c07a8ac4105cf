"""The keys we mint: `gh_<id: 8><secret: 43><checksum: 6>`, all base62, with a `_` before and after the id.

The secret is 256 random bits. The checksum is the CRC-32 (ISO 3309, as zlib computes it) of everything before it: it
tells a mistyped key from an unknown one without a look-up, also to scanners that search repositories for secrets.
"""

import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _CHECKSUM = 8, 43, 6
_REST = 1 + _ID + 1 + _SECRET + _CHECKSUM


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key, and the id by which people and logs call it."""

    key: str = field(repr=False)
    key_id: str


class Kind(StrEnum):
    """What a string is, judged by its characters alone."""

    MINTED = "minted"
    MANGLED = "mangled"
    """A minted key with a typing error: it can't be valid, and needs no look-up."""
    FOREIGN = "foreign"
    """Not minted here: a key only if a source lists it."""


def mint(prefix: str) -> Minted:
    """A new key that begins with `prefix`, from the operating system's random source."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID))
    body = f"{prefix}_{key_id}_{_base62(secrets.randbits(256), _SECRET)}"
    return Minted(body + _checksum(body), key_id)


def kind_of(text: str, prefix: str) -> Kind:
    """What `text` is where keys are minted with `prefix`.

    A string of a minted key's length counts as one if its prefix and its two `_` differ in one character at most: so
    no change of a single character makes a minted key foreign.
    """
    if len(text) != len(prefix) + _REST or _strangeness(text, prefix) > 1:
        return Kind.FOREIGN
    return Kind.MINTED if _sound(text, prefix) else Kind.MANGLED


def _strangeness(text: str, prefix: str) -> int:
    """How many characters of the frame are not a minted key's."""
    end = len(prefix)
    frame = text[: end + 1] + text[end + 1 + _ID]
    return sum(found != expected for found, expected in zip(frame, f"{prefix}__", strict=True))


def _sound(text: str, prefix: str) -> bool:
    """Every character is where it may be, and the checksum fits: CRC-32 finds every error within 32 bits."""
    return _shape(prefix).fullmatch(text) is not None and text[-_CHECKSUM:] == _checksum(text[:-_CHECKSUM])


@lru_cache(16)
def _shape(prefix: str) -> re.Pattern[str]:
    return re.compile(f"{re.escape(prefix)}_[{_ALPHABET}]{{{_ID}}}_[{_ALPHABET}]{{{_SECRET + _CHECKSUM}}}")


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
