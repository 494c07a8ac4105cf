"""The health of the gateway: it is healthy as long as any model server is alive. Pure."""

from collections.abc import Mapping
from typing import Any

from gatehouse import __version__
from gatehouse.config.model import Backend, Config, served
from gatehouse.config.run_dir import Service


def backends(config: Config) -> dict[str, tuple[Backend, ...]]:
    """The model servers, by model. The short form has one model, whatever it is called."""
    return {name: model.backends for name, model in served(config).items()}


Place = tuple[str, str | None]
"""Where a model server is, and who vouches for it."""


def place(backend: Backend) -> Place:
    return backend.url, backend.ca_file


def report(config: Config, alive: Mapping[Place, bool], services: Mapping[Service, bool]) -> dict[str, Any]:
    """The body of `/health`. `alive` tells of each place whether a model server answered there, `services` of each
    service whether a worker did: requests are answered, or refused, without them, so the status is not theirs."""
    healthy = any(alive.values())
    return {
        "status": "healthy" if healthy else "unhealthy",
        "version": __version__,
        "model": config.effective_default_model,
        "vllm_status": "connected" if healthy else "disconnected",
        "models": {name: _model(group, alive) for name, group in backends(config).items()},
        "services": {name: "healthy" if well else "unavailable" for name, well in services.items()},
    }


def without_urls(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report that does not say where model servers are; they stand in the order of the configuration."""
    models = {
        name: {**model, "backends": [{"status": backend["status"]} for backend in model["backends"]]}
        for name, model in report["models"].items()
    }
    return {**report, "models": models}


def _model(group: tuple[Backend, ...], alive: Mapping[Place, bool]) -> dict[str, Any]:
    """A model is `degraded` while some of its replicas are down and others serve it."""
    up = [alive[place(backend)] for backend in group]
    return {
        "status": "healthy" if all(up) else "degraded" if any(up) else "unhealthy",
        "backends": [
            {"url": backend.url, "status": "healthy" if alive[place(backend)] else "unhealthy"} for backend in group
        ],
    }
