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
    """A backend: where it is configured, its URL, the names it must know, where its key is kept, and who vouches for it
    (`None`: the system's authorities)."""

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
    """Every backend there is, model by model."""
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
        return [error(ABOUT, f"{target.url}: {unknown}", "its key can't be sent without")]
    except OSError as unreadable:  # an ssl.SSLError is one
        fix = f"let ca_file beside {target.field} name the authorities that vouch for it (PEM)"
        return [error(ABOUT, f"{target.ca_file} holds no certificates: {reason(unreadable)}", fix)]
    return [healthy(target, health.status), serves(target, models.status, models.body)]


def _authorization(target: Target) -> Mapping[str, str]:
    if target.key is None:
        return {}
    return {"authorization": f"Bearer {resolve(target.key, target.field).decode()}"}


def _trust(target: Target) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=target.ca_file) if target.ca_file else None


def healthy(target: Target, status: int) -> Finding:
    """What the answer to `/health` says; a server without it counts as healthy while it answers."""
    if status >= 500:
        return error(ABOUT, f"{target.url} says it is unhealthy ({status})", "see its own log")
    return ok(ABOUT, f"{target.url} answers" + ("" if status == 200 else f", though /health is {status}"))


def serves(target: Target, status: int, body: Any) -> Finding:
    """What the answer to `/v1/models` says of the names that are asked for."""
    if status in (401, 403):
        return error(ABOUT, f"{target.url} wants a key", "set upstream_api_key of its model to env:NAME or file:PATH")
    known = sorted(_ids(body)) if status == 200 else []
    if not known:
        fix = "make sure that it serves what the configuration says"
        return warning(ABOUT, f"{target.url} does not tell its models ({status} at /v1/models)", fix)
    missing = [name for name in target.names if name not in known]
    if not missing:
        return ok(ABOUT, f"{target.url} serves {', '.join(target.names or known)}")
    fix = f"start it with --served-model-name {' '.join(target.names)}, or use the name it has"
    return error(ABOUT, f"{target.url} serves {', '.join(known)}, not {', '.join(missing)}", fix)


def _ids(body: Any) -> Iterable[str]:
    data = body.get("data") if isinstance(body, dict) else None
    models = data if isinstance(data, list) else []
    return {str(model["id"]) for model in models if isinstance(model, dict) and "id" in model}
