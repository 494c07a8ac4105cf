"""The gateway's own pages, asked over the sockets they are served on."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web

from gatehouse import __version__
from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.contract.names import USAGE_PAGE
from gatehouse.rpc.health_client import serves
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Service
from portal_service import envoy_stats
from portal_service.cached import Cached
from portal_service.serving import Adopt, serving
from portal_service.tally.usage_db import UsageDb

pytestmark = pytest.mark.asyncio

ALL = {"x-gatehouse-models": '["*"]', "x-gatehouse-expressions": "[]"}
DEAD = "http://127.0.0.1:9/v1"


class Backend:
    """A model server on a free port. `health` is the status it answers with; `asked` counts requests by path."""

    def __init__(self, models: list[dict[str, Any]]) -> None:
        self.models = models
        self.health = 200
        self.delay_s = 0.0
        self.asked: dict[str, int] = {}
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked[request.path] = self.asked.get(request.path, 0) + 1
        await asyncio.sleep(self.delay_s)
        if request.path == "/health":
            return web.Response(status=self.health)
        return web.json_response({"object": "list", "data": self.models})


@asynccontextmanager
async def backend(*models: dict[str, Any]) -> AsyncIterator[Backend]:
    server = Backend(list(models))
    runner = web.ServerRunner(web.Server(server.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


class Answer:
    """An answer, read whole."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Awaitable[Answer]]


@asynccontextmanager
async def gateway(run_dir: Path, config: dict[str, Any]) -> AsyncIterator[Ask]:
    """The pages; what it yields asks the public application over its unix socket."""
    async with followed(run_dir, config) as (ask, _):
        yield ask


@asynccontextmanager
async def followed(run_dir: Path, config: dict[str, Any]) -> AsyncIterator[tuple[Ask, Adopt]]:
    """The same, with what is called when the configuration has changed."""
    place = RunDir(run_dir)
    place.metrics.mkdir(exist_ok=True)
    async with serving(valid(config), place, UsageDb(run_dir / "tally.sqlite")) as adopt:
        connector = UnixConnector(str(place.portal_socket))
        async with ClientSession("http://gateway", connector=connector) as session:
            yield asker(session), adopt


def valid(config: dict[str, Any]) -> Config:
    return Config.model_validate({**config, "server": {"metrics_port": 0, **config.get("server", {})}})


def asker(session: ClientSession) -> Ask:
    async def ask(path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        async with session.request(method, path, headers=headers) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    return ask


def short(url: str, default: str | None = "llama") -> dict[str, Any]:
    return {"vllm": {"base_url": url, "default_model": default}}


def long(**models: list[str]) -> dict[str, Any]:
    return {"models": {name: {"backends": [{"url": url} for url in urls]} for name, urls in models.items()}}


def served(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1700000000, "owned_by": "vllm", "max_model_len": 4096}


async def test_front_page_says_what_this_is(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        answer = await ask("/")
    assert (answer.status, answer.json["name"], answer.json["version"]) == (200, "gatehouse", __version__)
    assert answer.json["links"]["metrics"] == "/metrics"


async def test_healthy_while_the_model_server_answers(tmp_path: Path) -> None:
    async with backend() as server, gateway(tmp_path, short(server.url)) as ask:
        answer = await ask("/health")
        assert answer.status == 200
        assert answer.json == {
            "status": "healthy",
            "version": __version__,
            "model": "llama",
            "vllm_status": "connected",
            "models": {"llama": {"status": "healthy", "backends": [{"status": "healthy"}]}},
            "services": dict.fromkeys(("authz", "ratelimit", "accesslog"), "unavailable"),
        }


@asynccontextmanager
async def worker(path: Path) -> AsyncIterator[None]:
    """A worker of a service, as far as its neighbours see it."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(Service({}), path, stop, 1))
        async with asyncio.timeout(5):
            while not await serves(path, 1):
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            stop.set()


async def test_a_service_is_healthy_while_one_of_its_workers_is(tmp_path: Path) -> None:
    place = RunDir(tmp_path)
    async with (
        backend() as server,
        worker(place.socket("accesslog", 1)),
        worker(place.socket("authz", 0)),
        gateway(tmp_path, short(server.url)) as ask,
    ):
        answer = await ask("/health")
    assert answer.json["services"] == {"authz": "healthy", "ratelimit": "unavailable", "accesslog": "healthy"}
    assert (answer.status, answer.json["status"]) == (200, "healthy")


async def test_services_that_hang_hold_nobody_up(tmp_path: Path) -> None:
    place = RunDir(tmp_path)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(place.socket("accesslog", 0)))
        hung.listen()
        async with backend() as server, gateway(tmp_path, short(server.url)) as ask:
            asked = time.monotonic()
            told = [await ask("/health") for _ in range(20)]
            took = time.monotonic() - asked
    assert {(answer.status, answer.json["services"]["accesslog"]) for answer in told} == {(200, "unavailable")}
    assert took < 0.9, "they are asked once, and not for long"


async def test_an_operators_port_that_is_taken_is_had_once_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with gateway(tmp_path, {**short(DEAD), "server": {"metrics_port": port}}) as ask:
            assert (await ask("/")).status == 200, "the pages behind Envoy need no port"
            other.close()
            async with ClientSession(f"http://127.0.0.1:{port}") as session, asyncio.timeout(5):
                while not await answers(session):
                    await asyncio.sleep(0.05)
    (said,) = (message for message in caplog.messages if "can't listen" in message)
    assert f"127.0.0.1:{port} (server.metrics_port)" in said


async def answers(session: ClientSession) -> bool:
    try:
        return (await asker(session)("/health")).status == 503
    except OSError:
        return False


async def test_the_operators_port_is_left_to_a_gateway_that_has_taken_over(tmp_path: Path) -> None:
    async with operators(tmp_path, short(DEAD)) as ask:
        assert (await ask("/")).status == 200
        RunDir(tmp_path).replaced.touch()
        with pytest.raises(OSError, match="Cannot connect"):
            await until_it_fails(ask)


async def until_it_fails(ask: Ask) -> None:
    async with asyncio.timeout(5):
        while await ask("/"):
            await asyncio.sleep(0.05)


async def test_f20_unhealthy_when_no_model_server_answers(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        answer = await ask("/health")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (answer.json["status"], answer.json["vllm_status"]) == ("unhealthy", "disconnected")
    assert answer.json["models"]["llama"]["backends"] == [{"status": "unhealthy"}]


@pytest.mark.parametrize(("status", "expected"), [(404, 200), (401, 200), (500, 503), (503, 503)])
async def test_any_answer_below_500_is_a_sign_of_life(tmp_path: Path, status: int, expected: int) -> None:
    async with backend() as server, gateway(tmp_path, short(server.url)) as ask:
        server.health = status
        assert (await ask("/health")).status == expected


async def test_one_living_backend_makes_the_gateway_healthy(tmp_path: Path) -> None:
    async with backend() as server, gateway(tmp_path, long(a=[DEAD, server.url], b=[DEAD])) as ask:
        answer = await ask("/health")
    assert answer.status == 200
    assert [answer.json["models"][name]["status"] for name in ("a", "b")] == ["degraded", "unhealthy"]
    assert [b["status"] for b in answer.json["models"]["a"]["backends"]] == ["unhealthy", "healthy"]
    assert [b["status"] for b in answer.json["models"]["b"]["backends"]] == ["unhealthy"]


async def test_many_who_ask_for_health_cost_the_backend_one_probe(tmp_path: Path) -> None:
    async with backend() as server, gateway(tmp_path, short(server.url)) as ask:
        server.delay_s = 0.05
        answers = await asyncio.gather(*(ask("/health") for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        assert server.asked["/health"] == 1


async def test_health_follows_the_backend(tmp_path: Path) -> None:
    async with backend() as server, gateway(tmp_path, short(server.url)) as ask:
        assert (await ask("/health")).status == 200
        server.health = 500
        async with asyncio.timeout(5):
            while (await ask("/health")).status == 200:
                await asyncio.sleep(0.02)


async def test_health_tells_of_one_configuration_though_another_is_adopted_while_it_asks(tmp_path: Path) -> None:
    async with backend() as old, backend() as new, followed(tmp_path, long(a=[old.url])) as (ask, adopt):
        old.delay_s = 0.1
        asked = asyncio.ensure_future(ask("/health"))
        async with asyncio.timeout(5):
            while not old.asked:
                await asyncio.sleep(0.005)
        adopt(valid(long(b=[new.url])))
        for answer, name in ((await asked, "a"), (await ask("/health"), "b")):
            assert (answer.status, list(answer.json["models"])) == (200, [name])
            assert answer.json["models"][name]["backends"] == [{"status": "healthy"}]


async def test_short_form_lists_what_the_model_server_says_of_its_models(tmp_path: Path) -> None:
    async with backend(served("llama"), served("lora")) as server, gateway(tmp_path, short(server.url)) as ask:
        answer = await ask("/v1/models", ALL)
        assert answer.json == {"object": "list", "data": [served("llama"), served("lora")]}
        await ask("/v1/models", ALL)
        assert server.asked["/v1/models"] == 1


async def test_short_form_lists_the_default_model_while_the_model_server_is_away(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        answer = await ask("/v1/models", ALL)
    assert [entry["id"] for entry in answer.json["data"]] == ["llama"]


async def test_short_form_without_a_default_lists_nothing_while_the_model_server_is_away(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD, default=None)) as ask:
        assert (await ask("/v1/models", ALL)).json == {"object": "list", "data": []}


async def test_long_form_lists_configured_models_and_aliases(tmp_path: Path) -> None:
    config = {"models": {"llama": {"backends": [{"url": DEAD}], "aliases": ["gpt-4o"]}}}
    before = int(time.time())
    async with gateway(tmp_path, config) as ask:
        data = (await ask("/v1/models", ALL)).json["data"]
    assert [(e["id"], e["object"], e["owned_by"]) for e in data] == [
        ("llama", "model", "gatehouse"),
        ("gpt-4o", "model", "gatehouse"),
    ]
    assert all(before <= entry["created"] <= time.time() for entry in data)


@pytest.mark.parametrize(
    ("models", "expressions", "seen"),
    [
        ('["tiny"]', "[]", ["tiny"]),
        ('["llama-8b","tiny","gone"]', "-", ["llama-8b", "tiny"]),
        ("[]", r'["^(?s:llama\\-)"]', ["llama-8b"]),
        ("[]", '["^(?s:.*b$)","^(?s:llama)"]', ["llama-8b"]),
        ("[]", '["^(?s:.*b$)","^(?s:tiny)"]', []),
        ('["tiny"]', '["^(?s:.*b$)"]', ["llama-8b", "tiny"]),
        ('["tiny"]', '["("]', ["tiny"]),
        ("not json", '{"a": 1}', []),
        ('[1, null, "tiny"]', "7", ["tiny"]),
        ("-", "-", []),
        (None, None, []),
    ],
)
async def test_a_key_sees_the_models_that_envoy_lets_it_use(
    tmp_path: Path, models: str | None, expressions: str | None, seen: list[str]
) -> None:
    said = {"x-gatehouse-models": models, "x-gatehouse-expressions": expressions}
    headers = {name: value for name, value in said.items() if value is not None}
    async with gateway(tmp_path, long(**{"llama-8b": [DEAD], "tiny": [DEAD]})) as ask:
        answer = await ask("/v1/models", headers)
    assert [entry["id"] for entry in answer.json["data"]] == seen


async def test_a_list_of_thousands_of_models_is_read(tmp_path: Path) -> None:
    names = [f"meta-llama/Llama-3.{i}-70B-Instruct" for i in range(5000)]
    async with gateway(tmp_path, long(**{name: [DEAD] for name in names})) as ask:
        answer = await ask("/v1/models", {"x-gatehouse-models": json.dumps(names[1:])})
    assert [entry["id"] for entry in answer.json["data"]] == names[1:]


@pytest.mark.parametrize("path", ["/v1/models/meta-llama/Llama-2", "/v1/models/meta-llama%2FLlama-2"])
async def test_one_model_is_found_by_its_name_slashes_included(tmp_path: Path, path: str) -> None:
    async with gateway(tmp_path, long(**{"meta-llama/Llama-2": [DEAD]})) as ask:
        answer = await ask(path, ALL)
    assert (answer.status, answer.json["id"]) == (200, "meta-llama/Llama-2")


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/v1/models/nope", ALL, 404, "model_not_found"),
        ("/v1/models/llama", {"x-gatehouse-models": '["tiny"]'}, 403, "model_not_allowed"),
        ("/v1/models/llama", {}, 403, "model_not_allowed"),
        ("/v1/models/", ALL, 404, "not_found"),
        ("/nowhere", {}, 404, "not_found"),
    ],
)
async def test_errors_have_openais_shape(
    tmp_path: Path, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    async with gateway(tmp_path, long(llama=[DEAD], tiny=[DEAD])) as ask:
        answer = await ask(path, headers)
    error = answer.json["error"]
    assert (answer.status, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.json["detail"] == error["message"]
    assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_wrong_method_is_told_the_right_ones(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        answer = await ask("/health", method="POST")
    assert (answer.status, answer.json["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET,HEAD"


async def test_a_page_that_fails_tells_no_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        RunDir(tmp_path).metrics.rmdir()
        answer = await ask("/metrics")
    assert (answer.status, answer.json["error"]["code"]) == (500, "gateway_error")
    assert str(tmp_path) not in answer.body.decode()
    assert "GET /metrics failed" in caplog.text


async def test_metrics_are_prometheus_text_without_series_that_nobody_counts(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        answer = await ask("/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"api_requests_in_flight" not in answer.body


async def test_an_operator_can_close_the_public_metrics(tmp_path: Path) -> None:
    async with gateway(tmp_path, {**short(DEAD), "server": {"public_metrics": False}}) as ask:
        answer = await ask("/metrics")
        front = await ask("/")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
    assert "metrics" not in front.json["links"]


async def test_the_operators_port_has_metrics_and_health_but_no_models(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {**short(DEAD), "server": {"metrics_port": port, "public_metrics": False}}
    async with (
        gateway(tmp_path, config),
        ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        ask = asker(session)
        statuses = [
            (await ask(path, ALL)).status
            for path in ("/", "/health", "/metrics", "/ui", "/ui/ui.js", "/ui/data", "/usage", "/v1/models")
        ]
    assert statuses == [200, 503, 200, 200, 200, 200, 404, 404]


@asynccontextmanager
async def operators(run_dir: Path, config: dict[str, Any]) -> AsyncIterator[Ask]:
    """The operators' port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = {**config.get("server", {}), "metrics_port": port}
    async with (
        gateway(run_dir, {**config, "server": server}),
        ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield asker(session)


async def test_only_operators_are_told_where_model_servers_are(tmp_path: Path) -> None:
    async with backend() as server, operators(tmp_path, short(server.url)) as ask:
        answer = await ask("/health")
    assert answer.json["models"]["llama"]["backends"] == [{"url": server.url, "status": "healthy"}]


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:9090", "127.0.0.1.evil.example.com", "[x", ""])
@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/ui", "/ui/data", "/nowhere"])
async def test_a_page_of_another_site_whose_name_leads_here_reads_nothing(tmp_path: Path, path: str, host: str) -> None:
    async with operators(tmp_path, short(DEAD)) as ask:
        answer = await ask(path, {"Host": host})
    assert (answer.status, answer.json["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3:9090", "[::1]:9090", "localhost", "LOCALHOST:9090", "ops.example.com", "ops.example.com."],
)
async def test_an_address_localhost_and_configured_names_are_answered(tmp_path: Path, host: str) -> None:
    async with operators(tmp_path, {**short(DEAD), "server": {"metrics_names": ["Ops.example.com"]}}) as ask:
        assert (await ask("/metrics", {"Host": host})).status == 200


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/ui", "/ui/data", "/nowhere"])
async def test_every_answer_tells_browsers_to_be_careful(tmp_path: Path, path: str) -> None:
    async with operators(tmp_path, short(DEAD)) as ask:
        headers = (await ask(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] in ("no-cache", "no-store")


@pytest.mark.parametrize(
    ("asked", "form", "status"),
    [(None, "short", 200), (None, "long", 404), (True, "long", 200), (False, "short", 404)],
)
async def test_metrics_are_public_where_asked_for_and_in_the_short_form(
    tmp_path: Path, asked: bool | None, form: str, status: int
) -> None:
    config = short(DEAD) if form == "short" else long(a=[DEAD])
    server = {} if asked is None else {"public_metrics": asked}
    async with gateway(tmp_path, {**config, "server": server}) as ask:
        assert (await ask("/metrics")).status == status


async def test_a_socket_left_by_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(RunDir(tmp_path).portal_socket))
    async with gateway(tmp_path, short(DEAD)) as ask:
        assert (await ask("/")).status == 200


async def test_in_flight_requests_go_by_the_names_of_the_configuration() -> None:
    stats = (
        b'{"stats":[{"name":"cluster.model_llama-3.1:8b.upstream_rq_active","value":2},'
        b'{"name":"cluster.model_a_b.upstream_rq_active","value":1},{"name":"cluster.authz.upstream_rq_active","value":7}]}'
    )
    assert envoy_stats.by_model(envoy_stats.parsed(stats), envoy_stats.IN_FLIGHT, ["a:b"]) == {
        "llama-3.1:8b": 2,
        "a:b": 1,
    }


async def test_envoys_counts_come_under_our_names_from_0_on() -> None:
    names = {"upstream_rq_active": 2, "membership_healthy": 1, "membership_total": 3, "upstream_rq_retry": 4}
    stats = {f"cluster.model_a_b.{name}": float(value) for name, value in names.items()}
    text = envoy_stats.exposition({**stats, "http.gatehouse.ext_authz.error": 5.0}, ["a:b"]).decode()
    for line in (
        'api_requests_in_flight{model="a:b"} 2.0',
        'api_backends{model="a:b",state="healthy"} 1.0',
        'api_backends{model="a:b",state="unhealthy"} 2.0',
        'api_backend_retries_total{model="a:b"} 4.0',
        'api_rate_limit_unanswered_total{model="a:b"} 0.0',
        "api_auth_unavailable_total 5.0",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("version", "patches"), [("1.40.0", {"2.0"}), ("1.40.2", {"0.0"}), ("2.0.0", {"0.0"}), ("none", set())]
)
async def test_an_envoy_that_lacks_patches_is_seen_in_the_metrics(version: str, patches: set[str]) -> None:
    info = f'{{"version": "b3fc/{version}/Clean/RELEASE/BoringSSL", "state": "LIVE"}}'.encode()
    text = envoy_stats.exposition(envoy_stats.patches_behind(info), []).decode()
    assert set(re.findall(r"^api_envoy_patches_behind (.*)$", text, re.MULTILINE)) == patches


async def test_the_operators_page_says_when_it_cannot_read_the_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {**long(a=[DEAD]), "server": {"metrics_port": port}}
    async with gateway(tmp_path, config), ClientSession(f"http://127.0.0.1:{port}") as session:
        data = (await asker(session)("/ui/data")).json
    assert (data["behind"], data["status"], data["users"], data["limits"]) == (True, "unhealthy", [], [])
    assert data["models"][0]["backends"] == [{"url": DEAD, "status": "unhealthy"}]


@pytest.mark.parametrize("stats", [b"", b"no json", b"[]", b'{"stats":[{}]}', b'{"stats":[{"name":1,"value":2}]}'])
async def test_statistics_that_cannot_be_read_say_nothing(stats: bytes) -> None:
    assert envoy_stats.exposition(envoy_stats.parsed(stats), []) == b""


async def test_what_is_kept_is_fetched_again_when_its_time_is_over() -> None:
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        return calls

    never, always = Cached(fetch, 0), Cached(fetch, 60)
    assert [await never.get(), await never.get()] == [1, 2]
    assert [await always.get(), await always.get()] == [3, 3]


async def test_a_failure_reaches_everyone_who_waits_and_is_not_kept() -> None:
    failures = [ValueError("first")]

    async def fetch() -> str:
        await asyncio.sleep(0)
        if failures:
            raise failures.pop()
        return "second"

    kept = Cached(fetch, 60)
    assert [str(r) for r in await asyncio.gather(kept.get(), kept.get(), return_exceptions=True)] == ["first", "first"]
    assert await kept.get() == "second"


async def test_one_who_stops_waiting_takes_nothing_from_the_others() -> None:
    release = asyncio.Event()

    async def fetch() -> str:
        await release.wait()
        return "here"

    kept = Cached(fetch, 60)
    impatient, patient = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    impatient.cancel()
    release.set()
    assert await patient == "here"


async def test_the_usage_page_is_routed_as_it_is_served(tmp_path: Path) -> None:
    async with gateway(tmp_path, short(DEAD)) as ask:
        for path in USAGE_PAGE:
            answer = await ask(path)
            assert answer.status == 200, path
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
            for loaded in re.findall(rb'(?:src|href)="([^"]+)"|from "\.([^"]+)"', answer.body):
                wanted = (loaded[0] or b"/usage" + loaded[1]).decode()
                assert wanted in USAGE_PAGE
        assert (await ask("/ui")).status == 404
        assert (await ask("/ui/data")).status == 404


async def test_usage_tells_limits_while_the_tally_cannot_be_read(tmp_path: Path) -> None:
    """And where nobody can tell of limits either, it says so."""
    async with gateway(tmp_path, short(DEAD)) as ask:
        answer = await ask("/v1/usage", {"x-gatehouse-user": "alice"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "limits_unavailable")
