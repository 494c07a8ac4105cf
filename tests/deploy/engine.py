"""A Docker engine for tests of what is deployed: the images are built, and compose is started, as a user does it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from testcontainers.compose import DockerCompose
from testcontainers.core.config import testcontainers_config

from testkit.running_gateway import ROOT

IMAGE = "gatehouse:test"
DIRECTORY = ROOT / "deploy" / "compose"


@cache
def no_engine() -> str | None:
    """Why nothing can run in containers here; None if it can."""
    if shutil.which("docker") is None:
        return "needs the docker command"
    return "needs a Docker engine that answers (start dockerd)" if _fails("docker", "info") else None


@cache
def no_compose() -> str | None:
    """Why compose files can't even be read here; None if they can."""
    if shutil.which("docker") is None:
        return "needs the docker command"
    return "needs docker compose, version 2" if _fails("docker", "compose", "version") else None


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0


def skip_if(reason: str | None) -> None:
    """For fixtures: the engine is asked when a test wants it, not when tests are collected."""
    if reason:
        pytest.skip(reason)


def docker(*arguments: str, timeout_s: float = 300) -> str:
    """Standard output of a docker command, which must succeed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@cache
def image() -> str:
    """The project's image, built from this tree."""
    docker("build", "-f", str(ROOT / "deploy" / "Dockerfile"), "-t", IMAGE, str(ROOT), timeout_s=1200)
    return IMAGE


class Project:
    """One start of `deploy/compose`, apart from any other on this engine by its name and what `settings` give it."""

    def __init__(self, name: str, profiles: Sequence[str], settings: Mapping[str, str], directory: Path) -> None:
        self.name = name
        file = directory / ".env"  # instead of the one of whoever works here
        values = {"COMPOSE_PROJECT_NAME": name, "GATEHOUSE_IMAGE": IMAGE, **settings}
        file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        self.compose = DockerCompose(DIRECTORY, env_file=str(file), profiles=list(profiles))

    def run(self, *arguments: str) -> str:
        """Standard output of `docker compose ARGUMENTS`, which must succeed."""
        return docker(*self.compose.docker_compose_command()[1:], "--project-directory", str(DIRECTORY), *arguments)

    def config(self) -> dict[str, Any]:
        """The file as compose understands it, every value in place."""
        document: dict[str, Any] = json.loads(self.run("config", "--format", "json"))
        return document

    def states(self) -> dict[str, str]:
        """Service -> `healthy`, `running`, `exited`, …"""
        return {c.Service or "": c.Health or c.State or "" for c in self.compose.get_containers(include_all=True)}

    def inspected(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a service's container."""
        container = self.compose.get_container(service, include_all=True)
        found: dict[str, Any] = json.loads(docker("inspect", str(container.ID)))[0]
        return found

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of this project."""
        label = f"label=com.docker.compose.project={self.name}"
        listings = (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        return [one for listing in listings for one in docker(*listing, "--filter", label).split()]


for _name in [name for name in os.environ if name.startswith("COMPOSE_")]:
    del os.environ[_name]  # profiles and project of whoever runs the tests
testcontainers_config.ryuk_disabled = True  # one more image to pull, to clean up what these tests clean up themselves
