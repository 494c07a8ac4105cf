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
"""Those that Envoy calls by gRPC, each worker on a socket of its own."""
SERVICES: tuple[Service, ...] = (*GRPC_SERVICES, "portal")

ACCESSLOG_RECEIVERS = 2
"""Envoy drops entries while its only receiver is down, so there are always two."""

PORTAL_PROCESSES = 2
"""One works, the other stands by."""


DEFAULT_RUN_DIR = Path(RUN_DIR)
_WORD = ".run_dir"


def found_run_dir(log_directory: Path) -> Path | None:
    """The run directory of the gateway that writes its logs to `log_directory`; None when none runs."""
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
    """How many of the workers that decide, of authz and ratelimit, Envoy calls while all is well: half. The others
    stand by, for when those are gone or a call to one has failed.

    A process that is woken for each single call spends more on waking up than on the call; the fewer are called, the
    more calls one finds waiting. Envoy itself needs more than half of the CPU, so half of the workers are enough.
    """
    return -(-workers // 2)


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths below one directory. Unix socket paths are limited to about 100 bytes: keep `path` short."""

    path: Path

    def socket(self, service: Service, index: int) -> Path:
        """Where worker `index` of `service` speaks gRPC."""
        return self.path / f"{service}-{index}.sock"

    @property
    def portal_socket(self) -> Path:
        """Where the process of portal_service that works answers the gateway's own HTTP routes."""
        return self.path / "portal.sock"

    @property
    def accepted(self) -> Path:
        """A copy of `gatehouse.yaml` as it was last accepted, for the services."""
        return self.path / "gatehouse.yaml"

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface, never on a TCP port."""
        return self.path / "envoy-admin.sock"

    def restrictions(self, index: int) -> Path:
        """What the key store last said against keys in files: if worker `index` of authz starts anew without the store,
        it goes by that."""
        return self.path / f"authz-{index}.restrictions.jsonl"

    def leave_word(self, log_directory: Path) -> None:
        """Let those who only know where the logs are find this directory; they can be told otherwise if it fails."""
        try:
            log_directory.mkdir(parents=True, exist_ok=True)
            (log_directory / _WORD).write_text(str(self.path.absolute()))
        except OSError as error:
            log.warning("can't say in %s where the run directory is: %s", log_directory, error)

    @property
    def draining(self) -> Path:
        """Is there while the gateway drains: `/health` says so."""
        return self.path / "draining"

    @property
    def replaced(self) -> Path:
        """Is there once another gateway has taken over."""
        return self.path / "replaced"

    @property
    def base_id(self) -> Path:
        """Where an Envoy that begins a line of them notes its base id (`gatehouse.gateway.generation`)."""
        return self.path / "base-id"

    @property
    def cut(self) -> Path:
        """The ids of revoked keys whose running streams are to end, one a line: from authz_service to Envoy."""
        return self.path / "cut"

    @property
    def metrics(self) -> Path:
        """Samples of every process, merged when Prometheus scrapes."""
        return self.path / "metrics"

    @property
    def bodies(self) -> Path:
        """Bodies that Envoy has tapped and that are not in their log yet, a file a request."""
        return self.path / "bodies"

    @property
    def envoy(self) -> Path:
        """Envoy's rendered configuration."""
        return self.path / "envoy"
