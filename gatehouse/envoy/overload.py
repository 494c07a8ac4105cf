"""What Envoy sheds, and in which order, before it runs out of memory or connections.

Shares are of `server.max_memory_mb`. See Envoy's "Overload manager" and "Configuring Envoy as an edge proxy".
"""

from gatehouse.config.model import Server
from gatehouse.envoy.message import Message, extension, typed

_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
_SCARCE, _SHORT, _FULL, _LAST = 0.85, 0.92, 0.95, 0.98
_TRACKED_POWER = 20
"""Streams with 2^20 bytes or more in buffers may be reset."""


def manager(server: Server) -> Message:
    """`overload_manager` of the bootstrap.

    Idle connections are closed first, then the streams with most memory are reset; then new requests are refused (503
    `server_is_overloaded`), and finally new connections.
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
            {**_action("reduce_timeouts", _between(_SCARCE, _FULL)), "typed_config": _shortest_timeouts()},
            _action("reset_high_memory_stream", _between(_SHORT, _LAST)),
            _action("disable_http_keepalive", _above(_SHORT)),
            _action("stop_accepting_requests", _above(_FULL)),
        ],
        "loadshed_points": [{"name": "envoy.load_shed_points.tcp_listener_accept", "triggers": [_above(_LAST)]}],
    }


def runtime() -> Message:
    """One request per connection and event-loop cycle: many requests on one connection, pipelined or streams of HTTP/2,
    delay each other and no other connection (CVE-2023-44487)."""
    return {"http": {"max_requests_per_io_cycle": 1}}


def _action(name: str, trigger: Message) -> Message:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}


def _above(share: float) -> Message:
    return {"name": _HEAP, "threshold": {"value": share}}


def _between(low: float, high: float) -> Message:
    """Scales from nothing at `low` to full effect at `high`."""
    return {"name": _HEAP, "scaled": {"scaling_threshold": low, "saturation_threshold": high}}


def _shortest_timeouts() -> Message:
    """The shortest values of time-outs. A stream that waits for its model keeps half a minute."""
    least = {"CONNECTION_IDLE": "2s", "STREAM_IDLE": "30s", "STREAM_FLUSH": "5s"}
    factors = [{"timer": f"HTTP_DOWNSTREAM_{timer}", "min_timeout": time} for timer, time in least.items()]
    return typed("envoy.config.overload.v3.ScaleTimersOverloadActionConfig", timer_scale_factors=factors)
