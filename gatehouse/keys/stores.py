"""The key store that a configuration names. Other stores' modules are not imported."""

from pathlib import Path

from gatehouse.config.model import Config
from gatehouse.keys.store import KeyStore

PATIENCE_S = 2.5
"""Time-out of a store; a follower's Redis answers at least once a second."""


def store_of(config: Config, *, patience_s: float = PATIENCE_S) -> KeyStore | None:
    """The store of `config`, not connected yet; None without a store."""
    settings = config.key_store
    if settings.type == "redis" and config.redis.url:
        from gatehouse.keys.store_redis import RedisKeyStore
        from gatehouse.redis_client.client import connect

        return RedisKeyStore(connect(config.redis.url, timeout_s=patience_s, connect_timeout_s=patience_s))
    if settings.type == "file" and settings.path:
        from gatehouse.keys.store_file import FileKeyStore

        return FileKeyStore(Path(settings.path), patience_s=patience_s)
    return None


def name_of(config: Config) -> str:
    """The store's name for people: its file, or `redis`."""
    return config.key_store.path or config.key_store.type
