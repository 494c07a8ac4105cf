"""API keys are kept as SHA-256 digests, written `sha256:<64 hex digits>`.

Keys are random, so a fast hash suffices: slow hashes protect passwords, which a dictionary holds.
"""

import hashlib
import re

PREFIX = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_USABLE = re.compile(r"[!-+\--~]{8,512}")  # visible ASCII but the comma, by which proxies join repeated headers


def digest_of(key: str) -> str:
    """The digest under which `key` is kept. A key that is no UTF-8 text has one too; it matches none."""
    return PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def key_digest(written: str) -> str:
    """The digest of a key as a configuration writes it: as `sha256:…`, or in plain text.

    Raises `ValueError` (which never shows the key) for what no client could send.
    """
    if written.startswith(PREFIX):
        if not _DIGEST.fullmatch(written.lower()):
            raise ValueError("a hashed key is 'sha256:' and 64 hexadecimal digits; make one with 'gatehouse keys hash'")
        return written.lower()
    if not _USABLE.fullmatch(written):
        raise ValueError("a key is 8 to 512 visible ASCII characters without spaces and commas")
    return digest_of(written)


def is_plain(written: str) -> bool:
    """Whether a configuration writes this key in plain text."""
    return not written.startswith(PREFIX)
