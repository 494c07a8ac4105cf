"""Keys change while the gateway runs: every worker follows within two seconds, and nothing else is disturbed."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx2 as httpx
import pytest
import yaml

from gatehouse.contract import errors
from gatehouse.contract.key_digest import digest_of
from gatehouse.keys.format import mint
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.store_redis import RedisKeyStore
from gatehouse.pb.external_auth_pb2 import CheckRequest, CheckResponse
from gatehouse.redis_client.client import connect
from testkit.fakes.fake_vllm import FakeVllm
from testkit.redis_server import RedisServer, redis_server
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL
from tests.unit.test_watch import mounted, swap

STEADY, CHANGING, MAIN = "sk-following-steady", "sk-following-changing", "sk-following-main"
WITHIN_S = 2.0
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def key_file(*keys: str) -> str:
    return yaml.safe_dump({digest_of(key): {"user_id": "u", "tier": "free", "name": key[13:]} for key in keys})


def config(backend: FakeVllm, **more: object) -> dict[str, object]:
    return {
        "vllm": {"base_url": f"{backend.url}/v1", "default_model": MODEL},
        "rate_limits": {"free": {}},
        "keys": {"failures_per_minute": 0},
        **more,
    }


@dataclass
class Load:
    """Chats with one key, one after the other, until it is stopped: status and start of each."""

    gateway: RunningGateway
    key: str
    answers: list[tuple[float, int]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        over = threading.Event()

        def call() -> None:
            with httpx.Client(base_url=self.gateway.url, headers={"authorization": f"Bearer {self.key}"}) as client:
                while not over.is_set():
                    began = time.monotonic()
                    self.answers.append((began, client.post("/v1/chat/completions", json=BODY).status_code))

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            over.set()
            for thread in threads:
                thread.join(10)

    def statuses(self) -> set[int]:
        return {status for _, status in self.answers}

    def last_accepted(self) -> float:
        return max(began for began, status in self.answers if status == 200)


def status(socket: Path, key: str) -> int:
    """What one worker says of a key: 200, or the status of its refusal."""
    request = CheckRequest()
    request.attributes.request.http.headers["authorization"] = f"Bearer {key}"
    request.attributes.source.address.socket_address.address = "192.0.2.7"
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check", response_deserializer=bytes)
        answer = CheckResponse.FromString(check(request.SerializeToString(), timeout=15, wait_for_ready=True))
    return answer.denied_response.status.code or 200


def statuses(gateway: RunningGateway, key: str) -> list[int]:
    """What each worker says."""
    run_dir = gateway.run_dir()
    return [status(run_dir.socket("authz", index), key) for index in range(2)]


def every_worker_says(gateway: RunningGateway, expected: Mapping[str, int], within_s: float = WITHIN_S) -> None:
    def said() -> bool:
        assert {key: statuses(gateway, key) for key in expected} == {key: [code] * 2 for key, code in expected.items()}
        return True

    until(said, within_s)


def test_a_key_file_is_followed_under_load_and_a_bad_one_changes_nothing(backend: FakeVllm, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    file = mounted(tmp_path / "mount", key_file(STEADY))
    with running_gateway(tmp_path, config(backend, key_files=[str(file)])) as gateway:
        every_worker_says(gateway, {STEADY: 200, CHANGING: 401}, 0.1)
        with Load(gateway, STEADY).running() as load:
            swap(tmp_path / "mount", key_file(STEADY, CHANGING))
            every_worker_says(gateway, {CHANGING: 200})
            until(lambda: gateway.metric("api_config_reloads_total", result="applied") == 2)

            swap(tmp_path / "mount", key_file(STEADY).replace("tier", "teir"))
            until(lambda: gateway.metric("api_config_reloads_total", result="rejected") == 2)
            every_worker_says(gateway, {STEADY: 200, CHANGING: 200}, 0.1)
            log = "".join(path.read_text() for path in gateway.logs("app_*.log"))
            assert f"a change is rejected: {file}:3: <key>.teir: unknown field" in log

            (tmp_path / "mount" / "..data").unlink()
            until(lambda: gateway.metric("api_config_reloads_total", result="rejected") == 4)
            every_worker_says(gateway, {STEADY: 200, CHANGING: 200}, 0.1)

            swap(tmp_path / "mount", key_file(STEADY))
            every_worker_says(gateway, {STEADY: 200, CHANGING: 401})
        assert load.statuses() == {200}
        assert len(load.answers) > 20


def test_gatehouse_yaml_is_followed_and_a_bad_one_changes_nothing(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, config(backend, api_keys={MAIN: {"user_id": "m", "tier": "free"}})) as gateway:
        file = tmp_path / "gatehouse.yaml"
        good = yaml.safe_load(file.read_text())

        def write(document: object) -> None:
            (tmp_path / "new").write_text(yaml.safe_dump(document))
            (tmp_path / "new").rename(file)

        with Load(gateway, MAIN).running() as load:
            write({**good, "sevrer": {}, "api_keys": {}})
            until(lambda: gateway.metric("api_config_reloads_total", result="rejected") == 1)
            every_worker_says(gateway, {MAIN: 200}, 0.1)

            (tmp_path / "k.yaml").write_text(key_file(CHANGING))
            write({**good, "key_files": [str(tmp_path / "k.yaml")]})
            every_worker_says(gateway, {MAIN: 200, CHANGING: 200})
            (tmp_path / "k.yaml").write_text(key_file(STEADY))
            every_worker_says(gateway, {MAIN: 200, CHANGING: 401, STEADY: 200})
            assert load.statuses() == {200}

            changed = time.monotonic()
            write({**good, "api_keys": {}})
            every_worker_says(gateway, {MAIN: 401, STEADY: 401})
            time.sleep(0.2)
        assert load.last_accepted() <= changed + WITHIN_S


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def put(server: RedisServer, *records: KeyRecord) -> None:
    async def kept() -> None:
        store = RedisKeyStore(connect(server.url, timeout_s=5))
        await store.put(records)
        await store.close()

    asyncio.run(kept())


def test_f42_the_key_store_is_followed_and_a_revoked_key_stays_revoked(
    backend: FakeVllm, tmp_path: Path, redis: RedisServer
) -> None:
    minted = mint("gh")
    made = KeyRecord(digest_of(minted.key), minted.key_id, "u", tier="free", created_at=time.time())
    in_file = KeyRecord(digest_of(MAIN), "main", "m", tier="free")
    store = {"redis": {"url": redis.url}, "key_store": {"type": "redis"}}
    keys = {MAIN: {"user_id": "m", "tier": "free", "name": "main"}, STEADY: {"user_id": "s", "tier": "free"}}
    with running_gateway(tmp_path, config(backend, api_keys=keys, **store)) as gateway:
        every_worker_says(gateway, {minted.key: 401, MAIN: 200}, 0.1)
        put(redis, made)
        every_worker_says(gateway, {minted.key: 200})
        with Load(gateway, minted.key).running() as load:
            time.sleep(0.3)
            put(redis, *(KeyRecord(r.digest, r.key_id, r.user, revoked_at=time.time()) for r in (made, in_file)))
            revoked = time.monotonic()
            every_worker_says(gateway, {minted.key: 401, MAIN: 401, STEADY: 200})
            time.sleep(0.2)
        assert load.last_accepted() <= revoked + WITHIN_S
        refused = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-api-key": minted.key})
        unknown = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-api-key": "sk-unknown"})
        assert refused.json() == unknown.json() == errors.INVALID_API_KEY.body()
        until(lambda: gateway.metric("api_auth_decisions_total", result="revoked") >= 3)

        redis.client().flushall()
        time.sleep(1.5)
        every_worker_says(gateway, {minted.key: 401, MAIN: 401, STEADY: 200}, 0.1)


def test_f17_without_the_store_files_go_on_and_its_keys_are_503_until_it_is_back(
    backend: FakeVllm, tmp_path: Path, redis: RedisServer
) -> None:
    made = KeyRecord(digest_of(CHANGING), "made", "u", tier="free")
    put(redis, made, KeyRecord(digest_of(MAIN), "main", "m", models=(), revoked_at=1.0))
    store = {"redis": {"url": redis.url}, "key_store": {"type": "redis", "max_stale_s": 1}}
    keys = {STEADY: {"user_id": "s", "tier": "free"}, MAIN: {"user_id": "m", "tier": "free"}}
    with running_gateway(tmp_path, config(backend, api_keys=keys, **store)) as gateway:
        every_worker_says(gateway, {CHANGING: 200, STEADY: 200, MAIN: 401, "sk-unknown": 401}, 0.1)
        os.kill(redis.process.pid, signal.SIGSTOP)
        try:
            every_worker_says(gateway, {CHANGING: 503, STEADY: 200, "sk-unknown": 503}, 6)
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-api-key": CHANGING})
            assert (answer.status_code, answer.json()) == (503, errors.AUTH_UNAVAILABLE.body())
            assert answer.headers["retry-after"] == "1"
            until(lambda: gateway.metric("api_key_store_errors_total") >= 2)
            until(lambda: gateway.metric("api_key_store_age_seconds") >= 1)

            os.kill(gateway.children()["authz-0"], signal.SIGKILL)  # one that starts while the store is down
            time.sleep(0.5)
            every_worker_says(gateway, {CHANGING: 503, STEADY: 200, MAIN: 401}, 15)
        finally:
            os.kill(redis.process.pid, signal.SIGCONT)
        every_worker_says(gateway, {CHANGING: 200, STEADY: 200, "sk-unknown": 401}, 4)


def test_f40_who_guesses_is_told_to_wait_and_minted_keys_go_on(backend: FakeVllm, tmp_path: Path) -> None:
    minted = mint("gh").key
    keys = {MAIN: {"user_id": "m", "tier": "free"}, digest_of(minted): {"user_id": "b", "tier": "free"}}
    settings = {"keys": {"failures_per_minute": 10}, "server": {"workers": 1}}
    with running_gateway(tmp_path, config(backend, api_keys=keys) | settings) as gateway, gateway.client() as client:

        def call(key: str) -> httpx.Response:
            return client.post("/v1/chat/completions", json=BODY, headers={"authorization": f"Bearer {key}"})

        swapped = minted[:-1] + ("0" if minted[-1] != "0" else "1")
        assert {call(swapped).status_code for _ in range(15)} == {401}
        assert call(MAIN).status_code == 200
        assert [call(f"sk-guess-{number}").status_code for number in range(11)] == [401] * 10 + [429]
        answer = call(MAIN)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert "Too many incorrect API keys were sent from your address" in answer.json()["detail"]
        assert answer.headers["x-request-id"]
        assert call(minted).status_code == 200
        assert call(swapped).status_code == 401
        until(lambda: gateway.metric("api_auth_decisions_total", result="too_many_failures") == 2)


def test_a_missing_or_bad_key_file_at_the_start_ends_it_with_the_place(backend: FakeVllm, tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"none\.yaml.*can.+t be read: No such file"),
        running_gateway(tmp_path, config(backend, key_files=[str(tmp_path / "none.yaml")])),
    ):
        pass
    (tmp_path / "bad.yaml").write_text("sk-following-bad: {}\n")
    with (
        pytest.raises(AssertionError, match=r"user_id.*is missing"),
        running_gateway(tmp_path, config(backend, key_files=[str(tmp_path / "bad.yaml")])),
    ):
        pass
