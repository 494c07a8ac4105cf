"""Names of keys in logs, metrics and counters, where the key itself must not appear."""

from gatehouse.config.model import ApiKey
from gatehouse.contract.key_digest import beginning


def key_id(digest: str, key: ApiKey) -> str:
    """The name its owner gave it, or the beginning of its digest."""
    return key.name or beginning(digest)
