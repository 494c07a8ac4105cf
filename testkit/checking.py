"""A check without a transport."""

import asyncio
from typing import cast

from authz_service.service import NAME, Authz
from gatehouse.rpc.service import Context, called


def checked(authz: Authz, request: bytes) -> bytes:
    """The serialized answer to a serialized request, in an event loop of its own."""
    check = authz.methods[NAME]["Check"]
    answer: bytes = asyncio.run(called(check, request, cast(Context, None)))
    return answer
