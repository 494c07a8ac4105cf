"""What Envoy gives up, and in which order, before it runs out of memory or connections.

Shares are of `server.max_memory_mb`. See Envoy's "Overload manager" and "Configuring Envoy as an edge proxy".
"""

from gatehouse.config.model import Server
from gatehouse.envoy.message import Message, extension, typed

_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
_SCARCE, _SHORT, _FULL, _LAST = 0.85, 0.92, 0.95, 0.98
_TRACKED_POWER = 20
"""Streams whose buffers hold 2^20 bytes and more are candidates for being reset."""


def manager(server: Server) -> Message:
    """`overload_manager` of the bootstrap.

    Idle clients go first, then streams that hold most; then there are no new requests (503 `server_is_overloaded`), and
    at last no new connections.
    """
    heap = extension(
        _HEAP,
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=server.max_memory_mb * 1024 * 1024,
    )
    connections = extension(
        _CONNECTIONS,
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=server.max_connections,
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [heap, connections],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": _TRACKED_POWER},
        "actions": [
            _action("shrink_heap", _above(_SCARCE)),
            {**_action("reduce_timeouts", _between(_SCARCE, _FULL)), "typed_config": _least_patience()},
            _action("reset_high_memory_stream", _between(_SHORT, _LAST)),
            _action("disable_http_keepalive", _above(_SHORT)),
            _action("stop_accepting_requests", _above(_FULL)),
        ],
        "loadshed_points": [{"name": "envoy.load_shed_points.tcp_listener_accept", "triggers": [_above(_LAST)]}],
    }


def runtime() -> Message:
    """One request of a connection at a time, then it is the turn of the others: many on one connection, be they
    pipelined or streams of HTTP/2, wait for each other and not for everybody (CVE-2023-44487)."""
    return {"http": {"max_requests_per_io_cycle": 1}}


def _action(name: str, trigger: Message) -> Message:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}


def _above(share: float) -> Message:
    return {"name": _HEAP, "threshold": {"value": share}}


def _between(low: float, high: float) -> Message:
    """From not at all at `low` to fully at `high`."""
    return {"name": _HEAP, "scaled": {"scaling_threshold": low, "saturation_threshold": high}}


def _least_patience() -> Message:
    """How short time-outs become. A stream that waits for its model keeps half a minute."""
    least = {"CONNECTION_IDLE": "2s", "STREAM_IDLE": "30s", "STREAM_FLUSH": "5s"}
    factors = [{"timer": f"HTTP_DOWNSTREAM_{timer}", "min_timeout": time} for timer, time in least.items()]
    return typed("envoy.config.overload.v3.ScaleTimersOverloadActionConfig", timer_scale_factors=factors)
