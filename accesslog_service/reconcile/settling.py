"""Tells a running limiter of requests whose end it may have missed. Telling it again changes nothing."""

from collections.abc import Sequence
from pathlib import Path

import grpc

from accesslog_service.record import Record
from accesslog_service.settlements import METHOD, settlement
from gatehouse.pb.settlement_pb2 import SettleRequest, SettleResponse

TIMEOUT_S = 5.0


class Settling:
    """`sockets` are those of the ratelimit workers, none where no gateway runs. Unless `everyone` is to be settled,
    only those are whose key brings limits of its own.
    """

    def __init__(self, sockets: Sequence[Path], *, everyone: bool) -> None:
        self._sockets = [socket for socket in sockets if socket.exists()]
        self._everyone = everyone

    def tell(self, records: Sequence[Record]) -> tuple[int, int]:
        """How many of `records` the limiter now knows of, and how many it should and does not."""
        concerned = [settlement(record) for record in records if self._everyone or record.key_limits]
        request = SettleRequest(settlements=[each for each in concerned if each is not None])
        for each in request.settlements:
            each.late = True
        count = len(request.settlements)
        return (count, 0) if not count or self._told(request) else (0, count)

    def _told(self, request: SettleRequest) -> bool:
        return any(_call(socket, request) for socket in self._sockets)


def _call(socket: Path, request: SettleRequest) -> bool:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(METHOD, SettleRequest.SerializeToString, SettleResponse.FromString)
        try:
            call(request, timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
        return True
