"""Checks the health of another worker, from one's own event loop."""

from contextlib import closing
from pathlib import Path

from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from gatehouse.rpc.http2.client import CallFailedError, Client

METHOD = "/grpc.health.v1.Health/Check"


async def serves(socket: Path, timeout_s: float) -> bool:
    """Whether the worker behind `socket` answers SERVING (grpc.health.v1) within `timeout_s`."""
    with closing(Client(socket)) as worker:
        try:
            answer = await worker.call(METHOD, HealthCheckRequest().SerializeToString(), timeout_s)
        except CallFailedError:
            return False
    return HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
