"""Wires one receiver: `python -m accesslog_service -c gatehouse.yaml`."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from accesslog_service.bodies import collecting
from accesslog_service.disk_budget import Room
from accesslog_service.entry import record
from accesslog_service.leaving import Leaving
from accesslog_service.rotation import Rotation
from accesslog_service.service import Receiver, Sink, ToRecord
from accesslog_service.settlements import Limiter
from accesslog_service.sinks.exemplars import Exemplars
from accesslog_service.sinks.gen_ai import GenAiMetrics
from accesslog_service.sinks.jsonl import RequestLog
from accesslog_service.sinks.labels import Labels
from accesslog_service.sinks.otlp import sender
from accesslog_service.sinks.prometheus import RequestMetrics
from accesslog_service.stand_in import StandIn
from accesslog_service.strangers import Strangers
from gatehouse.config.model import Config
from gatehouse.config.prices import prices
from gatehouse.config.run_dir import first_rank, workers
from gatehouse.files.daily_file import DailyFile
from gatehouse.files.retention import Retention
from gatehouse.gateway.envoy_admin import Admin
from gatehouse.process.worker import GRACE_S, Worker, run
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Health


def _to_record(config: Config) -> ToRecord:
    return partial(record, default_model=config.effective_default_model, prices=prices(config))


async def main(worker: Worker) -> None:
    """Receive until told to stop; then everything received is on the disk, and every limiter knows of it."""
    config, run_dir = worker.config, worker.run_dir
    logs = Path(config.logging.dir)
    file = DailyFile(logs, "requests", config.logging.retention_days)
    labels = Labels(config)
    exemplars = Exemplars(run_dir.metrics, f"accesslog-{worker.index}")
    metrics = RequestMetrics(labels, run_dir.metrics, exemplars)
    requests = RequestLog(file, metrics.lost)
    strangers = Strangers(metrics.unwritten)
    limiters = [run_dir.socket("ratelimit", i) for i in range(workers(config, "ratelimit"))]
    deciding = first_rank(len(limiters))
    limiter = Limiter(limiters, metrics.unsettled, deciding=deciding, everyone=config.settles())
    health = Health()
    leaving = Leaving(worker.stop, health)
    sinks: list[Sink] = [metrics.take, lambda ended: requests.take(strangers.worth_writing(ended)), limiter.ended]
    gen_ai = GenAiMetrics(config, labels) if config.tracing.on else None
    if gen_ai:
        sinks.append(gen_ai.take)
    receiver = Receiver(sinks, limiter.running, _to_record(config), leaving, metrics)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(requests.writing())
        await stack.enter_async_context(limiter.telling())
        await stack.enter_async_context(exemplars.writing())
        if gen_ai:
            await stack.enter_async_context(sender(config, gen_ai, f"accesslog-{worker.index}").sending())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(leaving.run())
        telling = tasks.create_task(strangers.tell(Admin(run_dir.admin_socket).post))
        kept = [file.retention, *(await _for_all(worker, stack, tasks, metrics.dropped) if worker.index == 0 else [])]

        def adopt(changed: Config) -> None:
            receiver.to_record = _to_record(changed)
            limiter.everyone = changed.settles()
            labels.adopt(changed)
            if gen_ai:
                gen_ai.adopt(changed)
            for retention in kept:
                retention.days = changed.logging.retention_days

        await stack.enter_async_context(worker.following(adopt))
        await serve(
            receiver.service(health, StandIn(limiters).methods),
            run_dir.socket("accesslog", worker.index),
            leaving.over,
            GRACE_S,
        )
        telling.cancel()


async def _for_all(
    worker: Worker, stack: AsyncExitStack, tasks: asyncio.TaskGroup, dropped: Callable[[int], None]
) -> list[Retention]:
    """What one receiver does for the whole gateway, until `stack` is left. Returns the retentions of its files."""
    logging, run_dir = worker.config.logging, worker.run_dir
    leave_word = partial(run_dir.leave_word, Path(logging.dir))
    leave_word()
    admin = Admin(run_dir.admin_socket)
    rotation = Rotation(Path(logging.dir), logging.retention_days, admin.ready, admin.reopen_logs, leave_word)
    rotating = tasks.create_task(rotation.run())
    stack.callback(rotating.cancel)
    room = Room(Path(logging.dir), lambda: worker.config.logging.max_gb, dropped)
    keeping = tasks.create_task(room.keep())
    stack.callback(keeping.cancel)
    bodies = [] if logging.bodies == "off" else [await stack.enter_async_context(collecting(run_dir.bodies, logging))]
    return [rotation.retention, *(each.retention for each in bodies)]


if __name__ == "__main__":
    sys.exit(run("accesslog", main))
