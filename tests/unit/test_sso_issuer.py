"""An issuer's keys: fetched in the background, kept through failures, early when a token asks for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from authz_service.sso import issuer as subject
from authz_service.sso.fetch import Document, FetchError
from authz_service.sso.issuer import Issuer
from gatehouse.config.model import JwtIssuer
from testkit.identity_provider import IdentityProvider

IDP = IdentityProvider()
OLD = IDP.jwk_set()
NEW = IdentityProvider().jwk_set()


class Published:
    """What the issuer publishes; `fetches` counts who asked, `gate` makes them wait."""

    def __init__(self) -> None:
        self.document: Document | Exception = Document(OLD)
        self.fetches = 0
        self.results: list[bool] = []
        self.now = 1000.0
        self.gate: asyncio.Event | None = None

    async def fetch(self) -> Document:
        self.fetches += 1
        if self.gate:
            await self.gate.wait()
        if isinstance(self.document, Exception):
            raise self.document
        return self.document

    def issuer(self, **fields: Any) -> Issuer:
        settings = JwtIssuer.model_validate({"issuer": "https://a", "audience": "llm", **fields})
        return Issuer(settings, self.fetch, self.results.append, lambda: self.now)


@asynccontextmanager
async def following(issuer: Issuer) -> AsyncIterator[None]:
    task = asyncio.create_task(issuer.follow())
    await asyncio.sleep(0.01)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.asyncio
async def test_keys_are_there_once_they_are_fetched() -> None:
    published = Published()
    issuer = published.issuer()
    assert issuer.keys is None
    async with following(issuer):
        assert issuer.keys is not None
        assert issuer.keys.find("RS256-1", "RS256") is not None
        assert published.results == [True]


@pytest.mark.asyncio
async def test_the_same_document_leaves_the_same_keys_and_another_replaces_them() -> None:
    published = Published()
    issuer = published.issuer()
    async with following(issuer):
        first = issuer.keys
        await issuer.newer(1)
        assert published.fetches == 2
        assert issuer.keys is first
        published.document = Document(NEW)
        published.now += 1000
        await issuer.newer(1)
        assert issuer.keys is not first


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "broken", [FetchError("down"), Document(b"<html>"), Document(b'{"keys": []}'), ZeroDivisionError()]
)
async def test_a_failed_fetch_keeps_the_old_keys_until_they_are_too_old(broken: Document | Exception) -> None:
    published = Published()
    issuer = published.issuer(max_stale_s=600)
    async with following(issuer):
        first = issuer.keys
        published.document = broken
        published.now += 600
        await issuer.newer(1)
        assert published.results == [True, False]
        assert issuer.keys is first
        published.now += 1
        assert issuer.keys is None
        published.now += 1
        published.document = Document(OLD)
        await issuer.newer(1)
        assert issuer.keys is first


@pytest.mark.asyncio
async def test_however_many_ask_there_is_one_fetch() -> None:
    published = Published()
    issuer = published.issuer()
    async with following(issuer):
        published.gate = asyncio.Event()
        waiting = [asyncio.create_task(issuer.newer(5)) for _ in range(100)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        published.document = Document(NEW)
        published.gate.set()
        await asyncio.wait(waiting)
        assert published.fetches == 2


@pytest.mark.asyncio
async def test_who_asks_waits_only_so_long_and_the_fetch_goes_on() -> None:
    published = Published()
    issuer = published.issuer()
    async with following(issuer):
        first = issuer.keys
        published.gate, published.document = asyncio.Event(), Document(NEW)
        assert await issuer.newer(0.01) is False
        assert issuer.keys is first
        published.gate.set()
        await asyncio.sleep(0.01)
        assert issuer.keys is not first


@pytest.mark.asyncio
async def test_early_fetches_that_bring_nothing_new_become_rare() -> None:
    published = Published()
    issuer = published.issuer()
    async with following(issuer):
        for _ in range(6_000):  # ten minutes of made-up keys, ten a second
            published.now += 0.1
            await issuer.newer(1)
        assert 60 <= published.fetches <= 66
        published.document = Document(NEW)
        for _ in range(102):
            published.now += 0.1
            await issuer.newer(1)
        assert published.results[-1] is True
        last = published.fetches
        published.now += 1.01
        await issuer.newer(1)
        assert published.fetches == last + 1, "after a rotation the next one is expected soon again"


@pytest.mark.parametrize(
    ("max_age_s", "period_s"), [(None, 300), (0, 60), (10, 60), (120, 120), (300, 300), (21_600, 300)]
)
def test_cache_control_makes_fetches_more_frequent_within_bounds(max_age_s: int | None, period_s: float) -> None:
    assert subject._period_s(max_age_s, 300) == period_s
    assert subject._period_s(max_age_s, 1) == 1


@pytest.mark.asyncio
async def test_keys_are_fetched_again_and_again() -> None:
    published = Published()
    issuer = published.issuer(refresh_s=1)
    async with following(issuer):
        published.document = Document(NEW)
        first = issuer.keys
        await asyncio.sleep(1.1)
        assert published.fetches >= 2
        assert issuer.keys is not first


@pytest.mark.asyncio
async def test_an_issuer_that_was_down_at_the_start_is_asked_again_soon() -> None:
    published = Published()
    published.document = FetchError("down")
    issuer = published.issuer()
    async with following(issuer):
        published.document = Document(OLD)
        await asyncio.sleep(1.1)
        assert issuer.keys is not None
