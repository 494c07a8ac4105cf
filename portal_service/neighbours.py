"""Health of the other services: is any of their workers serving?"""

import asyncio
from collections.abc import Mapping

from gatehouse.config.model import Config
from gatehouse.config.run_dir import GRPC_SERVICES, RunDir, Service, workers
from gatehouse.rpc.health_client import serves
from portal_service.cached import Cached

KEPT_S = 1.0
TIMEOUT_S = 0.4
"""Load balancers time out `/health` after about a second: a service that hangs must not delay the answer."""


class Neighbours:
    """Polled at most once a second, however many callers there are."""

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        """How many workers there are is fixed at the start of a gateway."""
        self._sockets = {
            service: [run_dir.socket(service, index) for index in range(workers(config, service))]
            for service in GRPC_SERVICES
        }
        self._cached = Cached(self._ask, KEPT_S)

    async def now(self) -> Mapping[Service, bool]:
        """Whether a worker of each service reports SERVING."""
        return await self._cached.get()

    async def _ask(self) -> dict[Service, bool]:
        answers = await asyncio.gather(*map(self._well, self._sockets))
        return dict(zip(self._sockets, answers, strict=True))

    async def _well(self, service: Service) -> bool:
        return any(await asyncio.gather(*(serves(socket, TIMEOUT_S) for socket in self._sockets[service])))
