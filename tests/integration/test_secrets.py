"""A key, a prompt or an answer is in nothing that the gateway writes or shows."""

from pathlib import Path

import httpx2 as httpx

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from tests.integration.conftest import MODEL, short_form

KEY = "sk-canary-valid-key-4711"
WRONG = "sk-canary-wrong-key-4712"
PROMPT = "canary-prompt-4713"
CANARIES = [KEY, WRONG, PROMPT, "canary-query-4714", "canary-header-4715", "canary-cookie-4716"]


def everywhere(gateway: RunningGateway) -> list[tuple[str, list[str]]]:
    """One request for each place in which a client can put something."""
    headers = {
        "x-secret": "canary-header-4715",
        "cookie": "session=canary-cookie-4716",
        "referer": f"https://example.com/?key={KEY}",
    }
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "user": PROMPT}
    chat = f"{gateway.url}/v1/chat/completions"
    answers = [
        httpx.post(chat, json=body, headers={**headers, "authorization": f"Bearer {KEY}"}),
        httpx.post(f"{chat}?api_key={KEY}&q=canary-query-4714", json=body, headers={**headers, "x-api-key": KEY}),
        httpx.post(chat, json=body, headers={**headers, "authorization": f"Bearer {WRONG}"}),
        httpx.post(chat, json=body, headers={**headers, "authorization": f"Basic {WRONG}"}),
        httpx.post(chat, content=PROMPT, headers={**headers, "x-api-key": KEY, "content-type": "application/json"}),
        httpx.post(f"{gateway.url}/unknown?key={KEY}", json=body, headers=headers),
    ]
    with httpx.stream("POST", chat, json={**body, "stream": True}, headers={"x-api-key": KEY}) as stream:
        stream.read()
    assert [answer.status_code for answer in answers] == [200, 200, 401, 401, 400, 404]
    return [
        (str(answer.request.url), [canary for canary in (KEY, WRONG) if canary in answer.text]) for answer in answers
    ]


def command_lines(gateway: RunningGateway) -> str:
    pids = [gateway.process.pid, *gateway.children().values()]
    return "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)


def test_canaries_appear_in_nothing_that_is_written_or_shown(backend: FakeVllm, tmp_path: Path) -> None:
    config = short_form(backend)
    config["api_keys"] = {KEY: {"user_id": "canary-user", "tier": "unlimited"}}
    config["logging"] = {"level": "debug"}
    with running_gateway(tmp_path, config) as running:
        assert all(not leaked for _, leaked in everywhere(running))
        running.records(at_least=7)
        shown = {
            "process list": command_lines(running),
            "metrics": running.metrics(),
            "public metrics": httpx.get(f"{running.url}/metrics").text,
        }
        run_dir = running.run_dir()
        rendered = {str(path): path.read_text() for path in run_dir.envoy.iterdir()}
        samples = {str(path): path.read_bytes().decode("latin-1") for path in run_dir.metrics.iterdir()}
    written = {str(path): path.read_text("latin-1") for path in (tmp_path / "logs").iterdir()}
    written["stderr"] = (tmp_path / "stderr.log").read_text()
    assert any("requests_" in name for name in written)
    leaks = [
        (place, canary)
        for place, text in {**shown, **rendered, **samples, **written}.items()
        for canary in CANARIES
        if canary in text
    ]
    assert leaks == []
