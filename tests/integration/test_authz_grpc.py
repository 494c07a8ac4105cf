"""authz_service as Envoy meets it: a real process for each worker, gRPC over unix sockets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from authz_service.access import Rules
from authz_service.metrics import Metrics
from authz_service.principals import Principal, principals
from authz_service.service import Authz, allowed
from gatehouse import metrics
from gatehouse.config.model import ApiKey, Config
from gatehouse.contract import errors
from gatehouse.contract.errors import ClientError
from gatehouse.contract.key_digest import digest_of
from gatehouse.pb.external_auth_pb2 import CheckRequest, CheckResponse
from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from testkit.checking import checked
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
CHECK = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"
WORKERS = 2

CANARY = "canary-7f3a9c"
PLAIN, HASHED, EXPIRED, OFFICE, DISABLED, UNKNOWN = (
    f"{CANARY}-{kind}" for kind in ("plain", "hashed", "old", "office", "gone", "wrong")
)
CONFIG = {
    "vllm": {"base_url": "http://127.0.0.1:1/v1"},
    "api_keys": {
        PLAIN: {"user_id": "dev-team", "tier": "premium"},
        digest_of(HASHED): {
            "name": "laptop",
            "user_id": "alice",
            "team": "search",
            "models": ["llama-*", "gpt-4o"],
        },
        digest_of(EXPIRED): {"name": "old", "user_id": "eve", "expires_at": "2020-01-01"},
        digest_of(OFFICE): {"name": "office", "user_id": "ella", "team": "search", "allowed_ips": ["10.0.0.0/8"]},
        digest_of(DISABLED): {"name": "gone", "user_id": "dave"},
    },
    "users": {"dave": {"disabled": True}},
}


@dataclass(frozen=True)
class Running:
    """`python -m authz_service` with two workers, and what it writes."""

    process: "subprocess.Popen[bytes]"
    directory: Path

    @property
    def sockets(self) -> list[Path]:
        return [self.directory / "run" / f"authz-{index}.sock" for index in range(WORKERS)]

    def child(self, index: int) -> int:
        """The process id of worker `index`, from the latest line that tells it."""
        log = next((self.directory / "logs").glob("app_*.log")).read_text()
        messages = [json.loads(line)["message"] for line in log.splitlines()]
        started = [message for message in messages if message.startswith(f"authz-{index} started, pid ")]
        return int(started[-1].rsplit(" ", 1)[1])

    def counted(self) -> dict[str, float]:
        """`api_auth_decisions_total` of all workers, by result."""
        exposition = metrics.exposition(self.directory / "run" / "metrics").decode()
        return {
            sample.labels["result"]: sample.value
            for family in text_string_to_metric_families(exposition)
            for sample in family.samples
            if sample.name == "api_auth_decisions_total"
        }

    def written(self) -> bytes:
        """Everything the service wrote anywhere: its log, standard error, samples."""
        places = [self.directory / "output", *self.directory.glob("logs/*"), *self.directory.glob("run/metrics/*")]
        return b"".join(path.read_bytes() for path in places)


@contextmanager
def authz_service() -> Iterator[Running]:
    # The path of a unix socket has 100 bytes; the temporary directories of pytest are longer than most.
    directory = Path(tempfile.mkdtemp(prefix="authz-"))
    config = directory / "gatehouse.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "logging": {"dir": str(directory / "logs")}}))
    command = [sys.executable, "-m", "authz_service", "-c", str(config), "--run-dir", str(directory / "run")]
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen([*command, "--workers", str(WORKERS)], cwd=ROOT, stdout=output, stderr=output)
    try:
        service = Running(process, directory)
        for socket in service.sockets:
            assert health(socket, wait_s=20) == HealthCheckResponse.SERVING
        yield service
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with authz_service() as service:
        yield service


def call(socket: Path, method: str, request: bytes, wait_s: float | None = None) -> bytes:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        unary = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        answer: bytes = unary(request, timeout=wait_s or 5, wait_for_ready=wait_s is not None)
        return answer


def health(socket: Path, wait_s: float | None = None) -> int:
    return HealthCheckResponse.FromString(call(socket, HEALTH, HealthCheckRequest().SerializeToString(), wait_s)).status


def check_request(headers: Mapping[str, str], client_ip: str = "192.0.2.7") -> bytes:
    request = CheckRequest()
    request.attributes.request.http.headers.update(headers)
    request.attributes.source.address.socket_address.address = client_ip
    return request.SerializeToString()


def check(socket: Path, headers: Mapping[str, str], client_ip: str = "192.0.2.7") -> CheckResponse:
    return CheckResponse.FromString(call(socket, CHECK, check_request(headers, client_ip)))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def headers_of(options: Any) -> dict[str, str]:
    """Header options as a table. Each must overwrite: what a client sent under the same name does not count."""
    assert {option.append_action for option in options} == {option.OVERWRITE_IF_EXISTS_OR_ADD for option in options}
    return {option.header.key: option.header.value for option in options}


def assert_allowed(response: CheckResponse, headers: Mapping[str, str], metadata: Mapping[str, object]) -> None:
    assert response.HasField("status")
    assert response.status.code == grpc.StatusCode.OK.value[0]
    assert response.WhichOneof("http_response") == "ok_response"
    assert headers_of(response.ok_response.headers) == headers
    assert set(response.ok_response.headers_to_remove) == {"authorization", "x-api-key", "x-gatehouse-client-ip"}
    assert MessageToDict(response.dynamic_metadata) == metadata


def assert_denied(response: CheckResponse, error: ClientError, **metadata: str) -> None:
    assert response.status.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert response.WhichOneof("http_response") == "denied_response"
    assert response.denied_response.status.code == 401
    assert headers_of(response.denied_response.headers) == {
        "content-type": "application/json",
        "www-authenticate": "Bearer",
        "x-should-retry": "false",
    }
    assert json.loads(response.denied_response.body) == error.body()
    assert MessageToDict(response.dynamic_metadata) == {"error_code": error.code, **metadata}


def test_every_worker_lets_a_key_pass_as_its_holder(running: Running) -> None:
    for socket in running.sockets:
        assert_allowed(
            check(socket, bearer(HASHED)),
            {
                "x-gatehouse-user": "alice",
                "x-gatehouse-team": "search",
                "x-gatehouse-tier": "standard",
                "x-gatehouse-key-id": "laptop",
            },
            {
                "user": "alice",
                "team": "search",
                "tier": "standard",
                "key_id": "laptop",
                "models": ["gpt-4o"],
                "expressions": [r"^(?s:llama\-)"],
            },
        )


def test_a_key_in_plain_text_passes_without_team_and_with_all_models(running: Running) -> None:
    key_id = digest_of(PLAIN)[7:15]
    response = check(running.sockets[0], {"x-api-key": PLAIN})
    assert_allowed(
        response,
        {"x-gatehouse-user": "dev-team", "x-gatehouse-tier": "premium", "x-gatehouse-key-id": key_id},
        {"user": "dev-team", "team": "", "tier": "premium", "key_id": key_id, "models": ["*"], "expressions": []},
    )


@pytest.mark.parametrize("headers", [{}, {"x-request-id": "1"}])
def test_no_key_is_answered_missing(running: Running, headers: Mapping[str, str]) -> None:
    assert_denied(check(running.sockets[0], headers), errors.MISSING_API_KEY)


@pytest.mark.parametrize(
    "headers",
    [
        bearer(UNKNOWN),
        bearer(f"{PLAIN},Bearer {PLAIN}"),
        bearer("k" * 65536),
        {"authorization": ""},
        {"authorization": f"Basic {PLAIN}"},
        {"x-api-key": PLAIN, **bearer(HASHED)},
        {"x-api-key": f"{PLAIN}\0"},
    ],
    ids=["unknown", "twice", "64-KiB", "empty", "basic", "two-keys", "nul"],
)
def test_f30_what_is_no_key_of_ours_is_answered_invalid(running: Running, headers: Mapping[str, str]) -> None:
    assert_denied(check(running.sockets[0], headers), errors.INVALID_API_KEY)


def test_an_expired_key_is_answered_as_an_unknown_one_but_operators_see_which(running: Running) -> None:
    expired, unknown = (check(running.sockets[0], bearer(key)) for key in (EXPIRED, UNKNOWN))
    assert expired.denied_response == unknown.denied_response
    assert_denied(expired, errors.INVALID_API_KEY, key_id="old")


def test_a_key_works_from_its_networks_only(running: Running) -> None:
    socket = running.sockets[0]
    assert check(socket, bearer(OFFICE), "10.1.2.3").WhichOneof("http_response") == "ok_response"
    who = {"user": "ella", "team": "search", "tier": "standard", "key_id": "office"}
    for client_ip in ("192.0.2.7", ""):
        assert_denied(check(socket, bearer(OFFICE), client_ip), errors.IP_NOT_AUTHORIZED, **who)
    assert_denied(check(socket, bearer(UNKNOWN), "192.0.2.7"), errors.INVALID_API_KEY)


def test_a_disabled_users_key_is_answered_as_an_unknown_one_but_operators_see_which(running: Running) -> None:
    disabled, unknown = (check(running.sockets[0], bearer(key)) for key in (DISABLED, UNKNOWN))
    assert disabled.denied_response == unknown.denied_response
    assert_denied(disabled, errors.INVALID_API_KEY, key_id="gone")


def test_the_address_that_envoy_vouches_for_wins_over_that_of_the_connection(running: Running) -> None:
    for said, connection, passes in (("10.1.2.3", "192.0.2.7", True), ("192.0.2.7", "10.1.2.3", False)):
        answer = check(running.sockets[0], {**bearer(OFFICE), "x-gatehouse-client-ip": said}, connection)
        assert answer.HasField("ok_response") == passes


def test_what_is_no_check_request_is_answered_unavailable_and_counted(running: Running) -> None:
    before = running.counted()
    for garbage in (b"\xff" * 64, CANARY.encode()):
        response = CheckResponse.FromString(call(running.sockets[0], CHECK, garbage))
        assert response.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert response.denied_response.status.code == 503
        assert headers_of(response.denied_response.headers) == {"content-type": "application/json", "retry-after": "1"}
        assert json.loads(response.denied_response.body) == errors.AUTH_UNAVAILABLE.body()
        assert MessageToDict(response.dynamic_metadata) == {"error_code": "auth_unavailable"}
    assert running.counted()["error"] == before["error"] + 2
    assert b"a check failed: DecodeError" in running.written()


def test_every_decision_is_counted_by_its_result(running: Running) -> None:
    before = running.counted()
    for socket in running.sockets:
        check(socket, bearer(PLAIN))
        check(socket, {})
        check(socket, bearer(UNKNOWN))
        check(socket, bearer(EXPIRED))
        check(socket, bearer(DISABLED))
        check(socket, bearer(OFFICE))
    after = running.counted()
    assert {result: after[result] - before[result] for result in after} == {
        **dict.fromkeys(after, 0),
        "allowed": 2,
        "missing_api_key": 2,
        "invalid_api_key": 2,
        "expired": 2,
        "disabled": 2,
        "ip_not_authorized": 2,
    }


def test_f01_a_killed_worker_answers_again_within_three_seconds_and_goes_on_counting(running: Running) -> None:
    first, second = running.sockets
    check(first, bearer(PLAIN))
    counted = running.counted()["allowed"]
    killed = running.child(0)
    os.kill(killed, signal.SIGKILL)
    assert check(second, bearer(PLAIN)).WhichOneof("http_response") == "ok_response"
    until(lambda: health(first) == HealthCheckResponse.SERVING, 3)
    assert running.child(0) != killed
    check(first, bearer(PLAIN))
    assert running.counted()["allowed"] == counted + 2


def test_no_key_is_ever_written(running: Running) -> None:
    for key in (PLAIN, HASHED, EXPIRED, OFFICE, DISABLED, UNKNOWN):
        check(running.sockets[0], bearer(key))
        check(running.sockets[0], {"authorization": f"Basic {key}", "x-api-key": key})
    call(running.sockets[0], CHECK, bytes([0x0A, 0xFF]) + CANARY.encode())
    written = running.written()
    assert b"serving on" in written
    assert b"api_auth_decisions_total" in written
    assert CANARY.encode() not in written


def test_f03_sigterm_ends_every_process_and_removes_the_sockets() -> None:
    with authz_service() as service:
        workers = [service.child(index) for index in range(WORKERS)]
        service.process.terminate()
        assert service.process.wait(10) == 0
        assert not [socket for socket in service.sockets if socket.exists()]
        for worker in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)


def test_a_configuration_that_cannot_be_used_ends_it_with_status_2_and_the_place(tmp_path: Path) -> None:
    config = tmp_path / "gatehouse.yaml"
    config.write_text(f"vllm: {{base_url: 'http://a/v1'}}\napi_keys:\n  {PLAIN}: {{user: alice}}\n")
    command = [sys.executable, "-m", "authz_service", "-c", str(config), "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "gatehouse.yaml:3" in ended.stderr
    assert CANARY not in ended.stderr
    assert not (tmp_path / "run").exists()


def authz_of(keys: Mapping[str, ApiKey], **options: Any) -> Authz:
    return Authz(principals(keys), Rules(Config()), Metrics.make(CollectorRegistry()), **options)


def serialized_answer(authz: Authz, key: str) -> bytes:
    """What `Check` answers within this process. It does not look at the call's context."""
    return checked(authz, check_request(bearer(key)))


def answered(authz: Authz, key: str) -> CheckResponse:
    return CheckResponse.FromString(serialized_answer(authz, key))


def test_an_answer_that_never_changes_is_serialized_once() -> None:
    authz = authz_of({digest_of(PLAIN): ApiKey(user_id="alice")})
    serialized_answer(authz, PLAIN)
    with mock.patch("authz_service.service.allowed"), mock.patch("authz_service.service.usable"):
        assert answered(authz, PLAIN).dynamic_metadata["user"] == "alice"
    assert serialized_answer(authz, UNKNOWN) is serialized_answer(authz, UNKNOWN)


def test_the_limits_of_a_key_go_with_its_requests() -> None:
    limited = ApiKey.model_validate({"user_id": "alice", "limits": {"tokens_per_day": 9, "requests_per_minute": 5}})
    metadata = MessageToDict(answered(authz_of({digest_of(PLAIN): limited}), PLAIN).dynamic_metadata)
    assert metadata["key_limits"] == '{"requests_per_minute":5,"tokens_per_day":9}'
    assert "key_family" not in metadata


def test_a_key_that_rotation_made_is_counted_under_the_first() -> None:
    first, second = (Principal("sha256:0", "alice", "", "free", key_id, family="k1") for key_id in ("k1", "k2"))
    found = [CheckResponse.FromString(allowed(key)).dynamic_metadata for key in (first, second)]
    assert ["key_family" in each for each in found] == [False, True]
    assert found[1]["key_family"] == "k1"


def test_adopted_keys_replace_the_old_ones_whole() -> None:
    old, new, other = (f"{CANARY}-{age}" for age in ("first", "second", "third"))
    alice = ApiKey(user_id="alice")
    authz = authz_of({digest_of(old): alice, digest_of(other): alice})
    assert answered(authz, old).WhichOneof("http_response") == "ok_response"

    authz.adopt(principals({digest_of(new): alice, digest_of(other): ApiKey(user_id="bob")}), Rules(Config()))

    assert_denied(answered(authz, old), errors.INVALID_API_KEY)
    assert answered(authz, new).dynamic_metadata["user"] == "alice"
    assert answered(authz, other).dynamic_metadata["user"] == "bob"


def test_an_error_that_quotes_a_key_is_answered_and_does_not_spread_it(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise ValueError(PLAIN)

    authz = authz_of({digest_of(PLAIN): ApiKey(user_id="alice")}, clock=broken)
    response = answered(authz, PLAIN)
    assert response.denied_response.status.code == 503
    assert "ValueError in broken" in caplog.text
    assert PLAIN not in caplog.text + str(response)
