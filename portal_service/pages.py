"""Handlers of the gateway's own pages."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import ClientSession
from aiohttp.web import Request, Response, json_response

from gatehouse import __version__, metrics
from gatehouse.config.model import Config, Server
from gatehouse.config.run_dir import RunDir
from gatehouse.contract.errors import LIMITS_UNAVAILABLE, NOT_FOUND, ClientError
from gatehouse.contract.names import CALLER_HEADERS
from portal_service import backends, catalogue, envoy_stats, health, near_limits, teams
from portal_service.cached import Cached
from portal_service.limits_left import LimiterUnavailableError, LimitsLeft
from portal_service.near_limits import NearLimits
from portal_service.neighbours import Neighbours
from portal_service.tally.usage import usage
from portal_service.tally.usage_db import UsageDb

log = logging.getLogger(__name__)

HEALTH_KEPT_S = 0.005
METRICS_KEPT_S = 0.1
MODELS_KEPT_S = 5.0
TEAMS_KEPT_S = 15.0

IDENTITY_HEADERS = {
    "user": "x-gatehouse-user",
    "team": "x-gatehouse-team",
    "tier": "x-gatehouse-tier",
    "key_id": "x-gatehouse-key-id",
}
_CALLER_HEADER = {field: header for header, field in CALLER_HEADERS.items()}

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TEXT = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Pages:
    """Request handlers. `session` is the HTTP client for the model servers."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        session: ClientSession,
        allowance: LimitsLeft,
        db: UsageDb,
        near: NearLimits,
        neighbours: Neighbours,
    ) -> None:
        self._config = config
        self._allowance = allowance
        self._db = db
        self._near = near
        self._neighbours = neighbours
        self._run_dir = run_dir
        self._session = session
        self._started = int(time.time())
        self._health = Cached(self._probe, HEALTH_KEPT_S)
        self._metrics = {
            openmetrics: Cached(partial(self._exposition, openmetrics), METRICS_KEPT_S) for openmetrics in (False, True)
        }
        self._teams = Cached(self._ask_for_teams, TEAMS_KEPT_S)
        self._served = Cached(self._ask_for_models, MODELS_KEPT_S)

    @property
    def server(self) -> Server:
        """Where the pages are shown."""
        return self._config.server

    def adopt(self, config: Config) -> None:
        """Use `config` from now on."""
        self._config = config
        self._health.forget()
        self._served.forget()
        for exposition in self._metrics.values():
            exposition.forget()

    async def front(self, _request: Request) -> Response:
        links = {"models": "/v1/models", "chat": "/v1/chat/completions", "usage": "/usage", "health": "/health"}
        if self._config.public_metrics:
            links["metrics"] = "/metrics"
        return json_response({"name": "gatehouse", "version": __version__, "links": links})

    async def public_health(self, _request: Request) -> Response:
        """Public: without the model servers' addresses, which are for operators."""
        return self._of_health(health.without_urls(await self.health_report()))

    async def health(self, _request: Request) -> Response:
        return self._of_health(await self.health_report())

    def _of_health(self, report: dict[str, Any]) -> Response:
        if self._run_dir.draining.exists():
            report = {**report, "status": "draining"}
        if report["status"] == "healthy":
            return json_response(report)
        return json_response(report, status=503, headers={"Retry-After": "1"})

    async def health_report(self) -> dict[str, Any]:
        """The body of the operators' `/health`."""
        return await self._health.get()

    async def public_metrics(self, request: Request) -> Response:
        """The metrics, through Envoy, if the configuration allows it."""
        return await self.metrics(request) if self._config.public_metrics else refused(NOT_FOUND)

    async def metrics(self, request: Request) -> Response:
        openmetrics = OPENMETRICS_TEXT.partition(";")[0] in request.headers.get("Accept", "")
        content_type = OPENMETRICS_TEXT if openmetrics else PROMETHEUS_TEXT
        return Response(body=await self._metrics[openmetrics].get(), headers={"Content-Type": content_type})

    async def models(self, request: Request) -> Response:
        may_use = _usable(request)
        seen = [entry for entry in await self._catalogue() if may_use(entry["id"])]
        return json_response({"object": "list", "data": seen})

    async def model(self, request: Request) -> Response:
        found = catalogue.find(await self._catalogue(), request.match_info["id"], _usable(request))
        return refused(found) if isinstance(found, ClientError) else json_response(found)

    async def usage(self, request: Request) -> Response:
        """The caller's limits and usage. Envoy has set the caller's identity."""
        who = {field: request.headers.get(header, "") for field, header in IDENTITY_HEADERS.items()}
        limits, family = (_said(request, field) for field in ("key_limits", "key_family"))
        model, asks = (request.query.get(name, "") for name in ("model", "asks"))
        try:
            left = await self._allowance.of(**who, key_limits=limits, key_family=family, model=model, asks=asks)
        except LimiterUnavailableError:
            return refused(LIMITS_UNAVAILABLE)
        identity = {field: value or None for field, value in who.items()}
        used = await asyncio.to_thread(self._used, who["user"], who["key_id"])
        return json_response({"object": "usage", **identity, **left, **used})

    def _used(self, user: str, key: str) -> dict[str, Any]:
        """Usage by day; nulls while the tally can't be read, as limits are useful without it."""
        try:
            return usage(self._db, user, key, datetime.now(UTC).date())
        except sqlite3.Error as error:
            log.warning("/v1/usage tells limits alone: %s", error)
            return dict.fromkeys(("today", "month", "days", "key"))

    async def _probe(self) -> dict[str, Any]:
        config = self._config  # a reload may replace it during the requests to the model servers
        each = {health.place(backend): backend for group in health.backends(config).values() for backend in group}
        asked = asyncio.gather(*(backends.alive(self._session, backend) for backend in each.values()))
        answers, services = await asyncio.gather(asked, self._neighbours.now())
        return health.report(config, dict(zip(each, answers, strict=True)), services)

    async def _exposition(self, openmetrics: bool) -> bytes:
        stats, near = await asyncio.gather(envoy_stats.read(self._run_dir.admin_socket), self._near.now())
        told = envoy_stats.exposition(stats, self._config.known_models())
        beside = told + near_limits.exposition(near) + await self._teams.get()
        return await asyncio.to_thread(metrics.exposition, self._run_dir.metrics, beside, openmetrics=openmetrics)

    async def _ask_for_teams(self) -> bytes:
        return await asyncio.to_thread(teams.exposition, self._db, datetime.now(UTC).date())

    async def _catalogue(self) -> list[catalogue.Entry]:
        """In the short form, the model server's own list; while it is unreachable, the default model."""
        if self._config.vllm:
            try:
                return await self._served.get()
            except backends.UnreachableError:
                pass
        return catalogue.entries(self._config.known_models(), self._started)

    async def _ask_for_models(self) -> list[dict[str, Any]]:
        if self._config.vllm is None:  # the configuration was reloaded during the request
            raise backends.UnreachableError("there is no one model server")
        return await backends.models(self._session, self._config.vllm.base_url)


def _said(request: Request, field: str) -> str:
    """A header about the caller that Envoy sets after authorization; empty if missing."""
    said = request.headers.get(_CALLER_HEADER[field], "")
    return "" if said == "-" else said


def _usable(request: Request) -> catalogue.Usable:
    return catalogue.usable(_said(request, "models"), _said(request, "expressions"))


def refused(error: ClientError, headers: Mapping[str, str] | None = None) -> Response:
    """The response that reports `error` to a client."""
    retry = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return json_response(body=error.json(), status=error.status, headers={**retry, **(headers or {})})
