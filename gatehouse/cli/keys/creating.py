"""`gatehouse keys create`: a new key, shown once."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from gatehouse.cli.keys.context import Opened, opened
from gatehouse.cli.keys.minting import Made, born, dangers, print_made
from gatehouse.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile
from gatehouse.cli.refused import RefusedError
from gatehouse.cli.times import instant
from gatehouse.config.model import ApiKey
from gatehouse.keys.fitting import misfit
from gatehouse.keys.lifecycle import created
from gatehouse.keys.record_json import explained


def create(
    user: Annotated[str, typer.Option("--user", help="Whom the key stands for.")],
    tier: Annotated[str, typer.Option("--tier", help="The tier whose limits hold.")] = "standard",
    team: Annotated[str | None, typer.Option("--team", help="The team whose limits hold, too.")] = None,
    models: Annotated[str | None, typer.Option("--models", help="Models it may use: 'llama-*,gpt-4o'.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="When it ends: 90d, or a day: 2027-01-01.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What it is for, such as 'laptop'.")] = None,
    allowed_ips: Annotated[str | None, typer.Option("--allowed-ips", help="From where: '10.0.0.0/8,::1'.")] = None,
    limits: Annotated[
        str | None, typer.Option("--limits", help="Limits of its own: '{\"requests_per_minute\": 5}'.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is shown only once: only its digest is stored."""

    async def work() -> Made:
        settings = _settings(user, tier, team, models, expires, name, allowed_ips, limits)
        async with opened(config, as_json=as_json) as here:
            return await _create(here, settings)

    print_made(asyncio.run(work()), as_json=as_json)


def _settings(
    user: str,
    tier: str,
    team: str | None,
    models: str | None,
    expires: str | None,
    name: str | None,
    allowed_ips: str | None,
    limits: str | None,
) -> ApiKey:
    """Raises `RefusedError`, which names the option that is wrong."""
    given: dict[str, Any] = {"user_id": user, "tier": tier, "team": team, "name": name}
    if expires is not None:
        given["expires_at"] = datetime.fromtimestamp(instant(expires, time.time()), UTC)
    if models is not None:
        given["models"] = _listed(models)
    if allowed_ips is not None:
        given["allowed_ips"] = _listed(allowed_ips)
    try:
        given["limits"] = None if limits is None else json.loads(limits)
        return ApiKey.model_validate(given)
    except ValidationError as error:
        raise RefusedError(_as_option(explained(error))) from None
    except json.JSONDecodeError:
        raise RefusedError("--limits: must be JSON such as '{\"requests_per_minute\": 5}'") from None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _as_option(message: str) -> str:
    """`user_id: …` -> `--user: …`."""
    return "--" + message.replace("user_id", "user", 1).replace("allowed_ips", "allowed-ips", 1)


async def _create(here: Opened, settings: ApiKey) -> Made:
    keys = await here.known() if here.has_store else []
    key, birth = born(here, keys)
    record = created(settings, birth)
    if fault := misfit(record, here.config):
        raise RefusedError(fault)
    details = {"user_id": record.user, "team": record.team, "tier": record.tier, "name": record.name}
    await here.change("create", [record.key_id], [record], **details)
    return Made(key, record, await dangers(here.config))
