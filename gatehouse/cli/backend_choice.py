"""The backends of a model, and how one of them is chosen: for `gatehouse explain`."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from gatehouse.config.model import Backend, Config, Model, served


@dataclass(frozen=True, slots=True)
class Choice:
    """`backends`: `{"url", "status", "weight", "priority"}` each; `how` one of them is chosen, in words."""

    how: str
    backends: list[dict[str, Any]]


def of(config: Config, model: str, health: Mapping[str, Any]) -> Choice:
    """The choice for `model`; `health` is the `models` of `/health`, in the configuration's order. None for an unknown
    model."""
    models = served(config)
    name = next(iter(models)) if config.vllm else config.model_of(model)
    if name not in models:
        return Choice("", [])
    told = [each["status"] for each in health.get(name, {}).get("backends", [])]
    every = zip_longest(models[name].backends, told[: len(models[name].backends)], fillvalue="unhealthy")
    backends = [_backend(backend, status) for backend, status in every if isinstance(backend, Backend)]
    return Choice(_how(models[name], backends), backends)


def _backend(backend: Backend, status: str) -> dict[str, Any]:
    return {"url": backend.url, "status": status, "weight": backend.weight, "priority": backend.priority}


def _how(model: Model, backends: list[dict[str, Any]]) -> str:
    up = [backend["priority"] for backend in backends if backend["status"] == "healthy"]
    rules = {
        "least_request": "the one with the fewest requests",
        "round_robin": "each in turn",
        "session_affinity": f"the same one for the same {model.session_header}, else for the same user",
    }
    failover = f", of those with priority {min(up)}" if up and len({b["priority"] for b in backends}) > 1 else ""
    return rules[model.balance] + failover
