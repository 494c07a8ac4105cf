"""Only what is allow-listed reaches a model server, and nobody reaches one unasked."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.contract import errors, names
from gatehouse.envoy import merged, render
from gatehouse.envoy.filters import chain
from testkit.envoy_configs import CONFIGS, HASHED_KEY, LONG, NAMELESS, PLAIN_KEY, SHORT, valid_configs
from testkit.envoy_routing import Route, route_for, routes, tried, virtual_host

RUN_DIR = RunDir(Path("/run/gatehouse"))
CHAT = "/v1/chat/completions"
IDLE = {each["name"] for each in chain(1) if each.get("disabled")}
ALL_FILTERS = {each["name"] for each in chain(1)} - IDLE
ALL_FILTERS -= {"envoy.filters.http.body_size_limit", "envoy.filters.http.router"}
DISABLED = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}

every_shape = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def without(route: Route) -> set[str]:
    """The filters that a route does without."""
    return {name for name, own in route.get("typed_per_filter_config", {}).items() if own == DISABLED}


def cluster(route: Route) -> str | None:
    found: str | None = route.get("route", {}).get("cluster")
    return found


def is_to_a_model(route: Route) -> bool:
    return (cluster(route) or "").startswith("model:")


@every_shape
def test_who_reaches_a_model_server_has_met_every_filter(config: Config) -> None:
    to_models = [route for route in routes(config) if is_to_a_model(route)]
    assert to_models
    assert [without(route) for route in to_models] == [set()] * len(to_models)


@given(valid_configs)
def test_no_configuration_opens_a_way_around_the_filters(config: Config) -> None:
    assert all(without(route) == set() for route in routes(config) if is_to_a_model(route))


@every_shape
def test_the_gateways_own_pages_have_limits_and_nothing_else_has(config: Config) -> None:
    own = [route for route in routes(config) if names.OWN_LIMITS in route.get("typed_per_filter_config", {})]
    assert {cluster(route) for route in own} == {names.PORTAL}
    assert {route["name"] for route in own} >= {"/", "/health", "/metrics", "/usage", "/v1/models", "/v1/usage"}
    assert {names.OWN_LIMITS} == IDLE


@every_shape
def test_until_the_body_is_read_no_filter_is_given_up(config: Config) -> None:
    for path in names.ENDPOINTS:
        assert without(route_for(config, "POST", path)) == set()


@every_shape
def test_a_clusters_name_in_a_route_is_that_of_a_cluster(config: Config) -> None:
    rendered = render(config, RUN_DIR, "/dev/null")
    static = rendered.bootstrap["static_resources"]["clusters"]
    known = {each["name"] for each in [*static, *rendered.clusters["resources"]]}
    assert {cluster(route) for route in routes(config)} - {None} <= known


PATHS = (
    st.sampled_from(["/", "/metrics", "/health", "/v1/models", "/v1", "/docs", "/version", "/scale_elastic_ep"])
    | st.builds(lambda endpoint, tail: endpoint + tail, st.sampled_from(names.ENDPOINTS), st.text(min_size=1))
    | st.builds(lambda endpoint, at: endpoint[:at], st.sampled_from(names.ENDPOINTS), st.integers(1, 8))
    | st.sampled_from([CHAT.upper(), "/v1/chat/completions/", "//v1/chat/completions", "/v1xchat/completions"])
    | st.text().map(lambda text: "/" + text)
).filter(lambda path: path.partition("?")[0] not in names.ENDPOINTS)


@given(PATHS, st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE"]), st.sampled_from(["llama", "__missing__"]))
def test_any_other_path_reaches_no_model_server(path: str, method: str, model: str) -> None:
    for config in CONFIGS.values():
        assert not is_to_a_model(route_for(config, method, path, model))


@every_shape
@pytest.mark.parametrize("tail", ["x", "/", "/x", ";a=b", "%2f", " "])
def test_an_endpoint_with_a_tail_is_another_path(config: Config, tail: str) -> None:
    assert {route_for(config, "POST", path + tail, "llama")["name"] for path in names.ENDPOINTS} == {"not_found"}


@given(st.sampled_from(names.ENDPOINTS), st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POSTER", "post"]))
def test_any_other_method_is_405_without_a_question(path: str, method: str) -> None:
    for config in CONFIGS.values():
        route = route_for(config, method, path, "llama")
        code = "not_found" if method == "OPTIONS" else "method_not_allowed"
        assert (route["name"], without(route)) == (code, ALL_FILTERS)
        assert "Did you mean" not in str(route)


@every_shape
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/x/chat/completions", "/v1/chat/completions"),
        ("/V1/Chat/Completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/embedding", "/v1/embeddings"),
        ("/v1/tokenize", "/tokenize"),
        ("/v1/message", "/v1/messages"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/models", "/v1/models"),
        ("/v1/nothing", None),
        ("/chat", None),
    ],
)
def test_a_path_that_is_nearly_right_is_told_the_right_one(config: Config, path: str, meant: str | None) -> None:
    route = route_for(config, "POST", path)
    said = route["direct_response"]["body_format"]["json_format"]["error"]["message"]
    assert route["name"] == "not_found"
    assert said.partition("Did you mean ")[2] == ("" if meant is None else f"{meant}?")


@every_shape
@pytest.mark.parametrize("path", ["/v2", "/v1/chat", "/inference/v1/generate", "/v1/chat/completions/x", "/v1/modelsx"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_other_path_is_404_without_a_question(config: Config, method: str, path: str) -> None:
    route = route_for(config, method, path)
    assert (route["name"], without(route)) == ("not_found", ALL_FILTERS)
    assert route["direct_response"]["status"] == 404


@every_shape
@pytest.mark.parametrize("path", ["/", "/health", "/metrics"])
def test_pages_are_open_to_anyone_who_reads(config: Config, path: str) -> None:
    route = route_for(config, "GET", path)
    assert (cluster(route), without(route)) == (names.PORTAL, ALL_FILTERS)
    assert route_for(config, "POST", path)["name"] == "method_not_allowed"


@every_shape
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/llama", "/v1/models/a/b"])
def test_the_list_of_models_asks_who_is_there_and_reads_no_body(config: Config, path: str) -> None:
    route = route_for(config, "GET", path)
    assert (cluster(route), without(route)) == (names.PORTAL, ALL_FILTERS - {names.CLIENT_IP, names.AUTHZ})


@pytest.mark.parametrize("shape", ["short", "nameless", "prefixed"])
@given(model=st.text(min_size=1))
def test_in_the_short_form_any_name_goes_to_the_one_server(shape: str, model: str) -> None:
    config = CONFIGS[shape]
    (only,) = {cluster(route) for route in routes(config) if is_to_a_model(route)}
    assert cluster(route_for(config, "POST", CHAT, model)) == only


@pytest.mark.parametrize("shape", ["long", "with-default", "https-only"])
@pytest.mark.parametrize("endpoint", names.ENDPOINTS)
def test_in_the_long_form_each_name_goes_to_its_model(shape: str, endpoint: str) -> None:
    served = {"llama": "llama", "gpt-4o": "llama", "gpt-4o-mini": "llama", "mistral": "mistral", "qwen": "qwen"}
    found = {name: cluster(route_for(CONFIGS[shape], "POST", endpoint, name)) for name in served}
    assert found == {name: f"model:{model}" for name, model in served.items()}


@pytest.mark.parametrize("shape", ["long", "with-default", "https-only"])
@pytest.mark.parametrize("model", ["LLAMA", "llama ", "gpt-4", "llam", "llama.*", "other"])
def test_in_the_long_form_another_name_is_model_not_found(shape: str, model: str) -> None:
    route = route_for(CONFIGS[shape], "POST", CHAT, model)
    assert route["name"] == "model_not_found"
    assert without(route) == set()


def test_among_500_models_one_is_looked_up_and_no_other_tried() -> None:
    models = {f"m{number}": {"backends": [{"url": "http://h/v1"}], "aliases": [f"a{number}"]} for number in range(500)}
    config = Config.model_validate({**LONG, "models": models, "default_model": "m0", "api_keys": {}})
    host = virtual_host(config)
    for name, model in (("m0", "m0"), ("m499", "m499"), ("a250", "m250")):
        assert [route["name"] for route in tried(host, "POST", CHAT, name)] == [f"model:{model}"]
    assert len(tried(host, "POST", CHAT, None)) < 10
    assert len(tried(host, "POST", CHAT, "other")) < 10


DEFAULTS = [("short", "llama"), ("nameless", None), ("long", None), ("with-default", "gpt-4o")]


@pytest.mark.parametrize(("shape", "default"), DEFAULTS)
def test_the_reader_is_told_the_default_model_by_the_route_that_is_in_effect_meanwhile(
    shape: str, default: str | None
) -> None:
    route = route_for(CONFIGS[shape], "POST", CHAT)
    said = route["metadata"]["filter_metadata"][names.READER]
    assert (route["name"], said.get("default_model"), said["max_json_values"]) == ("reading", default, 500_000)


def test_the_reader_is_told_what_servers_that_are_not_vllm_may_be_asked_for() -> None:
    def backends(*kinds: str) -> dict[str, object]:
        return {"backends": [{"url": f"http://{kind}/v1", "kind": kind} for kind in kinds]}

    models = {
        "plain": backends("vllm", "sglang"),
        "cloud": {**backends("openai"), "aliases": ["gpt"]},
        "mixed": backends("vllm", "tgi"),
        "mute": backends("openai", "other"),
    }
    config = Config.model_validate({**LONG, "models": models, "api_keys": {}})
    said = route_for(config, "POST", CHAT)["metadata"]["filter_metadata"][names.READER]
    once = ["include_usage"]
    asked = {name: value for name, value in said.items() if name.startswith("asks")}
    assert asked == {"asks:cloud": once, "asks:gpt": once, "asks:mixed": once, "asks:mute": []}
    short = Config.model_validate({**SHORT, "vllm": {"base_url": "http://h/v1", "kind": "tgi"}})
    assert route_for(short, "POST", CHAT)["metadata"]["filter_metadata"][names.READER]["asks"] == once


@every_shape
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_json", 400),
        ("invalid_value", 400),
        ("missing_model", 400),
        ("not_allowed_here", 400),
        ("too_many_values", 413),
        ("gateway_error", 500),
    ],
)
def test_what_the_reader_refuses_is_answered_in_its_words(config: Config, code: str, status: int) -> None:
    route = route_for(config, "POST", CHAT, refused=code)
    answer = route["direct_response"]
    assert (route["name"], answer["status"]) == (code, status)
    assert answer["body_format"]["json_format"]["error"]["message"].endswith("%DYNAMIC_METADATA(llm:problem)%")
    assert code not in (route_for(config, "POST", CHAT, model)["name"] for model in (code, f"{code}:"))


@every_shape
def test_an_encoded_body_is_415_without_a_question(config: Config) -> None:
    for encoding in ("gzip", "zstd", "br, gzip"):
        route = route_for(config, "POST", CHAT, None, {"content-encoding": encoding})
        assert (route["name"], route["direct_response"]["status"], without(route)) == ("encoded_body", 415, ALL_FILTERS)
    assert route_for(config, "POST", CHAT, None, {"content-encoding": "Identity"})["name"] == "reading"


def test_plaintext_is_426_everywhere_but_for_probes() -> None:
    config = CONFIGS["https-only"]
    plain = {"x-forwarded-proto": "http"}
    for method, path in [("POST", CHAT), ("GET", "/"), ("GET", "/metrics"), ("GET", "/v1/models"), ("PUT", "/x")]:
        route = route_for(config, method, path, None, plain)
        assert (route["name"], without(route)) == ("https_required", ALL_FILTERS)
        assert route_for(config, method, path, "llama")["name"] != "https_required"
    assert cluster(route_for(config, "GET", "/health", None, plain)) == names.PORTAL


def test_plaintext_is_answered_where_https_is_not_required() -> None:
    assert route_for(CONFIGS["long"], "POST", CHAT, "llama", {"x-forwarded-proto": "http"})["name"] == "model:llama"


@every_shape
def test_a_body_that_says_it_is_too_large_is_413_without_a_question(config: Config) -> None:
    most = config.server.max_body_bytes
    route = route_for(config, "POST", CHAT, None, {"content-length": str(most + 1)})
    assert (route["name"], without(route)) == ("request_too_large", ALL_FILTERS)
    assert route_for(config, "POST", CHAT, "llama", {"content-length": str(most)})["name"] != "request_too_large"


def test_the_buffer_holds_more_than_the_largest_body() -> None:
    config = CONFIGS["behind-proxies"]
    assert virtual_host(config)["request_body_buffer_limit"] > config.server.max_body_bytes == 2**20


@pytest.mark.parametrize(("shape", "model"), [("prefixed", "any"), ("long", "mistral")])
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_a_path_before_v1_stands_before_every_path(shape: str, model: str, path: str) -> None:
    rewrite = route_for(CONFIGS[shape], "POST", path, model)["route"]["regex_rewrite"]
    assert re.sub(rewrite["pattern"]["regex"], rewrite["substitution"], f"{path}?a=b") == f"/llm{path}?a=b"


@pytest.mark.parametrize(("shape", "model"), [("short", "any"), ("long", "llama"), ("long", "qwen")])
def test_where_nothing_stands_before_v1_the_path_is_left_alone(shape: str, model: str) -> None:
    assert "regex_rewrite" not in route_for(CONFIGS[shape], "POST", CHAT, model)["route"]


@every_shape
def test_a_stream_may_last_and_is_asked_for_in_plain_text(config: Config) -> None:
    for route in filter(is_to_a_model, routes(config)):
        assert route["route"]["timeout"] == "0s"
    answered = route_for(config, "POST", CHAT, "llama")
    assert answered["route"]["idle_timeout"] == f"{config.server.stream_idle_timeout_s}s"
    assert "accept-encoding" in answered["request_headers_to_remove"]


@every_shape
def test_refusals_are_whole_errors(config: Config) -> None:
    by_code = {error.code: error for error in vars(errors).values() if isinstance(error, errors.ClientError)}
    for route in routes(config):
        if "direct_response" in route:
            error = by_code[route["name"]]
            assert route["direct_response"]["status"] == error.status
            assert json.loads(route["direct_response"]["body"]["inline_string"]) == error.body()
            added = {each["header"]["key"]: each["header"]["value"] for each in route["response_headers_to_add"]}
            assert added["content-type"] == "application/json"


def test_models_and_keys_leave_what_envoy_starts_with_alone() -> None:
    short, long = (render(CONFIGS[shape], RUN_DIR, "/dev/null") for shape in ("nameless", "with-default"))
    assert short.bootstrap == long.bootstrap
    assert short.routes != long.routes
    assert short.clusters != long.clusters


def test_keys_change_nothing_that_envoy_is_given() -> None:
    keys, none = (
        render(Config.model_validate(shape), RUN_DIR, "/dev/null") for shape in (LONG, {**LONG, "api_keys": {}})
    )
    assert keys == none


def test_a_version_changes_exactly_when_its_file_does() -> None:
    first, same, other = (render(Config.model_validate(shape), RUN_DIR, "x") for shape in (SHORT, SHORT, NAMELESS))
    assert first.routes["version_info"] == same.routes["version_info"] != other.routes["version_info"]
    assert first.clusters["version_info"] == same.clusters["version_info"] != other.clusters["version_info"]


@every_shape
def test_what_envoy_validates_is_what_it_is_served(config: Config) -> None:
    rendered, whole = render(config, RUN_DIR, "/dev/null"), merged(config, RUN_DIR, "/dev/null")
    clusters = whole["static_resources"]["clusters"]
    (manager,) = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    assert [untyped(rendered.routes)] == [[manager["typed_config"]["route_config"]]]
    served = rendered.bootstrap["static_resources"]["clusters"] + untyped(rendered.clusters)
    assert without_source_of_secrets(served) == clusters
    asked_for = {each["name"] for file in rendered.secrets.values() for each in file["resources"]}
    assert {each["name"] for each in whole["static_resources"]["secrets"]} == asked_for


def without_source_of_secrets(node: Any) -> Any:
    if isinstance(node, list):
        return [without_source_of_secrets(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {key: without_source_of_secrets(value) for key, value in node.items() if key != "sds_config"}


def untyped(file: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if name != "@type"} for each in file["resources"]]


@every_shape
def test_no_key_is_in_anything_rendered(config: Config) -> None:
    rendered = json.dumps(render(config, RUN_DIR, "/dev/null").files())
    secrets = [PLAIN_KEY, HASHED_KEY, HASHED_KEY.removeprefix("sha256:"), *config.api_keys, "alice"]
    assert [secret for secret in secrets if secret in rendered] == []


@pytest.mark.parametrize(
    ("tier", "priority", "urgency"),
    [("premium", "HIGH", "-4"), ("staff", "HIGH", "-4"), ("standard", "HIGH", "-2"), ("free", None, "-1")]
    + [(unknown, None, "-1") for unknown in ("elsewhere", "premium2", "-", None)],
)
@pytest.mark.parametrize("model", ["llama", "gpt-4o", "mistral"])
def test_the_weight_of_a_tier_goes_with_its_requests(
    model: str, tier: str | None, priority: str | None, urgency: str
) -> None:
    route = route_for(CONFIGS["replicas"], "POST", CHAT, model, tier=tier)
    told = {each["header"]["key"]: each["header"]["value"] for each in route["request_headers_to_add"]}
    assert (route["route"].get("priority"), told["x-vllm-priority"]) == (priority, urgency)
    assert "x-vllm-priority" not in route["request_headers_to_remove"]


def test_without_weights_no_client_says_how_urgent_it_is() -> None:
    for name in ("short", "long"):
        route = route_for(CONFIGS[name], "POST", CHAT, "llama", tier="premium")
        assert "x-vllm-priority" in route["request_headers_to_remove"]
        assert "priority" not in route["route"]


def test_the_short_form_asks_its_one_server_again_only_for_what_it_has_not_begun() -> None:
    route = route_for(CONFIGS["short"], "POST", CHAT, "any")
    assert route["route"]["retry_policy"] == {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 2,
    }


def test_other_replicas_are_asked_and_other_levels_last() -> None:
    many = route_for(CONFIGS["replicas"], "POST", CHAT, "llama")["route"]["retry_policy"]
    one = route_for(CONFIGS["replicas"], "POST", CHAT, "mistral")["route"]["retry_policy"]
    assert many["retry_on"] == "connect-failure,refused-stream,reset,retriable-status-codes"
    assert many["retriable_status_codes"] == [502, 503]
    assert many["retry_priority"]["typed_config"]["update_frequency"] == 2
    assert one["retry_on"] == "connect-failure,refused-stream,reset"
    assert "retry_priority" not in one


def test_sessions_are_told_apart_by_their_header_else_by_their_user() -> None:
    (session, user) = route_for(CONFIGS["replicas"], "POST", CHAT, "llama")["route"]["hash_policy"]
    assert session == {"header": {"header_name": "x-session-id"}, "terminal": True}
    assert user == {"header": {"header_name": "x-gatehouse-user"}}
    assert "hash_policy" not in route_for(CONFIGS["replicas"], "POST", CHAT, "mistral")["route"]
