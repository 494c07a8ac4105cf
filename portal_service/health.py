"""The health of the gateway: it is healthy as long as any model server is alive. Pure."""

from collections.abc import Mapping
from typing import Any

from gatehouse import __version__
from gatehouse.config.model import Backend, Config, served
from gatehouse.config.run_dir import Service


def backends(config: Config) -> dict[str, tuple[Backend, ...]]:
    """The model servers, by model. The short form has one model, of any name."""
    return {name: model.backends for name, model in served(config).items()}


Place = tuple[str, str | None]
"""A model server's URL, and the file of the authorities that verify its certificate."""


def place(backend: Backend) -> Place:
    return backend.url, backend.ca_file


def report(config: Config, alive: Mapping[Place, bool], services: Mapping[Service, bool]) -> dict[str, Any]:
    """The body of `/health`. `alive`: whether each model server answered; `services`: whether a worker of each
    service did. Services don't affect the status: without them requests still get an answer or a refusal."""
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
    """The report without the model servers' addresses, in the order of the configuration."""
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
