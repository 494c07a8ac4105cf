"""What makes two accounts of a request the same: 16 bytes, since millions are kept in memory."""

from hashlib import blake2b
from uuid import UUID

SIZE = 16


def identity(request_id: str) -> bytes:
    """Envoy's request ids are UUIDs, which are 16 bytes themselves."""
    try:
        return UUID(request_id).bytes
    except ValueError:
        return blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()


def without_id(time: str, client_ip: str | None, status: int, bytes_out: int) -> bytes:
    """Of what broke the protocol before it was a request: it has no id. `time` is to the millisecond, as in records.

    Two such from one address within a millisecond count as one: then fewer are restored than might be, and none twice.
    """
    return identity(f"{time} {client_ip} {status} {bytes_out}")
