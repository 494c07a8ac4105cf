"""API keys are stored as digests: `sha256:<64 hex digits>`, or `hmac-sha256:VERSION:<64 hex digits>` under a pepper.

Keys are random, so a fast hash suffices: slow hashes protect passwords, which a dictionary holds. A pepper (RFC 2104,
HMAC) makes stolen digests useless without the pepper.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping

PREFIX = "sha256:"
PEPPERED = "hmac-sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PEPPERED_DIGEST = re.compile(r"hmac-sha256:([A-Za-z0-9._-]{1,32}):([0-9a-fA-F]{64})")
_USABLE = re.compile(r"[!-+\--~]{8,512}")  # visible ASCII without the comma, with which proxies join repeated headers


class Hasher:
    """Digests with versioned peppers, the newest last. A key is looked up by each digest it may be stored under."""

    def __init__(self, peppers: Mapping[str, bytes]) -> None:
        self._peppers = [(f"{PEPPERED}{version}:", pepper) for version, pepper in peppers.items()]

    def digests(self, key: str) -> tuple[str, ...]:
        """Every digest that `key` may be stored under: the same work for every key."""
        data = _bytes(key)
        peppered = [prefix + hmac.digest(pepper, data, "sha256").hex() for prefix, pepper in self._peppers]
        return (PREFIX + hashlib.sha256(data).hexdigest(), *peppered)

    def newest(self, key: str) -> str:
        """The digest to store a new key under."""
        return self.digests(key)[-1]


def digest_of(key: str) -> str:
    """The plain digest of `key`. A key that is not UTF-8 text has one too; it matches no stored key."""
    return PREFIX + hashlib.sha256(_bytes(key)).hexdigest()


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def key_digest(written: str) -> str:
    """The digest of a key in a configuration, which has it as a digest or in plain text.

    Raises `ValueError` (which never shows the key) for a key that no client could send.
    """
    if written.startswith(PEPPERED):
        if not (match := _PEPPERED_DIGEST.fullmatch(written)):
            raise ValueError(
                "a key hashed with a pepper is 'hmac-sha256:VERSION:' and 64 hexadecimal digits;"
                " make one with 'gatehouse keys hash'"
            )
        return f"{PEPPERED}{match[1]}:{match[2].lower()}"
    if _DIGEST.fullmatch(written):
        return written
    if written.startswith(PREFIX):
        if not _DIGEST.fullmatch(written.lower()):
            raise ValueError("a hashed key is 'sha256:' and 64 hexadecimal digits; make one with 'gatehouse keys hash'")
        return written.lower()
    if not _USABLE.fullmatch(written):
        raise ValueError("a key is 8 to 512 visible ASCII characters without spaces and commas")
    return digest_of(written)


def is_plain(written: str) -> bool:
    """Whether this key in a configuration is in plain text."""
    return not written.startswith((PREFIX, PEPPERED))


def pepper_of(digest: str) -> str | None:
    """The version of the pepper that `digest` was made with, or None for a plain SHA-256."""
    return digest.split(":")[1] if digest.startswith(PEPPERED) else None


def beginning(digest: str) -> str:
    """Its first eight hexadecimal digits: enough to tell keys apart, not enough to use as one."""
    return digest.rpartition(":")[2][:8]
