"""Are there enough file descriptors, file watchers and memory for what the configuration allows?"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from gatehouse.config.machine import memory_bytes
from gatehouse.config.model import Config
from gatehouse.doctor.finding import Finding, ok, warning

FILES, WATCHERS, MEMORY = "open files", "file watchers", "memory"
_FEW = 1_000
_WATCHERS_WANTED = 32
"""inotify instances of a gateway, and of the one that replaces it."""
_MOST_WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")


def open_files(config: Config) -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [files_for(config.server.max_connections, soft, hard)]


def files_for(connections: int, soft: int, hard: int) -> Finding:
    """A connection may need two: the client's, and one to a model server."""
    wanted = 2 * max(connections, _FEW)
    if soft not in (resource.RLIM_INFINITY,) and soft < wanted:
        raised = "" if hard == resource.RLIM_INFINITY or hard >= wanted else f" (its hard limit is {hard})"
        fix = f"ulimit -n {wanted}, or LimitNOFILE={wanted} in the unit{raised}"
        return Finding(FILES, "warning", f"{soft} are too few for {max(connections, _FEW)} connections", fix)
    return ok(FILES, f"{'any number' if soft == resource.RLIM_INFINITY else soft}, for {connections} connections")


def watchers() -> list[Finding]:
    """Nothing on systems without inotify(7)."""
    if not _MOST_WATCHERS.exists():
        return []
    used = sum(name == "anon_inode:inotify" for name in _open_files_of(os.geteuid()))
    return [watchers_for(used, int(_MOST_WATCHERS.read_text()))]


def watchers_for(used: int, most: int) -> Finding:
    if most - used < _WATCHERS_WANTED:
        fix = f"sysctl fs.inotify.max_user_instances={max(1024, 2 * most)}, or stop what uses them"
        return warning(WATCHERS, f"{used} of this user's {most} inotify instances are taken; Envoy needs some", fix)
    return ok(WATCHERS, f"{most - used} of this user's {most} inotify instances are free")


def _open_files_of(user: int) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == user:
                yield from [os.readlink(each) for each in (process / "fd").iterdir()]
        except OSError:  # it has ended meanwhile, or hides its files
            continue


def memory(config: Config) -> list[Finding]:
    there, wanted = memory_bytes() // 1024**2, config.server.max_memory_mb
    if wanted > there:
        fix = f"lower server.max_memory_mb, to {there // 2} for example: load is shed as it fills up"
        return [warning(MEMORY, f"Envoy may take {wanted} MiB, and there are {there}", fix)]
    return [ok(MEMORY, f"Envoy sheds load at {wanted} of {there} MiB")]
