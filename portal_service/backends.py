"""Requests to the model servers: health and list of models."""

from functools import cache
from ssl import SSLContext, create_default_context
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from gatehouse.config.model import Backend
from gatehouse.contract.failures import GatehouseError

HEALTH_TIMEOUT = ClientTimeout(total=1.0)
MODELS_TIMEOUT = ClientTimeout(total=2.0)


class UnreachableError(GatehouseError):
    """The model server gave no usable answer."""


def root(url: str) -> str:
    """`http://gpu-a:8100/v1` -> `http://gpu-a:8100`."""
    return url.removesuffix("/v1")


@cache
def trusting(ca_file: str | None) -> SSLContext | bool:
    """How the certificate of a model server is verified: against `ca_file`, read once, or the system's authorities."""
    return True if ca_file is None else create_default_context(cafile=ca_file)


async def alive(session: ClientSession, backend: Backend) -> bool:
    """Whether `backend` answers. Any status below 500 counts: servers without `/health` send 404."""
    try:
        url, trust = f"{root(backend.url)}/health", trusting(backend.ca_file)
        async with session.get(url, timeout=HEALTH_TIMEOUT, allow_redirects=False, ssl=trust) as response:
            return response.status < 500
    except (ClientError, TimeoutError, OSError):
        return False


async def models(session: ClientSession, url: str) -> list[dict[str, Any]]:
    """The entries of the server's own `/v1/models`, unchanged. Raises `UnreachableError`."""
    try:
        async with session.get(f"{root(url)}/v1/models", timeout=MODELS_TIMEOUT, allow_redirects=False) as response:
            response.raise_for_status()
            answer = await response.json(content_type=None)
    except (ClientError, TimeoutError, OSError, ValueError) as error:
        raise UnreachableError(type(error).__name__) from None
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise UnreachableError("the answer is no list of models")
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
