"""TLS of the drop-in: towards its callers, with certificates that change, and towards Redis."""

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from testkit.authority import Authority
from testkit.ports import free_port
from testkit.redis_server import redis_server
from testkit.waiting import until
from tests.integration.test_dropin import OK, SHOULD_RATE_LIMIT, Dropin, at, configured, request

NAME = "envoy.internal"


def over_tls(authority: Authority, client: tuple[Path, Path] | None = None) -> Callable[[str], grpc.Channel]:
    key, certificate = (None, None) if client is None else (path.read_bytes() for path in client)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)
    return lambda target: grpc.secure_channel(target, credentials, [("grpc.use_local_subchannel_pool", 1)])


def served(authority: Authority, file: str = "server", name: str = "localhost") -> dict[str, str]:
    key, certificate = authority.issue(file, name)
    return {
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_KEY": str(key),
        "GRPC_SERVER_TLS_CERT": str(certificate),
    }


def refusal(dropin: Dropin, channel: Callable[[str], grpc.Channel]) -> grpc.StatusCode:
    with channel(f"localhost:{dropin.ports['GRPC_PORT']}") as opened:
        call = opened.unary_unary(SHOULD_RATE_LIMIT, RateLimitRequest.SerializeToString, RateLimitResponse.FromString)
        with pytest.raises(grpc.RpcError) as caught:
            call(request("user=x"), timeout=5)
    code: grpc.StatusCode = caught.value.code()
    return code


def test_caller_must_show_a_certificate_of_the_right_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    right, wrong = authority.issue("right", NAME), authority.issue("wrong", "someone.else")
    client = {"GRPC_CLIENT_TLS_CACERT": str(authority.certificate), "GRPC_CLIENT_TLS_SAN": NAME}
    with redis_server() as server:
        environment = at(server) | served(authority) | client
        with Dropin(configured(tmp_path), environment, over_tls(authority, right)).running() as dropin:
            assert dropin.ask("user=x").overall_code == OK
            assert refusal(dropin, over_tls(authority, wrong)) == grpc.StatusCode.PERMISSION_DENIED
            assert refusal(dropin, over_tls(authority)) == grpc.StatusCode.UNAVAILABLE


def test_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    with redis_server() as server:
        environment = at(server) | served(old)
        with Dropin(configured(tmp_path), environment, over_tls(old)).running() as dropin:
            assert dropin.ask("user=x").overall_code == OK
            key, certificate = new.issue("server", "localhost")
            shutil.copy(key, environment["GRPC_SERVER_TLS_KEY"])
            shutil.copy(certificate, environment["GRPC_SERVER_TLS_CERT"])
            dropin.connect(over_tls(new))
            assert dropin.ask("user=x").overall_code == OK


def test_redis_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    (key, certificate), port = authority.issue("redis", "localhost"), free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    trust = ["--tls-ca-cert-file", str(authority.certificate)]
    with redis_server("--tls-port", str(port), *files, *trust) as _:
        environment = {
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": f"localhost:{port}",
            "REDIS_TLS": "true",
            "REDIS_TLS_CACERT": str(authority.certificate),
            "REDIS_TLS_CLIENT_CERT": str(certificate),
            "REDIS_TLS_CLIENT_KEY": str(key),
        }
        with Dropin(configured(tmp_path), environment).running() as dropin:
            until(lambda: dropin.get("/healthcheck")[0] == 200)
            assert dropin.ask("user=x").overall_code == OK
