"""One GET request and its answer."""

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from gatehouse.contract.failures import GatehouseError

PATIENCE_S = 3.0
_MOST_BYTES = 4 * 1024 * 1024


class NoAnswerError(GatehouseError):
    """The request got no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is the JSON in it, None where there is none."""

    status: int
    body: Any


async def get(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], trust: ssl.SSLContext | None = None
) -> Answer:
    """The answer at `url`; `trust` stands for other authorities than the system's. Raises `NoAnswerError`."""
    patience = aiohttp.ClientTimeout(total=PATIENCE_S)
    try:
        async with session.get(url, headers=headers, timeout=patience, ssl=trust or True) as answer:
            return Answer(answer.status, _json(await answer.content.read(_MOST_BYTES)))
    except TimeoutError:
        raise NoAnswerError(f"nothing came within {PATIENCE_S:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswerError(reason(error)) from None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def reason(error: Exception) -> str:
    """Why a connection failed, in the operating system's words."""
    number = getattr(error, "errno", None) or getattr(getattr(error, "os_error", None), "errno", None)
    return os.strerror(number) if number and number > 0 else str(error) or type(error).__name__
