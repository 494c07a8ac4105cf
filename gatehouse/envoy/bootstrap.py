"""The Envoy process: admin interface, overload limits, the listener and the sidecars."""

from gatehouse.config.model import Config
from gatehouse.envoy import tracing
from gatehouse.envoy.clusters import receiver, sidecars
from gatehouse.envoy.listener import listener
from gatehouse.envoy.message import Message, extension
from gatehouse.run_dir import RunDir

MAX_CONNECTIONS = 20_000
MAX_HEAP_BYTES = 4 * 1024**3


def bootstrap(
    config: Config, run_dir: RunDir, access_log_file: str, route_specifier: Message, secrets: Message
) -> Message:
    """What Envoy starts with."""
    return {
        "node": {"id": "gatehouse", "cluster": "gatehouse"},
        "admin": {"address": {"pipe": {"path": str(run_dir.admin_socket), "mode": 0o600}}},
        "static_resources": {
            "listeners": [listener(config, run_dir, access_log_file, route_specifier, secrets)],
            "clusters": [*sidecars(config, run_dir), *receiver(config)],
        },
        "overload_manager": _overload(),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _runtime(config)}]},
    }


def _runtime(config: Config) -> Message:
    return {"re2": {"max_program_size": {"error_level": 10_000}}, **tracing.runtime(config)}


def _overload() -> Message:
    heap = extension(
        "envoy.resource_monitors.fixed_heap",
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=MAX_HEAP_BYTES,
    )
    connections = extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=MAX_CONNECTIONS,
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [heap, connections],
        "actions": [
            _above("envoy.overload_actions.shrink_heap", 0.90),
            _above("envoy.overload_actions.stop_accepting_requests", 0.95),
        ],
    }


def _above(action: str, share: float) -> Message:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": action, "triggers": [trigger]}
