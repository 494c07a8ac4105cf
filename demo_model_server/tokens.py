"""A tokenizer without a vocabulary: up to five letters or digits, or one other character, with the space before.

The tokens of a text joined are the text again, and a token's id holds the token itself, so ids decode anywhere.
"""

import re
from collections.abc import Iterable, Iterator

_TOKEN = re.compile(r" ?[A-Za-z0-9]{1,5}| ?[^\sA-Za-z0-9]|\s")


def split(text: str) -> Iterator[str]:
    """The tokens of a text, in order: `"".join(split(text)) == text`."""
    return (match[0] for match in _TOKEN.finditer(text))


def count(text: str) -> int:
    """How many tokens a text has."""
    return sum(1 for _ in split(text))


def token_id(token: str) -> int:
    """The token's bytes as a number under 2**49, which any JSON reader keeps exact; a leading one keeps its length."""
    return int.from_bytes(b"\x01" + token.encode())


def token_text(number: int) -> str:
    """The token of an id. Raises ValueError when no token has that id."""
    try:
        packed = number.to_bytes((number.bit_length() + 7) // 8)
        token = packed[1:].decode()
    except (OverflowError, UnicodeDecodeError):
        token = ""
    if not token or packed[0] != 1:
        raise ValueError(f"{number} is not the id of a token")
    return token


def join(numbers: Iterable[int]) -> str:
    """The text of a list of token ids. Raises ValueError at an id that no token has."""
    return "".join(token_text(number) for number in numbers)
