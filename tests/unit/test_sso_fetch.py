"""What is taken from an issuer over HTTP, from a real server: small, quick, and from where the operator said."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientTimeout

from authz_service.sso import fetch
from authz_service.sso.fetch import Document, FetchError, jwk_set
from gatehouse.config.model import JwtIssuer
from testkit.identity_provider import IdentityProvider
from testkit.ports import free_port


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


async def fetched(idp: IdentityProvider, **fields: Any) -> Document:
    settings = JwtIssuer.model_validate({"issuer": idp.issuer, "audience": "llm", **fields})
    async with fetch.session() as session:
        return await jwk_set(session, settings)


async def failure(idp: IdentityProvider, **fields: Any) -> str:
    with pytest.raises(FetchError) as caught:
        await fetched(idp, **fields)
    return str(caught.value)


@pytest.mark.asyncio
async def test_keys_come_from_the_configured_url_or_from_where_the_issuer_says(idp: IdentityProvider) -> None:
    assert await fetched(idp, jwks_url=idp.jwks_url) == Document(idp.jwk_set())
    assert await fetched(idp) == Document(idp.jwk_set())
    assert await fetched(idp, issuer=idp.issuer) == Document(idp.jwk_set())


@pytest.mark.asyncio
async def test_the_configuration_document_must_be_the_issuers_own(idp: IdentityProvider) -> None:
    assert "document of another issuer" in await failure(idp, issuer=f"{idp.issuer}/")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"issuer": "x"}', b'{"issuer": "x", "jwks_uri": 7}', b'{"issuer":"x","jwks_uri":"http://[a"}',
     b"\xff", b"[" * 100_000],
)  # fmt: skip
async def test_what_is_no_configuration_document_is_an_error(idp: IdentityProvider, body: bytes) -> None:
    idp.configuration = body
    assert "not a configuration document" in await failure(idp)


@pytest.mark.asyncio
@pytest.mark.parametrize("uri", ["file:///etc/passwd", "ftp://x/keys", "keys", ""])
async def test_the_configuration_document_can_name_web_addresses_only(idp: IdentityProvider, uri: str) -> None:
    idp.configuration = json.dumps({"issuer": idp.issuer, "jwks_uri": uri}).encode()
    assert "its jwks_uri is no https:// URL" in await failure(idp)


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [301, 302, 307, 401, 404, 500, 503])
async def test_redirects_and_errors_give_no_keys(idp: IdentityProvider, status: int) -> None:
    idp.status, idp.headers = status, {"location": f"{idp.jwks_url}/elsewhere"}
    assert await failure(idp, jwks_url=idp.jwks_url) == f"{idp.jwks_url}: answered {status}"
    assert idp.fetched == 1


@pytest.mark.asyncio
async def test_a_document_of_any_size_is_read_up_to_the_cap(idp: IdentityProvider) -> None:
    with idp.publishing(b"x" * fetch.MAX_BYTES):
        assert len((await fetched(idp, jwks_url=idp.jwks_url)).body) == fetch.MAX_BYTES
    with idp.publishing(b"x" * (fetch.MAX_BYTES + 1)):
        assert "more than 256 KiB" in await failure(idp, jwks_url=idp.jwks_url)


@pytest.mark.asyncio
async def test_a_slow_issuer_is_given_up(idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", ClientTimeout(total=0.1))
    idp.delay_s = 0.3
    assert "no answer within 0.1 s" in await failure(idp, jwks_url=idp.jwks_url)


@pytest.mark.asyncio
async def test_an_issuer_that_is_not_there_is_named(idp: IdentityProvider) -> None:
    url = f"http://127.0.0.1:{free_port()}/keys"
    assert await failure(idp, jwks_url=url) == f"{url}: ClientConnectorError"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("control", "max_age_s"),
    [
        (None, None),
        ("max-age=600", 600),
        ("public, max-age=86400, must-revalidate", 86400),
        ("Max-Age=5", 5),
        ("s-maxage=7", None),
        ("no-store", 0),
        ("no-cache, max-age=600", 0),
        ("max-age=-1", None),
        ("max-age=" + "9" * 40, None),
        ("max-age=soon", None),
    ],
)
async def test_cache_control_is_read(idp: IdentityProvider, control: str | None, max_age_s: int | None) -> None:
    idp.headers = {"cache-control": control} if control else {}
    assert (await fetched(idp, jwks_url=idp.jwks_url)).max_age_s == max_age_s
