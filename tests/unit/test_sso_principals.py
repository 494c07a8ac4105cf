"""The way of a token, its checks done once; and what is remembered of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from authz_service.decide import Result
from authz_service.principals import Principal
from authz_service.service import allowed
from authz_service.sso import principals as subject
from authz_service.sso.fetch import Document, FetchError
from authz_service.sso.issuer import Issuer
from authz_service.sso.metrics import Metrics
from authz_service.sso.principals import PATIENCE_S, TokenPrincipals
from authz_service.sso.verified import Verified
from gatehouse.config.model import JwtIssuer
from testkit.identity_provider import AUDIENCE, IdentityProvider


class House:
    """Principals of one issuer, which publishes what `idp` does, or fails when `down`."""

    def __init__(self) -> None:
        self.idp = IdentityProvider()
        self.down = False
        self.delay_s = 0.0
        self.registry = CollectorRegistry()
        settings = JwtIssuer.model_validate({"issuer": self.idp.issuer, "audience": AUDIENCE, "name": "sso"})
        self.issuer = Issuer(settings, self._fetch, lambda _ok: None)
        self.principals = TokenPrincipals([self.issuer], ["standard"], [], Metrics(["sso"], self.registry))

    async def _fetch(self) -> Document:
        await asyncio.sleep(self.delay_s)
        if self.down:
            raise FetchError("down")
        return Document(self.idp.jwk_set())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TokenPrincipals]:
        task = asyncio.create_task(self.issuer.follow())
        await asyncio.sleep(0.01)
        yield self.principals
        task.cancel()
        await asyncio.wait({task})

    def refused(self, reason: str, issuer: str = "sso") -> float | None:
        return self.registry.get_sample_value("api_jwt_refusals_total", {"issuer": issuer, "reason": reason})


@pytest.mark.asyncio
async def test_a_token_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    house, checks = House(), []
    monkeypatch.setattr(subject, "check", lambda *given: checks.append(1) or original(*given))
    async with house.open() as principals:
        token = house.idp.token()
        first = await principals.holder(token)
        assert isinstance(first, Principal)
        assert all([await principals.holder(token) is first for _ in range(100)])
        assert len(checks) == 1


original = getattr(subject, "check")  # noqa: B009


@pytest.mark.asyncio
async def test_a_token_is_forgotten_when_its_issuer_changes_its_keys() -> None:
    house = House()
    async with house.open() as principals:
        old = house.idp.token()
        assert isinstance(await principals.holder(old), Principal)
        house.idp.rotate()
        new = house.idp.token()
        assert isinstance(await principals.holder(new), Principal), "the new key is fetched while the request waits"
        assert await principals.holder(old) is Result.INVALID
        assert house.refused("unknown_key") == 1


@pytest.mark.asyncio
async def test_an_expired_token_still_tells_whose_it_was() -> None:
    house = House()
    async with house.open() as principals:
        found = await principals.holder(house.idp.token(exp=int(time.time()) - 100))
        assert isinstance(found, Principal)
        assert found.expires_at < time.time()


@pytest.mark.asyncio
async def test_without_keys_nobody_can_say_but_of_other_issuers_it_is_known() -> None:
    house = House()
    house.down = True
    async with house.open() as principals:
        assert await principals.holder(house.idp.token()) is Result.UNAVAILABLE
        assert await principals.holder(house.idp.token(iss="https://other.example")) is Result.INVALID
        assert (house.refused("no_keys"), house.refused("issuer", "other")) == (1, 1)


@pytest.mark.asyncio
async def test_a_request_waits_a_moment_for_keys_and_is_not_refused_for_good_before_they_are_there() -> None:
    house = House()
    async with house.open() as principals:
        house.idp.rotate()
        house.delay_s = 5
        start = time.monotonic()
        token = house.idp.token()
        assert await asyncio.gather(*(principals.holder(token) for _ in range(50))) == [Result.UNAVAILABLE] * 50
        assert PATIENCE_S <= time.monotonic() - start < 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"aud": "x"}, "audience"), ({"nbf": 2**40}, "lifetime"), ({"sub": "a b"}, "user"), ({"exp": None}, "lifetime")],
)
async def test_refusals_are_counted_by_reason(changed: dict[str, Any], reason: str) -> None:
    house = House()
    async with house.open() as principals:
        assert await principals.holder(house.idp.token(**changed)) is Result.INVALID
        assert house.refused(reason) == 1


@given(st.text(st.characters(exclude_categories=())) | st.from_regex(r"eyJ[\w.-]{0,60}", fullmatch=True))
def test_no_text_raises(token: str) -> None:
    assert asyncio.run(HOUSE.principals.holder(token)) is Result.INVALID


HOUSE = House()
CLAIM = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "iat", "iss", "x"]), CLAIM))
def test_whatever_an_issuer_signs_is_somebodys_or_refused_and_can_be_answered(claims: dict[str, Any]) -> None:
    async def holder() -> Principal | Result:
        await HOUSE.issuer.newer(1)
        return await HOUSE.principals.holder(HOUSE.idp.token("EdDSA", **claims))

    found = asyncio.run(holder())
    assert found is Result.INVALID or (isinstance(found, Principal) and allowed(found))


@pytest.mark.asyncio
async def test_the_tokens_used_last_are_remembered_and_no_more_than_so_many() -> None:
    house = House()
    async with house.open():
        keys = house.issuer.keys
        assert keys is not None
        remembered = Verified(capacity=3)
        for name in "abc":
            remembered.put(house.issuer, keys, Principal(name, name, "", "standard", name))
        assert remembered.get("a") is not None
        remembered.put(house.issuer, keys, Principal("d", "d", "", "standard", "d"))
        assert [name for name in "abcd" if remembered.get(name)] == ["a", "c", "d"]
