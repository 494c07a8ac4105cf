"""Do the gateway's other peers answer: issuers of tokens, and the receiver of traces?"""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gatehouse.config.model import Config, JwtIssuer
from gatehouse.doctor.finding import Finding, error, ok, warning
from gatehouse.doctor.http import PATIENCE_S, NoAnswerError, get, reason

ISSUERS, TRACES = "sign-on", "traces"


async def issuers(config: Config) -> list[Finding]:
    async with aiohttp.ClientSession() as session:
        return list(await asyncio.gather(*(_issuer(session, issuer) for issuer in config.jwt)))


async def _issuer(session: aiohttp.ClientSession, issuer: JwtIssuer) -> Finding:
    fix = "correct jwt.jwks_url or jwt.issuer, or let the gateway through to it"
    try:
        answer = await get(session, issuer.keys_from, {})
    except NoAnswerError as gone:
        return error(ISSUERS, f"{issuer.label}: {issuer.keys_from} does not answer: {gone}", fix)
    if answer.status != 200 or not _tells_keys(answer.body):
        return error(ISSUERS, f"{issuer.label}: {issuer.keys_from} has no keys ({answer.status})", fix)
    return ok(ISSUERS, f"{issuer.label} publishes its keys")


def _tells_keys(body: Any) -> bool:
    """A key set (RFC 7517 §5), or a configuration document that names one (OpenID Connect Discovery §4.2)."""
    return isinstance(body, dict) and (isinstance(body.get("keys"), list) or isinstance(body.get("jwks_uri"), str))


async def traces(config: Config) -> list[Finding]:
    """Whether the port is open: that it speaks OTLP shows only when something is sent."""
    if config.tracing.otlp_endpoint is None:
        return []
    url = urlsplit(config.tracing.otlp_endpoint)
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.close()
    except (OSError, TimeoutError) as gone:
        fix = "start the receiver, or correct tracing.otlp_endpoint; requests are answered without it"
        return [warning(TRACES, f"{config.tracing.otlp_endpoint} does not answer: {reason(gone)}", fix)]
    return [ok(TRACES, f"{config.tracing.otlp_endpoint} listens")]
