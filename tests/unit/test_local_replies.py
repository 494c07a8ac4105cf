"""Whatever Envoy has to say itself, it says as one of the errors of the table; what is an answer already, it leaves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from accesslog_service.refusal import error_code
from gatehouse.contract import errors, local_errors
from gatehouse.contract.errors import ClientError
from gatehouse.envoy import local_replies
from gatehouse.envoy.message import literal

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A local reply as Envoy first makes it."""

    code: int
    code_details: str
    flags: tuple[str, ...] = ()


def mapper_for(reply: Reply) -> Node | None:
    """The mapper that Envoy applies: the first whose filter holds."""
    return next((each for each in local_replies.config()["mappers"] if holds(each["filter"], reply)), None)


def holds(when: Node, reply: Reply) -> bool:
    if "metadata_filter" in when:
        return False  # nothing that Envoy says by itself
    if "and_filter" in when:
        return all(holds(each, reply) for each in when["and_filter"]["filters"])
    if "response_flag_filter" in when:
        return not set(reply.flags).isdisjoint(when["response_flag_filter"]["flags"])
    return evaluated(when["extension_filter"]["typed_config"]["expression"], reply)


def evaluated(cel: str, reply: Reply) -> bool:
    """The little CEL that is used here differs from Python in spelling alone."""
    python = cel.replace("&&", "and").replace("!(", "not (").replace("startsWith", "startswith")
    return bool(eval(python, {"response": reply}))


FROM_ENVOY = [
    (Reply(403, "rbac_access_denied_matched_policy[model_not_allowed]"), errors.MODEL_NOT_ALLOWED),
    (
        Reply(503, "filter_removed_required_request_headers{invalid_header_value_for:_x-gatehouse-model}", ("DPE",)),
        errors.MODEL_NOT_FOUND,
    ),
    (Reply(503, "ext_authz_error", ("UAEX",)), errors.AUTH_UNAVAILABLE),
    (Reply(503, "rate_limiter_error", ("RLSE",)), errors.LIMITS_UNAVAILABLE),
    (Reply(503, "upstream_reset_before_response_started{overflow}", ("UO",)), errors.OVERLOADED),
    (Reply(503, "overload"), errors.OVERLOADED),
    (Reply(503, "a stream that was reset", ("OM",)), errors.OVERLOADED),
    (Reply(503, "no_healthy_upstream", ("UH",)), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "upstream_reset_before_response_started{connection_failure}", ("UF",)), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "upstream_reset_before_response_started{x}", ("URX", "UF")), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "upstream_reset_before_response_started{connection_termination}", ("UC",)), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "upstream_reset_before_response_started{remote_reset}", ("UR",)), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "local_reset", ("LH",)), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "cluster_not_found", ("NC",)), errors.BACKEND_UNAVAILABLE),
    (Reply(503, "maintenance_mode"), errors.BACKEND_UNAVAILABLE),
    (Reply(504, "upstream_response_timeout", ("UT",)), errors.TIMED_OUT),
    (Reply(504, "stream_idle_timeout", ("SI",)), errors.TIMED_OUT),
    (Reply(504, "duration_timeout", ("DT",)), errors.TIMED_OUT),
    (Reply(504, "upstream_max_stream_duration_reached", ("UMSDR",)), errors.TIMED_OUT),
    (Reply(408, "stream_idle_timeout", ("SI",)), errors.REQUEST_TIMEOUT),
    (Reply(408, "request_overall_timeout"), errors.REQUEST_TIMEOUT),
    (Reply(408, "request_header_timeout"), errors.REQUEST_TIMEOUT),
    (Reply(404, "route_not_found", ("NR",)), errors.NOT_FOUND),
    (Reply(413, "request_payload_too_large"), errors.REQUEST_TOO_LARGE),
    (Reply(426, "low_version"), errors.UPGRADE_REQUIRED),
    (Reply(403, "upgrade_failed"), errors.NO_UPGRADE),
    (Reply(429, "local_rate_limited", ("RL",)), errors.ASKED_TOO_OFTEN),
    (Reply(431, "request_headers_too_large"), errors.HEADERS_TOO_LARGE),
    (Reply(501, "http1.invalid_transfer_encoding"), errors.BAD_REQUEST),
]
CATCH_ALL = [
    (Reply(400, "missing_host_header"), errors.BAD_REQUEST),
    (Reply(400, "http1.codec_error"), errors.BAD_REQUEST),
    (Reply(421, "misdirected"), errors.BAD_REQUEST),
    (Reply(500, "internal"), errors.GATEWAY_ERROR),
    (Reply(502, "upstream_reset_before_response_started{protocol_error}", ("UPE",)), errors.GATEWAY_ERROR),
]


def body(mapper: Node) -> Any:
    return unescaped(mapper["body_format_override"]["json_format"])


def unescaped(node: Any) -> Any:
    """What Envoy makes of a format: `%%` is a percent sign. A single one would begin a command operator."""
    if isinstance(node, dict):
        return {key: unescaped(value) for key, value in node.items()}
    if isinstance(node, str):
        assert "%" not in node.replace("%%", ""), node
        return node.replace("%%", "%")
    return node


@pytest.mark.parametrize(("reply", "error"), FROM_ENVOY)
def test_what_envoy_says_becomes_the_error_of_the_table(reply: Reply, error: ClientError) -> None:
    mapper = mapper_for(reply)
    assert mapper is not None
    assert (mapper["status_code"], body(mapper)) == (error.status, error.body())


@pytest.mark.parametrize(("reply", "error"), CATCH_ALL)
def test_what_no_row_names_keeps_its_status(reply: Reply, error: ClientError) -> None:
    mapper = mapper_for(reply)
    assert mapper is not None
    assert "status_code" not in mapper
    assert body(mapper) == error.body()


@pytest.mark.parametrize(("reply", "error"), FROM_ENVOY + CATCH_ALL)
def test_the_record_says_what_the_client_was_told(reply: Reply, error: ClientError) -> None:
    """Envoy logs the status that the mapper has set, if it sets one."""
    mapper = mapper_for(reply)
    assert mapper is not None
    for status in (reply.code, mapper.get("status_code", reply.code)):
        assert error_code(status, reply.code_details, "", reply.flags) == error.code


@pytest.mark.parametrize("row", local_errors.TABLE)
def test_every_row_is_rendered_and_read_alike(row: local_errors.LocalError) -> None:
    """For each of its flags, and with what other rows look at beside it: the first row that holds decides in both."""
    for flag in row.flags or ("",):
        for status in {row.status or row.error.status, 408, 413, 500, 501, 503}:
            reply = Reply(status, row.details or "some details", (flag,) if flag else ())
            mapper = mapper_for(reply)
            assert mapper is not None
            assert error_code(status, reply.code_details, "", reply.flags) == body(mapper)["error"]["code"]


def test_every_row_decides_something() -> None:
    reached = [mapper_for(reply) for reply, _ in FROM_ENVOY + CATCH_ALL]
    table = [each for each in local_replies.config()["mappers"] if "metadata_filter" not in each["filter"]]
    assert [each for each in table if each not in reached] == []


ELSEWHERE = {
    "invalid_json": "a route",
    "missing_model": "a route",
    "invalid_value": "a route",
    "not_allowed_here": "a route",
    "too_many_values": "a route",
    "encoded_body": "a route",
    "model_not_found": "a route",
    "https_required": "a route",
    "missing_api_key": "authz_service",
    "invalid_api_key": "authz_service",
    "ip_not_authorized": "authz_service",
    "rate_limit_exceeded": "ratelimit_service",
    "insufficient_quota": "ratelimit_service",
    "method_not_allowed": "portal_service",
    "unknown_host": "portal_service",
    "limits_unavailable": "portal_service",
}


def test_no_error_of_the_table_is_without_somebody_who_gives_it() -> None:
    table = {error.code for error in vars(errors).values() if isinstance(error, ClientError)}
    mapped = {error.code for _, error in FROM_ENVOY + CATCH_ALL}
    assert table == mapped | ELSEWHERE.keys()


@pytest.mark.parametrize("details", ["direct_response", "ext_authz_denied", "request_rate_limited"])
@pytest.mark.parametrize("flags", [(), ("UAEX",), ("RL",)])
def test_an_answer_that_is_ours_already_is_not_wrapped_again(details: str, flags: tuple[str, ...]) -> None:
    assert [code for code in range(100, 600) if mapper_for(Reply(code, details, flags))] == []


def test_a_local_answer_that_is_no_error_is_left_alone() -> None:
    assert [code for code in range(100, 400) if mapper_for(Reply(code, "path_normalization_failed"))] == []


def headers(mapper: Node) -> dict[str, tuple[str, str]]:
    added = mapper["headers_to_add"]
    return {each["header"]["key"]: (each["header"]["value"], each["append_action"]) for each in added}


def test_every_answer_is_json_with_a_request_id_and_when_to_come_back() -> None:
    for reply, error in FROM_ENVOY + CATCH_ALL:
        mapper = mapper_for(reply)
        assert mapper is not None
        assert mapper["body_format_override"]["content_type"] == "application/json"
        added = headers(mapper)
        assert added["x-request-id"] == ("%UNIQUE_ID%", "ADD_IF_ABSENT")
        retry_after = None if error.retry_after_s is None else str(error.retry_after_s)
        assert added.get("retry-after", (None,))[0] == retry_after


def test_every_503_and_504_says_when_to_come_back() -> None:
    assert all(error.retry_after_s for _, error in FROM_ENVOY if error.status in (503, 504))


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def test_a_percent_sign_in_a_message_is_no_command_to_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "100% of %REQ(authorization)%"
    monkeypatch.setattr(errors, "BAD_REQUEST", errors.BAD_REQUEST.with_message(message))
    mapper = mapper_for(Reply(400, "missing_host_header"))
    assert mapper is not None
    assert literal(message) == "100%% of %%REQ(authorization)%%"
    assert list(texts(mapper["body_format_override"]["json_format"])).count(literal(message)) == 2
    assert body(mapper)["detail"] == message
