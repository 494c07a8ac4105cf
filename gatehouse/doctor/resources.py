"""Are there enough file descriptors and memory for what the configuration allows?"""

import resource

from gatehouse.config.machine import memory_bytes
from gatehouse.config.model import Config
from gatehouse.doctor.finding import Finding, ok, warning

FILES, MEMORY = "open files", "memory"
_FEW = 1_000


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


def memory(config: Config) -> list[Finding]:
    there, wanted = memory_bytes() // 1024**2, config.server.max_memory_mb
    if wanted > there:
        fix = f"lower server.max_memory_mb, to {there // 2} for example: load is shed as it fills up"
        return [warning(MEMORY, f"Envoy may take {wanted} MiB, and there are {there}", fix)]
    return [ok(MEMORY, f"Envoy sheds load at {wanted} of {there} MiB")]
