"""Environment variables of envoyproxy/ratelimit, and the clients and logs that they ask for."""

import json
import logging
from pathlib import Path

import pytest
from redis.asyncio.connection import SSLConnection

from ratelimit_service.dropin import logs
from ratelimit_service.dropin.decide import Modes
from ratelimit_service.dropin.environment import SettingsError, ignored, seconds
from ratelimit_service.dropin.redis_clients import client
from ratelimit_service.dropin.settings import RedisServer, RedisTls, load

DURATIONS = {
    "10s": 10,
    "1h30m": 5400,
    "250ms": 0.25,
    "1.5s": 1.5,
    "0": 0,
    "24h": 86_400,
    "-1.5s": -1.5,
    "+3μs": 3e-6,
}


@pytest.mark.parametrize(("text", "value"), DURATIONS.items())
def test_durations_are_go_s(text: str, value: float) -> None:
    assert float(str(seconds(text))) == pytest.approx(value)


def test_nothing_set_gives_the_defaults_of_the_original() -> None:
    settings = load({})
    assert (settings.http.port, settings.http.debug_port, settings.grpc.port) == (8080, 6070, 8081)
    assert settings.runtime.directory == Path("/srv/runtime_data/current/config")
    assert (settings.redis.socket_type, settings.redis.pool_size, settings.redis.timeout) == ("unix", 10, 10)
    assert settings.headers.names is None
    assert settings.per_second is None


def test_variables_reach_their_groups() -> None:
    settings = load(
        {
            "PORT": "1",
            "GRPC_UDS": "/tmp/s",
            "GRPC_MAX_CONNECTION_AGE": "5m",
            "RUNTIME_ROOT": "/r",
            "RUNTIME_SUBDIRECTORY": "sub",
            "REDIS_TYPE": "sentinel",
            "REDIS_TIMEOUT": "250ms",
            "REDIS_PERSECOND": "true",
            "REDIS_PERSECOND_POOL_SIZE": "3",
            "REDIS_TLS_CACERT": "/ca",
            "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
            "LIMIT_RESET_HEADER": "Wait",
            "PROMETHEUS_ADDR": "[::1]:99",
            "SHADOW_MODE": "1",
            "GATEHOUSE_COUNT_REFUSED": "true",
            "NEAR_LIMIT_RATIO": "",
        }
    )
    assert (settings.http.port, settings.grpc.uds, settings.grpc.max_connection_age) == (1, Path("/tmp/s"), 300)
    assert settings.runtime.directory == Path("/r/sub/config")
    assert (settings.redis.type, settings.redis.timeout) == ("SENTINEL", 0.25)
    assert settings.per_second is not None
    assert settings.per_second.pool_size == 3
    assert settings.per_second.url == "/var/run/nutcracker/ratelimitpersecond.sock"
    assert settings.redis_tls.cacert == Path("/ca")
    assert settings.headers.names is not None
    assert settings.headers.names.reset == "Wait"
    assert settings.service.prometheus == ("::1", 99)
    assert settings.service.modes == Modes(shadow=True, quota=False, count_refused=True)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("BACKEND_TYPE", "memcache", "only redis is supported"),
        ("CONFIG_TYPE", "GRPC_XDS_SOTW", "only FILE is supported"),
        ("REDIS_TIMEOUT", "fast", "must be a duration"),
        ("REDIS_TYPE", "many", "SINGLE"),
        ("REDIS_POOL_ON_EMPTY_BEHAVIOR", "CREATE", "WAIT"),
        ("PORT", "99999", "65535"),
        ("PROMETHEUS_ADDR", "somewhere", "must be :port or host:port"),
        ("GRPC_SERVER_USE_TLS", "true", "needs GRPC_SERVER_TLS_CERT"),
    ],
)
def test_value_that_cannot_be_served_is_an_error_that_names_its_variable(name: str, value: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: value})
    assert name in str(caught.value)
    assert why in str(caught.value)


def test_error_never_shows_a_value() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"REDIS_POOL_SIZE": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_settings_never_show_passwords() -> None:
    assert "hunter2" not in repr(load({"REDIS_AUTH": "hunter2", "REDIS_SENTINEL_AUTH": "hunter2"}))


def test_counting_refused_requests_contradicts_stopping_at_the_limit() -> None:
    with pytest.raises(SettingsError, match="contradicts"):
        load({"GATEHOUSE_COUNT_REFUSED": "true", "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true"})


def test_variables_without_effect_are_told() -> None:
    environment = {"USE_STATSD": "true", "USE_DOG_STATSD": "false", "MEMCACHE_HOST_PORT": "h:1", "PATH": "/bin"}
    assert [line.partition(" ")[0] for line in ignored(environment)] == ["MEMCACHE_HOST_PORT", "USE_STATSD"]


# Redis

PLAIN = RedisTls()


def options(server: RedisServer, tls: RedisTls = PLAIN) -> dict[str, object]:
    made = client(server, tls)
    return dict(made.connection_pool.connection_kwargs)  # type: ignore[union-attr] # single servers have a pool


def test_single_server_on_a_unix_socket() -> None:
    assert options(RedisServer(url="/s", auth="pw"))["path"] == "/s"


def test_single_server_over_tcp_with_a_user_and_tls() -> None:
    tls = RedisTls(cacert=Path("/ca"), client_cert=Path("/c"), client_key=Path("/k"))
    found = options(RedisServer(socket_type="tcp", url="h:1", auth="u:p", tls=True), tls)
    assert (found["host"], found["port"], found["username"], found["password"]) == ("h", 1, "u", "p")
    assert (found["ssl_ca_certs"], found["ssl_certfile"], found["ssl_check_hostname"]) == ("/ca", "/c", True)


def test_url_may_say_it_all() -> None:
    found = options(RedisServer(socket_type="tcp", url="redis://u:p%40@h:7/2", auth="secret"))
    assert (found["host"], found["port"], found["db"]) == ("h", 7, 2)
    assert (found["username"], found["password"]) == ("u", "secret"), "the variable comes before the URL"
    assert options(RedisServer(url="redis://[::1]?password=p"))["password"] == "p"
    assert options(RedisServer(socket_type="tcp", url="[::1]:7"))["host"] == "::1"


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_url_goes_over_tls_when_it_is_wanted(scheme: str) -> None:
    server = RedisServer(url=f"{scheme}://h:1", tls=scheme == "redis")
    made = client(server, RedisTls(cacert=Path("/ca")))
    assert made.connection_pool.connection_class is SSLConnection  # type: ignore[union-attr]
    assert options(server, RedisTls(cacert=Path("/ca")))["ssl_ca_certs"] == "/ca"


def test_sentinels_and_their_master_are_spoken_to_over_tls() -> None:
    server = RedisServer(type="SENTINEL", url="m,redis://:pw@h:1,h:2", tls=True)
    pool = client(server, RedisTls(cacert=Path("/ca"))).connection_pool  # type: ignore[union-attr]
    watch = pool.sentinel_manager.sentinels[0].connection_pool
    assert (watch.connection_class, watch.connection_kwargs["ssl_ca_certs"]) == (SSLConnection, "/ca")
    assert watch.connection_kwargs["password"] == "pw"
    assert issubclass(pool.connection_class, SSLConnection)


def test_tls_on_a_unix_socket_is_an_error() -> None:
    with pytest.raises(SettingsError, match="REDIS_TLS can't be used with a unix socket"):
        client(RedisServer(url="/s", tls=True), PLAIN)


def test_what_the_original_takes_is_taken() -> None:
    settings = load(
        {"REDIS_POOL_SIZE": "0", "REDIS_TIMEOUT": "0", "REDIS_SOCKET_TYPE": "tcp4", "REDIS_URL": "localhost:1"}
    )
    found = options(settings.redis)
    assert found["host"] == "127.0.0.1"
    assert found["socket_timeout"] == 86_400
    assert load({"PORT": "0x1F90", "DEBUG_PORT": "017"}).http.model_dump(include={"port", "debug_port"}) == {
        "port": 8080,
        "debug_port": 15,
    }
    assert load({"REDIS_POOL_ON_EMPTY_BEHAVIOR": "block", "LOCAL_CACHE_SIZE_IN_BYTES": "-1"})
    assert load({"LOG_FORMAT": "JSON"}).service.log_format == "JSON"
    assert load({"LOG_FORMAT": "pretty"}).service.log_format == "pretty"


@pytest.mark.parametrize("url", ["localhost", "host:port"])
def test_address_without_a_port_is_an_error(url: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        client(RedisServer(socket_type="tcp", url=url), PLAIN)


# Log


def test_json_log_has_the_names_of_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("warn", "JSON")
        logging.getLogger("x").warning("hello %s", "there")
        logging.getLogger("x").info("quiet")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["@message"] == "hello there"
    assert "@timestamp" in json.loads(line)
