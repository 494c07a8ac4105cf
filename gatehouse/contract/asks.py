"""The size of a request, in numbers: what Envoy's request reader sends to the limiter and the log, as text.

The text is `MAX_TOKENS/CHOICES/PROMPT_BYTES/IMAGES`, such as `300/1/1240/0`; MAX_TOKENS may be `-`.
"""

import re
from typing import NamedTuple

MAX_NUMBER = 10**12 - 1
"""Larger numbers are capped to this one."""

_TEXT = re.compile(r"(?:([0-9]+)|-)/([0-9]+)/([0-9]+)/([0-9]+)")
_DIGITS = len(str(MAX_NUMBER))
_SHORT = _DIGITS + len("/1/1/0")
"""In a text this short, no number is too large."""


class Asks(NamedTuple):
    """`max_tokens` is the most that one choice may generate: None if the request sets none, 0 for an endpoint that
    generates nothing. `choices` is `n` times the number of prompts, `prompt_bytes` the size of the body without its
    images, 0 for an endpoint that uses no tokens at all; `images` counts media in data URIs."""

    max_tokens: int | None = None
    choices: int = 1
    prompt_bytes: int = 0
    images: int = 0


NOTHING_SAID = Asks()
"""For a request whose body was not read."""


def parsed(text: str) -> Asks | None:
    """Parses `text`; None if it is not valid. Never raises."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    read = int if len(text) <= _SHORT else _clamped
    most, choices, size, images = match.groups()
    return Asks(None if most is None else read(most), read(choices), read(size), read(images))


def _clamped(digits: str) -> int:
    return int(digits) if len(digits) <= _DIGITS else MAX_NUMBER
