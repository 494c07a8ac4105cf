"""Defaults for Envoy's memory and connections, from the resources of the machine or container.

They are computed once, when the process starts: a running gateway can't change them.
"""

import os
import resource
from functools import cache
from pathlib import Path

_MIB = 1024 * 1024
_FEWEST_MB, _MOST_MB = 256, 8192
_MOST_CONNECTIONS = 20_000
_CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes(own_cgroup: Path = Path("/proc/self/cgroup"), cgroups: Path = _CGROUPS) -> int:
    """The machine's memory, or the lowest limit of the cgroups (v2 or v1) of this process."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _limit_files(own_cgroup, cgroups):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # missing, or "max"
            continue
    return min(limits)


def _limit_files(own_cgroup: Path, cgroups: Path) -> list[Path]:
    """Files that may hold a limit: of each cgroup from the root to ours (`man 7 cgroups`, /proc/pid/cgroup)."""
    try:
        lines = [line.split(":", 2) for line in own_cgroup.read_text().splitlines()]
    except OSError:
        return []
    v2 = [path for _, controllers, path in lines if controllers == ""]
    v1 = [path for _, controllers, path in lines if "memory" in controllers.split(",")]
    return [
        *(folder / "memory.max" for path in v2 for folder in _down_to(cgroups, path)),
        *(folder / "memory.limit_in_bytes" for path in v1 for folder in _down_to(cgroups / "memory", path)),
    ]


def _down_to(root: Path, path: str) -> list[Path]:
    own = root / path.lstrip("/")
    return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]


@cache
def envoy_memory_mb() -> int:
    """Half of the memory, between 256 MiB and 8 GiB; the rest is for the services and other programs."""
    return max(_FEWEST_MB, min(_MOST_MB, memory_bytes() // 2 // _MIB))


@cache
def client_connections() -> int:
    """Half of the open files a process may have; the rest is for connections to model servers, sidecars and logs."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(_MOST_CONNECTIONS, files // 2))
