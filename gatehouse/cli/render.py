"""`gatehouse render`: writes Envoy's configuration, for an Envoy that something else runs."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gatehouse import metrics
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, fail, loaded_or_exit, out, print_json
from gatehouse.config.run_dir import DEFAULT_RUN_DIR, RunDir
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, write
from gatehouse.gateway.reload import Target, started
from gatehouse.loading.load import Loaded
from gatehouse.process import app_log


def render_files(
    directory: Annotated[Path, typer.Option("--out", help="Where to write the files.")],
    file: Annotated[Path | None, typer.Argument(help="The configuration file (or -c).")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    run_dir: Annotated[Path, typer.Option(help="Where the services' sockets will be.")] = DEFAULT_RUN_DIR,
    access_log: Annotated[str, typer.Option(help="Envoy's JSON log of requests.")] = "logs/envoy_access.log",
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and render again what changes.")] = False,
    accepted: Annotated[
        Path | None,
        typer.Option(help="With --watch: where a copy of CONFIG goes when it is accepted, for services to follow."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write Envoy's configuration. Start Envoy with envoy.yaml; it watches the other two files in RUN_DIR/envoy.

    With --watch, changes are checked as a whole (with Envoy's own validation) and written to the files in an order that
    drops no request; Envoy reports its progress at RUN_DIR/envoy-admin.sock. An invalid change is rejected and logged.
    """
    source = file or config
    loaded = loaded_or_exit(source, as_json=as_json, to_run=watch)
    target = Target(source, RunDir(run_dir), access_log, directory, accepted)
    directory.mkdir(parents=True, exist_ok=True)
    if watch:
        _watch(target, loaded, partial(_tell, as_json=as_json))
        return
    files = target.render(loaded.config).files()
    for name, document in files.items():
        write(document, directory / name)
    _tell([str(directory / name) for name in files], as_json=as_json)


def _tell(written: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"files": written})
    else:
        out.print("\n".join(written), markup=False)


def _watch(target: Target, loaded: Loaded, tell: Callable[[list[str]], None]) -> None:
    """Until SIGTERM or Ctrl-C."""
    app_log.configure(loaded.config.logging, "render")
    metrics.share(target.run_dir.metrics, "render")
    try:
        asyncio.run(_follow(target, loaded, tell))
    except EnvoyRejectsError as error:
        fail(f"Envoy rejected the configuration rendered from this file: {error}")


async def _follow(target: Target, loaded: Loaded, tell: Callable[[list[str]], None]) -> None:
    following = started(target, loaded, metrics.Reloads())
    tell([str(target.directory / name) for name in following.switch.rendered.files()])
    task = asyncio.create_task(following.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
