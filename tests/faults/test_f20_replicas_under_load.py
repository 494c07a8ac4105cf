"""Three models of two replicas each, real processes: killed, stopped, slowed and revived under load.

No error that a retry could have hidden, and none hidden that should be seen; out and back within the times of
docs/models.md.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx2 as httpx
import pytest

from testkit.fakes.replica import Replica
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

CHAT = "/v1/chat/completions"
KEY = "sk-faults-1"
MODELS = {"least": "least_request", "turns": "round_robin", "sticky": "session_affinity"}
CALLERS = 6
SLACK_S = 3.0
"""For a machine with other things to do."""

pytestmark = pytest.mark.slow


@dataclass
class Outcome:
    """What became of one request. `whole`: its answer came to its end."""

    model: str
    stream: bool
    began: float
    status: int
    whole: bool
    request_id: str


@dataclass
class Traffic:
    """Callers that ask all models in turn, every other time for a stream."""

    url: str
    outcomes: list[Outcome] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def call(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as client:
            for turn in count(number):
                if self._stop.is_set():
                    return
                model, stream = list(MODELS)[turn % 3], turn % 2 == 0
                self.outcomes.append(ask(client, model, stream, f"session-{turn % 50}"))
                time.sleep(0.02)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.call, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


def ask(client: httpx.Client, model: str, stream: bool, session: str) -> Outcome:
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "a b c d e"}], "max_tokens": 8}
    began, status, request_id, received = time.monotonic(), 0, "", b""
    try:
        with client.stream("POST", CHAT, json=body, headers={"x-session-id": session}) as answer:
            status, request_id = answer.status_code, answer.headers["x-request-id"]
            for part in answer.iter_raw():
                received += part
        whole = received.endswith(b"data: [DONE]\n\n") if stream else received.endswith(b"}")
    except httpx.HTTPError:
        whole = False
        assert b"[DONE]" not in received
    return Outcome(model, stream, began, status, whole, request_id)


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, list[Replica]]]:
    with ExitStack() as stack:
        yield {model: [stack.enter_context(Replica()) for _ in range(2)] for model in MODELS}


@pytest.fixture(scope="module")
def gateway(replicas: dict[str, list[Replica]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "models": {
            model: {"balance": balance, "backends": [{"url": replica.url} for replica in replicas[model]]}
            for model, balance in MODELS.items()
        },
        "api_keys": {KEY: {"user_id": "alice", "tier": "any"}},
    }
    with running_gateway(tmp_path_factory.mktemp("replicas"), config) as running:
        yield running


@pytest.fixture
def traffic(gateway: RunningGateway) -> Iterator[Traffic]:
    until(lambda: all(serving(gateway, model) == 2 for model in MODELS), 70)
    traffic = Traffic(gateway.url)
    with traffic.flowing():
        time.sleep(1)
        yield traffic


def serving(gateway: RunningGateway, model: str) -> int:
    """How many replicas of `model` Envoy gives requests to."""
    return sum(state == {"eds_health_status": "HEALTHY"} for state in states(gateway, model))


def states(gateway: RunningGateway, model: str) -> list[dict[str, object]]:
    transport = httpx.HTTPTransport(uds=str(gateway.run_dir().admin_socket))
    with httpx.Client(transport=transport, timeout=10) as admin:
        found = admin.get("http://envoy/clusters?format=json").json()["cluster_statuses"]
    return [
        host["health_status"] for each in found if each["name"] == f"model:{model}" for host in each["host_statuses"]
    ]


def hurt(gateway: RunningGateway, replicas: dict[str, list[Replica]], how: Callable[[Replica], None]) -> None:
    """Do it to the first replica of every model."""
    for group in replicas.values():
        how(group[0])


def never_refused(outcomes: list[Outcome]) -> None:
    """Every request got an answer; what a retry can't hide is a stream or an answer that had begun."""
    assert outcomes
    assert {each.status for each in outcomes if each.status} == {200}
    assert [each for each in outcomes if each.status == 0] == []


@pytest.mark.parametrize("round_", range(3))
def test_f20_killed_replicas_cost_only_what_they_had_begun(
    gateway: RunningGateway, replicas: dict[str, list[Replica]], traffic: Traffic, round_: int
) -> None:
    hurt(gateway, replicas, Replica.kill)
    killed = time.monotonic()
    until(lambda: all(serving(gateway, model) == 1 for model in MODELS), 1.5 + SLACK_S)
    time.sleep(2)
    hurt(gateway, replicas, Replica.start)
    until(lambda: all(serving(gateway, model) == 2 for model in MODELS), 6 + 10 * (round_ + 1) + SLACK_S)
    time.sleep(1)
    never_refused(traffic.outcomes)
    cut = [each for each in traffic.outcomes if not each.whole]
    assert all(each.stream and killed - 2 < each.began <= killed + 0.5 for each in cut)
    for each in cut:
        assert gateway.record(each.request_id)["aborted"] is True
    assert len(cut) <= CALLERS


def test_f20_stopped_replicas_are_noticed_and_lose_nothing(
    gateway: RunningGateway, replicas: dict[str, list[Replica]], traffic: Traffic
) -> None:
    hurt(gateway, replicas, Replica.stop)
    until(lambda: all(serving(gateway, model) == 1 for model in MODELS), 5.5 + SLACK_S)
    noticed = time.monotonic()
    with httpx.Client(base_url=gateway.url, timeout=5, headers={"authorization": f"Bearer {KEY}"}) as client:
        others = [ask(client, model, False, f"new-{number}") for number in range(10) for model in MODELS]
    assert all(each.whole for each in others)
    assert time.monotonic() - noticed < 30
    hurt(gateway, replicas, Replica.go_on)
    until(lambda: all(serving(gateway, model) == 2 for model in MODELS), 1 + SLACK_S)
    time.sleep(1)
    never_refused(traffic.outcomes)
    assert [each for each in traffic.outcomes if not each.whole] == []


def test_f20_a_slow_replica_gets_less_and_fails_nobody(
    gateway: RunningGateway, replicas: dict[str, list[Replica]], traffic: Traffic
) -> None:
    slow, fast = replicas["least"]
    slow.kill()
    slow.delay_ms = 300
    slow.start()
    until(lambda: serving(gateway, "least") == 2, 70)
    began = time.monotonic()
    time.sleep(8)
    recent = [each for each in traffic.outcomes if each.model == "least" and each.began > began]
    never_refused(recent)
    assert all(each.whole for each in recent)
    took = [gateway.record(each.request_id)["backend"] for each in recent]
    assert took.count(slow.address) < took.count(fast.address)
    slow.kill()
    slow.delay_ms = fast.delay_ms
    slow.start()


def test_f20_with_both_replicas_gone_it_is_said_at_once(
    gateway: RunningGateway, replicas: dict[str, list[Replica]]
) -> None:
    until(lambda: serving(gateway, "turns") == 2, 70)
    for replica in replicas["turns"]:
        replica.kill()
    with httpx.Client(base_url=gateway.url, timeout=5, headers={"authorization": f"Bearer {KEY}"}) as client:
        for model, status in (("turns", 503), ("least", 200), ("sticky", 200)):
            began = time.monotonic()
            assert ask(client, model, False, "s").status == status
            assert time.monotonic() - began < 3
        for replica in replicas["turns"]:
            replica.start()
        until(lambda: ask(client, "turns", False, "s").status == 200, 3)
