"""The listener: which filters there are, in which order, and which way each of them fails."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config import Config
from gatehouse.config.model import Redis
from gatehouse.config.run_dir import RunDir
from gatehouse.contract import names
from gatehouse.envoy import access_log, expect_continue, model_access, render
from gatehouse.envoy.clusters import sidecars
from gatehouse.envoy.filters import (
    AUTHZ_HEDGE_AFTER_S,
    AUTHZ_TIMEOUT_S,
    LIMITS_TIMEOUT_S,
    LIMITS_TRY_TIMEOUT_S,
    chain,
)
from gatehouse.envoy.message import seconds
from testkit.envoy_configs import CONFIGS, LONG, SHORT
from testkit.envoy_routing import routes

Node = dict[str, Any]
MAX_BODY = 1024
FILTERS = {each["name"]: each["typed_config"] for each in chain(MAX_BODY)}
RUN_DIR = RunDir(Path("/run/gatehouse"))


def bootstrap(config: Config = CONFIGS["short"]) -> Node:
    return render(config, RUN_DIR, "/logs/access.log").bootstrap


def manager(config: Config = CONFIGS["short"]) -> Node:
    listener, _ = bootstrap(config)["static_resources"]["listeners"]
    (found,) = listener["filter_chains"][0]["filters"]
    typed: Node = found["typed_config"]
    return typed


def test_a_request_meets_the_filters_in_this_order() -> None:
    assert list(FILTERS) == [
        "envoy.filters.http.body_size_limit",
        names.CLIENT_IP,
        names.AUTHZ,
        names.OWN_LIMITS,
        names.READER,
        names.WHOLE_BODY,
        names.MODEL_NAME,
        names.MODEL_ACCESS,
        names.LIMITS,
        names.ANSWERS,
        "envoy.filters.http.router",
    ]
    assert [each["name"] for each in manager()["http_filters"]] == list(FILTERS)


def test_no_filter_knows_a_model_or_a_key() -> None:
    assert manager(CONFIGS["short"])["http_filters"] == manager(CONFIGS["with-default"])["http_filters"]


def test_bodies_are_limited_before_anything_reads_them() -> None:
    assert FILTERS["envoy.filters.http.body_size_limit"]["max_request_bytes"] == MAX_BODY


def test_without_an_answer_from_authz_nobody_gets_in() -> None:
    authz = FILTERS[names.AUTHZ]
    assert authz["failure_mode_allow"] is False
    assert authz["status_on_error"] == {"code": "ServiceUnavailable"}
    assert "with_request_body" not in authz


def test_authz_is_told_the_address_that_proxies_are_trusted_to_tell() -> None:
    (told,) = FILTERS[names.CLIENT_IP]["mutations"]["request_mutations"]
    assert told["append"]["header"]["value"] == "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
    assert told["append"]["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_authz_is_shown_the_two_headers_a_key_may_be_in() -> None:
    shown = [pattern["exact"] for pattern in FILTERS[names.AUTHZ]["allowed_headers"]["patterns"]]
    assert shown == ["authorization", "x-api-key", names.CLIENT_IP_HEADER]


def test_a_hung_authz_worker_leaves_time_to_ask_another() -> None:
    call = FILTERS[names.AUTHZ]["grpc_service"]
    assert call["timeout"] == seconds(AUTHZ_TIMEOUT_S)
    assert {each["key"]: each["value"] for each in call["initial_metadata"]} == {
        "x-envoy-hedge-on-per-try-timeout": "true",
        "x-envoy-upstream-rq-per-try-timeout-ms": "150",
    }
    assert AUTHZ_HEDGE_AFTER_S * 4 <= AUTHZ_TIMEOUT_S < 2
    authz = next(cluster for cluster in sidecars(CONFIGS["short"], RUN_DIR) if cluster["name"] == "authz")
    (options,) = authz["typed_extension_protocol_options"].values()
    assert float(authz["health_checks"][0]["timeout"].rstrip("s")) > AUTHZ_TIMEOUT_S
    assert "previous_hosts" in options["retry_policy"]["retry_host_predicate"][0]["name"]


def test_a_late_answer_from_ratelimit_is_no_way_past_the_limits() -> None:
    """Who answers when ratelimit is away is in its cluster."""
    assert FILTERS[names.LIMITS]["failure_mode_deny"] is True
    assert FILTERS[names.LIMITS]["status_on_error"] == {"code": "ServiceUnavailable"}


def test_another_worker_of_ratelimit_is_asked_where_one_hangs_and_a_single_one_is_waited_for() -> None:
    for limiters, tries in ((1, []), (2, [f"{LIMITS_TRY_TIMEOUT_S * 1000:.0f}"])):
        (limits,) = (each for each in chain(MAX_BODY, limiters=limiters) if each["name"] == names.LIMITS)
        service = limits["typed_config"]["rate_limit_service"]["grpc_service"]
        assert [each["value"] for each in service.get("initial_metadata", ())] == tries
    assert LIMITS_TRY_TIMEOUT_S * 2 <= LIMITS_TIMEOUT_S
    assert 3 * Redis.model_fields["timeout_ms"].metadata[1].le / 1000 < LIMITS_TRY_TIMEOUT_S


def test_every_request_has_a_descriptor() -> None:
    """One action without a value would drop the descriptor, and Envoy asks nothing without one."""
    (limit,) = FILTERS[names.LIMITS]["rate_limits"]
    for action in limit["actions"]:
        (kind,) = action.values()
        assert kind.get("default_value") == "-" or kind.get("skip_if_absent") is True
    keys = [next(iter(action.values()))["descriptor_key"] for action in limit["actions"]]
    who = ["user", "team", "tier", "key_id", "key_limits", "key_family"]
    assert keys == [*who, "model", "asks", "request_id"]


def test_a_body_is_kept_until_all_of_it_has_been_read() -> None:
    assert MAX_BODY < FILTERS[names.WHOLE_BODY]["max_request_bytes"] < MAX_BODY + 2**20


def test_the_route_is_chosen_again_by_what_the_body_says() -> None:
    (value,) = FILTERS[names.MODEL_NAME]["on_request_headers"]
    text = value["format_string"]["text_format_source"]["inline_string"]
    assert text == "%DYNAMIC_METADATA(llm:refused)%:%DYNAMIC_METADATA(llm:model)%"
    assert FILTERS[names.MODEL_NAME]["clear_route_cache"] is True


def value_of(node: Node, metadata: dict[str, Any]) -> Any:
    """What the CEL syntax tree `node` comes to. Raises `LookupError` where Envoy's evaluation fails."""
    if "const_expr" in node:
        (constant,) = node["const_expr"].values()
        return constant
    if "ident_expr" in node:
        return {"metadata": {"filter_metadata": metadata}}[node["ident_expr"]["name"]]
    if "select_expr" in node:
        return value_of(node["select_expr"]["operand"], metadata)[node["select_expr"]["field"]]
    call = node["call_expr"]
    values = [partial(value_of, each, metadata) for each in [*filter(None, [call.get("target")]), *call["args"]]]
    match call["function"]:
        case "_[_]":
            return values[0]()[values[1]()]
        case "matches":
            return re.search(values[1](), values[0]()) is not None
        case "@in":
            return values[0]() in values[1]()
        case "size":
            return len(values[0]())
        case "_<=_":
            return values[0]() <= values[1]()
        case "_&&_":
            return values[0]() and values[1]()
        case "_||_":
            return either(*values)
    raise LookupError(call["function"])


def either(one: Callable[[], bool], other: Callable[[], bool]) -> bool:
    """CEL's `||`: what fails counts only if the other side is false (CEL specification, "Logical Operators")."""
    try:
        if one():
            return True
    except LookupError:
        if other():
            return True
        raise
    return other()


def allows(rbac: Node, metadata: dict[str, Any]) -> bool:
    """Whether one of the policy's rules holds, of which each allows. What fails does not hold."""
    assert rbac["matcher"]["on_no_match"]["action"]["typed_config"]["action"] == "DENY"
    rules = rbac["matcher"]["matcher_list"]["matchers"]
    assert {rule["on_match"]["action"]["typed_config"]["action"] for rule in rules} == {"ALLOW"}
    return any(holds(rule["predicate"], metadata) for rule in rules)


def holds(predicate: Node, metadata: dict[str, Any]) -> bool:
    if "and_matcher" in predicate:
        return all(holds(each, metadata) for each in predicate["and_matcher"]["predicate"])
    only = predicate["single_predicate"]
    shown, match = only["input"]["typed_config"], only["custom_match"]["typed_config"]
    if "expr_match" not in match:
        return is_like(metadata.get(shown["filter"], {}).get(shown["path"][0]["key"]), match["value"])
    try:
        return bool(value_of(match["expr_match"]["cel_expr_parsed"]["expr"], metadata))
    except LookupError:
        return False


def is_like(value: object, matcher: Node) -> bool:
    """https://www.envoyproxy.io/docs/envoy/latest/api-v3/type/matcher/v3/value.proto"""
    if "list_match" in matcher:
        return isinstance(value, list) and any(is_like(each, matcher["list_match"]["one_of"]) for each in value)
    if not isinstance(value, str):
        return False
    text = matcher["string_match"]
    return value == text["exact"] if "exact" in text else bool(re.fullmatch(text["safe_regex"]["regex"], value))


def caller(models: list[str], expressions: list[str], asked: str = "") -> dict[str, Any]:
    return {names.AUTHZ: {"models": models, "expressions": expressions}, names.LLM: {"model": asked}}


def passes(models: list[str], expressions: list[str], asked: str) -> bool:
    return allows(FILTERS[names.MODEL_ACCESS], caller(models, expressions, asked))


@given(st.text(min_size=1), st.booleans())
def test_the_name_in_the_body_must_be_listed_or_match(asked: str, listed: bool) -> None:
    assert passes([asked, "other"] if listed else ["other"], [], asked) is (listed or asked == "other")
    assert passes(["*"], [], asked)
    assert passes([], ["^(?s:llama)"], asked) is asked.startswith("llama")


@pytest.mark.parametrize("level", range(4))
def test_each_expression_must_be_found(level: int) -> None:
    anything = ["^(?s:)"] * 4
    assert passes([], anything, "llama")
    for more in range(level + 1, 5):
        expressions = [*anything[:level], "^(?s:mistral)", *anything[level + 1 : more]]
        assert not passes([], expressions, "llama")
        assert passes([], expressions[:level] or anything, "llama")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {names.AUTHZ: {}},
        {names.AUTHZ: {"models": ["other"]}, names.LLM: {"model": "m"}},
        {names.AUTHZ: {"models": ["m"], "expressions": ["^(?s:)"]}},
        {names.LLM: {"model": "m"}},
        {names.AUTHZ: {"models": ["*"], "expressions": []}},
    ],
)
def test_a_request_of_which_nothing_is_known_meets_no_rule_that_allows_it(metadata: dict[str, Any]) -> None:
    assert not allows(FILTERS[names.MODEL_ACCESS], metadata)


@pytest.mark.parametrize(
    ("models", "allowed"), [(["gpt-4o", "x"], True), (["*"], True), (["gpt-4"], False), ([], False)]
)
def test_a_route_may_ask_for_a_name_of_its_own(models: list[str], allowed: bool) -> None:
    rule = model_access.by_name("gpt-4o")
    assert allows(rule["rbac"], caller(models, ["^(?s:)"], "__missing__")) is allowed


def ids(node: object) -> Iterator[int]:
    if isinstance(node, dict):
        if isinstance(node.get("id"), int):
            yield node["id"]
        for value in node.values():
            yield from ids(value)
    elif isinstance(node, list):
        for value in node:
            yield from ids(value)


def test_nodes_of_an_expression_have_ids_of_their_own() -> None:
    found = list(ids(model_access.by_requested_name()))
    assert len(found) == len(set(found)) > 10


def test_what_a_client_may_not_say_is_dropped_before_anything_reads_it() -> None:
    (mutation,) = manager()["early_header_mutation_extensions"]
    *removals, told = mutation["typed_config"]["mutations"]
    matchers = [each["remove_on_match"]["key_matcher"] for each in removals]
    assert matchers == [{"prefix": prefix, "ignore_case": True} for prefix in ("x-gatehouse-", "x-envoy-")]
    assert told["append"]["header"] == {"key": names.HTTP_VERSION_HEADER, "value": "%PROTOCOL%"}


@pytest.mark.parametrize(("shape", "hops"), [("short", 0), ("behind-proxies", 2)])
def test_only_so_many_proxies_are_believed(shape: str, hops: int) -> None:
    config = manager(CONFIGS[shape])
    assert (config["use_remote_address"], config["xff_num_trusted_hops"]) == (True, hops)


def test_a_request_id_is_always_ours_and_always_in_the_answer() -> None:
    config = manager()
    assert config["generate_request_id"] is True
    assert config["preserve_external_request_id"] is False
    assert config["always_set_request_id_in_response"] is True


def test_patience_with_a_stream_is_for_the_routes_to_say() -> None:
    config = Config.model_validate({**SHORT, "server": {"stream_idle_timeout_s": 2_000_000}})
    assert manager(config)["stream_idle_timeout"] == "600s"
    to_models = [route["route"] for route in routes(config) if route["name"].startswith("model:")]
    assert {route["idle_timeout"] for route in to_models} == {"2000000s"}


def test_entries_go_to_the_service_as_they_come_and_to_the_file_when_all_is_known() -> None:
    service, file = manager()["access_log"]
    assert service["typed_config"]["common_config"]["buffer_flush_interval"] == f"{access_log.FLUSH_INTERVAL_S}s"
    assert service["filter"] == expect_continue.RECORDED_HERE
    ended, here, worth_writing = file["filter"]["and_filter"]["filters"]
    assert here == expect_continue.RECORDED_HERE
    assert ended == {"log_type_filter": {"types": ["DownstreamEnd"]}}
    known, *_, strangers = worth_writing["or_filter"]["filters"]
    assert known["metadata_filter"]["matcher"]["filter"] == names.AUTHZ
    assert strangers["runtime_filter"]["percent_sampled"] == {"numerator": 100}
    assert file["typed_config"]["path"] == "/logs/access.log"


def test_no_header_that_may_hold_a_key_is_logged() -> None:
    service, file = manager()["access_log"]
    asked = set(service["typed_config"]["additional_request_headers_to_log"])
    asked |= {operator.lower() for operator in re.findall(r"%REQ\((.*?)\)", str(file))}
    assert asked == {"traceparent", "x-stainless-retry-count", "user-agent", ":method"}
    assert re.findall(r"%PATH\((.*?)\)", str(file)) == ["NQ"], "without the query"


def test_the_admin_interface_is_on_no_port() -> None:
    assert bootstrap()["admin"] == {"address": {"pipe": {"path": "/run/gatehouse/envoy-admin.sock", "mode": 0o600}}}


def test_a_key_that_is_added_leaves_every_filter_alone() -> None:
    more = {**LONG["api_keys"], "sk-another-key": {"user_id": "carol"}}
    assert bootstrap(Config.model_validate({**LONG, "api_keys": more})) == bootstrap(CONFIGS["long"])
