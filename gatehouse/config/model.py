"""The shape of `gatehouse.yaml`: frozen, strict, and complete with defaults.

Durations end in `_s` (seconds), sizes in `_mb` (MiB). Every unknown field is an error.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gatehouse.config.machine import client_connections, envoy_memory_mb
from gatehouse.config.secret import SecretReference, reference
from gatehouse.contract.key_digest import key_digest

_DAY = 86400
PERIODS: Mapping[str, int] = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": _DAY,
    "week": 7 * _DAY,
    "month": 30 * _DAY,
}
"""Periods a limit may have, in seconds. A month is 30 days."""

MEASURES = ("requests", "tokens", "input_tokens", "output_tokens")
"""What a limit may count."""


OTLP_PORT = 4317
"""Of OTLP over gRPC, where a URL names none (OTLP specification, "OTLP/gRPC Default Port")."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""How an issuer of JSON Web Tokens may sign (RFC 7518 §3.1, RFC 8037 §3.1)."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://localhost:8100/v1")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials; use upstream_api_key")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")
    _ = parts.port  # raises ValueError when it is out of range
    return value.rstrip("/")


def _issuers_url(value: str) -> str:
    """As an issuer writes it: a query may belong to it, a slash at its end too."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://sso.example.com/keys")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("must have neither credentials nor a fragment")
    _ = parts.port  # raises ValueError when it is out of range
    return value


def _otlp_url(value: str) -> str:
    """Of a receiver that speaks OTLP over gRPC, which has a host and a port, and no path."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://otel:4317, of a receiver that speaks OTLP over gRPC")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            "must have no path: OTLP over gRPC is spoken at http://otel:4317, OTLP over HTTP is not spoken"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or OTLP_PORT}"  # .port raises ValueError when it is out of range


def _issuer(value: str) -> str:
    """Compared letter by letter (RFC 7519 §4.1.1), so taken as it stands. Most are URLs."""
    return _issuers_url(value) if _is_url(value) else value


def _is_url(value: str) -> bool:
    return value.startswith(("http://", "https://"))


def _algorithm(value: str) -> str:
    """RFC 8725 §3.1, §3.2: only algorithms that were chosen, and only such as let nobody but the issuer sign."""
    if value.startswith("HS"):
        raise ValueError(f"{value} is symmetric: whoever can check a token with it can also make one")
    if value.lower() == "none":
        raise ValueError("'none' is no signature: anybody could make a token")
    if value not in ALGORITHMS:
        raise ValueError(f"must be one of {', '.join(ALGORITHMS)}")
    return value


def base_path(url: str) -> str:
    """`http://host/llm/v1` -> `/llm`: what stands before the API's own paths."""
    return urlsplit(url).path.rstrip("/").removesuffix("/v1")


def _listen_address(value: str) -> str:
    """Envoy listens on addresses, not on names."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address such as 127.0.0.1, or 0.0.0.0 for all of this machine") from None


def _redis_url(value: str) -> str:
    """A URL, or where one is kept: it may hold a password."""
    if value.startswith(("env:", "file:")):
        return reference(value)
    if not re.match(r"(rediss?(\+(cluster|sentinel))?|unix)://.", value):
        raise ValueError(
            "must be redis://, rediss:// (TLS), redis+sentinel://, redis+cluster:// or unix:// and an address,"
            " or say where such a URL is kept: env:NAME or file:PATH"
        )
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(f"'{value}' is not an address or a network such as 10.0.0.0/8") from None
    return value


def _as_tuple(value: Any) -> Any:
    """A list of a file; one value may stand for a list of one."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _end_of(value: Any) -> Any:
    """A plain date means until the end of that day, UTC; a time without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == len("2027-01-01") else datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be a date such as 2027-01-01, or a time such as 2027-01-01T12:00:00Z") from None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime.combine(value, time.max, UTC)
    return value


ListenAddress = Annotated[str, AfterValidator(_listen_address)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
OtlpUrl = Annotated[str, AfterValidator(_otlp_url)]
Network = Annotated[str, AfterValidator(_network)]
Instant = Annotated[datetime, BeforeValidator(_end_of)]
KeyDigest = Annotated[str, AfterValidator(key_digest)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s\x00-\x1f\x7f]+$")]
IssuersUrl = Annotated[str, AfterValidator(_issuers_url)]
Algorithm = Annotated[str, AfterValidator(_algorithm)]
ClaimName = Annotated[str, Field(min_length=1, max_length=256)]
IssuerName = Annotated[
    str, Field(min_length=1, max_length=512, pattern=r"^[^\s\x00-\x1f\x7f]+$"), AfterValidator(_issuer)
]
OneOrMore = BeforeValidator(_as_tuple, json_schema_input_type=str | list[str])
Listed = BeforeValidator(_as_tuple)
ModelName = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
Patterns = Annotated[tuple[ModelName, ...], BeforeValidator(_listed)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_listed)]


def _origin(value: str) -> str:
    """As browsers send it (RFC 6454 §6.2): a scheme, a host and perhaps a port; or `*` for every page there is."""
    parts = urlsplit(value)
    if value != "*" and (value != f"{parts.scheme}://{parts.netloc}" or not parts.hostname or parts.username):
        raise ValueError("must be an origin such as https://chat.example.com, with nothing behind it, or *")
    return value.lower()


HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")]
Origin = Annotated[str, AfterValidator(_origin)]
FilePath = Annotated[str, Field(min_length=1)]


class Tls(Strict):
    """Files in PEM, followed while the gateway runs. With `client_ca_file`, clients need a certificate from that CA."""

    cert_file: FilePath
    key_file: FilePath
    client_ca_file: FilePath | None = None


class Server(Strict):
    """Where the gateway listens, and how much it takes on.

    Beyond `max_connections`, clients' connections are closed as they come. Envoy sheds load as its memory nears
    `max_memory_mb`. The defaults go by the machine, or its container. Pages of the origins in `cors` may call it from
    a browser. `metrics_names` are the names under which operators reach the metrics port, beside its addresses.
    """

    host: ListenAddress = "0.0.0.0"
    port: int = Field(8000, ge=1, le=65535)
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9090, ge=0, le=65535)
    metrics_names: Annotated[tuple[HostName, ...], OneOrMore] = ()
    public_metrics: bool | None = None
    tls: Tls | None = None
    require_https: bool = False
    cors: Annotated[tuple[Origin, ...], OneOrMore] = ()
    trusted_proxy_hops: int = Field(0, ge=0, le=10)
    max_body_mb: int = Field(32, ge=1, le=1024)
    max_json_values: int = Field(500_000, ge=1_000, le=100_000_000)
    max_connections: int = Field(default_factory=client_connections, ge=1, le=10_000_000)
    max_memory_mb: int = Field(default_factory=envoy_memory_mb, ge=64, le=1024 * 1024)
    stream_idle_timeout_s: int = Field(600, ge=1, le=31_536_000)
    drain_s: int = Field(600, ge=0)
    drain_notice_s: float = Field(1, strict=False, ge=0, le=600)

    @property
    def max_body_bytes(self) -> int:
        return self.max_body_mb * 1024 * 1024


Kind = Literal["vllm", "sglang", "openai", "tgi", "llama_cpp", "other"]
"""What a model server is, and so what it may be asked for."""


class Vllm(Strict):
    """The short form: one model server that answers for every model name."""

    base_url: HttpUrl
    default_model: ModelName | None = None
    kind: Kind = "vllm"


class Backend(Strict):
    """One model server. `ca_file` (PEM) says which authorities vouch for an https one; None stands for the system's.

    `kind` says what the server understands: of `vllm` and `sglang` every event of a stream is asked to count tokens, of
    `openai`, `tgi` and `llama_cpp` the last one, and `other` is asked nothing.
    """

    url: HttpUrl
    kind: Kind = "vllm"
    weight: int = Field(1, ge=1, le=128)
    priority: int = Field(0, ge=0, le=127)
    ca_file: str | None = Field(None, min_length=1)


Dollars = Annotated[float, Field(strict=False, ge=0, le=1_000_000)]


class Price(Strict):
    """US dollars for a million tokens. Cached prompt tokens cost as much as others unless said."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None


HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9!#$&'*+.^`|~-]{1,64}$")]
"""In lower case, and without underscores: Envoy refuses headers that have some."""


class Model(Strict):
    """A model, and who serves it.

    `balance`: to the replica with the fewest requests, to each in turn, or the same one for all requests that have the
    same `session_header` (without one: of the same user). A replica gets at most `concurrent_requests_per_backend`
    requests at a time; `queued_requests` more wait for it at the gateway.
    """

    backends: tuple[Backend, ...] = Field(min_length=1)
    aliases: tuple[ModelName, ...] = ()
    balance: Literal["least_request", "round_robin", "session_affinity"] = "least_request"
    session_header: HeaderName = "x-session-id"
    upstream_api_key: SecretReference | None = None
    concurrent_requests_per_backend: Annotated[int, Field(ge=1, le=16384)] | None = None
    queued_requests: int = Field(100, ge=0, le=16384)
    price_per_million_tokens: Price | None = None

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        return _tuples(data, "backends", "aliases")


Amount = Annotated[int, Field(ge=1, le=2**40 - 1)]


class Limits(Strict):
    """What one holder (a key, a user, a team) may use. None means unlimited.

    Tokens are counted by the model server: `tokens` are those of prompt and completion together.
    """

    algorithm: Literal["sliding_window", "fixed_window", "token_bucket"] = "sliding_window"
    requests_per_second: Amount | None = None
    requests_per_minute: Amount | None = None
    requests_per_hour: Amount | None = None
    requests_per_day: Amount | None = None
    requests_per_week: Amount | None = None
    requests_per_month: Amount | None = None
    tokens_per_second: Amount | None = None
    tokens_per_minute: Amount | None = None
    tokens_per_hour: Amount | None = None
    tokens_per_day: Amount | None = None
    tokens_per_week: Amount | None = None
    tokens_per_month: Amount | None = None
    input_tokens_per_second: Amount | None = None
    input_tokens_per_minute: Amount | None = None
    input_tokens_per_hour: Amount | None = None
    input_tokens_per_day: Amount | None = None
    input_tokens_per_week: Amount | None = None
    input_tokens_per_month: Amount | None = None
    output_tokens_per_second: Amount | None = None
    output_tokens_per_minute: Amount | None = None
    output_tokens_per_hour: Amount | None = None
    output_tokens_per_day: Amount | None = None
    output_tokens_per_week: Amount | None = None
    output_tokens_per_month: Amount | None = None
    concurrent_requests: Annotated[int, Field(ge=1, le=2**31)] | None = None
    budget_usd_per_month: Annotated[float, Field(strict=False, ge=0.000001, le=1_000_000)] | None = None
    shadow: bool = False

    def windows(self, measure: str) -> list[tuple[str, int]]:
        """The limits on `measure` that are set, shortest period first: `[("minute", 100), …]`."""
        amounts = [(period, getattr(self, f"{measure}_per_{period}")) for period in PERIODS]
        return [(period, amount) for period, amount in amounts if amount is not None]

    def settled(self) -> bool:
        """Whether anything here is known only once a request has ended."""
        per_token = any(self.windows(measure) for measure in MEASURES if measure != "requests")
        return per_token or self.concurrent_requests is not None or self.budget_usd_per_month is not None


class Tier(Limits):
    """Limits of each user of a tier. `models` holds further ones, for the use of single models.

    `allowed_models` are patterns; without `allowed_ips` the tier's keys may be used from everywhere. While a model is
    saturated, tiers get their share of it by `weight`.
    """

    weight: int = Field(1, ge=1, le=100)
    models: dict[ModelName, Limits] = {}
    allowed_models: Patterns = ("*",)
    allowed_ips: Networks = ()


class Holder(Strict):
    """A team, whose users share the limits, or a user."""

    limits: Limits | None = None
    models: Patterns = ("*",)
    allowed_ips: Networks = ()


class User(Holder):
    """One user. The keys of a disabled one open nothing."""

    disabled: bool = False


class ApiKey(Strict):
    user_id: Name
    name: Name | None = None
    team: Name | None = None
    tier: Name = "standard"
    models: Patterns = ("*",)
    expires_at: Instant | None = None
    allowed_ips: Networks = ()
    limits: Limits | None = None


PepperVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]


class Keys(Strict):
    """How keys are minted, and the peppers they are hashed with: the last one hashes new keys, all are tried."""

    prefix: str = Field("gh", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,31}$")
    peppers: dict[PepperVersion, SecretReference] = {}
    failures_per_minute: int = Field(300, ge=0, le=1_000_000)


class KeyStore(Strict):
    """Where keys made at run time are kept: nowhere, in the Redis of `redis.url`, or in the file at `path`.

    While the store does not answer, its keys are good for `max_stale_s` seconds more.
    """

    type: Literal["none", "redis", "file"] = "none"
    path: str | None = Field(None, min_length=1)
    max_stale_s: int = Field(300, ge=0, le=31_536_000)


class JwtIssuer(Strict):
    """Who signs JSON Web Tokens that are taken like keys, and how their claims become a user.

    Claims are named as they stand in the token, or by a path: `realm_access.roles`. Without `jwks_url` the issuer's
    own `/.well-known/openid-configuration` says where its keys are.
    """

    issuer: IssuerName
    audience: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), OneOrMore]
    name: Name | None = None
    jwks_url: IssuersUrl | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1), Listed] = ("RS256", "ES256", "EdDSA")
    user_claim: ClaimName = "sub"
    team_claim: ClaimName | None = None
    tier_claim: ClaimName | None = None
    models_claim: ClaimName | None = None
    tier: Name = "standard"
    leeway_s: int = Field(30, ge=0, le=600)
    refresh_s: int = Field(300, ge=1, le=86_400)
    max_stale_s: int = Field(86_400, ge=1, le=31_536_000)

    @property
    def label(self) -> str:
        """What logs and metrics call it: its name, or its host."""
        host = urlsplit(self.issuer).hostname if _is_url(self.issuer) else None
        return self.name or host or self.issuer

    @property
    def discoverable(self) -> bool:
        """Whether the issuer itself can be asked where its keys are."""
        return _is_url(self.issuer)

    @property
    def keys_from(self) -> str:
        """Where to ask for keys first: `jwks_url`, or the configuration document (OpenID Connect Discovery §4)."""
        return self.jwks_url or f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"


class Logging(Strict):
    dir: str = "logs"
    level: Literal["debug", "info", "warning", "error"] = "info"
    retention_days: int = Field(30, ge=1)
    max_gb: Annotated[float, Field(strict=False, gt=0)] | None = None
    bodies: Literal["off", "errors", "sampled"] = "off"
    body_sample: float = Field(0.01, strict=False, gt=0, le=1)


class Redis(Strict):
    url: Annotated[str, AfterValidator(_redis_url)] | None = None
    on_failure: Literal["local", "allow", "deny"] = "local"
    gateways: int = Field(1, ge=1, le=10_000)
    timeout_ms: int = Field(250, ge=1, le=300)


class LimitsPolicy(Strict):
    """What happens while no worker of ratelimit_service takes calls."""

    on_failure: Literal["allow", "deny"] = "allow"


class Tracing(Strict):
    """OpenTelemetry: where traces and metrics are sent, by OTLP over gRPC; nowhere, unless an endpoint is given.

    `sample` is the share of requests that are traced, of those that come without a trace of their own.
    """

    otlp_endpoint: OtlpUrl | None = None
    sample: Annotated[float, Field(strict=False, ge=0, le=1)] = 0.1
    metrics_interval_s: int = Field(15, ge=1, le=60)

    @property
    def on(self) -> bool:
        return self.otlp_endpoint is not None


class Config(Strict):
    """One gateway. Exactly one of `vllm` (short form) and `models` (long form) is set."""

    server: Server = Server()
    logging: Logging = Logging()
    vllm: Vllm | None = None
    models: dict[ModelName, Model] = {}
    default_model: ModelName | None = None
    rate_limits: dict[Name, Tier] = {}
    users: dict[Name, User] = {}
    teams: dict[Name, Holder] = {}
    api_keys: dict[KeyDigest, ApiKey] = Field({}, repr=False)
    key_files: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    keys: Keys = Keys()
    key_store: KeyStore = KeyStore()
    jwt: Annotated[tuple[JwtIssuer, ...], Listed] = ()
    redis: Redis = Redis()
    limits: LimitsPolicy = LimitsPolicy()
    tracing: Tracing = Tracing()

    @property
    def effective_default_model(self) -> str | None:
        """The model of a request that names none."""
        return self.vllm.default_model if self.vllm else self.default_model

    @property
    def public_metrics(self) -> bool:
        """Whether clients may see the metrics: where that is asked for, and in the short form unless it is refused."""
        asked = self.server.public_metrics
        return self.vllm is not None if asked is None else asked

    def settles(self) -> bool:
        """Whether limits need to hear of how requests ended. Those of keys do too, and come with the requests."""
        tiers = [limits for tier in self.rate_limits.values() for limits in (tier, *tier.models.values())]
        holders = [holder.limits for holder in (*self.users.values(), *self.teams.values()) if holder.limits]
        return any(limits.settled() for limits in (*tiers, *holders))

    def model_of(self, name: str) -> str:
        """The model that answers to `name`, itself or by an alias; `name` itself when none does."""
        return next((model for model, entry in self.models.items() if name in entry.aliases), name)

    def known_models(self) -> list[str]:
        """Every model name the configuration knows, aliases included."""
        if self.vllm:
            return [self.vllm.default_model] if self.vllm.default_model else []
        return [name for model, entry in self.models.items() for name in (model, *entry.aliases)]


def _tuples(data: Any, *fields: str) -> Any:
    if not isinstance(data, dict) or not any(isinstance(data.get(field), list) for field in fields):
        return data
    return {k: tuple(v) if k in fields and isinstance(v, list) else v for k, v in data.items()}
