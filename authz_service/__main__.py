"""`python -m authz_service`: the process that answers ext_authz."""

import sys

from authz_service.access import Rules
from authz_service.metrics import Metrics
from authz_service.principals import principals
from authz_service.service import Authz
from gatehouse.rpc import Service
from gatehouse.server import serve
from gatehouse.worker import GRACE_S, Worker, run


async def main(worker: Worker) -> None:
    """One worker, until it is told to stop."""
    authz = Authz(principals(worker.config.api_keys), Rules(worker.config), Metrics.make())
    await serve(Service(authz.methods), worker.run_dir.socket("authz", worker.index), worker.stop, GRACE_S)


if __name__ == "__main__":
    sys.exit(run("authz", main))
