"""The drop-in beside the original: the same files, the same requests, the same answers.

The original is the newest version that the Go module proxy has, from before quotas refused and metadata was sent.
"""

import http.client
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format

from gatehouse.pb.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.dropin.config.check import check
from testkit.original import accepts, original, running_original
from testkit.ports import free_port
from testkit.redis_server import RedisServer, redis_server
from testkit.waiting import until
from tests.contract.random_limits import MANY, Made
from tests.contract.random_yaml import RandomYaml
from tests.integration.test_dropin import SHOULD_RATE_LIMIT, Dropin, at

SEED = 15
DOMAINS = 30
HOUR_S = 3600
HEADERS = {"LIMIT_RESPONSE_HEADERS_ENABLED": "true"}
COUNTED = {"GATEHOUSE_COUNT_REFUSED": "true"}

Answer = dict[str, Any] | str
"""A response, or an error's text."""


@dataclass
class Server:
    name: str
    call: Any
    http_port: int
    debug_port: int
    metrics_port: int

    def counted(self) -> dict[str, int]:
        """Hits by name and labels, where there are any. Those over and near the limit are not the same in a request
        of several hits that is refused."""
        text = self.fetch("GET", self.metrics_port, "/metrics")[1]
        found = re.findall(r"^(ratelimit_service_rate_limit_(?:total_hits|within_limit){.*?}) (\d+)$", text, re.M)
        return {sample: int(value) for sample, value in found if int(value)}

    def ask(self, request: RateLimitRequest) -> Answer:
        try:
            return read(self.call(request, timeout=10))
        except grpc.RpcError as error:
            return str(error.details())

    def fetch(self, method: str, port: int, path: str, body: bytes = b"") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@dataclass
class Pair:
    ours: Server
    theirs: Server
    domains: list[str]

    def compare(self, request: RateLimitRequest, part: "Callable[[Answer], Answer] | None" = None) -> None:
        ours, theirs = (server.ask(request) for server in (self.ours, self.theirs))
        if part is not None:
            ours, theirs = part(ours), part(theirs)
        assert alike(ours, theirs), f"\n{request}\nours:   {ours}\ntheirs: {theirs}"

    def counted_otherwise(self) -> list[tuple[str, int]]:
        """Empty: the same."""
        return sorted(set(self.ours.counted().items()) ^ set(self.theirs.counted().items()))


def read(response: RateLimitResponse) -> Answer:
    return {
        "code": response.overall_code,
        "statuses": [
            (
                status.code,
                status.current_limit.name,
                status.current_limit.requests_per_unit,
                status.current_limit.unit,
                status.limit_remaining,
                status.duration_until_reset.seconds,
            )
            for status in response.statuses
        ],
        "headers": [(pair.key, pair.value) for pair in response.response_headers_to_add],
    }


def codes(answer: Answer) -> Answer:
    """Beside a limit in the local cache the others are told as untouched here, and as they are there."""
    if isinstance(answer, str):
        return answer
    return answer | {"statuses": [(status[0], "", 0, 0, 0, 0) for status in answer["statuses"]]}


_SHORT = (RateLimitResponse.RateLimit.SECOND, RateLimitResponse.RateLimit.MINUTE)


def alike(ours: Answer, theirs: Answer) -> bool:
    """The same but for a second of time. In a window of a second or a minute what remains is not compared, as it may
    end between the two looks at it."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return ours == theirs
    if ours["code"] != theirs["code"] or len(ours["statuses"]) != len(theirs["statuses"]):
        return False
    statuses = all(map(_alike_statuses, ours["statuses"], theirs["statuses"]))
    return statuses and _alike_headers(ours["headers"], theirs["headers"])


def _alike_statuses(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    *said, remaining, reset = ours
    *also, remaining_there, reset_there = theirs
    short = said[3] in _SHORT
    return said == also and (short or (remaining == remaining_there and abs(reset - reset_there) <= 1))


def _alike_headers(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> bool:
    if [pair[:1] for pair in ours] != [pair[:1] for pair in theirs]:
        return False
    (limit, remaining, reset), (limit_there, remaining_there, reset_there) = (
        [int(value) for _, value in pairs] or [0, 0, 0] for pairs in (ours, theirs)
    )
    if limit == limit_there == MANY:
        return True
    return (limit, remaining) == (limit_there, remaining_there) and abs(reset - reset_there) <= 1


@contextmanager
def both(folder: Path, redis: RedisServer, made: Made, ours: dict[str, str], theirs: dict[str, str]) -> Iterator[Pair]:
    """Both servers, with one random configuration, on one Redis."""
    domains = [f"d{number}" if number % 3 else f"my.d{number}" for number in range(DOMAINS)]
    (folder / "config").mkdir()
    for domain in domains:
        (folder / "config" / f"{domain}.yaml").write_text(yaml.safe_dump(made.configuration(domain)))
    ports = {name: free_port() for name in ("PORT", "DEBUG_PORT")}
    second = {f"REDIS_PERSECOND_{name.removeprefix('REDIS_')}": value for name, value in at(redis).items()}
    there = at(redis) | second | {"RUNTIME_ROOT": str(folder), "GRPC_UDS": str(folder / "theirs.sock")}
    there |= {name: str(port) for name, port in ports.items()}
    ports["PROMETHEUS"] = free_port()
    there |= {"USE_PROMETHEUS": "true", "STATS_FLUSH_INTERVAL": "1s", "PROMETHEUS_ADDR": f":{ports['PROMETHEUS']}"}
    here = at(redis) | second | ours | {"GATEHOUSE_SPLIT_LABELS": "true", "GRPC_UDS": str(folder / "ours.sock")}
    with ExitStack() as stack:
        stack.enter_context(running_original(there | theirs, folder / "theirs.log"))
        dropin = stack.enter_context(Dropin(folder, here).running())
        until(lambda: dropin.get("/healthcheck")[0] == 200)
        found = (("ours", dropin.ports), ("theirs", ports))
        ours_, theirs_ = (_server(stack, name, folder / f"{name}.sock", at_) for name, at_ in found)
        yield Pair(ours_, theirs_, domains)


def _server(stack: ExitStack, name: str, socket: Path, ports: dict[str, int]) -> Server:
    channel = stack.enter_context(grpc.insecure_channel(f"unix:{socket}"))
    grpc.channel_ready_future(channel).result(10)
    call = channel.unary_unary(SHOULD_RATE_LIMIT, RateLimitRequest.SerializeToString, RateLimitResponse.FromString)
    return Server(name, call, ports["PORT"], ports["DEBUG_PORT"], ports["PROMETHEUS"])


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    original("service_cmd")
    with redis_server() as running:
        _away_from_the_hour()
        yield running


def _away_from_the_hour() -> None:
    """All windows that are compared end at a whole hour: not during the test."""
    left = HOUR_S - time.time() % HOUR_S
    if left < 40:
        time.sleep(left + 1)


@dataclass(frozen=True)
class Variant:
    """So many requests, and what else the environments of the two say. `plain`: see `Made`."""

    requests: int
    ours: dict[str, str]
    theirs: dict[str, str]
    plain: bool = False
    codes_only: bool = False


STOPPING = {"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true"}
SHADOW = HEADERS | {"SHADOW_MODE": "true", "REDIS_PERSECOND": "true"}
CACHE = {"LOCAL_CACHE_SIZE_IN_BYTES": "1000000"}
VARIANTS = {
    "every request counted": Variant(3000, HEADERS | COUNTED, HEADERS),
    "shadow mode, and limits per second elsewhere": Variant(1500, SHADOW | COUNTED, SHADOW),
    "refused requests not counted": Variant(2000, HEADERS, HEADERS | STOPPING, plain=True),
    "local cache": Variant(1500, CACHE, CACHE | STOPPING, plain=True, codes_only=True),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_answers_are_those_of_the_original(redis: RedisServer, tmp_path: Path, variant: Variant) -> None:
    made = Made(random.Random(SEED), variant.plain)
    redis.client().flushall()
    with both(tmp_path, redis, made, variant.ours, variant.theirs) as pair:
        for _ in range(variant.requests):
            pair.compare(made.request(pair.domains), codes if variant.codes_only else None)
        for domain in ("", pair.domains[0], "unknown"):
            pair.compare(RateLimitRequest(domain=domain))  # without descriptors
        if not variant.codes_only:
            until(lambda: not pair.counted_otherwise(), 5)


def test_json_and_pages_are_those_of_the_original(redis: RedisServer, tmp_path: Path) -> None:
    made = Made(random.Random(SEED))
    redis.client().flushall()
    with both(tmp_path, redis, made, COUNTED, {}) as pair:
        for _ in range(200):
            _compare_json(pair, _body(made, pair.domains))
        rules = [server.fetch("GET", server.debug_port, "/rlconfig")[1] for server in (pair.ours, pair.theirs)]
        assert _limited(rules[0]) == _limited(rules[1])
        for method, path in (("POST", "/healthcheck"), ("GET", "/json"), ("PUT", "/json"), ("GET", "/nothing")):
            answers = [server.fetch(method, server.http_port, path)[0] for server in (pair.ours, pair.theirs)]
            assert answers[0] == answers[1], (method, path)


def _body(made: Made, domains: list[str]) -> bytes:
    text = json_format.MessageToJson(made.request(domains), preserving_proto_field_name=made.random.random() < 0.5)
    if made.random.random() < 0.4:
        place = made.random.randrange(len(text))
        text = text[:place] + made.random.choice('{}[]",:0x') + text[place + made.random.randrange(2) :]
    return text.encode()


def _compare_json(pair: Pair, body: bytes) -> None:
    answers = []
    for server in (pair.ours, pair.theirs):
        status, text = server.fetch("POST", server.http_port, "/json", body)
        said = text if status == 400 else read(json_format.ParseDict(json.loads(text), RateLimitResponse()))
        answers.append((status, said))
    (status, ours), (status_there, theirs) = answers
    assert status == status_there, (body, answers)
    assert alike(ours, theirs), (body, answers)


def _limited(dump: str) -> list[str]:
    """The lines of what has a limit: ours says `unlimited` of the others, the original a limit of 0 per UNKNOWN."""
    return sorted(line for line in dump.splitlines() if "unlimited" not in line and "unit=UNKNOWN" not in line)


def test_configuration_files_are_taken_and_refused_as_by_the_original(tmp_path: Path) -> None:
    original("config_check_cmd")
    made = RandomYaml(random.Random(SEED))
    texts = [made.text() for _ in range(400)]
    for number, text in enumerate(texts):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "f.yaml").write_bytes(text.encode())
    folders = [tmp_path / str(number) for number in range(len(texts))]
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(accepts, folders))
    for folder, text, taken in zip(folders, texts, theirs, strict=True):
        reason = check(folder, merge_domains=False)
        assert (reason is None) == taken, f"{text!r}: {reason}"
    assert 50 < sum(theirs) < 350  # or it says little
