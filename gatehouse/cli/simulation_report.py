"""The result of a simulation, for people and for programs. Each function takes the messages of
`ratelimit_service.simulate` and returns the last one, the result."""

import csv
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.table import Table

from gatehouse.cli.options import out, print_wide
from gatehouse.usage_report.export import cell
from gatehouse.usage_report.terminal import label

_MOST_USERS = 20
_FIELDS = ("time", "request_id", "user", "team", "tier", "key", "model", "limit", "was_refused_by")

Messages = Iterator[dict[str, Any]]


def as_table(messages: Messages) -> dict[str, Any]:
    """The sums."""
    result = _only_result(messages)
    was = f"{result['were_refused']:,} were: {result['newly_refused']:,} more, {result['no_more_refused']:,} no more"
    out.print(f"{result['refused']:,} of {result['requests']:,} requests would be refused ({_share(result)}); {was}")
    _print_limits("limit", result["limits"])
    _print_limits("limit that only counts (shadow)", result["shadow_limits"])
    _print_users(result["users"])
    return result


def as_csv(messages: Messages) -> dict[str, Any]:
    """The requests that would be refused, in the order in which they came."""
    sheet = csv.writer(sys.stdout, lineterminator="\n")
    sheet.writerow(_FIELDS)
    for message in messages:
        if "result" in message:
            return _result(message)
        sheet.writerow([cell(message["refused"][name]) for name in _FIELDS])
    raise AssertionError("a replay ends with its result")


def as_json_(messages: Messages) -> dict[str, Any]:
    """One object: the sums, and `refusals`."""
    sys.stdout.write('{"refusals": [')
    separator = ""
    for message in messages:
        if "result" in message:
            sys.stdout.write("], " + json.dumps(message["result"])[1:] + "\n")
            return _result(message)
        sys.stdout.write(separator + json.dumps(message["refused"]))
        separator = ", "
    raise AssertionError("a replay ends with its result")


def _only_result(messages: Messages) -> dict[str, Any]:
    (message,) = messages
    return _result(message)


def _result(message: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = message["result"]
    return result


def _print_limits(heading: str, limits: list[dict[str, Any]]) -> None:
    if not limits:
        return
    table = _table(heading, "refused", "share", "first", "last")
    for limit in limits:
        table.add_row(
            limit["limit"], f"{limit['refused']:,}", _share(limit), _time(limit["first"]), _time(limit["last"])
        )
    out.print()
    print_wide(table)


def _print_users(users: list[dict[str, Any]]) -> None:
    if not users:
        return
    table = _table("user", "refused", "of", "share", "first", "last", "by")
    for user in users[:_MOST_USERS]:
        limits = ", ".join(f"{name} {count:,}" for name, count in user["limits"].items())
        counts = f"{user['refused']:,}", f"{user['requests']:,}", _share(user)
        table.add_row(label(user["user"]), *counts, _time(user["first"]), _time(user["last"]), limits)
    out.print()
    print_wide(table)
    if len(users) > _MOST_USERS:
        out.print(f"and {len(users) - _MOST_USERS:,} users more: --json has them all")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("refused", "of", "share") else "left")
    return table


def _share(sums: dict[str, Any]) -> str:
    return f"{sums['share']:.2%}"


def _time(instant: str | None) -> str:
    return datetime.fromisoformat(instant).strftime("%Y-%m-%d %H:%M:%S") if instant else "-"
