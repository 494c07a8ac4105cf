"""What the original does at its edges, and the drop-in too: addresses, ports, health, large requests, empty files."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from gatehouse.pb.rls_pb2 import RateLimitResponse
from testkit.authority import Authority
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_cluster, redis_sentinel, redis_server
from testkit.waiting import until
from tests.integration.test_dropin import CHECK, CONFIG, OK, OVER_LIMIT, Dropin, at, configured, request

COMMANDS = ["evalsha", "eval", "time", "mget", "set", "del"]
"""Of Redis, as docs/ratelimit.md lists them."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def dropin(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dropin]:
    environment = {
        "HOST": "::",
        "DEBUG_HOST": "::",
        "GRPC_HOST": "::",
        "GRPC_MAX_CONNECTION_AGE": "8760h",
        "REDIS_TIMEOUT": "0",
        "LOG_FORMAT": "JSON",
    }
    with Dropin(configured(tmp_path_factory.mktemp("root")), at(redis) | environment).running() as running:
        until(lambda: running.get("/healthcheck")[0] == 200)
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("port", ["PORT", "DEBUG_PORT", "GRPC_PORT"])
def test_address_of_all_is_that_of_both_protocols(dropin: Dropin, host: str, port: str) -> None:
    socket.create_connection((host, dropin.ports[port]), timeout=5).close()


def test_second_process_may_share_every_port(dropin: Dropin, redis: RedisServer) -> None:
    second = Dropin(dropin.root, at(redis))
    second.ports |= {name: dropin.ports[name] for name in ("GRPC_PORT", "PORT", "DEBUG_PORT")}
    with second.running():
        until(lambda: answers(second))
        assert dropin.ask("peek=shared").overall_code == OK


def answers(dropin: Dropin) -> bool:
    try:
        return dropin.get("/metrics", "PROMETHEUS")[0] == 200
    except OSError:
        return False


def test_health_of_another_service_is_not_known(dropin: Dropin) -> None:
    assert dropin.health() == HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        dropin._call(CHECK, HealthCheckRequest(service="other"), HealthCheckResponse)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "unknown service")


def test_override_per_week(dropin: Dropin) -> None:
    asked = request("any=week")
    asked.descriptors[0].limit.requests_per_unit = 7
    asked.descriptors[0].limit.unit = int(RateLimitResponse.RateLimit.WEEK)  # type: ignore[assignment]  # overrides have no name for it
    (status,) = dropin.send(asked).statuses
    assert (status.current_limit.unit, status.limit_remaining) == (RateLimitResponse.RateLimit.WEEK, 6)
    assert 0 < status.duration_until_reset.seconds <= 7 * 86_400


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
def test_json_comes_by_any_method_and_of_more_than_a_mebibyte(dropin: Dropin, method: str) -> None:
    entries = [{"key": "user", "value": "x" * 1_500_000}]
    body = json.dumps({"domain": "shop", "descriptors": [{"entries": entries}]})
    connection = http.client.HTTPConnection("127.0.0.1", dropin.ports["PORT"], timeout=10)
    connection.request(method, "/json", body)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["overallCode"]) in ((200, "OK"), (429, "OVER_LIMIT"))
    connection.close()


def test_metrics_are_counters(dropin: Dropin) -> None:
    dropin.ask("user=counted")
    text = dropin.get("/metrics", "PROMETHEUS")[1]
    assert "# TYPE ratelimit_service_rate_limit_total_hits counter\n" in text
    assert "# TYPE ratelimit_service_total_requests counter\n" in text
    assert dropin.metric('ratelimit_service_rate_limit_total_hits{domain="shop",key1="user"}') >= 1


# Files that are gone


def test_no_files_are_no_limits_at_the_start_and_when_the_last_is_deleted(redis: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    environment = at(redis) | {"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true"}
    with Dropin(tmp_path, environment).running() as dropin:
        assert dropin.ask("user=gone").overall_code == OK
        assert dropin.get("/healthcheck")[0] == 500
        (tmp_path / "config.shop.yaml").write_text(CONFIG)
        until(lambda: dropin.get("/healthcheck")[0] == 200)
        assert dropin.ask("user=gone", hits=3).overall_code == OVER_LIMIT
        (tmp_path / "config.shop.yaml").unlink()
        until(lambda: dropin.get("/healthcheck")[0] == 500)
        assert dropin.ask("user=gone", hits=3).overall_code == OK


# Redis


def test_redis_by_url_over_tls_with_sentinels_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    (key, certificate), port = authority.issue("redis", "localhost"), free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    trust = ["--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no"]
    with redis_server("--tls-port", str(port), *files, *trust) as server:
        environment = {
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": f"redis://localhost:{port}",
            "REDIS_TLS": "true",
            "REDIS_TLS_CACERT": str(authority.certificate),
        }
        with Dropin(configured(tmp_path), environment).running() as dropin:
            until(lambda: dropin.get("/healthcheck")[0] == 200)
            assert dropin.ask("user=x").overall_code == OK
        plain = environment | {"REDIS_URL": f"redis://localhost:{server.port}"}
        assert not becomes_healthy(tmp_path, plain)
        with redis_sentinel(server, "master") as sentinel:
            watched = {"REDIS_TYPE": "SENTINEL", "REDIS_URL": f"master,redis://127.0.0.1:{sentinel.port}"}
            assert not becomes_healthy(tmp_path, environment | watched), "neither of the two speaks TLS there"


def becomes_healthy(root: Path, environment: dict[str, str]) -> bool:
    once = {"REDIS_STARTUP_MAX_ELAPSED_TIME": "1ms", "REDIS_STARTUP_INITIAL_INTERVAL": "10ms", "REDIS_TIMEOUT": "500ms"}
    ports = {name: str(free_port()) for name in ("GRPC_PORT", "PORT", "DEBUG_PORT")}
    command = [sys.executable, "-m", "ratelimit_service.dropin", "--runtime-root", str(root)]
    try:
        ran = subprocess.run(command, env=os.environ | environment | once | ports, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return True
    return ran.returncode == 0


@pytest.mark.parametrize("missing", [None, *COMMANDS[:1], *COMMANDS[2:5]])
def test_user_of_redis_needs_the_commands_that_are_listed(
    tmp_path: Path, missing: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = [f"+{command}" for command in COMMANDS if command != missing]
    with redis_server() as server:
        server.client().execute_command("ACL", "SETUSER", "rl", "on", ">pw", "~rl:*", *commands)
        address = {"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": f"127.0.0.1:{server.port}", "REDIS_AUTH": "rl:pw"}
        quick = {"REDIS_STARTUP_INITIAL_INTERVAL": "50ms", "REDIS_STARTUP_MAX_INTERVAL": "50ms"}
        with Dropin(configured(tmp_path), address | quick).running() as dropin:
            if missing is None:
                until(lambda: dropin.get("/healthcheck")[0] == 200)
                assert [dropin.ask("user=x", "peek=x").overall_code for _ in range(3)] == [OK, OK, OVER_LIMIT]
                return
            with pytest.raises(grpc.RpcError):
                dropin.ask("user=x")
            assert dropin.get("/healthcheck")[0] == 500
    said = capfd.readouterr().err
    assert "Redis does not serve" in said
    assert "a call fails, and others may" in said


def test_user_of_a_cluster_and_of_sentinels_needs_little_more(tmp_path: Path) -> None:
    commands = [f"+{command}" for command in COMMANDS]
    with redis_cluster() as servers:
        for server in servers:
            more = ("+cluster|slots", "+command", "+asking")
            server.client().execute_command("ACL", "SETUSER", "rl", "on", ">pw", "~rl:*", *commands, *more)
        hosts = ",".join(f"redis://rl:pw@127.0.0.1:{server.port}" for server in servers)
        with Dropin(configured(tmp_path), {"REDIS_TYPE": "CLUSTER", "REDIS_URL": hosts}).running() as dropin:
            until(lambda: dropin.get("/healthcheck")[0] == 200)
            assert [dropin.ask("user=x", "peek=x").overall_code for _ in range(3)] == [OK, OK, OVER_LIMIT]
    with redis_server() as master, redis_sentinel(master, "shop") as sentinel:
        sentinel.client().execute_command("ACL", "SETUSER", "watch", "on", ">pw", "+sentinel|masters")
        url = f"shop,127.0.0.1:{sentinel.port}"
        watched = {"REDIS_TYPE": "SENTINEL", "REDIS_URL": url, "REDIS_SENTINEL_AUTH": "watch:pw"}
        with Dropin(configured(tmp_path), watched).running() as dropin:
            until(lambda: dropin.get("/healthcheck")[0] == 200)
