"""Wires the process whose turn it is."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from gatehouse.config.model import Config
from gatehouse.contract.labels import MAX_MODELS, Names
from gatehouse.files import tally_file
from gatehouse.process import worker
from gatehouse.process.worker import Worker
from portal_service.serving import serving
from portal_service.tally.follow import Follower
from portal_service.tally.usage_db import UsageDb
from portal_service.turn import Turn

log = logging.getLogger(__name__)

ALIVE_EVERY_S = 0.2


def run(turn: Turn | None) -> int:
    """The service, or one process of it once it is its `turn`; returns the exit status."""
    return worker.run("portal", partial(main, turn))


async def main(turn: Turn | None, worker: Worker) -> None:
    """Serve and update the tally until stopped; on return the tally covers the whole request log."""
    config = worker.config
    logs = Path(config.logging.dir)
    db = UsageDb(logs / tally_file.NAME)
    models = Names(config.known_models(), MAX_MODELS if config.vllm else 0)
    taken_over(turn)
    async with AsyncExitStack() as stack:
        if turn:
            await stack.enter_async_context(alive(turn))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(Follower(logs, db, models.label).run(worker.stop))
        serves = await stack.enter_async_context(serving(config, worker.run_dir, db))

        def adopt(changed: Config) -> None:
            models.know(changed.known_models())
            serves(changed)

        await stack.enter_async_context(worker.following(adopt))
        await worker.stop.wait()


@asynccontextmanager
async def alive(turn: Turn) -> AsyncIterator[None]:
    """While the block and the event loop run, keep the standby from taking over."""

    async def tell() -> None:
        while True:
            turn.alive()
            await asyncio.sleep(ALIVE_EVERY_S)

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()


def taken_over(turn: Turn | None, registry: CollectorRegistry = REGISTRY) -> None:
    """Count and log a takeover from another process, if there was one."""
    counter = Counter(
        "api_portal_takeovers_total",
        "Times the standby of portal_service took over, from a process that ended or hung.",
        ["reason"],
        registry=registry,
    )
    reasons = {reason: counter.labels(reason) for reason in ("ended", "hung")}
    if turn and turn.killed:
        log.error("portal process %d hung and was killed; this process takes over", turn.killed)
        reasons["hung"].inc()
    elif turn and turn.waited:
        log.warning("the portal process before this one has ended; this process takes over")
        reasons["ended"].inc()
