"""envoyproxy/ratelimit's settings, read once from its environment variables.

Each group's fields are named after the variables, less the group's prefix. Times are seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ratelimit_service.dropin.answer import HeaderNames
from ratelimit_service.dropin.config.files import Source
from ratelimit_service.dropin.decide import Modes
from ratelimit_service.dropin.environment import Seconds, SettingsError, Whole, read

Port = Annotated[Whole, Field(ge=0, le=65535)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True)


class Http(_Group):
    host: str = "0.0.0.0"
    port: Port = 8080
    debug_host: str = "0.0.0.0"
    debug_port: Port = 6070


class Grpc(_Group):
    """`GRPC_…`. With `client_tls_cacert` a caller must show a certificate, with `client_tls_san` one of that name."""

    uds: Path | None = None
    host: str = "0.0.0.0"
    port: Port = 8081
    max_connection_age: Seconds = 24 * 3600
    max_connection_age_grace: Seconds = 3600
    server_use_tls: bool = False
    server_tls_cert: Path | None = None
    server_tls_key: Path | None = None
    client_tls_cacert: Path | None = None
    client_tls_san: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Grpc":
        if self.server_use_tls and not (self.server_tls_cert and self.server_tls_key):
            raise ValueError("GRPC_SERVER_USE_TLS needs GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY")
        return self


class Runtime(_Group):
    """`RUNTIME_…`: the configuration files are those below `root/subdirectory/appdirectory`."""

    root: Path = Path("/srv/runtime_data/current")
    subdirectory: str = ""
    appdirectory: str = "config"
    ignoredotfiles: bool = False
    watch_root: bool = True

    @property
    def directory(self) -> Path:
        return self.root / self.subdirectory / self.appdirectory

    @property
    def source(self) -> Source:
        return Source(self.directory, self.watch_root, self.ignoredotfiles)


class RedisServer(_Group):
    """`REDIS_…`, and `REDIS_PERSECOND_…` for the second one.

    `url`: a path or host:port (SINGLE), `master,host:port,…` (SENTINEL), `host:port,…` (CLUSTER).
    `auth`: a password, or user:password. A `pool_size` of 0 is the default, a `timeout` of 0 or less is none.
    """

    socket_type: Literal["unix", "tcp", "tcp4", "tcp6"] = "unix"
    type: Literal["SINGLE", "SENTINEL", "CLUSTER"] = "SINGLE"
    url: str = "/var/run/nutcracker/ratelimit.sock"
    pool_size: Annotated[Whole, Field(ge=0)] = 10
    auth: str = Field("", repr=False)
    sentinel_auth: str = Field("", repr=False)
    tls: bool = False
    timeout: Seconds = 10
    pool_on_empty_behavior: str = "WAIT"

    @field_validator("type", mode="before")
    @classmethod
    def _upper(cls, value: str) -> str:
        return value.upper()

    @field_validator("pool_on_empty_behavior")
    @classmethod
    def _waits(cls, value: str) -> str:
        if value.upper() in ("CREATE", "ERROR"):
            raise ValueError("only WAIT is supported")
        return value


class RedisTls(_Group):
    """`REDIS_TLS_…`, for both servers. Without `cacert` the system's authorities are trusted."""

    client_cert: Path | None = None
    client_key: Path | None = None
    cacert: Path | None = None
    skip_hostname_verification: bool = False


class RedisStartup(_Group):
    """`REDIS_STARTUP_…`: first connections are retried with backoff; `max_elapsed_time` 0 is forever."""

    initial_interval: Seconds = 1
    max_interval: Seconds = 30
    max_elapsed_time: Seconds = 0


class Headers(_Group):
    """`LIMIT_…`"""

    response_headers_enabled: bool = False
    limit_header: str = "RateLimit-Limit"
    remaining_header: str = "RateLimit-Remaining"
    reset_header: str = "RateLimit-Reset"

    @property
    def names(self) -> HeaderNames | None:
        """None: no headers."""
        named = HeaderNames(self.limit_header, self.remaining_header, self.reset_header)
        return named if self.response_headers_enabled else None


class Service(_Group):
    """Settings without a group. Two are ours: `gatehouse_count_refused` counts refused requests, and
    `gatehouse_split_labels` splits the labels of metrics at dots, both as there."""

    log_level: str = "WARN"
    log_format: str = "text"
    config_type: str = "FILE"
    backend_type: str = "redis"
    merge_domain_config: bool = False
    shadow_mode: bool = False
    quota_mode: bool = False
    response_dynamic_metadata: bool = False
    local_cache_size_in_bytes: Whole = 0
    near_limit_ratio: float = 0.8
    cache_key_prefix: str = ""
    healthy_with_at_least_one_config_loaded: bool = False
    redis_health_check_active_connection: bool = False
    redis_persecond: bool = False
    stop_cache_key_increment_when_overlimit: bool = False
    gatehouse_count_refused: bool = False
    gatehouse_split_labels: bool = False
    use_prometheus: bool = False
    prometheus_addr: str = ":9090"
    prometheus_path: str = "/metrics"

    @field_validator("config_type")
    @classmethod
    def _files_only(cls, value: str) -> str:
        if value.upper() != "FILE":
            raise ValueError("only FILE is supported, configuration over xDS is not")
        return value

    @field_validator("backend_type")
    @classmethod
    def _redis_only(cls, value: str) -> str:
        if value.lower() != "redis":
            raise ValueError("only redis is supported")
        return value

    @field_validator("prometheus_addr")
    @classmethod
    def _address(cls, value: str) -> str:
        if not value.rpartition(":")[2].isdigit():
            raise ValueError("must be :port or host:port")
        return value

    @model_validator(mode="after")
    def _one_way_to_count(self) -> "Service":
        if self.gatehouse_count_refused and self.stop_cache_key_increment_when_overlimit:
            raise ValueError("GATEHOUSE_COUNT_REFUSED contradicts STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT")
        return self

    @property
    def modes(self) -> Modes:
        return Modes(self.shadow_mode, self.quota_mode, self.gatehouse_count_refused)

    @property
    def prometheus(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.prometheus_addr.rpartition(":")
        return host.strip("[]") or "0.0.0.0", int(port)


class Settings(_Group):
    """All groups. `per_second` is the Redis of limits per second, if these have one of their own."""

    http: Http = Http()
    grpc: Grpc = Grpc()
    runtime: Runtime = Runtime()
    redis: RedisServer = RedisServer()
    per_second: RedisServer | None = None
    redis_tls: RedisTls = RedisTls()
    redis_startup: RedisStartup = RedisStartup()
    headers: Headers = Headers()
    service: Service = Service()


def load(environment: Mapping[str, str]) -> Settings:
    """Read every group. Raises `SettingsError` with all errors of the first invalid group."""
    service = read(Service, environment)
    return Settings(
        http=read(Http, environment),
        grpc=read(Grpc, environment, "GRPC_"),
        runtime=read(Runtime, environment, "RUNTIME_"),
        redis=read(RedisServer, environment, "REDIS_"),
        per_second=_per_second(environment) if service.redis_persecond else None,
        redis_tls=read(RedisTls, environment, "REDIS_TLS_"),
        redis_startup=read(RedisStartup, environment, "REDIS_STARTUP_"),
        headers=read(Headers, environment, "LIMIT_"),
        service=service,
    )


def _per_second(environment: Mapping[str, str]) -> RedisServer:
    default = {"REDIS_PERSECOND_URL": "/var/run/nutcracker/ratelimitpersecond.sock"}
    return read(RedisServer, {**default, **environment}, "REDIS_PERSECOND_")


__all__ = ["Settings", "SettingsError", "load"]
