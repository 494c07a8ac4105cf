"""Access-log entries of Envoy become records."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog_service.entry import is_final, record
from accesslog_service.record import Record
from gatehouse.pb.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry, ResponseFlags
from gatehouse.pb.base_pb2 import RequestMethod

AUTHZ, RATELIMIT, LLM = "envoy.filters.http.ext_authz", "envoy.filters.http.ratelimit", "llm"
CANARY = "sk-canary-7f3a"


def make(
    status: int = 200,
    details: str = "via_upstream",
    cluster: str = "model:llama",
    path: str = "/v1/chat/completions",
    flags: tuple[str, ...] = (),
    **metadata: dict[str, Any],
) -> HTTPAccessLogEntry:
    """An entry of a finished request that took 900 ms; `metadata` by short name: authz, ratelimit, llm."""
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = AccessLogType.DownstreamEnd
    common.start_time.FromDatetime(datetime(2026, 11, 1, 12, 0, 0, 250_000, UTC))
    common.duration.FromMilliseconds(900)
    common.upstream_cluster = cluster
    for flag in flags:
        if flag == "unauthorized_details":
            common.response_flags.unauthorized_details.reason = ResponseFlags.Unauthorized.EXTERNAL_SERVICE
        else:
            setattr(common.response_flags, flag, True)
    for name, values in metadata.items():
        namespace = {"authz": AUTHZ, "ratelimit": RATELIMIT, "llm": LLM}[name]
        common.metadata.filter_metadata[namespace].update(values)
    entry.request.request_method = RequestMethod.POST
    entry.request.path = path
    entry.response.response_code.value = status
    entry.response.response_code_details = details
    return entry


def made(*, default_model: str | None = None, **parts: Any) -> Record:
    return record(make(**parts), default_model)


def test_everything_known_of_a_streamed_answer_is_recorded() -> None:
    entry = make(
        authz={
            "user": "alice",
            "team": "search",
            "tier": "standard",
            "key_id": "k1",
            "models": ["llama"],
            "key_limits": "{}",
            "key_family": "k0",
        },
        llm={"model": "llama", "stream": True, "input_tokens": 12, "output_tokens": 31, "cached_tokens": 8},
    )
    common, request, response = entry.common_properties, entry.request, entry.response
    common.time_to_first_upstream_rx_byte.FromMilliseconds(300)
    common.upstream_remote_address.socket_address.address = "10.0.0.7"
    common.upstream_remote_address.socket_address.port_value = 8100
    common.downstream_remote_address.socket_address.address = "192.0.2.1"
    common.upstream_request_attempt_count = 2
    request.request_id = "6f1c"
    request.user_agent = "OpenAI/Python 1.50.0"
    request.request_headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request.request_body_bytes, request.request_headers_bytes = 400, 90
    response.response_body_bytes, response.response_headers_bytes = 5000, 80

    assert record(entry, None) == Record(
        time=datetime(2026, 11, 1, 12, 0, 0, 250_000, UTC),
        request_id="6f1c",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        user_id="alice",
        team="search",
        tier="standard",
        key_id="k1",
        method="POST",
        endpoint="/v1/chat/completions",
        model="llama",
        backend="10.0.0.7:8100",
        status=200,
        error_code=None,
        stream=True,
        prompt_tokens=12,
        completion_tokens=31,
        cached_tokens=8,
        cost_usd=None,
        duration_ms=900.0,
        ttft_ms=300.0,
        attempts=2,
        bytes_in=400,
        bytes_out=5000,
        client_ip="192.0.2.1",
        user_agent="OpenAI/Python 1.50.0",
        limited_by=None,
        flags="",
        aborted=False,
        key_limits="{}",
        key_family="k0",
    )


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_the_endpoint_is_that_of_the_client_where_the_model_servers_url_has_a_path(endpoint: str) -> None:
    assert made(path=f"/llm{endpoint}?x=1").endpoint == endpoint
    assert made(path=f"/llm{endpoint}", cluster="", status=404).endpoint == f"/llm{endpoint}"


@pytest.mark.parametrize("kind", [AccessLogType.DownstreamEnd, AccessLogType.NotSet])
def test_the_end_of_a_request_is_final(kind: AccessLogType) -> None:
    entry = make()
    entry.common_properties.access_log_type = kind
    assert is_final(entry)


@pytest.mark.parametrize("kind", [AccessLogType.DownstreamPeriodic, AccessLogType.NotSet])
def test_a_stream_that_still_runs_is_not_final(kind: AccessLogType) -> None:
    entry = make()
    entry.common_properties.access_log_type = kind
    entry.common_properties.intermediate_log_entry = True
    assert not is_final(entry)


def test_the_request_id_falls_back_to_the_stream_id() -> None:
    entry = make()
    entry.common_properties.stream_id = "s-1"
    assert record(entry, None).request_id == "s-1"


@pytest.mark.parametrize("path", ["/v1/models?api_key=" + CANARY, "/v1/models#" + CANARY])
def test_query_strings_and_fragments_are_not_recorded(path: str) -> None:
    assert made(path=path).endpoint == "/v1/models"


@pytest.mark.parametrize(
    ("llm", "default", "expected"),
    [
        ({"model": "llama"}, "tiny", "llama"),
        ({"model": "__missing__"}, "tiny", "tiny"),
        ({"model": "__missing__"}, None, ""),
        ({"model": "__error__"}, "tiny", ""),
        ({}, "tiny", None),
    ],
)
def test_model_is_what_the_body_says_or_the_default(
    llm: dict[str, str], default: str | None, expected: str | None
) -> None:
    assert made(llm=llm, default_model=default).model == expected


def test_f37_text_of_clients_is_cut_to_a_length() -> None:
    entry = make(path="/" + "p" * 500, llm={"model": "m" * 500})
    entry.request.user_agent = "u" * 500
    cut = record(entry, None)
    assert (cut.model, cut.user_agent, cut.endpoint) == ("m" * 255 + "…", "u" * 255 + "…", "/" + "p" * 126 + "…")


def test_text_that_fits_is_left_alone() -> None:
    assert made(llm={"model": "m" * 256}).model == "m" * 256


def test_time_to_first_token_is_of_good_answers_of_model_servers_only() -> None:
    def ttft(**parts: Any) -> float | None:
        entry = make(**parts)
        entry.common_properties.time_to_first_upstream_rx_byte.FromMilliseconds(40)
        return record(entry, None).ttft_ms

    assert ttft() == 40.0
    assert ttft(status=400) is None
    assert ttft(cluster="gatehouse_http", path="/health") is None


def test_time_to_first_token_is_unknown_when_no_byte_came() -> None:
    assert made().ttft_ms is None


def test_backend_is_the_cluster_when_no_replica_was_reached() -> None:
    assert made(status=503, details="no_healthy_upstream", flags=("no_healthy_upstream",)).backend == "model:llama"


def test_backend_with_an_ipv6_address_can_be_told_from_its_port() -> None:
    entry = make()
    address = entry.common_properties.upstream_remote_address.socket_address
    address.address, address.port_value = "fd00::7", 8100
    assert record(entry, None).backend == "[fd00::7]:8100"


def test_the_gateways_own_pages_have_no_backend() -> None:
    assert made(cluster="gatehouse_http", path="/health").backend is None


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"status": 401, "details": "ext_authz_denied", "authz": {"error_code": "missing_api_key"}}, "missing_api_key"),
        (
            {"status": 429, "details": "request_rate_limited", "ratelimit": {"error_code": "insufficient_quota"}},
            "insufficient_quota",
        ),
        ({"status": 429, "details": "request_rate_limited"}, "rate_limit_exceeded"),
        ({"status": 403, "details": "rbac_access_denied_matched_policy[none]"}, "model_not_allowed"),
        ({"status": 503, "details": "ext_authz_error", "flags": ("unauthorized_details",)}, "auth_unavailable"),
        ({"status": 413, "details": "request_payload_too_large"}, "request_too_large"),
        ({"status": 431, "details": "http1.headers_too_large"}, "headers_too_large"),
        ({"status": 426, "details": "low_version"}, "upgrade_required"),
        ({"status": 400, "details": "http1.codec_error", "flags": ("downstream_protocol_error",)}, "bad_request"),
        ({"status": 408, "details": "request_overall_timeout"}, "request_timeout"),
        ({"status": 404, "details": "route_not_found", "flags": ("no_route_found",)}, "not_found"),
        ({"status": 503, "details": "no_healthy_upstream", "flags": ("no_healthy_upstream",)}, "backend_unavailable"),
        (
            {"status": 503, "details": "upstream_reset_before_response_started{connection_termination}"}
            | {"flags": ("upstream_connection_termination",)},
            "backend_unavailable",
        ),
        (
            {"status": 503, "details": "upstream_reset_before_response_started{overflow}"}
            | {"flags": ("upstream_overflow", "upstream_retry_limit_exceeded")},
            "server_is_overloaded",
        ),
        ({"status": 504, "details": "upstream_response_timeout", "flags": ("upstream_request_timeout",)}, "timeout"),
        ({"status": 408, "details": "stream_idle_timeout", "flags": ("stream_idle_timeout",)}, "request_timeout"),
        ({"status": 501, "details": "http1.invalid_transfer_encoding"}, "bad_request"),
        ({"status": 504, "details": "stream_idle_timeout", "flags": ("stream_idle_timeout",)}, "timeout"),
        (
            {"status": 503, "details": "rate_limiter_error", "flags": ("rate_limit_service_error",)},
            "limits_unavailable",
        ),
        ({"status": 503, "details": "overload"}, "server_is_overloaded"),
        (
            {"status": 503, "details": "filter_removed_required_request_headers{x}"}
            | {"flags": ("downstream_protocol_error",)},
            "model_not_found",
        ),
        ({"status": 503, "details": "something new"}, "backend_unavailable"),
        ({"status": 500, "details": "something new"}, "gateway_error"),
        ({"status": 405, "details": "something new"}, "bad_request"),
    ],
)
def test_a_refusal_has_the_code_its_client_was_given(parts: dict[str, Any], code: str) -> None:
    assert made(**parts).error_code == code


@pytest.mark.parametrize(
    "code",
    ["missing_model", "invalid_json", "model_not_found", "not_found", "https_required", "request_too_large"],
)
def test_routes_that_refuse_are_named_after_their_code(code: str) -> None:
    entry = make(status=404, details="direct_response")
    entry.common_properties.route_name = code
    assert record(entry, None).error_code == code


def test_a_request_refused_on_the_way_to_a_refusing_route_has_its_own_code() -> None:
    entry = make(status=503, details="ext_authz_error", flags=("unauthorized_details",))
    entry.common_properties.route_name = "missing_model"
    assert record(entry, None).error_code == "auth_unavailable"


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_an_answer_of_the_model_server_is_no_refusal(status: int) -> None:
    entry = make(status=status)
    entry.common_properties.route_name = "chat"
    assert record(entry, None).error_code is None


def test_every_response_flag_of_envoy_has_its_letters() -> None:
    names = [field.name for field in ResponseFlags.DESCRIPTOR.fields]
    letters = made(flags=tuple(names)).flags.split(",")
    assert len(letters) == len(set(letters)) == len(names) == 28
    assert dict(zip(names, letters, strict=True))["upstream_protocol_error"] == "UPE"


@pytest.mark.parametrize(
    ("status", "flags", "aborted"),
    [
        (200, (), False),
        (200, ("downstream_connection_termination",), True),
        (200, ("downstream_remote_reset",), True),
        (0, ("downstream_connection_termination",), True),
        (200, ("upstream_protocol_error",), True),
        (200, ("upstream_connection_termination",), True),
        (200, ("stream_idle_timeout",), True),
        (503, ("upstream_connection_termination",), False),
        (504, ("stream_idle_timeout",), False),
    ],
)
def test_aborted_means_the_answer_did_not_reach_its_end(status: int, flags: tuple[str, ...], aborted: bool) -> None:
    assert made(status=status, flags=flags).aborted is aborted


def test_what_a_request_asks_for_is_recorded() -> None:
    found = made(llm={"model": "llama", "asks": "-/2/1240/1"})
    assert (found.max_tokens, found.n, found.prompt_bytes, found.images) == (None, 2, 1240, 1)
    for odd in ("many", "", 7):
        unsaid = made(llm={"model": "llama", "asks": odd})
        assert (unsaid.max_tokens, unsaid.n, unsaid.prompt_bytes, unsaid.images) == (None, None, None, None)


def test_an_error_inside_an_answer_is_an_error() -> None:
    found = made(llm={"model": "llama", "stream": True, "error": "out of memory"})
    assert (found.status, found.error_code) == (200, "upstream_error")
    assert made(status=500, llm={"model": "llama", "error": "out of memory"}).error_code is None


def test_a_request_that_the_reader_of_bodies_refused_says_why() -> None:
    found = made(status=400, details="lua_response", cluster="", llm={"refused": "invalid_value", "model": "llama"})
    assert (found.error_code, found.model) == ("invalid_value", "llama")
    assert made(status=400, details="lua_response", cluster="", llm={"refused": "invalid_json"}).model == ""
    assert made(status=401, cluster="").model is None


def test_the_first_event_of_a_stream_is_timed() -> None:
    start_ms = datetime(2026, 11, 1, 12, 0, 0, 250_000, UTC).timestamp() * 1000
    assert made(llm={"model": "llama", "first_event_ms": start_ms + 120}).ttft_ms == 120.0


def test_limited_by_names_the_limit() -> None:
    assert made(status=429, ratelimit={"limited_by": "user:minute"}).limited_by == "user:minute"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e300, "12", True, None])
def test_token_counts_that_are_no_counts_are_unknown(value: Any) -> None:
    assert made(llm={"input_tokens": value}).prompt_tokens is None


@pytest.mark.parametrize(
    ("llm", "prompt", "cached"),
    [
        ({"input_tokens": 12, "cached_tokens": 8}, 12, 8),
        ({"input_tokens": 12, "cache_read_tokens": 8, "cache_written_tokens": 4}, 24, 8),
        ({"input_tokens": 12, "cache_read_tokens": 0}, 12, 0),
        ({"input_tokens": 12}, 12, None),
        ({}, None, None),
    ],
)
def test_prompt_tokens_are_all_of_the_prompt_cached_ones_included(
    llm: dict[str, int], prompt: int | None, cached: int | None
) -> None:
    record = made(llm=llm)
    assert (record.prompt_tokens, record.cached_tokens) == (prompt, cached)


@pytest.mark.parametrize("header", ["", "00-xyz", "00-" + "0" * 31 + "-" + "0" * 16 + "-01", "a" * 55])
def test_a_traceparent_that_is_none_gives_no_trace(header: str) -> None:
    entry = make()
    entry.request.request_headers["traceparent"] = header
    assert record(entry, None).trace_id is None


def test_a_secret_elsewhere_in_the_entry_never_shows() -> None:
    entry = make(path=f"/v1/models?key={CANARY}", authz={"secret": CANARY}, llm={"prompt": CANARY, "model": "llama"})
    for header in ("authorization", "x-api-key", "cookie", "x-stainless-retry-count"):
        entry.request.request_headers[header] = CANARY
        entry.response.response_headers[header] = CANARY
    entry.request.referer = entry.request.authority = entry.request.original_path = CANARY
    entry.common_properties.custom_tags["authorization"] = CANARY
    entry.common_properties.upstream_transport_failure_reason = CANARY
    assert CANARY.encode() not in record(entry, None).line()


integers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
values = st.none() | st.booleans() | st.floats() | st.text(max_size=400)


@given(
    text=st.text(max_size=400),
    number=integers,
    nanos=st.integers(min_value=-(2**31), max_value=2**31 - 1),
    code=st.integers(min_value=0, max_value=2**32 - 1),
    keys=st.dictionaries(
        st.sampled_from(["user", "tier", "error_code", "limited_by", "model", "stream", "input_tokens"]), values
    ),
)
def test_f37_any_entry_gives_one_line_of_json(
    text: str, number: int, nanos: int, code: int, keys: dict[str, Any]
) -> None:
    entry = make(status=code, details=text, cluster="model:" + text, path=text, authz=keys, ratelimit=keys, llm=keys)
    common = entry.common_properties
    common.start_time.seconds = common.duration.seconds = number
    common.start_time.nanos = common.time_to_first_upstream_rx_byte.nanos = nanos
    common.downstream_remote_address.socket_address.address = common.route_name = text
    entry.request.request_method = nanos  # type: ignore[assignment]  # a method newer than ours
    entry.request.user_agent = entry.request.request_id = entry.request.request_headers["traceparent"] = text
    line = record(entry, None).line()
    assert line.isascii()
    assert line.splitlines(keepends=True) == [line]
    assert json.loads(line)["status"] == code


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("tagged", "sent", "recorded"),
    [
        (TRACE, f"00-{'a' * 32}-{'b' * 16}-01", TRACE),
        (None, f"00-{TRACE}-{'b' * 16}-00", TRACE),
        ("", f"00-{TRACE}-{'b' * 16}-00", TRACE),
        ("-", "no trace", None),
        ('"forged', "", None),
    ],
)
def test_the_trace_is_the_one_that_envoy_takes_part_in(tagged: str | None, sent: str, recorded: str | None) -> None:
    entry = make()
    if tagged is not None:
        entry.common_properties.custom_tags["trace_id"] = tagged
    entry.request.request_headers["traceparent"] = sent
    assert record(entry, None).trace_id == recorded
