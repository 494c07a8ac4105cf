"""Wires one receiver: `python -m accesslog_service -c gatehouse.yaml`."""

import asyncio
import sys
from pathlib import Path

from accesslog_service.departure import Departure
from accesslog_service.http.serving import serving
from accesslog_service.service import Receiver
from accesslog_service.sinks.jsonl import RequestLog
from accesslog_service.sinks.labels import Labels
from accesslog_service.sinks.prometheus import RequestMetrics
from gatehouse.daily_file import DailyFile
from gatehouse.server import Health, serve
from gatehouse.worker import GRACE_S, Worker, run


async def main(worker: Worker) -> None:
    """Receive until told to stop; then everything received is on the disk."""
    config, run_dir = worker.config, worker.run_dir
    file = DailyFile(Path(config.logging.dir), "requests", config.logging.retention_days)
    metrics = RequestMetrics(Labels(config))
    requests = RequestLog(file, metrics.lost)
    health = Health()
    departure = Departure(worker.stop, health)
    receiver = Receiver((metrics.take, requests.take), config.the_default_model, departure)
    async with requests.writing(), serving(config, run_dir, worker.index), asyncio.TaskGroup() as tasks:
        tasks.create_task(departure.run())
        await serve(receiver.service(health), run_dir.socket("accesslog", worker.index), departure.over, GRACE_S)


if __name__ == "__main__":
    sys.exit(run("accesslog", main))
