"""The run directory: the sockets and files by which the processes of one gateway find each other."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatehouse.config.model import Config
from gatehouse.contract.names import RUN_DIR

log = logging.getLogger(__name__)

Service = Literal["authz", "ratelimit", "accesslog", "portal"]
GRPC_SERVICES: tuple[Service, ...] = ("authz", "ratelimit", "accesslog")
"""The services that Envoy calls by gRPC, each worker on its own socket."""
SERVICES: tuple[Service, ...] = (*GRPC_SERVICES, "portal")

ACCESSLOG_RECEIVERS = 2
"""Always two, since Envoy drops entries while its only receiver is down."""

PORTAL_PROCESSES = 2
"""One is active, the other is its standby."""


DEFAULT_RUN_DIR = Path(RUN_DIR)
_WORD = ".run_dir"


def found_run_dir(log_directory: Path) -> Path | None:
    """The run directory of the gateway that writes its logs to `log_directory`; None if none runs."""
    word = log_directory / _WORD
    candidates = [Path(word.read_text())] if word.exists() else []
    return next((path for path in (*candidates, DEFAULT_RUN_DIR) if path.is_dir()), None)


def workers(config: Config, service: Service) -> int:
    """How many processes of `service` run.

    Counters kept in memory are right in one process only, so without Redis there is one `ratelimit` worker.
    """
    if service == "accesslog":
        return ACCESSLOG_RECEIVERS
    if service == "portal":
        return PORTAL_PROCESSES
    if service == "ratelimit" and config.redis.url is None:
        return 1
    return config.server.workers


def first_rank(workers: int) -> int:
    """How many of the authz or ratelimit workers Envoy normally calls: half. The others are standbys, for when those
    are down or a call to one has failed.

    Waking a process for a single call costs more than the call; the fewer workers are called, the more calls each finds
    waiting. Envoy itself needs more than half of the CPU, so half of the workers are enough.
    """
    return -(-workers // 2)


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths below one directory. Unix socket paths are limited to about 100 bytes: keep `path` short."""

    path: Path

    def socket(self, service: Service, index: int) -> Path:
        """The gRPC socket of worker `index` of `service`."""
        return self.path / f"{service}-{index}.sock"

    @property
    def portal_socket(self) -> Path:
        """The socket on which the active process of portal_service serves the gateway's own HTTP routes."""
        return self.path / "portal.sock"

    @property
    def accepted(self) -> Path:
        """The services' copy of the last accepted `gatehouse.yaml`."""
        return self.path / "gatehouse.yaml"

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface, never on a TCP port."""
        return self.path / "envoy-admin.sock"

    def restrictions(self, index: int) -> Path:
        """The key store's last known revocations of keys in files, for worker `index` of authz if it restarts while the
        store is down."""
        return self.path / f"authz-{index}.restrictions.jsonl"

    def leave_word(self, log_directory: Path) -> None:
        """Make this directory findable through the log directory. Not fatal: commands can be given the path instead."""
        try:
            log_directory.mkdir(parents=True, exist_ok=True)
            (log_directory / _WORD).write_text(str(self.path.absolute()))
        except OSError as error:
            log.warning("can't record the run directory in %s: %s", log_directory, error)

    @property
    def draining(self) -> Path:
        """Exists while the gateway drains; `/health` then reports it."""
        return self.path / "draining"

    @property
    def replaced(self) -> Path:
        """Exists once another gateway has taken over."""
        return self.path / "replaced"

    @property
    def base_id(self) -> Path:
        """Where the first Envoy of a chain writes its base id (`gatehouse.gateway.generation`)."""
        return self.path / "base-id"

    @property
    def cut(self) -> Path:
        """The ids of revoked keys whose running streams must end, one a line: from authz_service to Envoy."""
        return self.path / "cut"

    @property
    def metrics(self) -> Path:
        """The metric samples of every process, merged when Prometheus scrapes."""
        return self.path / "metrics"

    @property
    def bodies(self) -> Path:
        """Bodies that Envoy has tapped and that are not logged yet, a file per request."""
        return self.path / "bodies"

    @property
    def envoy(self) -> Path:
        """Envoy's rendered configuration."""
        return self.path / "envoy"
