"""Problems of a configuration, with file, line and path."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from gatehouse.contract.failures import GatehouseError

VARIABLE = "environment variable "


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault or piece of advice. `origin` is a file name or `environment variable NAME`; `line` counts from 1.

    `passing`: temporary; the file could not be read, and should be retried.
    """

    origin: str
    line: int | None
    path: str
    message: str
    hint: str | None = None
    passing: bool = False

    def __str__(self) -> str:
        where = f"{self.origin}:{self.line}" if self.line else self.origin
        text = f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(GatehouseError):
    """The configuration can't be used. `problems` holds every fault found, in the order of the file."""

    exit_status = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the valid name closest to `name`, or None if nothing is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None
