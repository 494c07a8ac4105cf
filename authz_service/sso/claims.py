"""Claims of a verified token -> the principal they stand for. Pure."""

import hashlib
from collections.abc import Collection
from typing import Any

from authz_service.principals import Principal
from authz_service.sso.token import Claims
from gatehouse.config.model import JwtIssuer

MAX_NAME_LENGTH = 128


def principal(
    claims: Claims, settings: JwtIssuer, tiers: Collection[str], teams: Collection[str], digest: str
) -> Principal | None:
    """The principal of `claims`; None if they name no user, or one whose name can't be used.

    `tiers` and `teams` are the configured ones, in the file's order. A claim that lists several means the first of
    these that it names. If it names none of them, the token is of the issuer's `tier`, and of the first team it names.
    A token without the claim that should name its models may use none.
    """
    user = _only_name(_claim(claims, settings.user_claim))
    if user is None:
        return None
    return Principal(
        digest=digest,
        user=user,
        team=_team(_names(_claim(claims, settings.team_claim)), teams),
        tier=_first(tiers, _names(_claim(claims, settings.tier_claim))) or settings.tier,
        key_id=_id(settings.issuer, claims.get("sub", user)),
        models=tuple(_patterns(_claim(claims, settings.models_claim))) if settings.models_claim else ("*",),
        expires_at=float(claims["exp"]) + settings.leeway_s,
    )


def _claim(claims: Claims, name: str | None) -> Any:
    """The claim of that very name (some are URLs), or the one at that path."""
    if name is None or name in claims:
        return claims.get(name or "")
    here: Any = claims
    for part in name.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here


def _only_name(value: Any) -> str | None:
    """Users are never guessed: a list of several names is none."""
    names = _names(value)
    return names[0] if len(names) == 1 and not (isinstance(value, list) and len(value) > 1) else None


def _names(value: Any) -> list[str]:
    """The usable names in a claim: a text, a number, or a list of such."""
    found = value if isinstance(value, list) else [value]
    texts = [str(entry) for entry in found if isinstance(entry, str | int) and not isinstance(entry, bool)]
    return [text for text in texts if _usable(text)]


def _usable(name: str) -> bool:
    """As names in the configuration: no spaces and control characters. `-` stands for nobody."""
    return 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and " " not in name and name != "-"


def _team(said: list[str], known: Collection[str]) -> str:
    return _first(known, said) or (said[0] if said else "")


def _first(known: Collection[str], said: Collection[str]) -> str | None:
    return next((name for name in known if name in said), None)


def _patterns(value: Any) -> list[str]:
    """Model patterns: a list, or one text with spaces between them, as `scope` has (RFC 8693 §4.2)."""
    found = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return [entry for entry in found if isinstance(entry, str) and entry.isprintable()]


def _id(issuer: str, subject: object) -> str:
    """The name of the holder's tokens in logs, since no two tokens are alike."""
    return "jwt-" + hashlib.sha256(f"{issuer}\0{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
