"""The pages for people, in a real browser, served by a real gateway."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from testkit.browser import Page, browser, needs_chromium
from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway

pytestmark = [needs_chromium, pytest.mark.asyncio]

ALICE, BOB, WRONG = "sk-page-alice-01", "sk-page-bob-0002", "sk-page-wrong-003"
NASTY = "<img/src=x/onerror=alert(1)>"
CALLS = 8


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that has seen some traffic: answers, refusals, failures, and a user with a name like that."""
    with FakeVllm(("llama",)) as backend:
        config = {
            "models": {
                "llama": {
                    "backends": [{"url": f"{backend.url}/v1"}],
                    "price_per_million_tokens": {"input": 1000, "output": 3000},
                },
                "gone": {"backends": [{"url": "http://127.0.0.1:9/v1"}]},
            },
            "api_keys": {
                ALICE: {"user_id": "alice", "team": "search", "tier": "small"},
                BOB: {"user_id": NASTY, "tier": "open"},
            },
            "rate_limits": {"small": {"requests_per_hour": CALLS, "budget_usd_per_month": 100}, "open": {}},
        }
        with running_gateway(tmp_path_factory.mktemp("pages"), config) as running:
            _use(running)
            yield running


def _use(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        statuses = [_ask(client, ALICE) for _ in range(CALLS + 2)]
        statuses += [_ask(client, BOB), _ask(client, BOB, "gone"), _ask(client, WRONG)]
    assert statuses == [200] * CALLS + [429] * 2 + [200, 503, 401]
    gateway.records(at_least=len(statuses))


def _ask(client: httpx.Client, key: str, model: str = "llama") -> int:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "how are you today"}],
        "stream": True,
        "max_tokens": 16,
    }
    answer = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    return answer.status_code


def operators(gateway: RunningGateway, path: str = "") -> str:
    return gateway.metrics_url.removesuffix("/metrics") + "/ui" + path


def told(gateway: RunningGateway) -> dict[str, Any]:
    answer = httpx.get(operators(gateway, "/data"), timeout=10)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def used(gateway: RunningGateway, key: str = ALICE) -> dict[str, Any]:
    """What `/v1/usage` says, once the tally has caught up."""
    async with asyncio.timeout(10):
        while True:
            with gateway.client() as client:
                found: dict[str, Any] = client.get("/v1/usage", headers={"Authorization": f"Bearer {key}"}).json()
            if found["today"]["requests"]:
                return found
            await asyncio.sleep(0.2)


async def fits(page: Page) -> bool:
    """Whether nothing sticks out to the side."""
    return bool(await page.run("document.documentElement.scrollWidth <= window.innerWidth"))


async def test_usage_is_the_sum_of_the_callers_records(gateway: RunningGateway) -> None:
    found = await used(gateway)
    own = [record for record in gateway.records() if record["user_id"] == "alice" and record["method"] == "POST"]
    assert found["today"] == {
        "requests": len(own),
        "prompt_tokens": sum(record["prompt_tokens"] or 0 for record in own),
        "completion_tokens": sum(record["completion_tokens"] or 0 for record in own),
        "cost_usd": pytest.approx(sum(record["cost_usd"] or 0 for record in own)),
    }
    assert found["today"]["prompt_tokens"] > 0
    assert found["today"] == found["month"] == found["key"]["today"]
    assert {k: v for k, v in found["days"][-1].items() if k != "date"} == found["today"]


async def test_the_operators_data_names_what_is_going_on(gateway: RunningGateway) -> None:
    await used(gateway)
    found = told(gateway)
    assert not found["behind"]
    health = {model["name"]: [backend["status"] for backend in model["backends"]] for model in found["models"]}
    assert health == {"llama": ["healthy"], "gone": ["unhealthy"]}
    assert found["users"][0]["user"] == "alice"
    assert {(error["status"], error["code"]) for error in found["errors"]} == {
        (429, "rate_limit_exceeded"),
        (503, "backend_unavailable"),
        (401, "invalid_api_key"),
    }
    limits = {limit["name"]: limit for limit in found["limits"]}
    assert limits["requests_per_hour"]["share"] >= 0.9
    assert limits["requests_per_hour"]["holder"] == "alice"


async def test_the_operators_data_holds_no_key_and_no_prompt(gateway: RunningGateway) -> None:
    text = json.dumps(told(gateway))
    for secret in (ALICE, BOB, WRONG, "how are you"):
        assert secret not in text


async def test_both_receivers_show_the_same(gateway: RunningGateway) -> None:
    """The kernel spreads connections over the two."""
    await used(gateway)
    for _ in range(8):
        assert {error["status"] for error in told(gateway)["errors"]} == {429, 503, 401}


async def test_an_operator_sees_traffic_models_users_limits_and_errors(gateway: RunningGateway) -> None:
    await used(gateway)
    async with browser() as page:
        await page.size(1280)
        await page.open(operators(gateway))
        await page.until("document.querySelectorAll('#users tr').length === 2")
        await page.until("document.querySelector('#requests-most').textContent.startsWith('peak')")
        text = await page.text()
        for shown in ("healthy", "llama", "alice", "search", "requests per hour", "rate_limit_exceeded", "0 of 1"):
            assert shown in text
        assert page.complaints == []
        hosts = {request["url"].split("/")[2] for request in page.requests}
        assert hosts == {operators(gateway).split("/")[2]}, "it loads nothing from elsewhere"


async def test_a_name_is_text_whatever_is_in_it(gateway: RunningGateway) -> None:
    await used(gateway)
    async with browser() as page:
        await page.open(operators(gateway))
        await page.until("document.querySelectorAll('#users tr').length === 2")
        assert "onerror" in await page.text()
        assert await page.run("document.querySelectorAll('main img').length") == 0
        assert page.complaints == []


@pytest.mark.parametrize("path", ["operators", "callers"])
async def test_pages_are_readable_on_a_phone_and_in_the_dark(gateway: RunningGateway, path: str) -> None:
    await used(gateway)
    async with browser() as page:
        await page.size(375, 800)
        await page.dark()
        if path == "operators":
            await page.open(operators(gateway))
            await page.until("document.querySelectorAll('#errors tr').length >= 3")
        else:
            await page.open(f"{gateway.url}/usage")
            await page.type("#key", ALICE)
            await page.click("button.main")
            await page.until("document.querySelector('#who')")
        assert await fits(page)
        ground, text = await page.run(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        assert _brightness(ground) < 40
        assert _brightness(text) > 200
        await page.dark(False)
        assert _brightness(await page.run("getComputedStyle(document.body).backgroundColor")) > 230
        assert page.complaints == []


def _brightness(colour: str) -> float:
    parts = [float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(parts) / 3


async def test_a_caller_sees_its_limits_tokens_and_cost(gateway: RunningGateway) -> None:
    found = await used(gateway)
    async with browser() as page:
        await page.open(f"{gateway.url}/usage")
        await page.type("#key", ALICE)
        await page.click("button.main")
        await page.until("document.querySelector('#who')?.textContent === 'alice'")
        text = await page.text()
        assert "team search · tier small" in text
        assert "requests per hour" in text
        assert f"{CALLS} of {CALLS}" in text
        tokens = found["today"]["prompt_tokens"] + found["today"]["completion_tokens"]
        assert await page.run("document.querySelector('#tokens-today').textContent") == f"{tokens:,}"
        assert (await page.run("document.querySelector('#cost-today').textContent")).startswith("$0.")
        assert await page.run("document.querySelectorAll('#chart g').length") == 30
        assert page.complaints == []


async def test_the_key_is_in_no_address_storage_or_log(gateway: RunningGateway) -> None:
    async with browser() as page:
        await page.open(f"{gateway.url}/usage")
        await page.type("#key", ALICE)
        await page.click("button.main")
        await page.until("document.querySelector('#who')")
        assert [r for r in page.requests if ALICE in r["url"] or ALICE in r.get("postData", "")] == []
        carried = [r["url"] for r in page.requests if ALICE in str(r["headers"])]
        assert carried == [f"{gateway.url}/v1/usage"]
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, document.title])"
        assert ALICE not in await page.run(kept)
        await page.click("#forget")
        assert await page.run("document.querySelector('#key').value") == ""
        assert await page.run("document.querySelector('#who')") is None
    assert [name for name, content in _logs(gateway).items() if ALICE.encode() in content] == []


def _logs(gateway: RunningGateway) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in gateway.logs()}


async def test_a_wrong_key_is_told_what_the_gateway_says(gateway: RunningGateway) -> None:
    async with browser() as page:
        await page.open(f"{gateway.url}/usage")
        for wrong, message in ((WRONG, "Incorrect API key provided."), ("schlüssel-ohne-sinn", "This is not a valid")):
            await page.type("#key", wrong)
            await page.click("button.main")
            await page.until(f"document.querySelector('#problem').textContent.startsWith({json.dumps(message)})")
            assert await page.run("document.querySelector('#who')") is None
        await page.type("#key", ALICE)
        await page.click("button.main")
        await page.until("document.querySelector('#who')")
        assert await page.run("document.querySelector('#problem').hidden")
        assert [line for line in page.complaints if "401" not in line] == []
