"""What Envoy is told of OpenTelemetry: nothing, unless there is somewhere to send traces to."""

import json
from pathlib import Path
from typing import Any

import pytest

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.contract import names
from gatehouse.envoy import render
from testkit.envoy_configs import CONFIGS, HASHED_KEY, PLAIN_KEY, SHORT
from testkit.envoy_routing import routes

Node = dict[str, Any]


def rendered(config: Config) -> dict[str, Node]:
    return render(config, RunDir(Path("/run/gatehouse")), "/logs/access.log").files()


def manager(config: Config) -> Node:
    listener, _ = rendered(config)["envoy.yaml"]["static_resources"]["listeners"]
    typed: Node = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return typed


def provider(config: Config) -> Node:
    typed: Node = manager(config)["tracing"]["provider"]["typed_config"]
    return typed


def receiver(config: Config) -> list[Node]:
    clusters = rendered(config)["envoy.yaml"]["static_resources"]["clusters"]
    return [cluster for cluster in clusters if cluster["name"] == names.OTLP]


def sampling(share: float) -> Node:
    traced = {**SHORT, "tracing": {"otlp_endpoint": "http://otel", "sample": share}}
    parent = provider(Config.model_validate(traced))["sampler"]
    assert parent["name"] == "envoy.tracers.opentelemetry.samplers.parent_based"
    wrapped: Node = parent["typed_config"]["wrapped_sampler"]["typed_config"]["sampling_percentage"]
    return wrapped


@pytest.mark.parametrize("shape", [shape for shape in CONFIGS if not shape.startswith("traced")])
def test_without_a_receiver_nothing_is_rendered(shape: str) -> None:
    assert receiver(CONFIGS[shape]) == []
    text = json.dumps(rendered(CONFIGS[shape])).lower()
    assert [word for word in ("tracing", "opentelemetry", "gen_ai", "trace_id") if word in text] == []


@pytest.mark.parametrize(
    ("share", "numerator"), [(0, 0), (0.1, 100_000), (1, 1_000_000), (0.000001, 1), (0.29, 290_000)]
)
def test_a_share_is_sampled_of_what_has_no_parent(share: float, numerator: int) -> None:
    assert sampling(share) == {"numerator": numerator, "denominator": "MILLION"}


def test_nothing_but_its_traceparent_lets_a_client_be_traced() -> None:
    tracing = manager(CONFIGS["traced"])["tracing"]
    assert tracing["client_sampling"] == {"value": 0}
    assert "verbose" not in tracing


def test_the_receiver_is_spoken_to_in_grpc_and_never_waited_for() -> None:
    (cluster,) = receiver(CONFIGS["traced"])
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert address == {"socket_address": {"address": "otel", "port_value": 4317}}
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"] == {"http2_protocol_options": {}}
    assert cluster["wait_for_warm_on_init"] is False
    assert "transport_socket" not in cluster
    assert provider(CONFIGS["traced"])["grpc_service"]["envoy_grpc"] == {
        "cluster_name": "otlp",
        "authority": "otel:4317",
    }


def test_https_is_checked() -> None:
    (cluster,) = receiver(CONFIGS["traced-over-tls"])
    context = cluster["transport_socket"]["typed_config"]
    assert context["auto_sni_san_validation"] is True
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert (endpoint["hostname"], endpoint["address"]["socket_address"]["port_value"]) == ("otel.example.com", 4317)


def test_spans_are_not_sent_one_request_at_a_time() -> None:
    layer, _ = rendered(CONFIGS["traced"])["envoy.yaml"]["layered_runtime"]["layers"]
    assert layer["static_layer"]["tracing"]["opentelemetry"]["min_flush_spans"] >= 100
    assert layer["static_layer"]["re2"]


def test_no_attribute_is_made_of_a_header_a_query_or_a_body() -> None:
    tags = manager(CONFIGS["traced"])["tracing"]["custom_tags"]
    text = json.dumps(tags).lower()
    assert [word for word in ("authorization", "api-key", "cookie", "%path%", "(wq)", ":path)") if word in text] == []
    (url,) = [tag["value"] for tag in tags if tag["tag"] == "http.url"]
    assert url.endswith("%PATH(NQ):256%")
    document = json.dumps(rendered(CONFIGS["traced"]))
    assert PLAIN_KEY not in document
    assert HASHED_KEY not in document


def test_pages_for_probes_and_scrapes_begin_no_trace() -> None:
    untraced = [
        route["name"]
        for route in routes(CONFIGS["traced"])
        if route.get("tracing") == {"overall_sampling": {"numerator": 0}}
    ]
    assert untraced == ["/health", "/", "/metrics", *names.USAGE_PAGE]


def test_both_logs_are_told_the_trace() -> None:
    service, file = manager(CONFIGS["traced"])["access_log"]
    tag = {"tag": "trace_id", "value": "%TRACE_ID%"}
    assert service["typed_config"]["common_config"]["custom_tags"] == [tag]
    assert file["typed_config"]["log_format"]["json_format"]["trace_id"] == "%TRACE_ID%"
