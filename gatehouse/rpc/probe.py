"""`python -m gatehouse.rpc.probe authz`: does the service answer? Health checks of containers run this.

A service is healthy if at least one of its workers reports SERVING (grpc.health.v1); its supervisor restarts the
others. The portal is healthy if it serves its front page.
Exit status 0: yes; 1: no, with a line that names the services that do not answer.
"""

import argparse
import socket
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import grpc

from gatehouse.config.run_dir import DEFAULT_RUN_DIR, SERVICES, RunDir, Service
from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

METHOD = "/grpc.health.v1.Health/Check"
TIMEOUT_S = 2.0


def sockets(run_dir: Path, service: Service) -> list[Path]:
    """The gRPC sockets of the workers of `service`, running or not."""
    return sorted(path for path in run_dir.glob(f"{service}-*.sock") if path.suffixes == [".sock"])


def serving(path: Path) -> bool:
    """Whether the worker behind the socket at `path` reports SERVING within `TIMEOUT_S`."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        check = channel.unary_unary(METHOD, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString)
        try:
            status: int = check(HealthCheckRequest(), timeout=TIMEOUT_S).status
        except grpc.RpcError:
            return False
    return status == HealthCheckResponse.SERVING


def answering(path: Path) -> bool:
    """Whether the portal behind the socket at `path` answers within `TIMEOUT_S`, even if model servers are down."""
    portal = HTTPConnection("portal", timeout=TIMEOUT_S)
    portal.sock = socket.socket(socket.AF_UNIX)
    portal.sock.settimeout(TIMEOUT_S)
    try:
        portal.sock.connect(str(path))
        portal.request("GET", "/")
        return portal.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        portal.close()


def well(run_dir: Path, service: Service) -> bool:
    """Whether `service` answers."""
    if service == "portal":
        return answering(RunDir(run_dir).portal_socket)
    return any(map(serving, sockets(run_dir, service)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gatehouse.rpc.probe")
    parser.add_argument("services", nargs="*", default=SERVICES, help=f"{', '.join(SERVICES)} (default: all)")
    parser.add_argument("--run-dir", type=Path, default=DEFAULT_RUN_DIR, help="where the sockets are")
    options = parser.parse_args()
    silent = [name for name in options.services if not well(options.run_dir, name)]
    if silent:
        print(f"no worker of {', '.join(silent)} answers in {options.run_dir}", file=sys.stderr)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
