"""The drop-in behind a real Envoy, configured as for envoyproxy/ratelimit."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gatehouse.gateway.envoy_binary import envoy_path
from testkit.ports import free_port
from testkit.redis_server import redis_server
from testkit.waiting import until
from tests.integration.test_dropin import Dropin, at, configured

RATELIMIT = """
domain: edge
descriptors:
  - key: path
    value: /limited*
    share_threshold: true
    rate_limit: {unit: year, requests_per_unit: 2, name: limited}
  - key: tokens
    rate_limit: {unit: year, requests_per_unit: 100}
"""
TYPE = "type.googleapis.com/envoy.extensions.filters"


@contextmanager
def envoy(directory: Path, ports: dict[str, int]) -> Iterator[int]:
    """Envoy that asks the drop-in, whose debug page is the backend; gives its port."""
    port, file = free_port(), directory / "envoy.json"
    file.write_text(json.dumps(envoy_configuration(port, ports)))
    command = [envoy_path(), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    process = subprocess.Popen(command)
    try:
        until(lambda: answers(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    try:
        return get(port, "/open")[0] == 200
    except OSError:
        return False


def get(port: int, path: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def envoy_configuration(port: int, ports: dict[str, int]) -> dict[str, Any]:
    service = {"grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}}, "transport_api_version": "V3"}
    ratelimit = {
        "@type": f"{TYPE}.http.ratelimit.v3.RateLimit",
        "domain": "edge",
        "timeout": "2s",  # Envoy waits 20 ms, which on a busy machine would be a 500
        "failure_mode_deny": True,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limit_service": service,
    }
    manager = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes()}]},
        "http_filters": [
            {"name": "envoy.filters.http.ratelimit", "typed_config": ratelimit},
            {"name": "router", "typed_config": {"@type": f"{TYPE}.http.router.v3.Router"}},
        ],
    }
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    ratelimit_cluster = cluster("ratelimit", ports["GRPC_PORT"]) | {"typed_extension_protocol_options": http2}
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"address": address(port), "filter_chains": [{"filters": filters}]}
    return {
        "static_resources": {
            "listeners": [listener],
            "clusters": [ratelimit_cluster, cluster("backend", ports["DEBUG_PORT"])],
        }
    }


def cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def routes() -> list[dict[str, Any]]:
    path = [{"request_headers": {"header_name": ":path", "descriptor_key": "path"}}]
    tokens = [{"generic_key": {"descriptor_key": "tokens", "descriptor_value": "all"}}]
    debit = {"actions": tokens, "hits_addend": {"number": 60}, "apply_on_stream_done": True}
    return [
        route("/limited", [{"actions": path}]),
        route("/tokens", [{"actions": tokens, "hits_addend": {"number": 0}}, debit]),
        route("/", []),
    ]


def route(prefix: str, rate_limits: list[dict[str, Any]]) -> dict[str, Any]:
    to_root = {"pattern": {"regex": ".*"}, "substitution": "/"}
    made: dict[str, Any] = {"match": {"prefix": prefix}, "route": {"cluster": "backend", "regex_rewrite": to_root}}
    per_route = {"@type": f"{TYPE}.http.ratelimit.v3.RateLimitPerRoute", "rate_limits": rate_limits}
    return made | ({"typed_per_filter_config": {"envoy.filters.http.ratelimit": per_route}} if rate_limits else {})


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("edge")
    with redis_server() as server, Dropin(configured(directory, RATELIMIT), at(server)).running() as dropin:
        until(lambda: dropin.get("/healthcheck")[0] == 200)
        with envoy(directory, dropin.ports) as port:
            yield port


def test_envoy_refuses_what_is_over_the_limit(edge: int) -> None:
    answered = [get(edge, f"/limited/{i}") for i in range(3)]
    assert [status for status, _ in answered] == [200, 200, 429]
    assert [headers["x-ratelimit-remaining"] for _, headers in answered] == ["1", "0", "0"]
    assert answered[0][1]["x-ratelimit-limit"].startswith('2, 2;w=31536000;name="limited"')


def test_envoy_debits_tokens_when_the_response_has_ended(edge: int) -> None:
    """60 tokens a response of 100: the second begins with 40 left, and is counted in full."""
    statuses = [get(edge, "/tokens")[0] for _ in range(2)]
    assert statuses == [200, 200]
    until(lambda: get(edge, "/tokens")[0] == 429)
