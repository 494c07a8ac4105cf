"""Who may use which model, through the whole gateway: key, user, team and tier together, in both forms."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from tests.integration.test_errors import assert_error

CHAT = "/v1/chat/completions"
MODELS = ("llama-70b", "llama-8b", "mistral")
HUNDREDS = tuple(f"meta-llama/Llama-3.{i}-70B-Instruct-with-a-name" for i in range(500))

HOLDERS: dict[str, Any] = {
    "users": {
        "uma": {"models": ["llama-*"]},
        "dora": {"disabled": True},
        "ines": {"models": ["mist*"], "limits": {"requests_per_minute": 1000}},
    },
    "teams": {"search": {"models": ["*-8b", "mistral"]}},
    "rate_limits": {"free": {}, "small": {"allowed_models": ["*-8b", "gpt-*"]}},
}
KEYS: dict[str, dict[str, Any]] = {
    "sk-access-anything-1": {"user_id": "ann", "tier": "free"},
    "sk-access-by-key-001": {"user_id": "ann", "tier": "free", "models": ["mistral", "*70b"]},
    "sk-access-by-user-01": {"user_id": "uma", "tier": "free"},
    "sk-access-by-team-01": {"user_id": "tom", "tier": "free", "team": "search"},
    "sk-access-by-tier-01": {"user_id": "tim", "tier": "small"},
    "sk-access-by-all-001": {"user_id": "uma", "tier": "small", "team": "search", "models": ["l*", "mistral"]},
    "sk-access-by-two-001": {"user_id": "ines", "tier": "free", "models": ["llama-*"]},
    "sk-access-nothing-01": {"user_id": "ines", "tier": "small"},
    "sk-access-sixty-0001": {
        "user_id": "ann",
        "tier": "free",
        "models": [f"model-{i}" for i in range(60)] + ["mistral"],
    },
    "sk-access-hundreds-1": {"user_id": "ann", "tier": "free", "models": [*HUNDREDS]},
    "sk-access-disabled-1": {"user_id": "dora", "tier": "free"},
}
EXPECTED: Mapping[str, Sequence[str]] = {
    "sk-access-anything-1": MODELS,
    "sk-access-by-key-001": ("llama-70b", "mistral"),
    "sk-access-by-user-01": ("llama-70b", "llama-8b"),
    "sk-access-by-team-01": ("llama-8b", "mistral"),
    "sk-access-by-tier-01": ("llama-8b",),
    "sk-access-by-all-001": ("llama-8b",),
    "sk-access-by-two-001": (),
    "sk-access-nothing-01": (),
    "sk-access-sixty-0001": ("mistral",),
}


@pytest.fixture(scope="module")
def models() -> Iterator[FakeVllm]:
    with FakeVllm((*MODELS, *HUNDREDS)) as fake:
        yield fake


@pytest.fixture(scope="module")
def short(models: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    form = {"vllm": {"base_url": f"{models.url}/v1", "default_model": "llama-70b"}}
    with running_gateway(tmp_path_factory.mktemp("short"), {**form, **HOLDERS, "api_keys": KEYS}) as running:
        yield running


@pytest.fixture(scope="module")
def long(models: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The small llama has two more names."""
    form: dict[str, Any] = {"models": {name: {"backends": [{"url": f"{models.url}/v1"}]} for name in MODELS}}
    form["models"]["llama-8b"]["aliases"] = ["gpt-4o-mini", "tiny"]
    with running_gateway(tmp_path_factory.mktemp("long"), {**form, **HOLDERS, "api_keys": KEYS}) as running:
        yield running


@pytest.fixture(params=["short", "long"])
def gateway(request: pytest.FixtureRequest) -> RunningGateway:
    running: RunningGateway = request.getfixturevalue(request.param)
    return running


def chat(gateway: RunningGateway, key: str, model: str | None) -> httpx.Response:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    named = {**body, "model": model} if model else body
    return httpx.post(gateway.url + CHAT, json=named, headers={"x-api-key": key}, timeout=30)


def seen(gateway: RunningGateway, key: str) -> list[str]:
    answer = httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key})
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()["data"]]


@pytest.mark.parametrize("key", EXPECTED)
def test_a_caller_uses_and_sees_what_every_level_allows(gateway: RunningGateway, key: str) -> None:
    assert [name for name in seen(gateway, key) if name in MODELS] == [*EXPECTED[key]]
    for model in MODELS:
        used, shown = (
            chat(gateway, key, model),
            httpx.get(f"{gateway.url}/v1/models/{model}", headers={"x-api-key": key}),
        )
        if model in EXPECTED[key]:
            assert (used.status_code, shown.status_code, shown.json()["id"]) == (200, 200, model)
        else:
            assert_error(used, 403, "invalid_request_error", "model_not_allowed")
            assert_error(shown, 403, "invalid_request_error", "model_not_allowed")


def test_a_body_without_a_readable_model_is_told_so_whatever_the_key_may_use(gateway: RunningGateway) -> None:
    headers = {"x-api-key": "sk-access-nothing-01", "content-type": "application/json"}
    answer = httpx.post(gateway.url + CHAT, content=b"{", headers=headers)
    assert_error(answer, 400, "invalid_request_error", "invalid_json")


def test_an_empty_name_reaches_no_model_server(gateway: RunningGateway, models: FakeVllm) -> None:
    before = len(models.requests)
    body = {"model": "", "messages": []}
    answer = httpx.post(gateway.url + CHAT, json=body, headers={"x-api-key": "sk-access-anything-1"})
    assert_error(answer, 400, "invalid_request_error", "missing_model")
    assert len(models.requests) == before


def test_no_model_is_missing_where_there_is_no_default(long: RunningGateway) -> None:
    assert_error(chat(long, "sk-access-nothing-01", None), 400, "invalid_request_error", "missing_model")


@pytest.mark.parametrize(("key", "status"), [("sk-access-by-key-001", 200), ("sk-access-by-team-01", 403)])
def test_the_default_model_is_used_by_whom_it_is_allowed_to(short: RunningGateway, key: str, status: int) -> None:
    assert chat(short, key, None).status_code == status


def test_a_model_is_allowed_by_any_of_its_names_and_seen_by_all(long: RunningGateway) -> None:
    """The tier allows the alias, the team the name."""
    names = ["llama-8b", "gpt-4o-mini", "tiny"]
    assert seen(long, "sk-access-by-all-001") == names
    assert [chat(long, "sk-access-by-all-001", name).status_code for name in names] == [200, 200, 200]


def test_unknown_models_are_404_where_the_models_are_known(long: RunningGateway) -> None:
    for key in ("sk-access-anything-1", "sk-access-nothing-01"):
        assert_error(chat(long, key, "no-such"), 404, "invalid_request_error", "model_not_found")
        answer = httpx.get(f"{long.url}/v1/models/no-such", headers={"x-api-key": key})
        assert_error(answer, 404, "invalid_request_error", "model_not_found")


def test_hundreds_of_models_can_be_allowed_and_are_shown(short: RunningGateway) -> None:
    key = "sk-access-hundreds-1"
    assert seen(short, key) == [*HUNDREDS]
    assert [chat(short, key, name).status_code for name in (HUNDREDS[0], HUNDREDS[-1], "mistral")] == [200, 200, 403]
    log = (short.directory / "logs" / "envoy_access.log").read_text()
    assert HUNDREDS[0] not in log.replace(f'"model":"{HUNDREDS[0]}"', ""), (
        "the log says who called, not all they may use"
    )


def test_the_keys_of_a_disabled_user_are_answered_as_unknown_ones(gateway: RunningGateway) -> None:
    disabled, unknown = (chat(gateway, key, "mistral") for key in ("sk-access-disabled-1", "sk-access-unknown-01"))
    assert_error(disabled, 401, "invalid_request_error", "invalid_api_key")
    ids = ("x-request-id", "date", "connection")
    assert disabled.content == unknown.content
    assert [h for h in disabled.headers.multi_items() if h[0] not in ids] == [
        h for h in unknown.headers.multi_items() if h[0] not in ids
    ]
    shown = httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": "sk-access-disabled-1"})
    assert_error(shown, 401, "invalid_request_error", "invalid_api_key")


def test_model_servers_are_not_told_what_callers_may_use(short: RunningGateway, models: FakeVllm) -> None:
    assert chat(short, "sk-access-hundreds-1", HUNDREDS[7]).status_code == 200
    ours = {name.lower() for name in models.requests[-1].headers if name.lower().startswith("x-gatehouse")}
    assert ours == {"x-gatehouse-user", "x-gatehouse-tier", "x-gatehouse-key-id", "x-gatehouse-model"}


def test_what_a_client_says_it_may_use_is_not_believed(gateway: RunningGateway) -> None:
    forged = {"x-gatehouse-models": '["*"]', "x-gatehouse-expressions": '[""]', "x-api-key": "sk-access-nothing-01"}
    assert httpx.get(f"{gateway.url}/v1/models", headers=forged).json()["data"] == []
    body = {"model": "mistral", "messages": []}
    assert httpx.post(gateway.url + CHAT, json=body, headers=forged).status_code == 403
    assert json.loads(httpx.get(f"{gateway.url}/v1/models/mistral", headers=forged).text)["error"]["code"] == (
        "model_not_allowed"
    )
