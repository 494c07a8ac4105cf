"""`gatehouse drain`: lets the running requests of an Envoy finish; for preStop hooks."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, fail, loaded_or_exit, out, print_json
from gatehouse.config.model import Server
from gatehouse.config.run_dir import RunDir, found_run_dir
from gatehouse.gateway import drain as draining
from gatehouse.gateway.envoy_admin import Admin


def drain(
    run_dir: Annotated[
        Path | None, typer.Option(help="Where Envoy's admin socket is (default: of the gateway that runs here).")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let the running requests of an Envoy finish: /health fails, the port is closed, and this returns when none runs.

    As long as server.drain_notice_s and server.drain_s say. Envoy itself is left to whoever runs it. Exits 1 if some
    requests were still running in the end.
    """
    loaded = loaded_or_exit(config, as_json=as_json)
    found = run_dir or found_run_dir(Path(loaded.config.logging.dir))
    if found is None:
        fail("no gateway runs here; name its run directory with --run-dir")
    idle = asyncio.run(_drain(RunDir(found), loaded.config.server))
    if as_json:
        print_json({"drained": idle})
    elif idle:
        out.print("drained: no request runs")
    if not idle:
        raise typer.Exit(1)


async def _drain(run_dir: RunDir, server: Server) -> bool:
    return await draining.drain(Admin(run_dir.admin_socket), run_dir, server, asyncio.Event())
