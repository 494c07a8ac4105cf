"""What `gatehouse explain --body` learns of a request: what the gateway's own reader says of it."""

from collections.abc import Mapping
from typing import Any

from gatehouse.config.model import Config
from gatehouse.contract import errors
from gatehouse.contract.asks import NOTHING_SAID, parsed
from gatehouse.contract.errors import ClientError

_REFUSALS = {
    each.code: each
    for each in (
        errors.INVALID_JSON,
        errors.INVALID_VALUE,
        errors.MISSING_MODEL,
        errors.MODEL_NOT_FOUND,
        errors.NOT_ALLOWED_HERE,
        errors.TOO_MANY_VALUES,
    )
}


def read(body: bytes, endpoint: str, config: Config) -> dict[str, Any]:
    """The reader's words. Raises as `gatehouse.gateway.body_reader.read`."""
    from gatehouse.gateway import body_reader  # starts an Envoy

    if len(body) > config.server.max_body_bytes:
        return {"refused": errors.REQUEST_TOO_LARGE.code, "problem": errors.REQUEST_TOO_LARGE.message}
    found: dict[str, Any] = body_reader.read(body, endpoint, config)
    return found


def refusal(said: Mapping[str, Any]) -> tuple[int, str] | None:
    """Status and reason, for a body that can't be read."""
    code = said.get("refused")
    if code is None:
        return None
    if code == errors.REQUEST_TOO_LARGE.code:
        return errors.REQUEST_TOO_LARGE.status, f"{code}: {said['problem']}"
    error: ClientError = _REFUSALS.get(code, errors.GATEWAY_ERROR)
    return error.status, f"{code}: {error.message} {said.get('problem', '')}".replace(":  ", ": ").rstrip()


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the request asks for, by name; `max_tokens` is of one choice, None where the body does not say."""
    asks = parsed(said.get("asks", "")) or NOTHING_SAID
    return {
        "model": said.get("model"),
        "stream": said.get("stream", False),
        "max_tokens": asks.max_tokens,
        "choices": asks.choices,
        "prompt_bytes": asks.prompt_bytes,
        "images": asks.images,
    }
