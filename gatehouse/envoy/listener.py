"""The listeners and their connection managers: what Envoy accepts from clients, and with which limits."""

from collections.abc import Callable

from gatehouse import __version__
from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir, workers
from gatehouse.contract import names
from gatehouse.contract.access_log import PERIOD_S
from gatehouse.envoy import access_log, bodies, cors, cutting, expect_continue, filters, local_replies, tls, tracing
from gatehouse.envoy.message import Message, extension, header, seconds

CONNECTION_BUFFER_BYTES = 256 * 1024
"""What a slow reader can make Envoy buffer of an answer, beside the buffer for the model server
(`gatehouse.envoy.backends`): less than a MiB in all. Request bodies have a limit of their own, in the routes."""

_UPLOAD_WINDOW_BYTES = 1024 * 1024
"""How many bytes an HTTP/2 client may send over a connection before Envoy has to grant more."""

CONNECTION_IDLE = "650s"
"""For a connection without a request. Load balancers in front keep theirs for up to 600 s, and must close first: a
request sent into a closing connection fails."""

_FORGEABLE = ("x-gatehouse-", "x-envoy-")


def listeners(
    config: Config, run_dir: RunDir, access_log_file: str, route_specifier: Message, secrets: Message
) -> list[Message]:
    """The public listener, and the one inside the process. `route_specifier` is `{"rds": …}` or, for validation,
    `{"route_config": …}`; `secrets` are parts of a TLS context."""
    common = {
        **_timeouts(),
        **_http_options(),
        **tracing.connection_manager(config),
        "access_log": access_log.loggers(config, access_log_file),
        "access_log_options": {"access_log_flush_interval": seconds(PERIOD_S)},
        "local_reply_config": local_replies.config(),
        "http_filters": [
            *cors.filters(config.server),
            *filters.chain(
                config.server.max_body_bytes, _optional_filters(config, run_dir), limiters=workers(config, "ratelimit")
            ),
        ],
        **route_specifier,
    }
    public = _manager("gatehouse", **_identity(config), proxy_100_continue=True, **common)
    inside = _manager(
        expect_continue.LISTENER,
        **{**_identity(config, expect_continue.restoring_mutations), **expect_continue.trusted_identity()},
        **common,
    )
    return [
        {
            "name": "gatehouse",
            "address": {"socket_address": _address(config)},
            "per_connection_buffer_limit_bytes": CONNECTION_BUFFER_BYTES,
            **tls.chains(config.server.tls, public, secrets),
        },
        {**expect_continue.listener(inside), "per_connection_buffer_limit_bytes": CONNECTION_BUFFER_BYTES},
    ]


def _address(config: Config) -> Message:
    address: Message = {"address": config.server.host, "port_value": config.server.port}
    if config.server.host == "::":
        address["ipv4_compat"] = True  # all addresses of this machine, IPv4 and IPv6
    return address


def _manager(stat_prefix: str, **fields: object) -> Message:
    return extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=stat_prefix,
        **fields,
    )


def _optional_filters(config: Config, run_dir: RunDir) -> list[Message]:
    """Optional filters, which cost nothing unless configured. Keys are revoked in a key store: without one, streams
    need no check."""
    cutting_streams = [] if config.key_store.type == "none" else [cutting.stream_filter(run_dir.cut)]
    return [*bodies.tap(config.logging, str(run_dir.bodies)), *cutting_streams]


def rds(routes_file: str, watched_directory: str) -> Message:
    """Routes come from a file that may be replaced while streams run."""
    source = {"path": routes_file, "watched_directory": {"path": watched_directory}}
    config_source = {"path_config_source": source, "resource_api_version": "V3"}
    return {"rds": {"route_config_name": names.ROUTES, "config_source": config_source}}


def _identity(config: Config, within: Callable[[list[Message]], list[Message]] = list) -> Message:
    """Identity of requests: addresses, request ids, and headers that only the gateway may set. `within` adds mutations
    around those that remove them."""
    removals = [{"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in _FORGEABLE]
    early = extension(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[*within(removals), {"append": header(names.HTTP_VERSION_HEADER, "%PROTOCOL%")}],
    )
    return {
        "early_header_mutation_extensions": [early],
        "use_remote_address": True,
        "xff_num_trusted_hops": config.server.trusted_proxy_hops,
        "generate_request_id": True,
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "server_name": f"gatehouse/{__version__}",
    }


def _timeouts() -> Message:
    """Time-outs of slow clients; a stream may last for ever as long as data flows.

    Routes set the idle time-out, which may change at run time; this one holds where they don't.
    """
    return {
        "request_headers_timeout": "10s",
        "request_timeout": "120s",
        "stream_idle_timeout": "600s",
        "stream_flush_timeout": "60s",
        "delayed_close_timeout": "1s",
    }


def _http_options() -> Message:
    """Limits and normalization that apply before any filter."""
    return {
        "codec_type": "AUTO",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "max_request_headers_kb": 60,
        "common_http_protocol_options": {
            "idle_timeout": CONNECTION_IDLE,
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},  # for probes
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": _UPLOAD_WINDOW_BYTES,
        },
    }
