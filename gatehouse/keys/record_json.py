"""Key records as JSON objects, one a line: in stores, and in what is exported and imported.

Names are those of `gatehouse.yaml`; times are Unix seconds; what has its default is left out. Reading is strict, since
what is read becomes headers; texts that repeat are kept once, since 100,000 keys have few tiers and teams.
"""

import dataclasses
import json
import math
from functools import lru_cache
from operator import attrgetter
from sys import intern
from typing import Annotated, Any, Required

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from gatehouse.config.model import Limits, Name, Network
from gatehouse.config.problem import nearest
from gatehouse.contract.key_digest import is_plain, key_digest
from gatehouse.keys.limits_json import canonical as limits_json
from gatehouse.keys.record import KeyRecord


def _digest(value: str) -> str:
    if is_plain(value):
        raise ValueError("must be the digest of a key; make one with 'gatehouse keys hash'")
    return key_digest(value)


_Digest = Annotated[str, AfterValidator(_digest)]
_Time = Annotated[float, Field(allow_inf_nan=False)]


class _Line(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc] # as pydantic has it

    id: Required[Name]
    digest: Required[_Digest]
    user_id: Required[Name]
    team: Name
    tier: Name
    name: Name
    models: tuple[str, ...]
    expires_at: _Time
    allowed_ips: tuple[Network, ...]
    limits: dict[str, Any]
    family: Name
    created_at: _Time
    created_by: str
    revoked_at: _Time
    revoked_because: str
    cut: bool


_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)
_NAMES = {"key_id": "id", "user": "user_id"}
"""What JSON calls those attributes of a record that have another name there."""
_FIELDS = [(_NAMES.get(field.name, field.name), field.default) for field in dataclasses.fields(KeyRecord)]
_values = attrgetter(*(field.name for field in dataclasses.fields(KeyRecord)))
_encoded = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_json(record: KeyRecord) -> str:
    """One line, without its end."""
    written = zip(_FIELDS, _values(record), strict=True)
    fields: dict[str, Any] = {name: value for (name, default), value in written if value != default}
    if record.limits:
        fields["limits"] = json.loads(record.limits)
    return _encoded(fields)


def from_json(line: str | bytes) -> KeyRecord:
    """The record on `line`. Raises `ValueError`, which says what is wrong and shows no value."""
    try:
        fields = _LINE.validate_json(line)
        limits = fields.get("limits")
        return KeyRecord(
            digest=fields["digest"],
            key_id=fields["id"],
            user=intern(fields["user_id"]),
            team=intern(fields.get("team", "")),
            tier=intern(fields.get("tier", "standard")),
            name=fields.get("name", ""),
            models=_shared(fields.get("models", ("*",))),
            expires_at=fields.get("expires_at", math.inf),
            allowed_ips=_shared(fields.get("allowed_ips", ())),
            limits=_canonical(tuple(limits.items())) if limits else "",
            family=fields.get("family", ""),
            created_at=fields.get("created_at", 0.0),
            created_by=intern(fields.get("created_by", "")),
            revoked_at=fields.get("revoked_at"),
            revoked_because=intern(fields.get("revoked_because", "")),
            cut=fields.get("cut", False),
        )
    except ValidationError as error:
        raise ValueError(explained(error)) from None
    except TypeError:  # a list cannot be hashed
        raise ValueError("limits: must hold numbers and words") from None


def explained(error: ValidationError, at: tuple[str, ...] = ()) -> str:
    """The first thing that pydantic found wrong, in our words and without the value; `at` is where it looked."""
    faults = error.errors(include_url=False, include_input=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    where = ".".join(map(str, (*at, *fault["loc"])))
    match fault["type"]:
        case "extra_forbidden" if where == "key":
            return "key: a key is not kept, only its digest; make one with 'gatehouse keys hash'"
        case "extra_forbidden":
            hint = nearest(str(fault["loc"][-1]), [*_Line.__annotations__, *Limits.model_fields])
            shown = "".join(filter(str.isprintable, where))[:80]
            return f"{shown}: unknown field" + (f" ({hint})" if hint else "")
        case "missing":
            return f"{where}: is missing"
        case "json_invalid" | "dict_type" if not where:
            return "not a JSON object on one line"
        case "string_pattern_mismatch":
            return f"{where}: has characters that are not allowed here"
        case _:
            said = fault["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
            return f"{where}: {said}"


@lru_cache(4096)
def _shared(texts: tuple[str, ...]) -> tuple[str, ...]:
    return texts


@lru_cache(4096)
def _canonical(limits: tuple[tuple[str, Any], ...]) -> str:
    try:
        return limits_json(Limits.model_validate(dict(limits)))
    except ValidationError as error:
        raise ValueError(explained(error, ("limits",))) from None
