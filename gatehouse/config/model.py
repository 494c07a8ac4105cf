"""The schema of `gatehouse.yaml`: frozen, strict, with all defaults.

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
from gatehouse.contract import periods
from gatehouse.contract.key_digest import key_digest

PERIODS: Mapping[str, int] = {name: seconds for name, seconds in periods.PERIODS.items() if name != "year"}
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


_BELOW = re.compile(r"/(chat/completions|completions|embeddings|responses|messages|rerank|score|models)/*$")


def _servers_url(value: str) -> str:
    """A model server's URL without the endpoints, like an OpenAI client's `base_url`."""
    if found := _BELOW.search(value):
        raise ValueError(f"must end before '/{found[1]}', which is added to it: {value[: found.start()]}")
    return _http_url(value)


def _issuers_url(value: str) -> str:
    """A URL exactly as the issuer has it: with its query and a final slash, if any."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://sso.example.com/keys")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("must have neither credentials nor a fragment")
    _ = parts.port  # raises ValueError when it is out of range
    return value


def _otlp_url(value: str) -> str:
    """The URL of a receiver for OTLP over gRPC: a host and a port, without a path."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://otel:4317, of a receiver for OTLP over gRPC")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must have no path: OTLP over gRPC is at http://otel:4317, OTLP over HTTP is not supported")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or OTLP_PORT}"  # .port raises ValueError when it is out of range


def _issuer(value: str) -> str:
    """Compared exactly (RFC 7519 §4.1.1), so not normalized. Most are URLs."""
    return _issuers_url(value) if _is_url(value) else value


def _is_url(value: str) -> bool:
    return value.startswith(("http://", "https://"))


def _algorithm(value: str) -> str:
    """RFC 8725 §3.1, §3.2: only chosen algorithms, and only those with which no one but the issuer can sign."""
    if value.startswith("HS"):
        raise ValueError(f"{value} is symmetric: anyone who can verify a token with it can also create one")
    if value.lower() == "none":
        raise ValueError("'none' is no signature: anyone could create a token")
    if value not in ALGORITHMS:
        raise ValueError(f"must be one of {', '.join(ALGORITHMS)}")
    return value


def base_path(url: str) -> str:
    """`http://host/llm/v1` -> `/llm`: the prefix of the API's own paths."""
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
    """A URL, or a reference to one, since it may contain a password."""
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
    """A list; a single value is a list of one."""
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
ServerUrl = Annotated[str, AfterValidator(_servers_url)]
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
    """TLS on the public port. The files are PEM, and are reread when they change."""

    cert_file: FilePath
    """The certificate that clients are shown, with its chain, in PEM."""
    key_file: FilePath
    """Its private key, in PEM."""
    client_ca_file: FilePath | None = None
    """The certificate authority (PEM) that client certificates must come from; without it, clients need none."""


class Server(Strict):
    """The gateway's ports, and how much load it accepts.

    The defaults of `workers`, `max_connections` and `max_memory_mb` depend on the machine or its container.
    """

    host: ListenAddress = "0.0.0.0"
    """The address that Envoy listens on: `0.0.0.0` for IPv4, `::` for IPv4 and IPv6."""
    port: int = Field(8000, ge=1, le=65535)
    """The public port."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    """Processes of authz_service and, with Redis, of ratelimit_service. Default: one a core."""
    metrics_host: str = "127.0.0.1"
    """The address of the operators' port."""
    metrics_port: int = Field(9090, ge=0, le=65535)
    """The operators' port: `/ui`, `/metrics` and `/health` without a key. 0: none."""
    metrics_names: Annotated[tuple[HostName, ...], OneOrMore] = ()
    """Host names under which operators reach that port, beside its addresses and `localhost`; any other name gets 421.
    """
    public_metrics: bool | None = None
    """Whether the public port has `/metrics`, too. Default: `true` in the short form, else `false`."""
    tls: Tls | None = None
    """TLS on the public port."""
    require_https: bool = False
    """`true`: plaintext gets 426, except `/health`."""
    cors: Annotated[tuple[Origin, ...], OneOrMore] = ()
    """Origins whose pages may call the gateway from a browser: `["https://chat.example.com"]`, or `"*"`."""
    trusted_proxy_hops: int = Field(0, ge=0, le=10)
    """How many proxies stand in front of the gateway: `1` behind nginx. The client's address is then what the
    outermost of them saw (`X-Forwarded-For`)."""
    max_body_mb: int = Field(32, ge=1, le=1024)
    """A larger request gets 413."""
    max_json_values: int = Field(500_000, ge=1_000, le=100_000_000)
    """A body with more JSON values than this gets 413."""
    max_connections: int = Field(default_factory=client_connections, ge=1, le=10_000_000)
    """Client connections beyond this number are closed as they arrive. Default: half of the open files that the
    process may have, at most 20,000."""
    max_memory_mb: int = Field(default_factory=envoy_memory_mb, ge=64, le=1024 * 1024)
    """Memory for Envoy. From 85 % on it gives up idle connections, from 95 % on it answers new requests with 503, from
    98 % on it closes new connections. Default: half of the memory of the machine or container, 256 to 8,192."""
    stream_idle_timeout_s: int = Field(600, ge=1, le=31_536_000)
    """A stream without any data for this long is ended. There is no limit on its total time."""
    drain_s: int = Field(600, ge=0)
    """How long running requests may take to finish after SIGTERM."""
    drain_notice_s: float = Field(1, strict=False, ge=0, le=600)
    """How long `/health` fails before the port is closed."""

    @property
    def max_body_bytes(self) -> int:
        return self.max_body_mb * 1024 * 1024


Kind = Literal["vllm", "sglang", "openai", "tgi", "llama_cpp", "other"]
"""What a model server is, and so what it may be asked for."""


class Vllm(Strict):
    """The short form: one model server that answers for every model name."""

    base_url: ServerUrl
    """Its OpenAI-compatible API, up to and including `/v1`."""
    default_model: ModelName | None = None
    """The model of a request that names none."""
    kind: Kind = "vllm"
    """What the server is; see [`kind`](metering.md#what-servers-are-asked)."""


class Backend(Strict):
    """One model server."""

    url: ServerUrl
    """Its OpenAI-compatible API, up to and including `/v1`."""
    kind: Kind = "vllm"
    """What the server is, and so how its streams are asked to count tokens
    ([metering](metering.md#what-servers-are-asked))."""
    weight: int = Field(1, ge=1, le=128)
    """Its share of the requests, beside the other backends of the same priority."""
    priority: int = Field(0, ge=0, le=127)
    """Failover: a backend with a higher number gets requests when those with lower numbers fail."""
    ca_file: str | None = Field(None, min_length=1)
    """The certificate authorities (PEM) that an `https` backend must be certified by. Default: the system's."""


Dollars = Annotated[float, Field(strict=False, ge=0, le=1_000_000)]


class Price(Strict):
    """US dollars for a million tokens."""

    input: Dollars
    """For prompt tokens."""
    output: Dollars
    """For completion tokens."""
    cached_input: Dollars | None = None
    """For prompt tokens that the server's prefix cache served. Default: as `input`."""


HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9!#$&'*+.^`|~-]{1,64}$")]
"""In lower case, and without underscores: Envoy refuses headers that have some."""


class Model(Strict):
    """A model and its servers."""

    backends: tuple[Backend, ...] = Field(min_length=1)
    """The servers of this model."""
    aliases: tuple[ModelName, ...] = ()
    """Other names of the model. The servers must know them too: the body is not rewritten."""
    balance: Literal["least_request", "round_robin", "session_affinity"] = "least_request"
    """Which backend gets a request ([models](models.md#which-replica))."""
    session_header: HeaderName = "x-session-id"
    """With `session_affinity`: the header that names the conversation. A request without it goes by its user."""
    upstream_api_key: SecretReference | None = None
    """`env:NAME` or `file:PATH`: what the servers get as `Authorization: Bearer …`."""
    concurrent_requests_per_backend: Annotated[int, Field(ge=1, le=16384)] | None = None
    """How many requests a backend gets at a time. Default: any number."""
    queued_requests: int = Field(100, ge=0, le=16384)
    """How many more requests wait for a backend; one beyond these gets 503."""
    price_per_million_tokens: Price | None = None
    """Prices, for costs and budgets."""

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        return _tuples(data, "backends", "aliases")


Amount = Annotated[int, Field(ge=1, le=2**40 - 1)]


class Limits(Strict):
    """What a user, a team, a tier or a key may use. A limit that is not set is unlimited.

    Token counts are the model server's own. A month is 30 days.
    """

    algorithm: Literal["sliding_window", "fixed_window", "token_bucket"] = "sliding_window"
    """How requests and tokens are counted ([limits](rate-limits.md#algorithms))."""
    requests_per_second: Amount | None = None
    requests_per_minute: Amount | None = None
    requests_per_hour: Amount | None = None
    requests_per_day: Amount | None = None
    requests_per_week: Amount | None = None
    requests_per_month: Amount | None = None
    """Requests within the period."""
    tokens_per_second: Amount | None = None
    tokens_per_minute: Amount | None = None
    tokens_per_hour: Amount | None = None
    tokens_per_day: Amount | None = None
    tokens_per_week: Amount | None = None
    tokens_per_month: Amount | None = None
    """Prompt and completion tokens within the period."""
    input_tokens_per_second: Amount | None = None
    input_tokens_per_minute: Amount | None = None
    input_tokens_per_hour: Amount | None = None
    input_tokens_per_day: Amount | None = None
    input_tokens_per_week: Amount | None = None
    input_tokens_per_month: Amount | None = None
    """Prompt tokens within the period."""
    output_tokens_per_second: Amount | None = None
    output_tokens_per_minute: Amount | None = None
    output_tokens_per_hour: Amount | None = None
    output_tokens_per_day: Amount | None = None
    output_tokens_per_week: Amount | None = None
    output_tokens_per_month: Amount | None = None
    """Completion tokens within the period."""
    concurrent_requests: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Requests that run at the same time."""
    budget_usd_per_month: Annotated[float, Field(strict=False, ge=0.000001, le=1_000_000)] | None = None
    """Cost within 30 days, in US dollars. Needs prices of the models."""
    shadow: bool = False
    """`true`: count and report, but never refuse."""

    def windows(self, measure: str) -> list[tuple[str, int]]:
        """The limits on `measure` that are set, shortest period first: `[("minute", 100), …]`."""
        amounts = [(period, getattr(self, f"{measure}_per_{period}")) for period in PERIODS]
        return [(period, amount) for period, amount in amounts if amount is not None]

    def settled(self) -> bool:
        """Whether anything here is counted only once a request has ended."""
        per_token = any(self.windows(measure) for measure in MEASURES if measure != "requests")
        return per_token or self.concurrent_requests is not None or self.budget_usd_per_month is not None


class Tier(Limits):
    """Limits of each user of a tier, with every field of [limits](#limits-of-a-user-team-tier-or-key)."""

    weight: int = Field(1, ge=1, le=100)
    """The tier's share of a saturated model ([models](models.md#when-a-model-is-saturated))."""
    models: dict[ModelName, Limits] = {}
    """Further limits on the use of single models."""
    allowed_models: Patterns = ("*",)
    """Patterns of the models that the tier may use."""
    allowed_ips: Networks = ()
    """Addresses and networks that the tier's keys may be used from. Default: any."""


class Holder(Strict):
    """Limits and rights of a team. Its users share the limits."""

    limits: Limits | None = None
    """Limits. A team's users share the team's."""
    models: Patterns = ("*",)
    """Patterns of the models that may be used."""
    allowed_ips: Networks = ()
    """Addresses and networks that requests may come from. Default: any."""


class User(Holder):
    """Limits and rights of one user."""

    disabled: bool = False
    """`true`: the user's keys are rejected like unknown ones."""


class ApiKey(Strict):
    """One API key."""

    user_id: Name
    """Whose key it is."""
    name: Name | None = None
    """What to call the key in lists."""
    team: Name | None = None
    """The user's team."""
    tier: Name = "standard"
    """The tier, whose limits apply."""
    models: Patterns = ("*",)
    """Patterns of the models that the key may use."""
    expires_at: Instant | None = None
    """A date (to its end, UTC) or a time from which on the key is rejected."""
    allowed_ips: Networks = ()
    """Addresses and networks that the key may be used from. Default: any."""
    limits: Limits | None = None
    """Limits of this key, and of the keys that it was rotated from."""


PepperVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]


class Keys(Strict):
    """How keys are made and hashed."""

    prefix: str = Field("gh", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,31}$")
    """How new keys begin."""
    peppers: dict[PepperVersion, SecretReference] = {}
    """`VERSION: env:NAME` or `VERSION: file:PATH`: secrets that digests are made with, at least 16 bytes each. The
    last one hashes new keys, all are tried ([keys](keys.md#digests-and-peppers))."""
    failures_per_minute: int = Field(300, ge=0, le=1_000_000)
    """How many wrong keys an address may send to each worker in a minute before it gets 429. 0: any number."""


class KeyStore(Strict):
    """Where keys made at run time are kept."""

    type: Literal["none", "redis", "file"] = "none"
    """Where keys made at run time are kept: in a file, or in the Redis of `redis.url`."""
    path: str | None = Field(None, min_length=1)
    """With `type: file`: the file."""
    max_stale_s: int = Field(300, ge=0, le=31_536_000)
    """How long keys of the store stay valid while the store does not answer."""


class JwtIssuer(Strict):
    """An identity provider whose JSON Web Tokens work like keys, and how claims become a user.

    A claim is named as it stands in the token, or by a path: `realm_access.roles`.
    """

    issuer: IssuerName
    """Exactly as in the tokens' `iss`."""
    audience: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), OneOrMore]
    """The `aud` that a token must have: one, or a list of which one is enough."""
    name: Name | None = None
    """What metrics and logs call the issuer. Default: its host."""
    jwks_url: IssuersUrl | None = None
    """Where its public keys are. Default: what its `/.well-known/openid-configuration` says."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1), Listed] = ("RS256", "ES256", "EdDSA")
    """How its tokens may be signed."""
    user_claim: ClaimName = "sub"
    """The claim that names the user."""
    team_claim: ClaimName | None = None
    """The claim that names the team."""
    tier_claim: ClaimName | None = None
    """The claim that names the tier."""
    models_claim: ClaimName | None = None
    """The claim that lists model patterns. With this set, a token without the claim may use no model."""
    tier: Name = "standard"
    """The tier of tokens that name none of yours."""
    leeway_s: int = Field(30, ge=0, le=600)
    """How much the clocks of issuer and gateway may differ."""
    refresh_s: int = Field(300, ge=1, le=86_400)
    """How often its keys are fetched."""
    max_stale_s: int = Field(86_400, ge=1, le=31_536_000)
    """How long its keys are trusted while fetching them fails."""

    @property
    def label(self) -> str:
        """What logs and metrics call it: its name, or its host."""
        host = urlsplit(self.issuer).hostname if _is_url(self.issuer) else None
        return self.name or host or self.issuer

    @property
    def discoverable(self) -> bool:
        """Whether the location of the keys can be discovered from the issuer."""
        return _is_url(self.issuer)

    @property
    def keys_from(self) -> str:
        """The first URL to fetch for keys: `jwks_url`, or the discovery document (OpenID Connect Discovery §4)."""
        return self.jwks_url or f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"


class Logging(Strict):
    """Logs."""

    dir: str = "logs"
    """Where all logs are written."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the services' own log says."""
    retention_days: int = Field(30, ge=1)
    """After so many days a log file is deleted."""
    max_gb: Annotated[float, Field(strict=False, gt=0)] | None = None
    """How much all logs together may take; beyond that the oldest parts and days are deleted, counted and
    logged. Default: half of the disk."""
    bodies: Literal["off", "errors", "sampled"] = "off"
    """Whether prompts and answers are recorded: of failed requests (`errors`) or of a share of all (`sampled`), at
    most 64 KiB each way, in `bodies_YYYY-MM-DD.log` (mode 0600)."""
    body_sample: float = Field(0.01, strict=False, gt=0, le=1)
    """With `bodies: sampled`: that share."""


class Redis(Strict):
    """Shared counters, and keys made at run time."""

    url: Annotated[str, AfterValidator(_redis_url)] | None = None
    """`redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://` or `unix://`, or where such a URL is kept:
    `env:NAME`, `file:PATH`. Without it, counters live in the memory of one process."""
    on_failure: Literal["local", "allow", "deny"] = "local"
    """While Redis is away: `local` lets each worker enforce its share of what was left, `allow` lets all requests
    pass, `deny` answers 503 `limits_unavailable` ([limits](limits.md#redis-is-gone))."""
    gateways: int = Field(1, ge=1, le=10_000)
    """With `local`: how many gateways share this Redis."""
    timeout_ms: int = Field(250, ge=1, le=300)
    """Redis is left alone after three times this long without any answer, until it answers again."""


class LimitsPolicy(Strict):
    """What happens to requests while no worker of ratelimit_service takes calls."""

    on_failure: Literal["allow", "deny"] = "allow"
    """While no worker of ratelimit_service lives: `allow` lets requests pass, marked and counted in a metric; `deny`
    answers 503 `limits_unavailable`."""


class Tracing(Strict):
    """OpenTelemetry traces and metrics, sent by OTLP over gRPC. Off unless an endpoint is set."""

    otlp_endpoint: OtlpUrl | None = None
    """An OpenTelemetry receiver for traces and metrics, such as `http://otel:4317` (OTLP over gRPC)."""
    sample: Annotated[float, Field(strict=False, ge=0, le=1)] = 0.1
    """The share of requests to trace, of those that come without a trace of their own."""
    metrics_interval_s: int = Field(15, ge=1, le=60)
    """How often metrics are sent."""

    @property
    def on(self) -> bool:
        return self.otlp_endpoint is not None


class Config(Strict):
    """One gateway. Exactly one of `vllm` (short form) and `models` (long form) is set."""

    server: Server = Server()
    """The ports of the gateway, and how much load it accepts."""
    logging: Logging = Logging()
    """Logs."""
    vllm: Vllm | None = None
    """The short form: one model server for every model name."""
    models: dict[ModelName, Model] = {}
    """The long form, in place of `vllm`: models by name, each with its servers."""
    default_model: ModelName | None = None
    """The model of a request that names none."""
    rate_limits: dict[Name, Tier] = {}
    """Tiers by name: the limits of each of their users."""
    users: dict[Name, User] = {}
    """Limits and rights of single users, by name."""
    teams: dict[Name, Holder] = {}
    """Limits that a team's users share, and the team's rights, by name."""
    api_keys: dict[KeyDigest, ApiKey] = Field({}, repr=False)
    """Keys by their digest (`gatehouse keys hash`), or in plain text."""
    key_files: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Files with more keys, such as mounted secrets: a mapping like `api_keys`, or JSON lines of `gatehouse keys
    export`."""
    keys: Keys = Keys()
    """How keys are made and hashed."""
    key_store: KeyStore = KeyStore()
    """Keys made at run time."""
    jwt: Annotated[tuple[JwtIssuer, ...], Listed] = ()
    """Identity providers whose tokens are accepted beside keys."""
    redis: Redis = Redis()
    """Shared counters, and keys made at run time."""
    limits: LimitsPolicy = LimitsPolicy()
    """What happens to requests while limits can't be decided."""
    tracing: Tracing = Tracing()
    """OpenTelemetry."""

    @property
    def effective_default_model(self) -> str | None:
        """The model of a request that names none."""
        return self.vllm.default_model if self.vllm else self.default_model

    @property
    def public_metrics(self) -> bool:
        """Whether the public port has metrics: as configured; the default is true only in the short form."""
        asked = self.server.public_metrics
        return self.vllm is not None if asked is None else asked

    def settles(self) -> bool:
        """Whether any limits need the outcome of requests. Limits of keys may too; requests carry those."""
        tiers = [limits for tier in self.rate_limits.values() for limits in (tier, *tier.models.values())]
        holders = [holder.limits for holder in (*self.users.values(), *self.teams.values()) if holder.limits]
        return any(limits.settled() for limits in (*tiers, *holders))

    def model_of(self, name: str) -> str:
        """The model with the name or alias `name`; `name` itself if there is none."""
        return next((model for model, entry in self.models.items() if name in entry.aliases), name)

    def known_models(self) -> list[str]:
        """Every configured model name, aliases included."""
        if self.vllm:
            return [self.vllm.default_model] if self.vllm.default_model else []
        return [name for model, entry in self.models.items() for name in (model, *entry.aliases)]


def _tuples(data: Any, *fields: str) -> Any:
    if not isinstance(data, dict) or not any(isinstance(data.get(field), list) for field in fields):
        return data
    return {k: tuple(v) if k in fields and isinstance(v, list) else v for k, v in data.items()}


def served(config: Config) -> dict[str, Model]:
    """The models that have backends. The short form has one, whatever it is called."""
    if config.vllm:
        return {config.vllm.default_model or "default": Model(backends=(Backend(url=config.vllm.base_url),))}
    return config.models
