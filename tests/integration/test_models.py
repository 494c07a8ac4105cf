"""Several models, each with several backends: who is asked, with which credential, and what becomes of failures."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from gatehouse.cli import app
from testkit.authority import Authority
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

CHAT = "/v1/chat/completions"
KEY, PREMIUM = "sk-canary-client-key-1", "sk-canary-client-key-2"
UPSTREAM, FILED, ROTATED = "canary-upstream-4711", "canary-filed-4712", "canary-rotated-4713"
ODD = ("org/na me,ü;50%:llm", "y", "Null", "1e3", "~", "- a: #", "'\"", "{a: b}", "?", "x" * 300)
DIE = Script(die_before_headers=True)


@dataclass
class Fleet:
    """Four replicas that speak HTTP, one that speaks TLS, and the file that holds a credential."""

    replicas: list[FakeVllm]
    secured: FakeVllm
    credential: Path

    def forget(self) -> None:
        for each in (*self.replicas, self.secured):
            each.script, each.healthy = Script(), True
            each.up()
            each.requests.clear()

    def asked(self) -> list[int]:
        """How many requests each replica got."""
        return [len(each.requests) for each in self.replicas]


def models(fleet: Fleet, authority: Authority, stranger: Authority) -> dict[str, Any]:
    a, b, *_ = every = [{"url": f"{each.url}/v1"} for each in fleet.replicas]
    secured = {"url": f"{fleet.secured.url}/v1", "ca_file": str(authority.certificate)}
    return {
        "pair": {"backends": [a, b], "aliases": ["gpt-4o", *ODD], "upstream_api_key": "env:UPSTREAM"},
        "filed": {"backends": [a], "upstream_api_key": f"file:{fleet.credential}"},
        "turns": {"backends": every, "balance": "round_robin"},
        "sticky": {"backends": every, "balance": "session_affinity"},
        "backed": {"backends": [a, {**b, "priority": 1}]},
        "mixed": {"backends": [secured, a], "balance": "round_robin"},
        "secured": {"backends": [secured], "upstream_api_key": "env:UPSTREAM"},
        "slots": {"backends": [a], "concurrent_requests_per_backend": 5, "queued_requests": 1},
        "distrusted": {"backends": [{**secured, "ca_file": str(stranger.certificate)}]},
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, Fleet]]:
    directory: Path = tmp_path_factory.mktemp("models")
    authority, stranger = Authority(directory / "ca"), Authority(directory / "stranger")
    (directory / "credential").write_text(f"{FILED}\n")
    with ExitStack() as stack:
        replicas = [stack.enter_context(FakeVllm(("m",))) for _ in range(4)]
        secured = stack.enter_context(FakeVllm(("m",), certificate=authority.issue("server", "127.0.0.1")))
        fleet = Fleet(replicas, secured, directory / "credential")
        config = {
            "models": models(fleet, authority, stranger),
            "default_model": "gpt-4o",
            "rate_limits": {"standard": {}, "premium": {"weight": 4}},
            "api_keys": {
                KEY: {"user_id": "alice", "tier": "standard"},
                PREMIUM: {"user_id": "paula", "tier": "premium"},
            },
        }
        gateway = stack.enter_context(running_gateway(directory, config, environment={"UPSTREAM": UPSTREAM}))
        yield gateway, fleet


@pytest.fixture
def fleet(shared: tuple[RunningGateway, Fleet]) -> Iterator[Fleet]:
    gateway, fleet = shared
    fleet.forget()
    until(lambda: _all_in(gateway), 30)
    fleet.forget()
    yield fleet
    fleet.forget()


@pytest.fixture(scope="module")
def gateway(shared: tuple[RunningGateway, Fleet]) -> RunningGateway:
    return shared[0]


def _hosts(gateway: RunningGateway) -> dict[str, list[dict[str, Any]]]:
    """What Envoy thinks of the replicas, by cluster."""
    transport = httpx.HTTPTransport(uds=str(gateway.run_dir().admin_socket))
    with httpx.Client(transport=transport) as admin:
        found = admin.get("http://envoy/clusters?format=json").json()["cluster_statuses"]
    return {each["name"]: each.get("host_statuses", []) for each in found if each["name"].startswith("model:")}


def _all_in(gateway: RunningGateway) -> bool:
    hosts = _hosts(gateway)
    hosts.pop("model:distrusted")
    return all(each["health_status"] == {"eds_health_status": "HEALTHY"} for group in hosts.values() for each in group)


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client(headers={"authorization": f"Bearer {KEY}"}) as http:
        yield http


def ask(client: httpx.Client, model: str | None, session: str | None = None, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, **({"model": model} if model else {})}
    return client.post(CHAT, json={**body, **fields}, headers={"x-session-id": session} if session else {})


@pytest.mark.parametrize("model", ["pair", "gpt-4o", None])
def test_a_model_answers_to_its_name_its_aliases_and_as_the_default(
    client: httpx.Client, fleet: Fleet, model: str | None
) -> None:
    assert ask(client, model).status_code == 200
    assert sum(fleet.asked()[:2]) == 1
    (request,) = [each for replica in fleet.replicas for each in replica.requests]
    assert request.headers["x-gatehouse-model"] == (model or "gpt-4o")


def test_any_text_is_just_a_name(client: httpx.Client, fleet: Fleet) -> None:
    assert {name: ask(client, name).status_code for name in ODD} == dict.fromkeys(ODD, 200)
    assert sum(fleet.asked()) == len(ODD)
    injected = "pair\r\nx-gatehouse-user: root\r\n\r\n"
    for name in (
        injected,
        "pair\n",
        "pair\0",
        "pair,gpt-4o",
        "%DYNAMIC_METADATA(llm:model)%",
        "null",
        "1000.0",
        "x" * 8192,
    ):
        answer = ask(client, name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert sum(fleet.asked()) == len(ODD)


def test_where_a_request_goes_is_for_its_body_alone_to_say(client: httpx.Client, fleet: Fleet) -> None:
    forged = {"gatehouse.model": "filed", "x-gatehouse-model": "filed", "x-envoy-gatehouse-model": "filed"}
    body = {"model": "secured", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    answer = client.post(CHAT, json=body, headers=forged)
    assert (answer.status_code, fleet.asked(), len(fleet.secured.requests)) == (200, [0, 0, 0, 0], 1)


def test_the_model_server_gets_its_own_credential_and_never_the_clients(client: httpx.Client, fleet: Fleet) -> None:
    wanted = {"pair": f"Bearer {UPSTREAM}", "filed": f"Bearer {FILED}", "turns": None}
    for model, authorization in wanted.items():
        fleet.forget()
        assert ask(client, model).status_code == 200
        (request,) = [each for replica in fleet.replicas for each in replica.requests]
        assert request.headers.getall("authorization", [None]) == [authorization]
        assert KEY not in str(request.headers)


def test_no_credential_stands_where_it_could_be_read(
    gateway: RunningGateway, client: httpx.Client, fleet: Fleet
) -> None:
    assert ask(client, "pair").status_code == 200
    gateway.records(1)
    transport = httpx.HTTPTransport(uds=str(gateway.run_dir().admin_socket))
    with httpx.Client(transport=transport) as admin:
        seen = [admin.get(f"http://envoy{path}").text for path in ("/config_dump", "/stats", "/clusters", "/certs")]
    seen += [path.read_text(errors="replace") for path in gateway.run_dir().envoy.iterdir()]
    seen += [path.read_text(errors="replace") for path in gateway.logs() if path.is_file()]
    seen += [Path(f"/proc/{pid}/cmdline").read_text() for pid in gateway.children().values()]
    seen += [gateway.metrics(), client.get("/health").text, (gateway.directory / "stderr.log").read_text()]
    assert [
        text[max(0, text.find("canary-") - 200) :][:400] for text in seen if UPSTREAM in text or FILED in text
    ] == []
    assert {path.stat().st_mode & 0o077 for path in gateway.run_dir().envoy.iterdir()} == {0}


def test_a_credential_that_is_replaced_takes_effect(client: httpx.Client, fleet: Fleet) -> None:
    new = fleet.credential.with_name("new")
    new.write_text(f"{ROTATED}\n")
    new.rename(fleet.credential)

    def told() -> str:
        assert ask(client, "filed").status_code == 200
        return str(fleet.replicas[0].requests[-1].headers["authorization"])

    until(lambda: told() == f"Bearer {ROTATED}", 2)


def test_an_https_backend_proves_who_it_is(client: httpx.Client, fleet: Fleet) -> None:
    assert ask(client, "secured").status_code == 200
    assert fleet.secured.requests[-1].headers["authorization"] == f"Bearer {UPSTREAM}"
    answer = ask(client, "distrusted")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_unavailable")
    assert len(fleet.secured.requests) == 1


def test_http_and_https_backends_may_serve_one_model(client: httpx.Client, fleet: Fleet) -> None:
    assert {ask(client, "mixed").status_code for _ in range(8)} == {200}
    assert len(fleet.secured.requests) == len(fleet.replicas[0].requests) == 4


def test_round_robin_gives_each_its_turn(client: httpx.Client, fleet: Fleet) -> None:
    assert {ask(client, "turns").status_code for _ in range(40)} == {200}
    assert max(fleet.asked()) - min(fleet.asked()) <= 4  # each of Envoy's threads counts for itself


SESSIONS = [f"conversation-{number}" for number in range(400)]


def where(client: httpx.Client, fleet: Fleet, session: str) -> int:
    """The replica that a request of `session` reaches."""
    for replica in fleet.replicas:
        replica.requests.clear()
    assert ask(client, "sticky", session).status_code == 200
    (found,) = [index for index, replica in enumerate(fleet.replicas) if replica.requests]
    return found


def test_a_session_stays_at_its_replica_and_only_those_of_a_lost_one_move(client: httpx.Client, fleet: Fleet) -> None:
    first = {session: where(client, fleet, session) for session in SESSIONS}
    again = {session: where(client, fleet, session) for session in SESSIONS}
    assert sum(first[session] == again[session] for session in SESSIONS) >= 0.99 * len(SESSIONS)
    even = len(SESSIONS) / 4
    assert all(0.75 * even <= count <= 1.25 * even for count in Counter(first.values()).values())

    fleet.replicas[0].down()
    then = {session: where(client, fleet, session) for session in SESSIONS}
    moved = [session for session in SESSIONS if first[session] not in (0, then[session])]
    assert len(moved) <= 0.03 * len(SESSIONS)
    left = Counter(then.values())
    assert all(0.75 * len(SESSIONS) / 3 <= left[index] <= 1.25 * len(SESSIONS) / 3 for index in (1, 2, 3))


def test_without_a_session_a_user_stays_at_one_replica(client: httpx.Client, fleet: Fleet) -> None:
    assert {ask(client, "sticky").status_code for _ in range(10)} == {200}
    assert sorted(fleet.asked()) == [0, 0, 0, 10]


def test_what_one_replica_breaks_off_before_it_answers_another_answers(
    gateway: RunningGateway, client: httpx.Client, fleet: Fleet
) -> None:
    fleet.replicas[0].script = DIE
    answers = [ask(client, "turns") for _ in range(8)]
    assert {answer.status_code for answer in answers} == {200}
    records = [gateway.record(answer.headers["x-request-id"]) for answer in answers]
    others = {f"127.0.0.1:{replica.port}" for replica in fleet.replicas[1:]}
    assert {record["backend"] for record in records} == others
    assert sum(record["attempts"] == 2 for record in records) >= 2
    assert sum(fleet.asked()) == sum(record["attempts"] for record in records)


@pytest.mark.parametrize("status", [502, 503])
def test_a_request_that_is_turned_away_goes_to_another(client: httpx.Client, fleet: Fleet, status: int) -> None:
    fleet.replicas[0].script = Script(status=status, body=b"busy")
    assert {ask(client, "turns").status_code for _ in range(8)} == {200}
    assert sum(fleet.asked()) >= 10
    for replica in fleet.replicas:
        replica.script = Script(status=status, headers={"retry-after": "7"}, body=b"busy")
    answer = ask(client, "turns")
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (status, b"busy", "7")


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
def test_an_answer_is_an_answer_and_ejects_nobody(
    gateway: RunningGateway, client: httpx.Client, fleet: Fleet, status: int
) -> None:
    for replica in fleet.replicas:
        replica.script = Script(status=status, body=b'{"error":{"message":"no"}}')
    assert {ask(client, "pair").status_code for _ in range(20)} == {status}
    assert sum(fleet.asked()) == 20
    assert _all_in(gateway)


def test_a_large_body_is_sent_again_whole(client: httpx.Client, fleet: Fleet) -> None:
    fleet.replicas[0].script = DIE
    text = "x" * 5_000_000
    for _ in range(4):
        assert ask(client, "pair", messages=[{"role": "user", "content": text}]).status_code == 200
    sizes = {len(each.body) for replica in fleet.replicas for each in replica.requests}
    assert len(sizes) == 1


def test_failover_takes_over_when_the_first_level_is_gone_and_gives_back(client: httpx.Client, fleet: Fleet) -> None:
    assert {ask(client, "backed").status_code for _ in range(5)} == {200}
    assert fleet.asked()[:2] == [5, 0]
    fleet.replicas[0].down()
    assert {ask(client, "backed").status_code for _ in range(20)} == {200}
    assert fleet.asked()[1] == 20
    fleet.replicas[0].up()

    def back() -> bool:
        fleet.replicas[0].requests.clear()
        assert ask(client, "backed").status_code == 200
        return len(fleet.replicas[0].requests) == 1

    until(back, 10)  # up to 5 s of ejection, and a health check


@pytest.mark.parametrize(("key", "urgency"), [(KEY, "-1"), (PREMIUM, "-4")])
@pytest.mark.parametrize("model", ["pair", "gpt-4o", None, "slots"])
def test_vllm_is_told_the_weight_of_the_tier_and_not_what_the_client_claims(
    client: httpx.Client, fleet: Fleet, model: str | None, key: str, urgency: str
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **({"model": model} if model else {})}
    headers = {"authorization": f"Bearer {key}", "x-vllm-priority": "-1000"}
    assert client.post(CHAT, json=body, headers=headers).status_code == 200
    (request,) = [each for replica in fleet.replicas for each in replica.requests]
    assert request.headers.getall("x-vllm-priority") == [urgency]


def test_while_a_model_is_saturated_each_tier_has_its_share_of_the_slots(gateway: RunningGateway, fleet: Fleet) -> None:
    server = fleet.replicas[0]
    server.script = Script(headers_after_s=1)

    def post(key: str) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        with gateway.client(headers={"authorization": f"Bearer {key}"}) as http:
            return ask(http, "slots"), time.monotonic() - began

    with ThreadPoolExecutor(16) as threads:
        flood = [threads.submit(post, KEY) for _ in range(12)]
        until(lambda: any(each.done() for each in flood))
        assert server.running <= 2  # one of five slots; each of Envoy's two threads may have one
        premium, took = threads.submit(post, PREMIUM).result()
        answers = [each.result()[0] for each in flood]
    assert premium.status_code == 200
    assert took < 2.5
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(answers) - len(refused) <= 6
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["error"]["code"] for answer in refused} == {"server_is_overloaded"}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}


def test_a_model_is_degraded_while_one_of_its_replicas_is_down(
    gateway: RunningGateway, client: httpx.Client, fleet: Fleet
) -> None:
    fleet.replicas[0].down()
    told = client.get("/health").json()
    status = {name: model["status"] for name, model in told["models"].items()}
    assert told["status"] == "healthy"
    assert (status["pair"], status["filed"], status["secured"]) == ("degraded", "unhealthy", "healthy")
    assert (status["distrusted"], status["mixed"]) == ("unhealthy", "degraded")
    explained = {model: _explained(gateway, model) for model in ("backed", "filed")}
    assert explained["backed"]["answer"]["status"] == 200
    assert explained["backed"]["balance"] == "the one with the fewest requests, of those with priority 1"
    assert explained["filed"]["answer"] == {"status": 503, "why": "backend_unavailable: no model server answers"}


def _explained(gateway: RunningGateway, model: str) -> dict[str, Any]:
    from typer.testing import CliRunner

    arguments = ["explain", "--key", KEY, "--model", model, "--json", "-c", str(gateway.directory / "gatehouse.yaml")]
    told: dict[str, Any] = json.loads(CliRunner(env={**os.environ}).invoke(app, arguments).stdout)
    return told


def test_a_model_that_comes_later_brings_its_credential(
    gateway: RunningGateway, client: httpx.Client, fleet: Fleet
) -> None:
    file = gateway.directory / "gatehouse.yaml"
    before = yaml.safe_load(file.read_text())
    late = {"backends": [{"url": fleet.replicas[0].url}], "upstream_api_key": f"file:{fleet.credential}"}
    replaced(file, {**before, "models": {**before["models"], "late": late}})
    until(lambda: ask(client, "late").status_code == 200)
    assert fleet.replicas[0].requests[-1].headers["authorization"] == f"Bearer {fleet.credential.read_text().strip()}"
    replaced(file, {**before, "models": {**before["models"], "late": {**late, "upstream_api_key": "env:UPSTREAM"}}})
    until(lambda: ask(client, "late").status_code == 200 and _last_credential(fleet) == f"Bearer {UPSTREAM}")
    replaced(file, before)
    until(lambda: ask(client, "late").status_code == 404)


def _last_credential(fleet: Fleet) -> str:
    return str(fleet.replicas[0].requests[-1].headers["authorization"])


def replaced(file: Path, document: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(yaml.safe_dump(document))
    new.rename(file)
