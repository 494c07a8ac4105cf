"""Switches a running Envoy to another rendered configuration through the two files it watches; no request is dropped.

Clusters are added before the routes that name them, and are warm first (each backend has had a health check). They are
removed long after their routes: a request is routed by the routes of the time it began, and its body may take a while.
Removing or changing a cluster cuts no running stream: Envoy drains the connections (measured by
tests/integration/test_reload.py).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from gatehouse.contract import names
from gatehouse.envoy import Rendered
from gatehouse.envoy.message import Message
from gatehouse.envoy.render import BOOTSTRAP, CLUSTERS, ROUTES, versioned
from gatehouse.gateway.envoy_admin import Admin
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, write

log = logging.getLogger(__name__)

LINGER_S = 150.0
"""How long a cluster outlives its routes: longer than a request's body may take (`request_timeout`), and the rest."""
WARM_S = 2.5
"""Time for a new backend to answer a health check; after that the routes change anyway, and it counts as down."""
TAKEN_S = 3.0
UNTOLD_S = 0.5
"""Time for each step if Envoy's admin socket can't be reached."""
_LOOK_S = 0.02

_IN_TURN = (BOOTSTRAP, CLUSTERS, ROUTES)
_CDS, _RDS = "cluster_manager.cds", f"http.gatehouse.rds.{names.ROUTES}"
_WARMING = "cluster_manager.warming_clusters"


class Switch:
    """The files in `directory` and the Envoy that watches them; `rendered` is their content."""

    def __init__(self, directory: Path, admin: Admin, rendered: Rendered, linger_s: float = LINGER_S) -> None:
        self._directory = directory
        self._admin = admin
        self._linger_s = linger_s
        self._rendered = rendered
        self._leaving: dict[str, tuple[Message, float]] = {}
        self._written = {CLUSTERS: rendered.clusters["version_info"], ROUTES: rendered.routes["version_info"]}

    @property
    def rendered(self) -> Rendered:
        """The active configuration."""
        return self._rendered

    async def to(self, new: Rendered, before_routes: Callable[[], None] = lambda: None) -> None:
        """Apply `new`, whose bootstrap must be the same; `before_routes` is called once its clusters are warm.

        Returns once Envoy uses its routes. Raises `EnvoyRejectsError`; the old configuration then stays active.
        """
        old, leaving = self._rendered, self._leaving
        self._leaving = _leaving(old, new, leaving, time.monotonic() + self._linger_s)
        for name, document in new.files().items():
            if name not in _IN_TURN and document != old.files().get(name):
                write(document, self._directory / name)  # before the clusters that refer to it; may stay
        try:
            self._place(new)
            if await self._put(CLUSTERS, self._with_leaving(new), _CDS):
                await self._warm()
            before_routes()
            await self._put(ROUTES, new.routes, _RDS)
        except EnvoyRejectsError:
            self._leaving = leaving
            self._place(old)
            self._write(CLUSTERS, self._with_leaving(old))
            self._write(ROUTES, old.routes)
            raise
        self._rendered = new

    def due_s(self) -> float | None:
        """Seconds until `forget` has a cluster to remove; None if no cluster lingers."""
        untils = [until for _, until in self._leaving.values()]
        return max(0.0, min(untils) - time.monotonic()) if untils else None

    async def forget(self) -> None:
        """Remove the clusters whose time is up. Raises `EnvoyRejectsError`."""
        now = time.monotonic()
        self._leaving = {name: kept for name, kept in self._leaving.items() if kept[1] > now}
        await self._put(CLUSTERS, self._with_leaving(self._rendered), _CDS)

    def _place(self, rendered: Rendered) -> None:
        """Write the credentials' files, before clusters refer to them. Those of removed clusters stay."""
        for name, document in rendered.secrets.items():
            write(document, self._directory / name)

    def _with_leaving(self, rendered: Rendered) -> Message:
        resources = [*rendered.clusters["resources"], *(cluster for cluster, _ in self._leaving.values())]
        return versioned(resources) if self._leaving else rendered.clusters

    async def _put(self, name: str, document: Message, source: str) -> bool:
        """Write `document` and wait until Envoy has applied it, or does not answer. False if it is already applied."""
        if self._written[name] == document["version_info"]:
            return False
        rejected = f"{source}.update_rejected"
        before = (await self._stats(source)).get(rejected)
        self._write(name, document)
        deadline = time.monotonic() + TAKEN_S
        while time.monotonic() < deadline:
            told = await self._stats(source)
            if not told:
                await asyncio.sleep(UNTOLD_S)
                return True
            if told.get(f"{source}.version_text") == document["version_info"]:
                return True
            if before is not None and told.get(rejected) != before:
                raise EnvoyRejectsError(f"Envoy rejected {name}; see its log")
            await asyncio.sleep(_LOOK_S)
        log.warning("Envoy has not applied %s within %.0f s; it will do so later", name, TAKEN_S)
        return True

    def _write(self, name: str, document: Message) -> None:
        write(document, self._directory / name)
        self._written[name] = document["version_info"]

    async def _warm(self) -> None:
        deadline = time.monotonic() + WARM_S
        while (told := await self._stats(_WARMING)) and told.get(_WARMING, "0") != "0":
            if time.monotonic() > deadline:
                log.warning("backends of a changed model have not answered within %.1f s", WARM_S)
                return
            await asyncio.sleep(_LOOK_S)

    async def _stats(self, start: str) -> dict[str, str]:
        """Empty if Envoy does not answer."""
        try:
            return await self._admin.stats(f"^{start}")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return {}


def _leaving(
    old: Rendered, new: Rendered, leaving: dict[str, tuple[Message, float]], until: float
) -> dict[str, tuple[Message, float]]:
    """Clusters that `new` no longer has, each with the time at which to remove it."""
    kept = {cluster["name"] for cluster in new.clusters["resources"]}
    going = {cluster["name"]: (cluster, until) for cluster in old.clusters["resources"]}
    return {name: entry for name, entry in {**leaving, **going}.items() if name not in kept}
