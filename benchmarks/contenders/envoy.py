"""Two yardsticks: Envoy that only proxies, and Envoy with all of Gatehouse's filters but no services.

The second is the floor of what Gatehouse can cost: it reads bodies and counts, decides on the model, writes its log;
identity, which authz_service would send, is in its configuration.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.clients.request import BODY, HEADERS, PATH
from benchmarks.contenders.contender import Contender, Running
from benchmarks.machine import GATEWAY_CPUS, free_port, running, wait_until_answers
from benchmarks.upstream import MODEL
from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.contract import names
from gatehouse.envoy import merged
from gatehouse.envoy.message import Message, extension
from gatehouse.gateway.envoy_binary import envoy_path, write

_IDENTITY = {"user": "alice", "team": "search", "tier": "paid", "key_id": "laptop", "models": ["*"], "expressions": []}


@contextmanager
def _envoy(name: str, folder: Path, port: int, document: Message) -> Iterator[Running]:
    file = folder / "envoy.yaml"
    write(document, file)
    threads = ["--concurrency", str(len(GATEWAY_CPUS)), "--disable-hot-restart", "--log-level", "error"]
    with running([envoy_path(), "-c", file, *threads], folder, GATEWAY_CPUS) as pid:
        url = f"http://127.0.0.1:{port}"
        start_s = wait_until_answers(url + PATH, HEADERS, BODY, pid)
        yield Running(name, url, (pid,), start_s=start_s, role=lambda _command: "envoy")


@contextmanager
def _bare(folder: Path, upstream: str) -> Iterator[Running]:
    port = free_port()
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bare",
        http_filters=[extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"socket_address": {"address": "127.0.0.1", "port_value": urlsplit(upstream).port}}
    most = {"max_connections": 16384, "max_pending_requests": 16384, "max_requests": 16384}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        "circuit_breakers": {"thresholds": [most]},
    }
    listener = {"name": "bare", "address": address, "filter_chains": [{"filters": [manager]}]}
    document = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    with _envoy("bare Envoy", folder, port, document) as found:
        yield found


@contextmanager
def _floor(folder: Path, upstream: str) -> Iterator[Running]:
    port, run_dir = free_port(), RunDir(folder)
    config = Config.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": port},
            "models": {MODEL: {"backends": [{"url": f"{upstream}/v1"}]}},
            "default_model": MODEL,
            "logging": {"dir": str(folder)},
        }
    )
    document = merged(config, run_dir, str(folder / "access.log"))
    static = document["static_resources"]
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [
        _told() if each["name"] == names.AUTHZ else each
        for each in manager["http_filters"]
        if each["name"] != names.LIMITS
    ]
    manager["access_log"] = [each for each in manager["access_log"] if each["name"] == "envoy.access_loggers.file"]
    asked = ("authz", "ratelimit", "accesslog", "portal")
    static["clusters"] = [cluster for cluster in static["clusters"] if cluster["name"] not in asked]
    with _envoy("Envoy, same filters", folder, port, document) as found:
        yield found


def _told() -> Message:
    metadata = {"metadata_namespace": names.AUTHZ, "value": _IDENTITY}
    return extension(
        "envoy.filters.http.set_metadata", "envoy.extensions.filters.http.set_metadata.v3.Config", metadata=[metadata]
    )


BARE = Contender("bare Envoy", _bare)
FLOOR = Contender("Envoy, same filters", _floor)
