"""`/ui/data`: the data of the operator's page, as JSON. Built at most once a second, however many viewers there are."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp.web import Request, Response, json_response

from gatehouse import __version__
from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir
from portal_service import envoy_stats
from portal_service.cached import Cached
from portal_service.near_limits import NearLimits
from portal_service.tally import live
from portal_service.tally.usage_db import UsageDb

KEPT_S = 1.0

log = logging.getLogger(__name__)

Health = Callable[[], Awaitable[Mapping[str, Any]]]


class Overview:
    """The state of the gateway. Parts that can't be read now are empty, and `behind` is set."""

    def __init__(self, config: Config, run_dir: RunDir, db: UsageDb, health: Health, near: NearLimits) -> None:
        self._config = config
        self._run_dir = run_dir
        self._db = db
        self._health = health
        self._near = near
        self._kept = Cached(self._made, KEPT_S)

    def adopt(self, config: Config) -> None:
        """Use `config` from now on."""
        self._config = config
        self._kept.forget()

    async def data(self, _request: Request) -> Response:
        return json_response(await self._kept.get(), headers={"Cache-Control": "no-store"})

    async def _made(self) -> dict[str, Any]:
        now = time.time()
        stats, health, near, told = await asyncio.gather(
            envoy_stats.read(self._run_dir.admin_socket),
            self._health(),
            self._near.now(),
            asyncio.to_thread(self._read, now),
        )
        in_flight = envoy_stats.by_model(stats, envoy_stats.IN_FLIGHT, self._config.known_models())
        models = _models(health["models"], in_flight, told.pop("models"))
        return {
            "time": now,
            "version": __version__,
            "status": health["status"],
            "in_flight": sum(in_flight.values()),
            "models": models,
            "limits": [each.plain() for each in near],
            **told,
        }

    def _read(self, now: float) -> dict[str, Any]:
        today = datetime.fromtimestamp(now, UTC).date().isoformat()
        try:
            with self._db.reading() as db:
                return {
                    "traffic": live.traffic(db, now),
                    "models": live.models(db, now),
                    "users": live.users(db, today),
                    "errors": live.mistakes(db),
                    "behind": False,
                }
        except sqlite3.Error as error:
            log.warning("/ui shows no traffic: %s", error)
            return {"traffic": [], "models": {}, "users": [], "errors": [], "behind": True}


def _models(
    served: Mapping[str, Any], in_flight: Mapping[str, float], seen: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Configured models, and other names that requests used."""
    nothing = {"requests": 0, "failed": 0, "tokens_per_s": 0.0, "ttft_ms": None}
    return [
        {
            "name": name,
            "backends": served[name]["backends"] if name in served else [],
            "in_flight": in_flight.get(name, 0),
            **nothing,
            **seen.get(name, {}),
        }
        for name in [*served, *(name for name in seen if name not in served)]
    ]
