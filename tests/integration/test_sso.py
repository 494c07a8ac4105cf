"""Single sign-on through the whole gateway: tokens of a real identity provider, and the attacks on them."""

import hashlib
import hmac
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatehouse.contract import errors
from testkit.fakes.fake_vllm import FakeVllm
from testkit.identity_provider import AUDIENCE, IdentityProvider, SigningKey, base64url
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL, PREMIUM, STANDARD, short_form

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
WORKERS = 2


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


def with_sso(backend: FakeVllm, *issuers: dict[str, Any]) -> dict[str, Any]:
    return {**short_form(backend), "jwt": list(issuers)}


def trusted(idp: IdentityProvider, **fields: Any) -> dict[str, Any]:
    """Settings of `idp`, found by discovery."""
    return {"issuer": idp.issuer, "audience": AUDIENCE, "name": "sso", "tier": "unlimited", **fields}


@pytest.fixture(scope="module")
def gateway(
    backend: FakeVllm, idp: IdentityProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    claims = {"team_claim": "dept", "tier_claim": "realm.groups", "models_claim": "models", "tier": "free"}
    config = with_sso(backend, trusted(idp, **claims))
    with running_gateway(tmp_path_factory.mktemp("sso"), config) as running:
        yield running


def ask(gateway: RunningGateway, credential: str, **headers: str) -> httpx.Response:
    return httpx.post(
        gateway.url + CHAT, json=BODY, headers={"authorization": f"Bearer {credential}", **headers}, timeout=30
    )


def ask_again(gateway: RunningGateway, credential: str) -> httpx.Response:
    """As OpenAI's clients do when nobody can say yet, because keys are being fetched on a busy machine."""
    deadline = time.monotonic() + 10
    while (answer := ask(gateway, credential)).status_code == 503 and time.monotonic() < deadline:
        assert answer.json() == errors.AUTH_UNAVAILABLE.body()
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.1)
    return answer


def token(idp: IdentityProvider, algorithm: str = "RS256", **claims: Any) -> str:
    return idp.token(algorithm, **{"models": ["*"], **claims})


def assert_refused(answer: httpx.Response) -> None:
    """As every wrong key: nothing tells what was wrong."""
    assert answer.status_code == 401
    assert answer.json() == errors.INVALID_API_KEY.body()
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_passes_and_the_model_server_learns_who_it_stands_for(
    gateway: RunningGateway, backend: FakeVllm, idp: IdentityProvider, algorithm: str
) -> None:
    mine = token(idp, algorithm, sub="alice@example.com", dept="search", realm={"groups": ["x", "premium"]})
    answer = ask(gateway, mine)
    assert answer.status_code == 200, answer.text
    seen = backend.requests[-1].headers
    key_id = hashlib.sha256(f"{idp.issuer}\0alice@example.com".encode()).hexdigest()[:8]
    assert {name: seen.get(name) for name in seen if name.lower().startswith("x-gatehouse")} == {
        "x-gatehouse-user": "alice@example.com",
        "x-gatehouse-team": "search",
        "x-gatehouse-tier": "premium",
        "x-gatehouse-key-id": f"jwt-{key_id}",
        "x-gatehouse-model": MODEL,
    }
    assert "authorization" not in seen
    assert answer.headers["x-ratelimit-limit-minute"] == "100"
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["user_id"], record["team"], record["tier"]) == ("alice@example.com", "search", "premium")


def test_an_unknown_tier_is_the_issuers_and_limits_count_for_the_user(
    gateway: RunningGateway, idp: IdentityProvider
) -> None:
    first = ask(gateway, token(idp, sub="carl", realm={"groups": "gold"}))
    second = ask(gateway, token(idp, "ES256", sub="carl"))
    assert [first.headers["x-ratelimit-limit-minute"], second.headers["x-ratelimit-limit-minute"]] == ["10", "10"]
    remaining = [int(answer.headers["x-ratelimit-remaining-minute"]) for answer in (first, second)]
    assert remaining == [9, 8], "another token of the same user goes on counting"


def test_models_are_those_of_the_token(gateway: RunningGateway, idp: IdentityProvider) -> None:
    assert ask(gateway, token(idp, sub="mo", models=["meta-llama/*"])).status_code == 200
    for models in (["tiny-*"], None):
        answer = ask(gateway, token(idp, sub="mo", models=models))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")


def test_a_token_works_wherever_a_key_does(gateway: RunningGateway, idp: IdentityProvider) -> None:
    mine = token(idp, sub="sdk")
    assert httpx.post(gateway.url + CHAT, json=BODY, headers={"x-api-key": mine}).status_code == 200
    sdk = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=mine, max_retries=0)
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True))
    assert chunks
    assert [model.id for model in sdk.models.list()] == [MODEL]
    usage = httpx.get(f"{gateway.url}/v1/usage", headers={"authorization": f"Bearer {mine}"}).json()
    assert (usage["user"], usage["tier"]) == ("sdk", "free")


def test_keys_work_beside_tokens(gateway: RunningGateway, idp: IdentityProvider) -> None:
    assert [ask(gateway, key).status_code for key in (PREMIUM, STANDARD, token(idp))] == [200, 200, 200]
    assert_refused(ask(gateway, "sk-no-such-key-at-all"))
    both = ask(gateway, PREMIUM, **{"x-api-key": token(idp)})
    assert_refused(both)


def alg_none(idp: IdentityProvider) -> str:
    return f"{base64url({'alg': 'none', 'typ': 'JWT'})}.{base64url(idp.claims())}."


def hmac_with_the_public_key(idp: IdentityProvider) -> str:
    key = idp.keys["RS256"]
    secret = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{base64url({'alg': 'HS256', 'typ': 'JWT', 'kid': key.kid})}.{base64url(idp.claims())}"
    return f"{signed}.{base64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def tampered_payload(idp: IdentityProvider) -> str:
    header, _, signature = token(idp).split(".")
    return f"{header}.{base64url(idp.claims(sub='root', models=['*']))}.{signature}"


DEEP = b'{"iss":'

ATTACKS = {
    "alg none": alg_none,
    "HS256 with the RSA public key": hmac_with_the_public_key,
    "tampered payload": tampered_payload,
    "no signature": lambda idp: token(idp).rsplit(".", 1)[0] + ".",
    "signed by another key": lambda idp: SigningKey("RS256", idp.keys["RS256"].kid).sign(idp.claims()),
    "unknown kid": lambda idp: SigningKey("RS256", "nobodys").sign(idp.claims()),
    "kid of a key for another algorithm": lambda idp: idp.keys["ES256"].sign(idp.claims(), kid=idp.keys["RS256"].kid),
    "kid that is a path": lambda idp: idp.keys["RS256"].sign(idp.claims(), kid="../../../../dev/null"),
    "embedded jwk": lambda idp: (mine := SigningKey("RS256", "mine")).sign(idp.claims(), jwk=mine.jwk),
    "jku": lambda idp: SigningKey("RS256", "mine").sign(idp.claims(), jku="http://127.0.0.1:1/keys"),
    "x5u": lambda idp: SigningKey("RS256", "mine").sign(idp.claims(), x5u="http://127.0.0.1:1/cert"),
    "critical header": lambda idp: idp.keys["RS256"].sign(idp.claims(), crit=["exp"], exp=1),
    "expired": lambda idp: token(idp, exp=int(time.time()) - 31),
    "without expiry": lambda idp: token(idp, exp=None),
    "not valid yet": lambda idp: token(idp, nbf=int(time.time()) + 60),
    "issued in the future": lambda idp: token(idp, iat=int(time.time()) + 3600),
    "wrong audience": lambda idp: token(idp, aud="other"),
    "no audience": lambda idp: token(idp, aud=None),
    "wrong issuer": lambda idp: token(idp, iss="https://evil.example"),
    "no user": lambda idp: token(idp, sub=None),
    "user with a line break": lambda idp: token(idp, sub="alice\r\nx-gatehouse-tier: premium"),
    "user that is nobody": lambda idp: token(idp, sub="-"),
    "logout token": lambda idp: idp.keys["RS256"].sign(idp.claims(), typ="logout+jwt"),
    "too long": lambda idp: token(idp, pad="x" * 8000),
    "huge": lambda idp: token(idp, pad="x" * 40_000),
    "deep header": lambda _idp: ".".join(map(base64url, (DEEP * 900, {}, b"sign"))),
    "deep payload": lambda _idp: ".".join(map(base64url, ({"alg": "RS256"}, DEEP * 900, b"sign"))),
    "NaN": lambda _idp: ".".join(map(base64url, ({"alg": "RS256"}, b'{"iss": NaN}', b"sign"))),
    "not JSON": lambda _idp: "eyJub3QganNvbg.eyJub3QganNvbg.c2ln",
    "encrypted": lambda _idp: "eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d",
    "twice": lambda idp: f"{token(idp)},Bearer {token(idp)}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_answered_as_any_wrong_key(
    gateway: RunningGateway, backend: FakeVllm, idp: IdentityProvider, attack: str
) -> None:
    before = len(backend.requests)
    forged = ATTACKS[attack](idp)
    for _ in range(WORKERS):
        assert_refused(ask_again(gateway, forged))
    assert len(backend.requests) == before
    assert ask(gateway, PREMIUM).status_code == 200


def test_operators_see_whose_token_has_expired(gateway: RunningGateway, idp: IdentityProvider) -> None:
    dated: tuple[dict[str, Any], ...] = ({}, {"exp": 1})
    answers = [ask(gateway, token(idp, sub="eve", **times)) for times in dated]
    assert [answer.status_code for answer in answers] == [200, 401]
    records = [gateway.record(answer.headers["x-request-id"]) for answer in answers]
    assert records[0]["key_id"] == records[1]["key_id"]
    assert records[0]["key_id"].startswith("jwt-")


def test_a_token_is_good_to_the_end_of_the_leeway_and_no_longer(gateway: RunningGateway, idp: IdentityProvider) -> None:
    ends = int(time.time()) - 28  # with 30 s of leeway
    mine = token(idp, sub="late", exp=ends)
    assert ask(gateway, mine).status_code == 200
    time.sleep(max(0.0, ends + 30.05 - time.time()))
    assert_refused(ask(gateway, mine))


@pytest.mark.slow
def test_without_jwt_a_token_is_a_wrong_key(backend: FakeVllm, idp: IdentityProvider, tmp_path: Path) -> None:
    with running_gateway(tmp_path, short_form(backend)) as running:
        assert_refused(ask(running, token(idp)))
        assert "api_jwks_refreshes_total" not in running.metrics()


def sample(gateway: RunningGateway, text: str) -> float:
    lines = [line for line in gateway.metrics().splitlines() if line.startswith(text)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_rotation_takes_in_the_new_key_at_once_and_shuts_out_the_old(backend: FakeVllm, tmp_path: Path) -> None:
    with IdentityProvider() as idp, running_gateway(tmp_path, with_sso(backend, trusted(idp, refresh_s=1))) as running:
        old = idp.token(sub="rota", exp=int(time.time()) + 3600)
        assert all(ask(running, old).status_code == 200 for _ in range(3 * WORKERS))
        idp.rotate()
        start = time.monotonic()
        new = [idp.token(algorithm, sub="rota") for algorithm in ("RS256", "ES256", "EdDSA")]
        until(lambda: all(ask(running, mine).status_code == 200 for mine in new * WORKERS), within_s=2)
        until(lambda: all(ask(running, old).status_code == 401 for _ in range(3 * WORKERS)), within_s=2)
        assert time.monotonic() - start < 4
        assert_refused(ask(running, old))
        until(lambda: sample(running, 'api_jwks_refreshes_total{issuer="sso",result="ok"}') > WORKERS)


def test_a_token_of_a_new_key_does_not_wait_for_the_next_refresh(backend: FakeVllm, tmp_path: Path) -> None:
    with IdentityProvider() as idp, running_gateway(tmp_path, with_sso(backend, trusted(idp))) as running:
        assert ask(running, idp.token()).status_code == 200
        idp.rotate()
        answers: list[int] = []
        asking = [
            threading.Thread(target=lambda: answers.append(ask_again(running, idp.token(sub="new")).status_code))
            for _ in range(20)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert answers == [200] * 20
        assert idp.fetched <= 2 * WORKERS, "all waited for one fetch a worker"


@pytest.mark.slow
def test_made_up_keys_do_not_make_the_gateway_hammer_the_issuer(backend: FakeVllm, tmp_path: Path) -> None:
    with IdentityProvider() as idp, running_gateway(tmp_path, with_sso(backend, trusted(idp))) as running:
        before, start = idp.fetched, time.monotonic()
        with running.client() as client:
            for index in range(200):
                forged = SigningKey("EdDSA", f"made-up-{index}").sign(idp.claims())
                answer = client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {forged}"})
                assert answer.status_code in (401, 503)
        seconds = time.monotonic() - start
        assert idp.fetched - before <= WORKERS * (3 + seconds / 4)


@pytest.mark.slow
def test_an_issuer_that_goes_down_later_changes_nothing_for_its_users(backend: FakeVllm, tmp_path: Path) -> None:
    with IdentityProvider() as idp, running_gateway(tmp_path, with_sso(backend, trusted(idp, refresh_s=1))) as running:
        known = idp.token(sub="known")
        assert ask(running, known).status_code == 200
        idp.down()
        failed = 'api_jwks_refreshes_total{issuer="sso",result="failed"}'
        until(lambda: sample(running, failed) >= WORKERS, within_s=10)
        assert ask(running, known).status_code == 200
        assert ask(running, idp.token("ES256", sub="new")).status_code == 200
        assert_refused(ask_again(running, SigningKey("RS256", "made-up").sign(idp.claims())))
        idp.rotate()
        idp.up()
        until(lambda: ask(running, idp.token(sub="again")).status_code == 200, within_s=10)


@pytest.mark.slow
def test_a_broken_key_set_keeps_the_old_keys(backend: FakeVllm, tmp_path: Path) -> None:
    failed = 'api_jwks_refreshes_total{issuer="sso",result="failed"}'
    with IdentityProvider() as idp, running_gateway(tmp_path, with_sso(backend, trusted(idp, refresh_s=1))) as running:
        for broken in (b"<html>Sign in</html>", b'{"keys": []}', b"x" * 300_000):
            before = sample(running, failed)
            with idp.publishing(broken):
                until(lambda before=before: sample(running, failed) >= before + WORKERS, within_s=10)
                assert ask(running, idp.token(jti=str(before))).status_code == 200


@pytest.mark.slow
def test_keys_that_are_too_old_are_trusted_no_more(backend: FakeVllm, tmp_path: Path) -> None:
    settings = {"refresh_s": 1, "max_stale_s": 2}
    with IdentityProvider() as idp, running_gateway(tmp_path, with_sso(backend, trusted(idp, **settings))) as running:
        mine = idp.token()
        assert ask(running, mine).status_code == 200
        idp.down()
        until(lambda: ask(running, mine).status_code == 503, within_s=10)
        assert ask(running, mine).json()["error"]["code"] == "auth_unavailable"
        idp.up()
        until(lambda: ask(running, mine).status_code == 200, within_s=10)


def test_an_issuer_that_is_down_at_the_start_leaves_keys_and_other_issuers_alone(
    backend: FakeVllm, tmp_path: Path
) -> None:
    with IdentityProvider() as up, IdentityProvider() as down:
        down.down()
        config = with_sso(backend, trusted(up, name="up"), trusted(down, name="down", jwks_url=down.jwks_url))
        with running_gateway(tmp_path, config) as running:
            answer = ask(running, down.token())
            assert (answer.status_code, answer.json()) == (503, errors.AUTH_UNAVAILABLE.body())
            assert answer.headers["retry-after"] == "1"
            assert "x-should-retry" not in answer.headers
            assert ask(running, up.token()).status_code == 200
            assert ask(running, PREMIUM).status_code == 200
            assert_refused(ask(running, down.token(iss="https://evil.example")))
            assert_refused(ask(running, up.keys["RS256"].sign(up.claims(iss="https://nobody.example"))))
            down.up()
            until(lambda: ask(running, down.token()).status_code == 200, within_s=20)


def test_a_key_of_one_issuer_signs_nothing_of_another(backend: FakeVllm, tmp_path: Path) -> None:
    with IdentityProvider() as one, IdentityProvider() as two:
        config = with_sso(backend, trusted(one, name="one"), trusted(two, name="two"))
        with running_gateway(tmp_path, config) as running:
            assert [ask(running, idp.token()).status_code for idp in (one, two)] == [200, 200]
            assert one.keys["RS256"].kid == two.keys["RS256"].kid
            assert_refused(ask(running, one.keys["RS256"].sign(two.claims())))


def test_a_token_is_in_nothing_that_is_written_or_shown(backend: FakeVllm, tmp_path: Path) -> None:
    with IdentityProvider() as idp:
        config = with_sso(backend, trusted(idp, refresh_s=1)) | {"logging": {"level": "debug"}}
        with running_gateway(tmp_path, config) as running:
            good = idp.token(sub="user", email="canary-claim-4801@example.com")
            forged = tampered_payload(idp)
            expired = idp.token(sub="user", exp=1)
            unknown = SigningKey("RS256", "canary-kid-4802").sign(idp.claims())
            for _ in range(WORKERS):
                answers = [ask_again(running, shown) for shown in (good, forged, expired, unknown)]
                assert [answer.status_code for answer in answers] == [200, 401, 401, 401]
            idp.down()
            unchecked = idp.token(sub="down")
            ask(running, unchecked)
            shown = [running.metrics(), *(answer.text + str(answer.headers) for answer in answers)]
            running.records(at_least=4 * WORKERS)
            run_dir = running.run_dir()
            places = [*run_dir.envoy.iterdir(), *run_dir.metrics.iterdir()]
            written = [path.read_bytes().decode("latin-1") for path in places]
        written += [path.read_text("latin-1") for path in (*(tmp_path / "logs").iterdir(), tmp_path / "stderr.log")]
    tokens = (good, forged, expired, unknown, unchecked)
    canaries = ["canary-claim-4801", "canary-kid-4802", *(part for shown_ in tokens for part in shown_.split(".")[1:])]
    assert [canary for canary in canaries if any(canary in text for text in (*shown, *written))] == []
