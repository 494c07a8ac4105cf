"""The drop-in with each kind of Redis, with a second one, and without any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from gatehouse.pb.health_pb2 import HealthCheckResponse
from testkit.redis_server import RedisServer, redis_cluster, redis_sentinel, redis_server
from testkit.waiting import until
from tests.integration.test_dropin import OK, OVER_LIMIT, Dropin, at, configured

BODY = '{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "y"}]}]}'


@contextmanager
def running(root: Path, environment: dict[str, str]) -> Iterator[Dropin]:
    with Dropin(configured(root), environment).running() as dropin:
        until(lambda: dropin.get("/healthcheck")[0] == 200)
        yield dropin


def refuses_the_third(dropin: Dropin) -> bool:
    return [dropin.ask("user=x", "peek=x").overall_code for _ in range(3)] == [OK, OK, OVER_LIMIT]


def test_limits_per_second_have_a_redis_of_their_own(tmp_path: Path) -> None:
    with redis_server() as slow, redis_server() as fast:
        second = {"REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": str(fast.folder / "redis.sock")}
        with running(tmp_path, at(slow) | second) as dropin:
            assert len(dropin.ask("user=x", "burst=x").statuses) == 2
            assert dropin.ask("burst=y").overall_code == OK
        assert slow.client().keys("rl:shop*") == [b"rl:shop|user=x:f31536000"]
        assert sorted(fast.client().keys("rl:shop*")) == [b"rl:shop|burst=x:f1", b"rl:shop|burst=y:f1"]


def test_without_redis_there_is_an_error_and_health_says_so(tmp_path: Path) -> None:
    with redis_server() as server:
        watched = at(server) | {"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true"}
        with running(tmp_path, watched) as dropin:
            assert dropin.ask("user=y").overall_code == OK
            server.stop()
            with pytest.raises(grpc.RpcError) as caught:
                dropin.ask("user=y")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert dropin.post_json(BODY) == (400, "Bad Request\n")
            assert dropin.metric('ratelimit_service_should_rate_limit_error{err_type="redis_error"}') == 2
            until(lambda: dropin.get("/healthcheck")[0] == 500)
            assert dropin.health() == HealthCheckResponse.NOT_SERVING


def test_local_cache_refuses_without_asking_redis(tmp_path: Path) -> None:
    with redis_server() as server, running(tmp_path, at(server) | {"LOCAL_CACHE_SIZE_IN_BYTES": "10000"}) as dropin:
        assert refuses_the_third(dropin)
        server.stop()
        assert dropin.ask("user=x", "peek=x").overall_code == OVER_LIMIT


def test_redis_may_come_later(tmp_path: Path) -> None:
    late = tmp_path / "late.sock"
    environment = {
        "REDIS_URL": str(late),
        "REDIS_STARTUP_INITIAL_INTERVAL": "50ms",
        "REDIS_STARTUP_MAX_INTERVAL": "50ms",
    }
    with Dropin(configured(tmp_path), environment).running() as dropin:
        assert dropin.get("/healthcheck")[0] == 500
        with redis_server() as server:
            late.symlink_to(server.folder / "redis.sock")
            until(lambda: dropin.get("/healthcheck")[0] == 200)
            assert refuses_the_third(dropin)


def test_redis_with_a_password_over_tcp(tmp_path: Path) -> None:
    with redis_server() as server:
        acl = server.client()
        acl.execute_command("ACL", "SETUSER", "rl", "on", ">pw", "~*", "+@all")
        acl.execute_command("ACL", "SETUSER", "default", "off")
        address = {"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": f"127.0.0.1:{server.port}", "REDIS_AUTH": "rl:pw"}
        with running(tmp_path, address) as dropin:
            assert refuses_the_third(dropin)


def test_redis_cluster(tmp_path: Path) -> None:
    with redis_cluster() as servers:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        with running(tmp_path, {"REDIS_TYPE": "CLUSTER", "REDIS_URL": hosts}) as dropin:
            assert refuses_the_third(dropin)


def test_redis_sentinel(tmp_path: Path) -> None:
    with redis_server() as master, redis_sentinel(master, "shopmaster") as sentinel:
        url = f"shopmaster,127.0.0.1:{sentinel.port}"
        with running(tmp_path, {"REDIS_TYPE": "SENTINEL", "REDIS_URL": url}) as dropin:
            assert refuses_the_third(dropin)
            assert keys(master)


def keys(server: RedisServer) -> list[bytes]:
    found: list[bytes] = server.client().keys("rl:*")
    return found
