"""`gatehouse up`: the whole gateway in the foreground."""

import asyncio
import json
import os
import socket
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from gatehouse.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigFile,
    err,
    escaped,
    fail,
    loaded_or_exit,
    out,
    print_json,
)
from gatehouse.config.model import Config
from gatehouse.config.run_dir import SERVICES
from gatehouse.contract.failures import GatehouseError
from gatehouse.files import permissions
from gatehouse.gateway.addresses import check_ports, reachable
from gatehouse.gateway.handover import place, predecessor
from gatehouse.gateway.run import Gateway, Signals, run, run_directory
from gatehouse.process import app_log, signals, systemd
from gatehouse.process.prefork import copying
from gatehouse.process.supervise import Program, Start
from gatehouse.process.worker import loaded_by


def up(
    config: ConfigFile = DEFAULT_CONFIG,
    or_demo: Annotated[
        bool, typer.Option("--or-demo", help="Start a demo model server when vllm.base_url does not answer.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take over from the gateway that runs at this address, if one does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run Envoy and the services. Ctrl-C lets running requests finish; a second Ctrl-C stops at once.

    With --replace the gateway that runs at the same address hands over and ends when its last request has: no
    connection is refused, no stream is cut.
    """
    signals.bide()
    with copying(loaded_by(SERVICES)) as start:  # first, before 100,000 keys are in memory
        _up(config, or_demo, replace, as_json, start)


def _up(config: Path, or_demo: bool, replace: bool, as_json: bool, start: Start) -> None:
    loaded = loaded_or_exit(config, as_json=as_json, to_run=True, to_log=True)
    demo = _demo(loaded.config) if or_demo else None
    if demo:
        loaded = loaded_or_exit(config, to_run=True)
    for warning in loaded.warnings:
        err.print(f"[yellow]warning[/yellow] {escaped(str(warning))}")
    problem: str | None = None
    try:
        app_log.configure(loaded.config.logging, "gatehouse")
        gateway = Gateway(loaded, config, demo, start)
        asyncio.run(_run(gateway, as_json, replace))
    except* (GatehouseError, FileNotFoundError) as errors:
        problem = str(errors.exceptions[0])
    except* TimeoutError:
        problem = f"the gateway did not come up in time; see {loaded.config.logging.dir}/"
    if problem:
        fail(problem)


async def _run(gateway: Gateway, as_json: bool, replace: bool) -> None:
    told, ready = Signals(), asyncio.Event()
    before = await predecessor(place(gateway.config.server)) if replace else None
    if before is None:
        check_ports(gateway.config)
    permissions.keep_from_others()
    with run_directory() as run_dir, closing(before) if before else nullcontext():
        async with asyncio.TaskGroup() as tasks:
            talk = tasks.create_task(_talk(gateway, told, ready, as_json))
            reporting = tasks.create_task(systemd.report(ready, told.stop))
            await run(gateway, run_dir, told, ready, before)
            talk.cancel()
            reporting.cancel()


async def _talk(gateway: Gateway, told: Signals, ready: asyncio.Event, as_json: bool) -> None:
    """Print what the gateway is doing."""
    await ready.wait()
    facts = _facts(gateway)
    if as_json:
        print_json(facts)
    else:
        _welcome(facts, gateway)
    await told.stop.wait()
    if not as_json:
        out.print(f"Stopping: running requests have {gateway.config.server.drain_s} s. Ctrl-C again stops at once.")


def _facts(gateway: Gateway) -> dict[str, Any]:
    server = gateway.config.server
    operators = f"http://{server.metrics_host}:{server.metrics_port}" if server.metrics_port else None
    pages = {f"{page}_url": f"{operators}/{page}" if operators else None for page in ("metrics", "ui")}
    return {"url": gateway.url, **pages, "logs": gateway.config.logging.dir, "pid": os.getpid()}


def _welcome(facts: dict[str, Any], gateway: Gateway) -> None:
    if gateway.demo:
        out.print("No vLLM found: a demo model server answers instead. Set VLLM_BASE_URL to use yours.")
    store = "Redis" if gateway.config.redis.url else "memory of one process (set redis.url to share it)"
    out.print(f"[bold green]Gatehouse is ready[/bold green] at [bold]{facts['url']}[/bold]")
    if facts["ui_url"]:
        out.print(f"  watch    {facts['ui_url']}\n  metrics  {facts['metrics_url']}", markup=False)
    out.print(f"  logs     {facts['logs']}/\n  limits   in {store}", markup=False)
    key = _key_to_show(gateway, terminal=sys.stdout.isatty())
    model = gateway.config.effective_default_model or "MODEL"
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    authorization = f"'Authorization: Bearer {key}'" if key else '"Authorization: Bearer $GATEHOUSE_KEY"'
    headers = f"-H {authorization} -H 'Content-Type: application/json'"
    out.print(
        f"  key      {key or 'export GATEHOUSE_KEY=… (gatehouse keys create, or api_keys)'}\n\nTry it:\n", markup=False
    )
    out.print(f"curl -N{_trust(gateway.config)} {facts['url']}/v1/chat/completions \\\n  {headers} \\", markup=False)
    out.print(f"  -d '{json.dumps(body)}'\n", markup=False)


def _key_to_show(gateway: Gateway, *, terminal: bool) -> str | None:
    """Output that is no terminal may be a journal, so no key is printed there; on a terminal only a demo's."""
    return gateway.loaded.plain_key if terminal and gateway.demo else None


def _trust(config: Config) -> str:
    """curl's options for TLS: the certificate names the public host, not the one in this URL."""
    tls = config.server.tls
    if tls is None:
        return ""
    return " -k --cert CLIENT.crt --key CLIENT.key" if tls.client_ca_file else " -k"


def _demo(config: Config) -> Program | None:
    """The demo model server, if the configured one does not answer; services get its URL from the environment."""
    if not config.vllm or reachable(config.vllm.base_url):
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["VLLM_BASE_URL"] = f"http://127.0.0.1:{port}/v1"
    model = ("--model", config.vllm.default_model) if config.vllm.default_model else ()
    command = (sys.executable, "-m", "demo_model_server", "--host", "127.0.0.1", "--port", str(port), *model)
    return Program("demo-model-server", command)
