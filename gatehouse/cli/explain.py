"""`gatehouse explain`: predicts the answer to a request, and says why. Asks the running gateway; consumes nothing."""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gatehouse.cli import backend_choice, explain_body
from gatehouse.cli.backend_choice import Choice
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, escaped, fail, loaded_or_exit, out, print_json
from gatehouse.config.model import Config, Tls
from gatehouse.contract.names import ENDPOINTS
from gatehouse.gateway.addresses import local_url
from gatehouse.rpc.direct_http import opened

Answer = tuple[int, dict[str, Any]]


def explain(
    key: Annotated[str, typer.Option("--key", help="The API key; '-' reads it from standard input, unseen by ps.")],
    model: Annotated[
        str | None, typer.Option("--model", help="The model asked for (default: the default model).")
    ] = None,
    endpoint: Annotated[str, typer.Option("--endpoint", help="The path asked for.")] = ENDPOINTS[0],
    body: Annotated[
        Path | None,
        typer.Option("--body", help="A file with the request's JSON; '-' reads it from standard input, after the key."),
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="The gateway (default: the one CONFIG describes).")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Say who KEY is, what is left of its limits, which backends serve MODEL, and what the answer would be.

    With a body, the model is the one that the body names, and limits are judged by what the request asks for. It is
    read as the gateway reads it, by an Envoy started for that, and sent nowhere.
    """
    settings = loaded_or_exit(config, as_json=as_json).config
    if body and model:
        fail("--body names the model: leave --model out")
    secret = sys.stdin.buffer.readline().decode().strip() if key == "-" else key
    try:
        asked = _Gateway(url or local_url(settings), secret, None if url else settings.server.tls)
        said = None if body is None or endpoint not in ENDPOINTS else _read(body, endpoint, settings)
        named = model or settings.effective_default_model or "" if said is None else said.get("model", "")
        found = _explained(asked, named, endpoint, settings, said)
    except OSError as error:
        fail(f"no gateway answers at {url or local_url(settings)}: {getattr(error, 'reason', error)}")
    if as_json:
        print_json(found)
    else:
        _show(found)


def _read(body: Path, endpoint: str, config: Config) -> dict[str, Any]:
    from gatehouse.gateway.body_reader import NotReadError

    try:
        text = sys.stdin.buffer.read() if str(body) == "-" else body.read_bytes()
    except OSError as error:
        fail(f"{body} can't be read: {error.strerror}")
    try:
        return explain_body.read(text, endpoint, config)
    except (NotReadError, OSError) as error:
        fail(f"the body could not be looked at: {error}")


def _explained(
    gateway: "_Gateway", model: str, endpoint: str, config: Config, said: dict[str, Any] | None
) -> dict[str, Any]:
    asks = {"asks": said["asks"]} if said and "asks" in said else {}
    usage = gateway.get(f"/v1/usage?{urllib.parse.urlencode({'model': model, **asks})}")
    access = gateway.get(f"/v1/models/{urllib.parse.quote(model)}") if model else (400, {})
    health = gateway.get("/health")
    choice = backend_choice.of(config, model, health[1].get("models", {}))
    unread = explain_body.refusal(said) if said else None
    status, why = _verdict(usage, access, choice, model, endpoint, unread, open_to_any=config.vllm is not None)
    identity = {name: usage[1].get(name) for name in ("user", "team", "tier", "key_id")} if usage[0] == 200 else None
    request = None if said is None or unread else {**explain_body.plain(said), "guess": usage[1].get("guess")}
    return {
        "answer": {"status": status, "why": why},
        "identity": identity,
        "limits": usage[1].get("limits", []),
        "model": model,
        "request": request,
        "balance": choice.how,
        "backends": choice.backends,
    }


def _verdict(
    usage: Answer,
    access: Answer,
    choice: Choice,
    model: str,
    endpoint: str,
    unread: tuple[int, str] | None,
    *,
    open_to_any: bool,
) -> tuple[int, str]:
    """The gateway's own order: route, key, body, model, limits, backend."""
    if endpoint not in ENDPOINTS:
        return 404, "not_found: no such endpoint"
    if usage[0] != 200:
        return usage[0], _reason(usage)
    if unread is not None:
        return unread
    if not model:
        return 400, "missing_model: name a model, or configure a default one"
    if access[0] != 200 and not (access[0] == 404 and open_to_any):
        return access[0], _reason(access)
    if refusal := usage[1].get("refusal"):
        return 429, f"{refusal['code']}: {refusal['message']}"
    if not any(backend["status"] == "healthy" for backend in choice.backends):
        return 503, "backend_unavailable: no model server answers"
    return 200, "the model server would be asked"


def _reason(answer: Answer) -> str:
    error = answer[1].get("error", {})
    return f"{error.get('code')}: {error.get('message')}"


@dataclass(frozen=True, slots=True)
class _Gateway:
    """The gateway's URL and the key to use. `tls`: its certificate's settings; None: this machine trusts it."""

    url: str
    key: str = field(repr=False)
    tls: Tls | None

    def get(self, path: str) -> Answer:
        """Status and JSON body, errors included. Raises `OSError` when nobody answers."""
        from gatehouse.gateway.certificate import pinned

        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})
        try:
            context = pinned(self.tls) if self.tls else None
            with opened(request, 5, context) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def _show(found: dict[str, Any]) -> None:
    answer = found["answer"]
    colour = "green" if answer["status"] == 200 else "red"
    out.print(f"[{colour}]{answer['status']}[/{colour}] {escaped(answer['why'])}")
    if found["identity"]:
        out.print("  ".join(f"{name} {value}" for name, value in found["identity"].items() if value), markup=False)
    if found["request"]:
        out.print(f"request {_asked(found['request'])}", markup=False)
    for backend in found["backends"]:
        out.print(f"backend {backend['url']} {backend['status']}{_standing(backend)}", markup=False)
    if len(found["backends"]) > 1:
        out.print(f"chosen  {found['balance']}", markup=False)
    if found["limits"]:
        table = Table("limit", "of", "used", "left", "resets in")
        for row in _rows(found["limits"]):
            table.add_row(*row)
        out.print(table)


def _asked(request: dict[str, Any]) -> str:
    most, guess = request["max_tokens"], request["guess"]
    parts = [
        f"model {request['model']}",
        *(["stream"] if request["stream"] else []),
        f"max_tokens {'not said' if most is None else most}",
        f"choices {request['choices']}",
        f"images {request['images']}",
        *([f"held back {guess['input']} + {guess['output']} tokens"] if guess else []),
    ]
    return "  ".join(parts)


def _standing(backend: dict[str, Any]) -> str:
    """What is unusual about a backend: its weight, its place in the order of failover."""
    unusual = [f"{name} {backend[name]}" for name, usual in (("weight", 1), ("priority", 0)) if backend[name] != usual]
    return f" ({', '.join(unusual)})" if unusual else ""


def _rows(limits: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for limit in limits:
        reset = f"{limit['reset_s']:.0f} s" if "reset_s" in limit else ""
        yield limit["name"], f"{limit['limit']:g}", f"{limit['used']:g}", f"{limit['remaining']:g}", reset
