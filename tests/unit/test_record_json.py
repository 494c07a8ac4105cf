"""Key records as JSON lines: strict to read, and nothing is lost on the way."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config.model import ApiKey, Limits
from gatehouse.contract.key_digest import digest_of
from gatehouse.keys.configured import record_of
from gatehouse.keys.limits_json import canonical as limits_json
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json, to_json

DIGEST = digest_of("sk-some-key-001")
LEAST = {"id": "a1", "digest": DIGEST, "user_id": "alice"}
names = st.from_regex(r"[^\s\x00-\x1f\x7f]{1,20}", fullmatch=True)
times = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def records() -> st.SearchStrategy[KeyRecord]:
    return st.builds(
        KeyRecord,
        digest=st.sampled_from([DIGEST, f"hmac-sha256:v1:{'ab' * 32}"]),
        key_id=names,
        user=names,
        team=st.just("") | names,
        tier=names,
        name=st.just("") | names,
        models=st.lists(texts).map(tuple),
        expires_at=st.just(math.inf) | times,
        allowed_ips=st.lists(st.ip_addresses().map(str)).map(tuple),
        limits=st.sampled_from(["", '{"requests_per_minute":5}', '{"budget_usd_per_month":0.5,"shadow":true}']),
        family=st.just("") | names,
        created_at=times,
        created_by=texts,
        revoked_at=st.none() | times,
        revoked_because=texts,
        cut=st.booleans(),
    )


@given(records())
def test_what_is_written_is_read_again(record: KeyRecord) -> None:
    line = to_json(record)
    assert "\n" not in line
    assert from_json(line) == from_json(line.encode()) == record


def test_what_has_its_default_is_left_out() -> None:
    assert json.loads(to_json(KeyRecord(DIGEST, "a1", "alice"))) == LEAST
    assert from_json(json.dumps(LEAST)) == KeyRecord(DIGEST, "a1", "alice")


def test_repeated_texts_are_kept_once() -> None:
    lines = [json.dumps({**LEAST, "team": "search", "models": ["llama-*"]}) for _ in range(2)]
    one, two = map(from_json, lines)
    assert one.user is two.user
    assert one.team is two.team
    assert one.models is two.models


def test_limits_have_one_form() -> None:
    first = from_json(json.dumps({**LEAST, "limits": {"tokens_per_day": 9, "requests_per_minute": 5}}))
    second = from_json(
        json.dumps({**LEAST, "limits": {"requests_per_minute": 5, "tokens_per_day": 9, "shadow": False}})
    )
    assert first.limits == second.limits == '{"requests_per_minute":5,"tokens_per_day":9}'
    assert limits_json(Limits()) == limits_json(None) == ""
    assert from_json(json.dumps({**LEAST, "limits": {}})).limits == ""


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"uesr": "alice"}, "uesr: unknown field"),
    ({"expiers_at": 5}, "expiers_at: unknown field (did you mean 'expires_at'?)"),
    ({"key": "gh_canary"}, "key: a key is not kept, only its digest; make one with 'gatehouse keys hash'"),
    ({"digest": "sk-canary-key-1"}, "digest: must be the digest of a key"),
    ({"digest": "sha256:canary"}, "digest: a hashed key is"),
    ({"user_id": "al ice"}, "user_id: has characters that are not allowed here"),
    ({"user_id": "alice\r\nx-admin: 1"}, "user_id: has characters that are not allowed here"),
    ({"user_id": ""}, "user_id: String should have at least 1 character"),
    ({"user_id": 5}, "user_id: must be a valid string"),
    ({"models": "llama"}, "models: must be a valid"),
    ({"models": [1]}, "models.0: must be a valid string"),
    ({"expires_at": "2027-01-01"}, "expires_at: must be a valid number"),
    ({"expires_at": math.nan}, "expires_at: must be a finite number"),
    ({"expires_at": True}, "expires_at: must be a valid number"),
    ({"allowed_ips": ["10.0.0.0/33"]}, "allowed_ips.0: '10.0.0.0/33' is not an address or a network"),
    ({"limits": {"request_per_minute": 5}}, "limits.request_per_minute: unknown field (did you mean 'requests_per_m"),
    ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute: must be greater than or equal to 1"),
    ({"limits": {"requests_per_minute": [5]}}, "limits: must hold numbers and words"),
    ({"limits": [5]}, "limits: must be an object"),
    ({"cut": "yes"}, "cut: must be a valid boolean"),
]


@pytest.mark.parametrize(("change", "expected"), MISTAKES)
def test_a_mistake_is_named_and_its_value_is_not_shown(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        from_json(json.dumps({**LEAST, **change}))
    assert str(caught.value).startswith(expected)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("missing", list(LEAST))
def test_what_must_be_there_is_missed(missing: str) -> None:
    with pytest.raises(ValueError, match=f"^{missing}: is missing$"):
        from_json(json.dumps({name: value for name, value in LEAST.items() if name != missing}))


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '"x"', "\x00", b"\xff\xfe", "[" * 100_000, "{}{}"])
def test_what_is_no_object_is_said_to_be_none(line: str | bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON object on one line"):
        from_json(line)


def test_a_key_of_the_file_is_a_record_like_others() -> None:
    settings = {
        "user_id": "alice",
        "name": "laptop",
        "team": "search",
        "models": ["llama-*"],
        "expires_at": "2027-01-01T00:00:00",
        "allowed_ips": ["10.0.0.0/8"],
        "limits": {"requests_per_minute": 5},
    }
    assert record_of(DIGEST, ApiKey.model_validate(settings)) == KeyRecord(
        digest=DIGEST,
        key_id="laptop",
        user="alice",
        team="search",
        name="laptop",
        models=("llama-*",),
        expires_at=1_798_761_600.0,
        allowed_ips=("10.0.0.0/8",),
        limits='{"requests_per_minute":5}',
    )
    assert record_of(DIGEST, ApiKey(user_id="alice")) == KeyRecord(DIGEST, DIGEST[7:15], "alice")
