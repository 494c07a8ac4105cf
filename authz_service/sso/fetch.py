"""Documents of an issuer over HTTP: its JWK Set, and the configuration that says where that is.

Small, quick and from where the operator said, or not at all: redirects are not followed.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar

from gatehouse import __version__
from gatehouse.config.model import JwtIssuer
from gatehouse.contract.failures import GatehouseError

TIMEOUT = ClientTimeout(total=5.0)
MAX_BYTES = 256 * 1024
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])", re.IGNORECASE)


class FetchError(GatehouseError):
    """The issuer gave no usable document. The message says which and why."""


@dataclass(frozen=True, slots=True)
class Document:
    """`max_age_s` is how long its server says it stays as it is (RFC 9111 §5.2.2.1); None when it doesn't say."""

    body: bytes
    max_age_s: int | None = None


def session() -> ClientSession:
    """The HTTP client for issuers: it stores no cookies."""
    headers = {"User-Agent": f"gatehouse/{__version__}", "Accept": "application/json"}
    return ClientSession(headers=headers, cookie_jar=DummyCookieJar())


async def jwk_set(session: ClientSession, settings: JwtIssuer) -> Document:
    """The JWK Set of an issuer. Raises `FetchError`."""
    return await _get(session, settings.jwks_url or await _discovered(session, settings))


async def _discovered(session: ClientSession, settings: JwtIssuer) -> str:
    """`jwks_uri` of the configuration document, which must be that issuer's own (OpenID Connect Discovery §4.3)."""
    where = settings.keys_from
    try:
        found = json.loads((await _get(session, where)).body.decode())
        issuer, url = found["issuer"], found["jwks_uri"]
        scheme = urlsplit(url).scheme
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FetchError(f"{where}: not a configuration document with 'issuer' and 'jwks_uri'") from None
    if issuer != settings.issuer:
        raise FetchError(f"{where}: it is the document of another issuer; write 'issuer' exactly as it does")
    if not isinstance(url, str) or scheme not in ("https", urlsplit(where).scheme):
        raise FetchError(f"{where}: its jwks_uri is no https:// URL")
    return url


async def _get(session: ClientSession, url: str) -> Document:
    try:
        async with session.get(url, timeout=TIMEOUT, allow_redirects=False) as response:
            if response.status != 200:
                raise FetchError(f"{url}: answered {response.status}")
            return Document(await _body(response, url), _max_age_s(response))
    except TimeoutError:
        raise FetchError(f"{url}: no answer within {TIMEOUT.total:g} s") from None
    except (ClientError, OSError, ValueError) as error:
        raise FetchError(f"{url}: {type(error).__name__}") from None


async def _body(response: ClientResponse, url: str) -> bytes:
    try:
        await response.content.readexactly(MAX_BYTES + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
    raise FetchError(f"{url}: more than {MAX_BYTES // 1024} KiB")


def _max_age_s(response: ClientResponse) -> int | None:
    control = response.headers.get("Cache-Control", "")
    found = _MAX_AGE.search(control)
    return 0 if re.search(r"no-(store|cache)", control) else int(found[1]) if found else None
