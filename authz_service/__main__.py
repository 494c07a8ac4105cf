"""`python -m authz_service`: the process that answers ext_authz."""

import sys
from contextlib import AsyncExitStack

from authz_service.metrics import Metrics
from authz_service.principals import principals
from authz_service.service import Authz
from gatehouse.server import Service, serve
from gatehouse.worker import GRACE_S, Worker, run


async def main(worker: Worker) -> None:
    """One worker, until it is told to stop."""
    async with AsyncExitStack() as stack:
        tokens = None
        if worker.config.jwt:
            from authz_service.sso.principals import following  # cryptography and an HTTP client: 20 MB

            tokens = await stack.enter_async_context(following(worker.config))
        authz = Authz(principals(worker.config.api_keys), Metrics.make(), tokens=tokens)
        await serve(Service(authz.methods), worker.run_dir.socket("authz", worker.index), worker.stop, GRACE_S)


if __name__ == "__main__":
    sys.exit(run("authz", main))
