"""`python -m ratelimit_service`: the process that answers Envoy's rate limit calls.

With `-c gatehouse.yaml` it is a sidecar of the gateway. The drop-in for envoyproxy/ratelimit is
`python -m ratelimit_service.dropin`; its options, or `RUNTIME_ROOT`, still lead to it from here, with a word on that.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gatehouse.process.worker import GRACE_S, Worker, run
from gatehouse.rpc.server import serve
from gatehouse.rpc.service import Service
from ratelimit_service.estimate.answer_lengths import Lengths
from ratelimit_service.from_tally import restored
from ratelimit_service.metrics import Metrics
from ratelimit_service.plan import Plans
from ratelimit_service.rules.key_rules import KeyRules
from ratelimit_service.service import RateLimits
from ratelimit_service.store.memory import MemoryStore
from ratelimit_service.store.port import Store
from ratelimit_service.store.restoring import raise_to


async def main(worker: Worker) -> None:
    """Run one worker until it is told to stop."""
    metrics = Metrics()
    key_rules, lengths = KeyRules(metrics.on_unreadable_limits), Lengths()
    plans = Plans(worker.config, key_rules, lengths)
    store = await _store(worker, metrics, plans)
    limits = RateLimits(plans, store, metrics, worker.index)
    try:
        async with worker.following(lambda config: limits.adopt(Plans(config, key_rules, lengths))):
            await serve(Service(limits.methods), worker.run_dir.socket("ratelimit", worker.index), worker.stop, GRACE_S)
    finally:
        metrics.flush()
        await store.close()


async def _store(worker: Worker, metrics: Metrics, plans: Plans) -> Store:
    """Redis, shared by all workers and gateways, or the memory of this process. If it is empty, limits of a day and
    more start with the usage in the request log's tally."""
    remembered = partial(restored, plans, Path(worker.config.logging.dir), metrics.on_unrestored)
    url = worker.config.redis.url
    if url is None:
        store = MemoryStore()
        await raise_to(store, await remembered())
        return store
    from ratelimit_service.shared_store import shared_store  # imports a Redis client

    return await shared_store(url, worker.config, metrics, remembered)


def drops_in(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether to run as envoyproxy/ratelimit: our options or its own environment variable name its files."""
    named = any(argument.split("=")[0] in ("--runtime-root", "--check") for argument in arguments)
    return named or (not arguments and "RUNTIME_ROOT" in environment)


if __name__ == "__main__":
    if drops_in(sys.argv[1:], os.environ):
        from ratelimit_service.dropin import serve as dropin  # imports an HTTP server and grpcio

        print(f"this is now started by: {dropin.PROGRAM}", file=sys.stderr)
        sys.exit(dropin.run(sys.argv[1:]))
    sys.exit(run("ratelimit", main))
