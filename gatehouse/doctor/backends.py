"""Do the model servers answer, and serve the models they are configured for?"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from gatehouse.config.model import Config, base_path
from gatehouse.config.problem import ConfigError
from gatehouse.config.secret import resolve
from gatehouse.doctor.finding import Finding, error, ok, warning
from gatehouse.doctor.http import NoAnswerError, get, reason

ABOUT = "backends"


@dataclass(frozen=True, slots=True)
class Target:
    """A backend: where it is configured, its URL, the model names it must serve, the reference of its key, and its
    certificate authorities (`None`: the system's)."""

    field: str
    url: str
    names: tuple[str, ...]
    key: str | None = None
    ca_file: str | None = None

    @property
    def root(self) -> str:
        """Where `/health` is: before `/v1`."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}{base_path(self.url)}"


def targets(config: Config) -> list[Target]:
    """All backends, model by model."""
    if config.vllm:
        names = (config.vllm.default_model,) if config.vllm.default_model else ()
        return [Target("vllm.base_url", config.vllm.base_url, names)]
    return [
        Target(
            f"models.{name}.backends[{index}].url",
            backend.url,
            (name, *model.aliases),
            model.upstream_api_key,
            backend.ca_file,
        )
        for name, model in config.models.items()
        for index, backend in enumerate(model.backends)
    ]


async def backends(config: Config) -> list[Finding]:
    async with aiohttp.ClientSession() as session:
        found = await asyncio.gather(*(_backend(session, target) for target in targets(config)))
    return [finding for findings in found for finding in findings]


async def _backend(session: aiohttp.ClientSession, target: Target) -> list[Finding]:
    try:
        headers, trust = _authorization(target), _trust(target)
        health = await get(session, f"{target.root}/health", headers, trust)
        models = await get(session, f"{target.root}/v1/models", headers, trust)
    except NoAnswerError as gone:
        return [error(ABOUT, f"{target.url} does not answer: {gone}", f"start it, or correct {target.field}")]
    except ConfigError as unknown:
        return [error(ABOUT, f"{target.url}: {unknown}", "set the variable or file that upstream_api_key names")]
    except OSError as unreadable:  # an ssl.SSLError is one
        fix = f"let ca_file beside {target.field} hold the certificates of its authorities (PEM)"
        return [error(ABOUT, f"{target.ca_file} holds no certificates: {reason(unreadable)}", fix)]
    return [healthy(target, health.status), serves(target, models.status, models.body)]


def _authorization(target: Target) -> Mapping[str, str]:
    if target.key is None:
        return {}
    return {"authorization": f"Bearer {resolve(target.key, target.field).decode()}"}


def _trust(target: Target) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=target.ca_file) if target.ca_file else None


def healthy(target: Target, status: int) -> Finding:
    """Judges the answer to `/health`; a server without it counts as healthy if it answers."""
    if status >= 500:
        return error(ABOUT, f"{target.url} says it is unhealthy ({status})", "see its own log")
    return ok(ABOUT, f"{target.url} answers" + ("" if status == 200 else f", though /health is {status}"))


def serves(target: Target, status: int, body: Any) -> Finding:
    """Judges the answer to `/v1/models`: are the expected names there?"""
    if status in (401, 403):
        return error(ABOUT, f"{target.url} requires a key", "set its model's upstream_api_key to env:NAME or file:PATH")
    known = sorted(_ids(body)) if status == 200 else []
    if not known:
        fix = "make sure that it serves what the configuration says"
        return warning(ABOUT, f"{target.url} does not list its models ({status} at /v1/models)", fix)
    missing = [name for name in target.names if name not in known]
    if not missing:
        return ok(ABOUT, f"{target.url} serves {', '.join(target.names or known)}")
    fix = f"start it with --served-model-name {' '.join(target.names)}, or use the name it has"
    return error(ABOUT, f"{target.url} serves {', '.join(known)}, not {', '.join(missing)}", fix)


def _ids(body: Any) -> Iterable[str]:
    data = body.get("data") if isinstance(body, dict) else None
    models = data if isinstance(data, list) else []
    return {str(model["id"]) for model in models if isinstance(model, dict) and "id" in model}
