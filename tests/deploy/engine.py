"""A Docker engine for tests of what is deployed: images are built as a user builds them, compose is the real one."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.running_gateway import ROOT

IMAGE = "gatehouse:test"
COMPOSE_FILE = ROOT / "deploy" / "compose" / "compose.yaml"
COMPOSE_TIMEOUT_S = 600


@cache
def missing() -> str | None:
    """Why nothing here can run in containers; None if it can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if _quiet("docker", "info"):
        return "no Docker engine answers: start one (dockerd) to run what is deployed"
    return None


@cache
def compose_missing() -> str | None:
    """Why compose files can't even be read."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    return "there is no docker compose, version 2" if _quiet("docker", "compose", "version") else None


def _quiet(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


needs_engine = pytest.mark.skipif("missing()", reason="needs a Docker engine")


def skip_without_engine() -> None:
    """For fixtures: the engine is asked when a test wants it, not when tests are collected."""
    reason = missing() or compose_missing()
    if reason:
        pytest.skip(reason)


def docker(*arguments: str, timeout_s: float = COMPOSE_TIMEOUT_S) -> str:
    """Standard output of a docker command, which must succeed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@cache
def image() -> str:
    """The project's image, built from this tree."""
    docker("build", "-f", str(ROOT / "deploy" / "Dockerfile"), "-t", IMAGE, str(ROOT), timeout_s=1200)
    return IMAGE


class Compose:
    """One project of `deploy/compose`, apart from any other on this engine by its name and its ports."""

    def __init__(self, project: str, profiles: Sequence[str], environment: Mapping[str, str]) -> None:
        self.project = project
        self._environment = {**os.environ, **environment}
        named = [option for profile in profiles for option in ("--profile", profile)]
        # An .env of whoever works here is not part of the test.
        self._command = ["docker", "compose", "--env-file", os.devnull, "-f", str(COMPOSE_FILE), "-p", project, *named]

    def __call__(self, *arguments: str) -> str:
        """Standard output of `docker compose ARGUMENTS`, which must succeed."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPOSE_TIMEOUT_S,
        )
        assert done.returncode == 0, f"compose {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def parsed(self) -> dict[str, Any]:
        """The file as compose understands it, with every value in place."""
        document: dict[str, Any] = json.loads(self("config", "--format", "json"))
        return document

    def containers(self) -> dict[str, dict[str, Any]]:
        """Service -> what compose says of its container."""
        lines = self("ps", "--all", "--format", "json").splitlines()
        return {one["Service"]: one for one in map(json.loads, lines)}

    def inspected(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a service's container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.containers()[service]["ID"]))[0]
        return found

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of this project."""
        label = f"label=com.docker.compose.project={self.project}"
        return [
            *docker("ps", "-aq", "--filter", label).split(),
            *docker("volume", "ls", "-q", "--filter", label).split(),
            *docker("network", "ls", "-q", "--filter", label).split(),
        ]


def compose_directory() -> Path:
    return COMPOSE_FILE.parent
