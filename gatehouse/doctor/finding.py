"""What a check found."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gatehouse.redis_client import info


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it will not work; `warning`: it will stop working; `advice`: it could be safer. `fix`: what to do."""

    about: str
    level: Literal["ok", "advice", "warning", "error"]
    message: str
    fix: str | None = None

    @property
    def wrong(self) -> bool:
        return self.level in ("warning", "error")


def ok(about: str, message: str) -> Finding:
    return Finding(about, "ok", message)


def error(about: str, message: str, fix: str) -> Finding:
    return Finding(about, "error", message, fix)


def warning(about: str, message: str, fix: str) -> Finding:
    return Finding(about, "warning", message, fix)


def of_redis(about: str, found: Iterable[info.Finding]) -> list[Finding]:
    return [Finding(about, each.level, each.message, each.fix) for each in dict.fromkeys(found)]
