"""The health of the gateway: it is healthy as long as any model server is alive. Pure."""

from collections.abc import Mapping
from typing import Any

from gatehouse import __version__
from gatehouse.config.model import Config


def backends(config: Config) -> dict[str, tuple[str, ...]]:
    """Base URLs of the model servers, by model. The short form has one model, whatever it is called."""
    if config.vllm:
        return {config.vllm.default_model or "default": (config.vllm.base_url,)}
    return {name: tuple(backend.url for backend in model.backends) for name, model in config.models.items()}


def report(config: Config, alive: Mapping[str, bool]) -> dict[str, Any]:
    """The body of `/health`. `alive` tells of each base URL whether it answered."""
    healthy = any(alive.values())
    return {
        "status": "healthy" if healthy else "unhealthy",
        "version": __version__,
        "model": config.the_default_model,
        "vllm_status": "connected" if healthy else "disconnected",
        "models": {
            name: {"backends": [{"url": url, "status": "healthy" if alive[url] else "unhealthy"} for url in urls]}
            for name, urls in backends(config).items()
        },
    }
