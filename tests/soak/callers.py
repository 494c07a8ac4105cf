"""Who calls, and what they ask for: kinds of requests, and how many of a thousand are of which."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.soak.model import MODEL, TORRENT

CANARY = "cAnArY5eCrEt"
"""Part of every key and of every prompt: whatever the gateway writes, it must not have this in it."""
PER_MINUTE = 60
FIXED, SLIDING, REVOCABLE = "fixed", "sliding", "revocable"


def key(user: str) -> str:
    return f"sk-{CANARY}-{user}-0001"


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind. `share` is per mille; `normal` what they may hear while nothing is wrong."""

    name: str
    share: int
    path: str
    body: Mapping[str, Any]
    user: str = "open"
    hangs_up: bool = False
    normal: frozenset[str] = frozenset({"200"})
    payload: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "payload", json.dumps({"model": MODEL, **self.body}).encode())

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def key(self) -> str:
        return key(self.user)


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
_SAID = [{"role": "user", "content": f"hello {CANARY}"}]
_CHAT = {"messages": _SAID, "max_tokens": 4}
_STREAM = {"messages": _SAID, "max_tokens": 16, "stream": True, "ignore_eos": True}
_LIMITED = frozenset({"200", "429"})

KINDS = (
    Kind("chat stream", 300, CHAT, _STREAM),
    Kind("chat stream, n=2", 50, CHAT, {**_STREAM, "n": 2}),
    Kind("messages stream", 60, MESSAGES, _STREAM),
    Kind("responses stream", 50, RESPONSES, {"input": CANARY, "max_output_tokens": 16, "stream": True}),
    Kind("hang-up", 40, CHAT, {**_STREAM, "max_tokens": 200}, hangs_up=True, normal=frozenset({"hung up"})),
    Kind("chat", 200, CHAT, _CHAT),
    Kind("completion", 50, "/v1/completions", {"prompt": CANARY, "max_tokens": 4}),
    Kind("embeddings", 90, "/v1/embeddings", {"input": CANARY}),
    Kind("messages", 40, MESSAGES, _CHAT),
    Kind("responses", 40, RESPONSES, {"input": CANARY, "max_output_tokens": 4}),
    Kind("wrong key", 20, CHAT, _CHAT, user="nobody", normal=frozenset({"401"})),
    Kind("over a fixed window", 20, CHAT, {**_CHAT, "max_tokens": 1}, user=FIXED, normal=_LIMITED),
    Kind("over a sliding window", 20, CHAT, {**_CHAT, "max_tokens": 1}, user=SLIDING, normal=_LIMITED),
    Kind("revocable", 20, CHAT, {**_CHAT, "max_tokens": 1}, user=REVOCABLE),
)


def settings(model_url: str, torrent_url: str, redis_url: str, key_file: str) -> dict[str, Any]:
    """The configuration of the gateway, but for its ports and logs; the revocable key stands in `key_file`."""
    models = {name: {"backends": [{"url": f"{url}/v1"}]} for name, url in ((MODEL, model_url), (TORRENT, torrent_url))}
    users = {"open": "open", FIXED: FIXED, SLIDING: SLIDING}
    return {
        "models": models,
        "default_model": MODEL,
        "api_keys": {key(user): {"user_id": user, "tier": tier} for user, tier in users.items()},
        "key_files": [key_file],
        "rate_limits": {
            "open": {"requests_per_minute": 1_000_000, "tokens_per_day": 10**12},
            FIXED: {"algorithm": "fixed_window", "requests_per_minute": PER_MINUTE},
            SLIDING: {"algorithm": "sliding_window", "requests_per_minute": PER_MINUTE},
        },
        "redis": {"url": redis_url},
    }
