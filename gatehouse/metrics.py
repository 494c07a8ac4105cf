"""Prometheus samples of several processes in one exposition.

Each process keeps its samples in memory-mapped files named after itself (`authz-0`, not a process id): they outlive a
crash, a restarted worker goes on counting where it stopped, and the number of files is bounded. This is
prometheus_client's multiprocess mode with identities of our own.
"""

import os
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector


def share(directory: Path, process: str) -> None:
    """Keep this process's samples in `directory` under the name `process`. Call it before any metric is made."""
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: process)  # type: ignore[no-untyped-call]


def started(worker: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Count a start of `worker` in `api_worker_starts_total{worker}`: more than one, and something ended it."""
    Counter("api_worker_starts_total", "Starts of workers.", ["worker"], registry=registry).labels(worker).inc()


def exposition(directory: Path) -> bytes:
    """The merged samples of every process that shares `directory`, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class Reloads:
    """`api_config_reloads_total{result}`: what became of changed files. Both results count from 0."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        counter = Counter("api_config_reloads_total", "Changes of configuration files.", ["result"], registry=registry)
        self.applied, self.rejected = counter.labels("applied"), counter.labels("rejected")
