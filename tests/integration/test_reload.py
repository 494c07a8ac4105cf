"""The configuration changes while the gateway works: in two seconds, all of it or nothing, and no stream notices."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from gatehouse.contract.key_digest import digest_of
from testkit.bad_configs import BAD
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.identity_provider import AUDIENCE, IdentityProvider
from testkit.redis_server import redis_server
from testkit.running_gateway import ROOT, RunningGateway, running_gateway
from testkit.waiting import until
from tests.unit.test_watch import mounted, swap

CHAT = "/v1/chat/completions"
MAIN, PICKY = "sk-reload-main-0001", "sk-reload-picky-002"
WITHIN_S = 2.0
Document = dict[str, Any]


@dataclass
class House:
    """A gateway whose configuration is changed, and two model servers."""

    gateway: RunningGateway
    one: FakeVllm
    two: FakeVllm
    good: Document

    @property
    def file(self) -> Path:
        return self.gateway.directory / "gatehouse.yaml"

    def put(self, document: Document | str) -> None:
        """As editors do: a new file takes the place of the old one."""
        new = self.file.with_name(".gatehouse.yaml.swp")
        new.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        new.rename(self.file)

    def changed(self, change: Callable[[Document], object]) -> None:
        document = deepcopy(self.good)
        change(document)
        self.put(document)

    def ask(self, model: str | None = "alpha", key: str = MAIN, **body: Any) -> httpx.Response:
        named = {"model": model} if model else {}
        body = {**named, "messages": [{"role": "user", "content": "hi"}], **body}
        return httpx.post(self.gateway.url + CHAT, json=body, headers=bearer(key), timeout=30)

    def get(self, path: str, key: str = MAIN) -> httpx.Response:
        return httpx.get(self.gateway.url + path, headers=bearer(key), timeout=30)

    def portal(self, path: str, **headers: str) -> Any:
        """What portal_service itself says."""
        transport = httpx.HTTPTransport(uds=str(self.gateway.run_dir().portal_socket))
        with httpx.Client(transport=transport, base_url="http://x", headers=headers) as client:
            return client.get(path).json()

    def stats(self, expression: str) -> dict[str, str]:
        socket = str(self.gateway.run_dir().admin_socket)
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket)) as client:
            lines = client.get("http://envoy/stats", params={"filter": expression}).text.splitlines()
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}

    def reloads(self, result: str) -> float:
        return self.gateway.metric("api_config_reloads_total", result=result)

    def log(self) -> str:
        return "".join(path.read_text() for path in self.gateway.logs("app_*.log"))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def document(one: FakeVllm) -> Document:
    price = {"input": 1.0, "output": 1.0}
    return {
        "models": {"alpha": {"backends": [{"url": f"{one.url}/v1"}], "price_per_million_tokens": price}},
        "api_keys": {
            MAIN: {"user_id": "mia", "tier": "free"},
            PICKY: {"user_id": "pat", "tier": "free", "models": ["b*", "alpha"]},
        },
        "rate_limits": {"free": {}},
        "keys": {"failures_per_minute": 0},
    }


@pytest.fixture(scope="module")
def module_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        one, two = stack.enter_context(FakeVllm(("alpha",))), stack.enter_context(FakeVllm(("beta",)))
        redis = stack.enter_context(redis_server())
        directory = tmp_path_factory.mktemp("reload")
        config = {**document(one), "redis": {"url": redis.url, "timeout_ms": 200}}
        gateway = stack.enter_context(running_gateway(directory, config))
        good = yaml.safe_load((directory / "gatehouse.yaml").read_text())
        yield House(gateway, one, two, good)


@pytest.fixture
def house(module_house: House) -> Iterator[House]:
    """As it was in the beginning, before and after."""
    in_force = module_house.gateway.run_dir().accepted
    good = in_force.read_text()
    yield module_house
    module_house.one.script = module_house.two.script = Script()
    module_house.put(module_house.good)
    until(lambda: in_force.read_text() == good)
    until(lambda: module_house.get("/health").json()["models"].keys() == {"alpha"})
    until(lambda: module_house.ask("beta").status_code == 404)


def beta(house: House, **fields: Any) -> Callable[[Document], object]:
    """The second model is added."""
    return lambda config: config["models"].update(beta={"backends": [{"url": f"{house.two.url}/v1"}], **fields})


LISTENERS = r"^listener_manager\.(listener_(added|modified|removed|create_success|create_failure)|lds)"


def test_an_added_model_is_there_for_everyone_and_the_listener_is_left_alone(house: House) -> None:
    before = house.stats(LISTENERS)
    assert house.ask("beta").json()["error"]["code"] == "model_not_found"
    house.changed(beta(house, aliases=["b-too"]))
    until(lambda: house.ask("beta").status_code == house.ask("b-too", PICKY).status_code == 200)
    assert len(house.two.requests) >= 2
    until(lambda: {entry["id"] for entry in house.get("/v1/models").json()["data"]} == {"alpha", "beta", "b-too"})
    until(lambda: set(house.portal("/health")["models"]) == {"alpha", "beta"})
    explained = subprocess.run(
        [
            sys.executable,
            "-m",
            "gatehouse.cli",
            "explain",
            "--json",
            "--key",
            MAIN,
            "--model",
            "b-too",
            "-c",
            house.file,
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    told = json.loads(explained.stdout)
    assert told["answer"]["status"] == 200
    assert house.two.url in json.dumps(told["backends"])
    assert house.stats(LISTENERS) == before


def test_a_removed_model_is_404_and_its_running_stream_ends_well(house: House) -> None:
    house.changed(beta(house))
    until(lambda: house.ask("beta").status_code == 200)
    with Streams(house, "beta", 1, tokens=60, delay_s=0.05) as streams:
        house.put(house.good)
        until(lambda: house.ask("beta").status_code == 404)
        until(lambda: len(house.portal("/v1/models", **ALL)["data"]) == 1)
    assert streams.ended_well() == 1


ALL = {"x-gatehouse-models": '["*"]'}


def test_a_model_moves_to_another_server_and_running_streams_stay_where_they_are(house: House) -> None:
    with Streams(house, "alpha", 3, tokens=60, delay_s=0.05) as streams:
        house.changed(lambda c: c["models"]["alpha"].update(backends=[{"url": f"{house.two.url}/v1"}]))
        seen = len(house.two.requests)
        until(lambda: house.ask("alpha").status_code == 200 and len(house.two.requests) > seen)
    assert streams.ended_well() == 3
    assert house.two.aborted == 0


def test_the_default_model_and_aliases_follow(house: House) -> None:
    assert house.ask(None).status_code == 400
    house.changed(lambda c: c.update(default_model="nick") or c["models"]["alpha"].update(aliases=["nick"]))
    until(lambda: house.ask(None).status_code == 200)
    until(lambda: house.portal("/health")["model"] == "nick")
    answer = house.ask(None)
    assert house.gateway.record(answer.headers["x-request-id"])["model"] == "nick"


def test_a_changed_amount_refills_nothing(house: House) -> None:
    def limited(amount: int) -> Callable[[Document], object]:
        return lambda c: c["rate_limits"].update(free={"requests_per_hour": amount})

    def left() -> set[int]:
        """As both limiters tell it in turn."""
        told = [house.get("/v1/usage").json()["limits"] for _ in range(6)]
        return {limits[0]["remaining"] if limits else -1 for limits in told}

    house.changed(limited(10))
    until(lambda: left() == {10})
    assert [house.ask().status_code for _ in range(4)] == [200] * 4
    house.changed(limited(5))
    until(lambda: left() == {1})
    assert [house.ask().status_code for _ in range(3)] == [200, 429, 429]
    house.changed(limited(7))
    until(lambda: left() == {2})
    assert house.ask().status_code == 200
    house.changed(lambda c: c["rate_limits"].update(free={"requests_per_hour": 7, "algorithm": "fixed_window"}))
    until(lambda: left() == {7})


def test_prices_and_limits_that_settle_follow(house: House) -> None:
    first = house.ask().headers["x-request-id"]
    cost = house.gateway.record(first)["cost_usd"]

    def dearer(config: Document) -> None:
        config["models"]["alpha"]["price_per_million_tokens"] = {"input": 1000.0, "output": 1000.0}
        config["users"] = {"mia": {"limits": {"tokens_per_hour": 5000}}}

    house.changed(dearer)
    until(lambda: any(limit["scope"] == "user" for limit in house.get("/v1/usage").json()["limits"]))
    records = []

    def costs_more() -> bool:
        records.append(house.gateway.record(house.ask().headers["x-request-id"]))
        return bool(records[-1]["cost_usd"] == pytest.approx(1000 * cost))

    until(costs_more)  # the receivers follow as well
    used = sum(record["prompt_tokens"] + record["completion_tokens"] for record in records)
    until(lambda: [limit["used"] for limit in house.get("/v1/usage").json()["limits"]] == [used])


def test_what_routes_say_of_https_and_patience_follows(house: House) -> None:
    house.changed(lambda c: c["server"].update(require_https=True))
    until(lambda: house.ask().status_code == 426)
    house.changed(lambda c: c["server"].update(stream_idle_timeout_s=1, public_metrics=False))
    until(lambda: house.ask().status_code == 200)
    until(lambda: {house.get("/metrics").status_code for _ in range(4)} == {404})
    house.one.script = Script(headers_after_s=3)
    answer = house.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_issuers_of_tokens_come_and_go(house: House) -> None:
    with IdentityProvider() as idp:
        token = idp.token()
        assert house.ask(key=token).status_code == 401
        issuer = {"issuer": idp.issuer, "audience": AUDIENCE, "name": "sso", "tier": "free"}
        house.changed(lambda c: c.update(jwt=[issuer]))
        until(lambda: {house.ask(key=token).status_code for _ in range(4)} == {200})
        house.put(house.good)
        until(lambda: {house.ask(key=token).status_code for _ in range(4)} == {401})


def test_the_level_of_the_logs_follows(house: House) -> None:
    def envoys() -> str:
        socket = str(house.gateway.run_dir().admin_socket)
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket)) as client:
            return client.post("http://envoy/logging").text

    assert "  http: warning" in envoys()
    house.changed(lambda c: c["logging"].update(level="debug"))
    until(lambda: "  http: info" in envoys() and "  misc: error" in envoys())
    house.changed(lambda c: c["logging"].update(level="warning"))
    until(lambda: "  http: warning" in envoys())

    def silent() -> bool:
        before = len(house.log())
        for change, status in ((beta(house), 200), (lambda _: None, 404)):
            house.changed(lambda c, change=change: change(c) or c["logging"].update(level="warning"))  # type: ignore[misc]
            until(lambda status=status: house.ask("beta").status_code == status)  # type: ignore[misc]
        time.sleep(0.5)
        return '"level": "info"' not in house.log()[before:]

    until(silent, 20, "changes that nobody speaks of")  # the services follow as well


@pytest.mark.parametrize("name", BAD)
def test_c01_a_bad_change_leaves_everything_as_it_was(house: House, name: str) -> None:
    text, expected = BAD[name]
    if "that is not there" in name:  # good in itself: then what else has changed is looked at
        fixed = {section: house.good[section] for section in ("server", "logging", "redis")}
        text = yaml.safe_dump({**fixed, **yaml.safe_load(text)})
    before, log = house.reloads("rejected"), len(house.log())
    house.put(text)
    until(lambda: house.reloads("rejected") == before + 1)
    told = [json.loads(line)["message"] for line in house.log()[log:].splitlines()]
    refused = [message for message in told if message.startswith("a change is rejected: ")]
    assert any(expected in message or "keys.peppers: can't" in message for message in refused), refused
    assert all(":" in message.partition("rejected: ")[2] and ".yaml" in message for message in refused) or "env" in text
    assert house.ask().status_code == 200
    assert house.get("/health").status_code == 200


def test_what_needs_a_restart_is_refused_whole_with_its_line(house: House) -> None:
    before = house.reloads("rejected")

    def change(config: Document) -> None:
        beta(house)(config)
        config["server"]["max_body_mb"] = 1
        config["redis"]["on_failure"] = "deny"

    house.changed(change)
    until(lambda: house.reloads("rejected") == before + 1)
    lines = house.file.read_text().splitlines()
    for path in ("server.max_body_mb", "redis.on_failure"):
        place = 1 + next(index for index, line in enumerate(lines) if path.split(".")[1] in line)
        told = f"{house.file}:{place}: {path}: can't change while the gateway runs (to change it, restart with: "
        assert f"{told}gatehouse up --replace" in house.log()
    assert house.ask("beta").status_code == 404


def test_a_mounted_file_and_its_key_file_are_followed_through_swapped_links(house: House, tmp_path: Path) -> None:
    key_file = mounted(tmp_path, yaml.safe_dump({digest_of(MAIN + "x"): {"user_id": "x", "tier": "free"}}))
    volume = house.gateway.directory / "volume"
    volume.mkdir()
    config = deepcopy(house.good)
    mounted(volume, yaml.safe_dump(config))  # the volume's file happens to be called keys.yaml
    house.file.unlink()
    house.file.symlink_to("volume/keys.yaml")
    beta(house)(config)
    config["key_files"] = [str(key_file)]
    swap(volume, yaml.safe_dump(config))
    until(lambda: house.ask("beta", MAIN + "x").status_code == 200)
    before = house.reloads("rejected")
    swap(volume, yaml.safe_dump({**config, "sevrer": {}}))
    until(lambda: house.reloads("rejected") == before + 1)
    swap(tmp_path, yaml.safe_dump({digest_of(MAIN + "y"): {"user_id": "y", "tier": "free"}}))
    until(lambda: (house.ask("beta", MAIN + "x").status_code, house.ask("beta", MAIN + "y").status_code) == (401, 200))
    swap(volume, yaml.safe_dump(house.good))
    until(lambda: house.ask("beta").status_code == 404 and house.ask(key=MAIN + "y").status_code == 401)


def test_a_file_that_is_gone_or_half_written_changes_nothing(house: House) -> None:
    before = house.reloads("rejected")
    house.file.unlink()
    until(lambda: house.reloads("rejected") == before + 1)
    assert f"{house.file}: can't be read: No such file or directory" in house.log()
    assert house.ask().status_code == 200
    text = yaml.safe_dump({**house.good, "models": {**house.good["models"], **_beta_alone(house)}})
    with house.file.open("w") as file:  # a valid file, in the middle: the keys are there, the models not all
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            file.write(piece)
            file.flush()
            time.sleep(0.03)
    until(lambda: house.ask("beta").status_code == 200)


def _beta_alone(house: House) -> Document:
    config: Document = {"models": {}}
    beta(house)(config)
    found: Document = config["models"]
    return found


def test_a_tier_that_a_key_file_needs_can_not_go_for_one_part_alone(house: House, tmp_path: Path) -> None:
    """The limiter never sees key files: it must not drop a tier whose keys still work."""
    key_file = tmp_path / "keys.yaml"
    key_file.write_text(yaml.safe_dump({digest_of(MAIN + "z"): {"user_id": "z", "tier": "gold"}}))

    def gold(config: Document) -> None:
        config["key_files"] = [str(key_file)]
        config["rate_limits"]["gold"] = {"requests_per_hour": 2}

    house.changed(gold)
    until(lambda: house.ask(key=MAIN + "z").status_code == 200)
    before = house.reloads("rejected")
    house.changed(lambda c: c.update(key_files=[str(key_file)]))
    until(lambda: house.reloads("rejected") == before + 1)
    assert f"{key_file}:2: <key>.tier" in house.log()
    time.sleep(0.5)
    assert [house.ask(key=MAIN + "z").status_code for _ in range(2)] == [200, 429]
    key_file.write_text("{}")  # now it fits, and is taken up though gatehouse.yaml itself is as it was
    until(lambda: "gold" not in house.gateway.run_dir().accepted.read_text())


def test_what_dies_while_the_file_is_bad_comes_back_by_what_is_in_force(house: House) -> None:
    house.changed(beta(house))
    until(lambda: house.ask("beta").status_code == 200)
    before = house.reloads("rejected")
    house.put("no: [yaml")
    until(lambda: house.reloads("rejected") == before + 1)
    for name in ("authz-0", "authz-1", "ratelimit-0", "envoy"):
        os.kill(house.gateway.children()[name], signal.SIGKILL)
    until(lambda: {house.ask(model).status_code for model in ("alpha", "beta") for _ in range(3)} == {200}, 15)


@pytest.mark.slow
def test_a_change_is_in_force_within_two_seconds(house: House) -> None:
    """A model that comes or goes, which takes longest; half of the time at least, whatever else the machine does."""
    times = []
    for _ in range(5):
        for change, status in ((beta(house), 200), (lambda _: None, 404)):
            began = time.monotonic()
            house.changed(change)
            until(lambda status=status: house.ask("beta").status_code == status)  # type: ignore[misc]
            times.append(time.monotonic() - began)
    assert median(times) < WITHIN_S


@pytest.mark.slow
def test_200_streams_do_not_notice_50_changes_good_and_bad(house: House) -> None:
    """Of models, backends, keys and limits, in turn with bad ones; the clients lose no token of any stream."""
    before, listeners = (house.reloads("applied"), house.reloads("rejected")), house.stats(LISTENERS)
    bad = [text for name, (text, _) in BAD.items() if "that is not there" not in name]
    in_force = house.gateway.run_dir().accepted

    with Streams(house, "alpha", 200, tokens=150, delay_s=0.3) as streams:
        for number in range(25):
            was, told = in_force.read_bytes(), len(house.log())
            house.changed(_good(house, number))
            until(lambda was=was: in_force.read_bytes() != was, 10)  # type: ignore[misc]
            house.put(bad[number])
            until(lambda told=told: "a change is rejected" in house.log()[told:], 10)  # type: ignore[misc]
        running = streams.running()
    assert running == 200, "they have to run while all changes are made"
    assert streams.ended_well() == 200
    assert house.reloads("rejected") == before[1] + 25
    assert house.reloads("applied") > before[0]
    assert house.stats(LISTENERS) == listeners
    assert house.one.aborted == house.two.aborted == 0


def _good(house: House, number: int) -> Callable[[Document], object]:
    kinds: list[Callable[[Document], object]] = [
        beta(house),
        lambda c: c["models"]["alpha"].update(backends=[{"url": f"{house.two.url}/v1"}]),
        lambda c: c["rate_limits"].update(free={"requests_per_hour": 10_000 + number}),
        lambda c: c["api_keys"].update({f"sk-reload-more-{number:04}": {"user_id": "m", "tier": "free"}}),
        lambda c: c["models"].update(gamma=c["models"].pop("alpha")),
    ]
    return kinds[number % 5]


class Streams:
    """Streams that run while the block does, and to their end."""

    def __init__(self, house: House, model: str, count: int, tokens: int, delay_s: float) -> None:
        self._house, self._model, self._count, self._tokens = house, model, count, tokens
        self._running = threading.Semaphore(0)
        self._texts: list[str] = []
        self._failures: list[str] = []
        house.one.script = house.two.script = Script(event_delay_s=delay_s)

    def __enter__(self) -> "Streams":
        self._threads = [threading.Thread(target=self._stream) for _ in range(self._count)]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            assert self._running.acquire(timeout=30)
        self._house.one.script = self._house.two.script = Script()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(120)

    def _stream(self) -> None:
        body = {"model": self._model, "stream": True, "max_tokens": self._tokens, "ignore_eos": True}
        body["messages"] = [{"role": "user", "content": "one two three"}]
        told, text = False, ""
        try:
            with (
                httpx.Client(timeout=60, verify=False) as client,
                client.stream("POST", self._house.gateway.url + CHAT, json=body, headers=bearer(MAIN)) as answer,
            ):
                for line in answer.iter_lines():
                    text += line + "\n"
                    if not told:
                        told = True
                        self._running.release()
        except httpx.HTTPError as error:
            self._failures.append(repr(error))
        self._texts.append(text)

    def running(self) -> int:
        return self._count - len(self._texts)

    def ended_well(self) -> int:
        """How many came to their end with every token."""
        assert not self._failures
        return sum(text.endswith("data: [DONE]\n\n") and _tokens(text) == self._tokens for text in self._texts)


def _tokens(text: str) -> int:
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return sum(bool(choice["delta"].get("content")) for event in events for choice in event["choices"])
