"""The Envoy process: its admin interface, listeners and sidecars."""

from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import expect_continue, overload, tracing
from gatehouse.envoy.clusters import receiver, sidecars
from gatehouse.envoy.listener import listeners
from gatehouse.envoy.message import Message

_GIVE_BACK: Message = {"bytes_to_release": 16 * 1024 * 1024, "memory_release_interval": "1s"}
"""How much of the memory freed after a burst is returned to the system, each second."""


def bootstrap(
    config: Config, run_dir: RunDir, access_log_file: str, route_specifier: Message, secrets: Message
) -> Message:
    """The configuration that Envoy starts with."""
    return {
        "node": {"id": "gatehouse", "cluster": "gatehouse"},
        "admin": {"address": {"pipe": {"path": str(run_dir.admin_socket), "mode": 0o600}}},
        "static_resources": {
            "listeners": listeners(config, run_dir, access_log_file, route_specifier, secrets),
            "clusters": [*sidecars(config, run_dir), expect_continue.cluster(), *receiver(config)],
        },
        **expect_continue.PROCESS,
        "overload_manager": overload.manager(config.server),
        "memory_allocator_manager": _GIVE_BACK,
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": _runtime(config)}, {"name": "admin", "admin_layer": {}}]
        },
    }


def _runtime(config: Config) -> Message:
    return {"re2": {"max_program_size": {"error_level": 10_000}}, **overload.runtime(), **tracing.runtime(config)}
