"""The drop-in for envoyproxy/ratelimit as it runs: its own process, real gRPC, HTTP and Redis."""

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from gatehouse.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from gatehouse.pb.ratelimit_unit_pb2 import RateLimitUnit
from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_server
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CHECK = "/grpc.health.v1.Health/Check"
OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
PATIENCE_S = 15

CONFIG = """
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 2, name: two_a_year}
  - key: peek
    metadata: {plan: free}
    rate_limit: {unit: year, requests_per_unit: 100}
  - key: burst
    rate_limit: {unit: second, requests_per_unit: 1000}
  - key: tried
    shadow_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: inputs
    quota_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: outputs
    quota_mode: true
    rate_limit: {unit: year, requests_per_unit: 2}
"""


@dataclass
class Dropin:
    """One running process, on ports of its own."""

    root: Path
    environment: dict[str, str]
    channel_to: Callable[[str], grpc.Channel] = grpc.insecure_channel
    ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("GRPC_PORT", "PORT", "DEBUG_PORT", "PROMETHEUS")}
    )

    @contextmanager
    def running(self) -> Iterator["Dropin"]:
        ports = {name: str(port) for name, port in self.ports.items() if name != "PROMETHEUS"}
        prometheus = {"USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": f"127.0.0.1:{self.ports['PROMETHEUS']}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "ratelimit_service.dropin", "--runtime-root", str(self.root)],
            cwd=ROOT,
            env=os.environ | ports | prometheus | self.environment,
        )
        self.connect(self.channel_to)
        try:
            until(lambda: process.poll() is None and self._is_up())
            yield self
        finally:
            self._channel.close()
            process.terminate()
            assert process.wait(PATIENCE_S) == 0

    def connect(self, channel_to: Callable[[str], grpc.Channel]) -> None:
        socket = self.environment.get("GRPC_UDS")
        self._channel = channel_to(f"unix:{socket}" if socket else f"localhost:{self.ports['GRPC_PORT']}")

    def ask(self, *descriptors: str, domain: str = "shop", hits: int = 0) -> RateLimitResponse:
        """Descriptors are written `key=value,key=value`."""
        return self.send(request(*descriptors, domain=domain, hits=hits))

    def send(self, asked: RateLimitRequest) -> RateLimitResponse:
        answer: RateLimitResponse = self._call(SHOULD_RATE_LIMIT, asked, RateLimitResponse)
        return answer

    def health(self) -> Any:
        return self._call(CHECK, HealthCheckRequest(service="ratelimit"), HealthCheckResponse).status

    def get(self, path: str, port: str = "PORT") -> tuple[int, str]:
        return self._http("GET", port, path)

    def post_json(self, body: str) -> tuple[int, str]:
        return self._http("POST", "PORT", "/json", body)

    def metric(self, sample: str) -> float:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.get("/metrics", "PROMETHEUS")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _call(self, method: str, message: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(method, type(message).SerializeToString, answer.FromString)
        return call(message, timeout=PATIENCE_S, wait_for_ready=True)

    def _http(self, method: str, port: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=PATIENCE_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def _is_up(self) -> bool:
        try:
            return self.get("/healthcheck")[0] in (200, 500)
        except OSError:
            return False


def request(*descriptors: str, domain: str = "shop", hits: int = 0) -> RateLimitRequest:
    made = RateLimitRequest(domain=domain, hits_addend=hits)
    for text in descriptors:
        descriptor = made.descriptors.add()
        for entry in text.split(","):
            key, _, value = entry.partition("=")
            descriptor.entries.add(key=key, value=value)
    return made


def at(server: RedisServer) -> dict[str, str]:
    return {"REDIS_URL": str(server.folder / "redis.sock"), "REDIS_TIMEOUT": "2s"}


def configured(root: Path, text: str = CONFIG) -> Path:
    (root / "config").mkdir(parents=True, exist_ok=True)
    (root / "config" / "shop.yaml").write_text(text)
    return root


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def dropin(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dropin]:
    """Nothing set but where things are."""
    with Dropin(configured(tmp_path_factory.mktemp("root")), at(redis)).running() as running:
        until(lambda: running.get("/healthcheck")[0] == 200)
        yield running


@pytest.fixture(scope="module")
def dressed(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dropin]:
    """Headers, metadata, global shadow and the local cache, on a unix socket, with keys of its own."""
    root = configured(tmp_path_factory.mktemp("root"))
    environment = {
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
        "LIMIT_RESET_HEADER": "X-Reset",
        "RESPONSE_DYNAMIC_METADATA": "true",
        "SHADOW_MODE": "true",
        "LOCAL_CACHE_SIZE_IN_BYTES": "100000",
        "CACHE_KEY_PREFIX": "dressed:",
        "GRPC_UDS": str(root / "grpc.sock"),
    }
    with Dropin(root, at(redis) | environment).running() as running:
        yield running


def test_limit_counts_in_redis(dropin: Dropin) -> None:
    answers = [dropin.ask("user=ann") for _ in range(3)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OVER_LIMIT]
    (status,) = answers[0].statuses
    assert (status.current_limit.name, status.current_limit.requests_per_unit) == ("two_a_year", 2)
    assert status.current_limit.unit == RateLimitResponse.RateLimit.YEAR
    assert (status.limit_remaining, status.code) == (1, OK)
    assert 0 < status.duration_until_reset.seconds <= 31_536_000


def test_refused_request_consumes_nothing_of_its_other_limits(dropin: Dropin) -> None:
    dropin.ask("user=bob", hits=2)
    refused = dropin.ask("peek=bob", "user=bob")
    assert [status.code for status in refused.statuses] == [OK, OVER_LIMIT]
    assert dropin.ask("peek=bob").statuses[0].limit_remaining == 99


def test_tokens_are_checked_before_and_debited_after(dropin: Dropin) -> None:
    """Envoy's token limits: 0 hits with the request, the true count when the response has ended."""

    def tokens(count: int) -> RateLimitRequest:
        asked = request("peek=tokens")
        asked.descriptors[0].hits_addend.value = count
        return asked

    codes = [dropin.send(tokens(n)).overall_code for n in (0, 90, 0, 90, 0)]
    assert codes == [OK, OK, OK, OVER_LIMIT, OVER_LIMIT]


def test_override_and_unlimited_statuses(dropin: Dropin) -> None:
    asked = request("any=x", "user=x")
    asked.descriptors[0].limit.requests_per_unit = 7
    asked.descriptors[0].limit.unit = RateLimitUnit.HOUR
    status = dropin.send(asked).statuses[0]
    assert (status.current_limit.requests_per_unit, status.limit_remaining) == (7, 6)
    assert status.current_limit.unit == RateLimitResponse.RateLimit.HOUR


def test_shadow_answers_ok(dropin: Dropin) -> None:
    assert [dropin.ask("tried=x").overall_code for _ in range(3)] == [OK] * 3
    assert dropin.metric('ratelimit_service_rate_limit_shadow_mode{domain="shop",key1="tried"}') == 2


def test_quotas_refuse_together(dropin: Dropin) -> None:
    answers = [dropin.ask("inputs=x", "outputs=x").overall_code for _ in range(3)]
    assert answers == [OK, OK, OVER_LIMIT]


def test_unknown_domain_is_ok_and_counted(dropin: Dropin) -> None:
    answer = dropin.ask("user=x", domain="elsewhere")
    assert (answer.overall_code, answer.statuses[0].code) == (OK, OK)
    assert dropin.metric('ratelimit_service_rate_limit_domain_not_found{domain="elsewhere"}') == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request("user=x", domain=""), "rate limit domain must not be empty"),
        (request(), "rate limit descriptor list must not be empty"),
    ],
)
def test_request_without_content_is_an_error(dropin: Dropin, asked: RateLimitRequest, message: str) -> None:
    before = dropin.metric('ratelimit_service_should_rate_limit_error{err_type="service_error"}')
    with pytest.raises(grpc.RpcError) as caught:
        dropin.send(asked)
    assert caught.value.details() == message
    assert dropin.metric('ratelimit_service_should_rate_limit_error{err_type="service_error"}') == before + 1


def test_json_answers_as_grpc_does(dropin: Dropin) -> None:
    body = json.dumps({"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "json"}]}]})
    answers = [dropin.post_json(body) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 429]
    assert json.loads(answers[2][1])["overallCode"] == "OVER_LIMIT"


@pytest.mark.parametrize("body", ["", "{", '{"domain": "shop"}', '{"colour": "red"}', "\xff"])
def test_json_that_is_no_request_is_400(dropin: Dropin, body: str) -> None:
    assert dropin.post_json(body) == (400, "Bad Request\n")


def test_health_is_told_over_http_and_grpc(dropin: Dropin) -> None:
    assert dropin.get("/healthcheck") == (200, "OK")
    assert dropin.health() == HealthCheckResponse.SERVING


def test_debug_port_shows_rules_and_counts(dropin: Dropin) -> None:
    dropin.ask("burst=x")
    assert (
        "shop.burst: unit=SECOND requests_per_unit=1000, shadow_mode: false" in dropin.get("/rlconfig", "DEBUG_PORT")[1]
    )
    assert "ratelimit.service.rate_limit.shop.burst.total_hits: 1\n" in dropin.get("/stats", "DEBUG_PORT")[1]
    assert "/rlconfig" in dropin.get("/", "DEBUG_PORT")[1]


def test_prometheus_has_the_original_names(dropin: Dropin) -> None:
    before = dropin.metric('ratelimit_service_total_requests{grpc_method="ShouldRateLimit"}')
    dropin.ask("user=metric", hits=3)
    assert dropin.metric('ratelimit_service_total_requests{grpc_method="ShouldRateLimit"}') == before + 1
    assert dropin.metric('ratelimit_service_rate_limit_over_limit{domain="shop",key1="user"}') >= 3


def test_headers_tell_of_the_nearest_limit(dressed: Dropin) -> None:
    pairs = dressed.ask("peek=h", "user=h").response_headers_to_add
    assert [(pair.key, pair.value) for pair in pairs[:2]] == [("RateLimit-Limit", "2"), ("RateLimit-Remaining", "1")]
    assert pairs[2].key == "X-Reset"
    assert int(pairs[2].value) > 0


def test_dynamic_metadata_tells_of_the_request_and_its_limits(dressed: Dropin) -> None:
    said = MessageToDict(dressed.ask("peek=m", hits=2).dynamic_metadata)
    assert (said["domain"], said["hitsAddend"]) == ("shop", 2)
    assert said["metadata"]["plan"] == "free"
    assert said["descriptors"][0]["entries"][0] == "peek=m"


def test_global_shadow_refuses_nothing(dressed: Dropin) -> None:
    answers = [dressed.ask("user=shadow") for _ in range(3)]
    assert [answer.overall_code for answer in answers] == [OK] * 3
    assert answers[2].statuses[0].code == OVER_LIMIT


def test_keys_begin_with_the_prefix(dressed: Dropin, redis: RedisServer) -> None:
    dressed.ask("user=prefixed")
    assert redis.client().keys("dressed:rl:shop|user=prefixed*")


def test_second_process_may_share_the_port(dropin: Dropin, redis: RedisServer) -> None:
    """So a new one can start before the old one stops, or one can run on each core."""
    second = Dropin(dropin.root, at(redis))
    second.ports["GRPC_PORT"] = dropin.ports["GRPC_PORT"]
    with second.running():
        assert dropin.ask("peek=shared").overall_code == OK


# Configuration files


def generation(root: Path, name: str, amount: int) -> Path:
    text = f"domain: shop\ndescriptors: [{{key: user, rate_limit: {{unit: year, requests_per_unit: {amount}}}}}]"
    return configured(root / name, text)


def test_configuration_follows_links_and_edits_and_survives_bad_files(redis: RedisServer, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "missing")
    with Dropin(current, at(redis) | {"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true"}).running() as dropin:

        def amount() -> int:
            return dropin.ask("user=reload").statuses[0].current_limit.requests_per_unit

        with pytest.raises(grpc.RpcError) as caught:
            amount()
        assert caught.value.details() == "no rate limit configuration loaded"
        assert dropin.get("/healthcheck")[0] == 500

        swap(current, generation(tmp_path, "one", 10))
        until(lambda: dropin.get("/healthcheck")[0] == 200)
        assert amount() == 10

        swap(current, generation(tmp_path, "two", 20))
        until(lambda: amount() == 20)

        generation(tmp_path, "two", 30)
        until(lambda: amount() == 30)

        errors = dropin.metric("ratelimit_service_config_load_error")
        (tmp_path / "two" / "config" / "bad.yaml").write_text("domain: ''")
        until(lambda: dropin.metric("ratelimit_service_config_load_error") == errors + 1)
        assert amount() == 30


def swap(link: Path, target: Path) -> None:
    """As `ln -sfn` does: at no time is there no link."""
    (link.parent / "next").symlink_to(target)
    (link.parent / "next").replace(link)


# The command line


def cli(
    *arguments: str, module: str = "ratelimit_service.dropin", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize("flag", ["--config-dir", "-config_dir"])
def test_check_says_ok(tmp_path: Path, flag: str) -> None:
    ran = cli("--check", flag, str(configured(tmp_path) / "config"))
    assert (ran.returncode, ran.stdout) == (0, "all rate limit configs ok\n")


def test_the_older_spelling_still_leads_there_and_names_the_new_one(tmp_path: Path) -> None:
    ran = cli("--check", "--config-dir", str(configured(tmp_path) / "config"), module="ratelimit_service")
    assert (ran.returncode, ran.stdout) == (0, "all rate limit configs ok\n")
    assert ran.stderr == "this is now started by: python -m ratelimit_service.dropin\n"
    assert cli("--check", "--config-dir", str(tmp_path / "config")).stderr == ""


def test_check_tells_what_is_wrong(tmp_path: Path) -> None:
    ran = cli("--check", "--config-dir", str(configured(tmp_path, "domain: d\ndescriptors: [{value: v}]") / "config"))
    assert (ran.returncode, ran.stdout) == (1, "shop.yaml: descriptor has empty key\n")


def test_setting_that_cannot_be_served_ends_it(tmp_path: Path) -> None:
    ran = cli("--runtime-root", str(tmp_path), BACKEND_TYPE="memcache")
    assert ran.returncode == 2
    assert "BACKEND_TYPE" in ran.stderr
