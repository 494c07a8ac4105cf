"""What becomes of keys: pure decisions over records."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from gatehouse.config.model import ApiKey, Config
from gatehouse.contract.key_digest import digest_of
from gatehouse.keys.fitting import misfit
from gatehouse.keys.importing import Import
from gatehouse.keys.known import InFile, Known, UnknownKeyError, find, known_keys, relatives
from gatehouse.keys.lifecycle import Birth, created, expiring, is_expiring, is_stale, revoked, status, successor
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import to_json
from gatehouse.keys.standing import ONLY_RESTRICTS, replaced, restricted

NOW = 1_767_268_800.0
OLD = KeyRecord(
    digest=digest_of("old-key-old-key"),
    key_id="Old00001",
    user="alice",
    team="search",
    tier="premium",
    models=("llama-*",),
    expires_at=NOW + 1000,
    allowed_ips=("10.0.0.0/8",),
    limits='{"requests_per_minute":5}',
    created_at=NOW - 1000,
    created_by="root",
)
BIRTH = Birth("New00001", digest_of("new-key-new-key"), NOW, "zoe")
REVOKED = replace(OLD, revoked_at=NOW - 5, revoked_because="leaked", cut=True)


def config(**sections: Any) -> Config:
    return Config.model_validate({"vllm": {"base_url": "http://h/v1"}, **sections})


def test_a_new_key_has_what_was_asked_for_and_who_made_it() -> None:
    record = created(ApiKey(user_id="alice", tier="free", name="laptop"), BIRTH)
    assert record == KeyRecord(
        BIRTH.digest, "New00001", "alice", tier="free", name="laptop", created_at=NOW, created_by="zoe"
    )


def test_a_successor_has_the_rights_and_the_counters_of_its_predecessor() -> None:
    new = successor(OLD, BIRTH, None)
    assert new == replace(
        OLD, key_id="New00001", digest=BIRTH.digest, created_at=NOW, created_by="zoe", family="Old00001"
    )
    assert successor(new, replace(BIRTH, key_id="Third001"), NOW + 9).family == "Old00001"
    assert successor(OLD, BIRTH, NOW + 9).expires_at == NOW + 9


def test_the_predecessor_ends_after_the_overlap_but_never_later_than_it_would_have() -> None:
    assert expiring(OLD, NOW + 10, in_file=False) == replace(OLD, expires_at=NOW + 10)
    assert expiring(OLD, NOW + 9999, in_file=False) == OLD


def test_a_record_that_restricts_a_key_of_a_file_may_do_nothing_itself() -> None:
    assert expiring(OLD, NOW, in_file=True).models == ONLY_RESTRICTS == ()
    assert revoked(OLD, NOW, "leaked", cut=False, in_file=True).models == ()


def test_a_revocation_says_when_why_and_whether_streams_end() -> None:
    assert revoked(OLD, NOW, "leaked", cut=True, in_file=False) == replace(
        OLD, revoked_at=NOW, revoked_because="leaked", cut=True
    )


def test_to_revoke_again_changes_neither_the_time_nor_that_it_leaked() -> None:
    again = revoked(REVOKED, NOW, "revoked", cut=False, in_file=False)
    assert again == REVOKED


def test_nothing_revives_a_revoked_key() -> None:
    assert replaced(REVOKED, OLD) == REVOKED
    assert replaced(REVOKED, replace(OLD, revoked_at=NOW)).revoked_at == NOW - 5
    assert replaced(None, OLD) == replaced(replace(OLD, tier="free"), OLD) == OLD


def test_a_stored_record_only_restricts_a_key_of_a_file() -> None:
    generous = replace(OLD, user="mallory", models=("*",), expires_at=math.inf, allowed_ips=())
    assert restricted(OLD, generous) == restricted(OLD, None) == OLD
    assert restricted(OLD, replace(generous, expires_at=NOW)) == replace(OLD, expires_at=NOW)
    assert restricted(OLD, replace(REVOKED, models=())) == REVOKED


def test_a_key_is_active_until_the_instant_it_expires_at() -> None:
    assert [status(OLD, NOW + 999), status(OLD, NOW + 1000), status(REVOKED, NOW)] == ["active", "expired", "revoked"]


def test_a_key_is_stale_when_it_was_neither_used_nor_made_since() -> None:
    assert is_stale(OLD, None, NOW)
    assert not is_stale(OLD, None, NOW - 2000)
    assert not is_stale(OLD, NOW + 1, NOW)


def test_a_key_without_an_end_is_never_expiring() -> None:
    assert is_expiring(OLD, NOW, NOW + 1001)
    assert not is_expiring(OLD, NOW, NOW + 999)
    assert not is_expiring(replace(OLD, expires_at=math.inf), NOW, math.inf)


TIERS: dict[str, dict[str, dict[str, object]]] = {"rate_limits": {"premium": {}, "standard": {}}}
MODELS = {"vllm": None, "models": {"llama-70b": {"backends": [{"url": "http://a/v1"}], "aliases": ["gpt-4o"]}}}


@pytest.mark.parametrize(
    ("changes", "sections", "expected"),
    [
        ({"tier": "premum"}, TIERS, "no tier is called 'premum' (did you mean 'premium'?)"),
        ({"tier": "x"}, TIERS, "no tier is called 'x' (there are premium, standard)"),
        ({"tier": "x"}, {}, None),
        (
            {"team": "serach"},
            {"teams": {"search": {"limits": {}}}},
            "no team is called 'serach' (did you mean 'search'?)",
        ),
        ({"team": ""}, {"teams": {"search": {"limits": {}}}}, None),
        ({"team": "anything"}, {}, None),
        ({"models": ("llama-*", "gpt-4?")}, MODELS, None),
        ({"models": ("lama-70b",)}, MODELS, "no model is called, or matches, 'lama-70b' (did you mean 'llama-70b'?)"),
        ({"models": ("[l]lama-70b",)}, MODELS, "no model is called, or matches, '[l]lama-70b' (did you"),
        ({"models": ("whatever",)}, {}, None),
        ({"digest": f"hmac-sha256:7:{'0' * 64}"}, {}, "no pepper has the version '7' (set keys.peppers.7)"),
    ],
)
def test_what_a_key_names_must_exist(changes: dict[str, Any], sections: dict[str, Any], expected: str | None) -> None:
    fault = misfit(replace(OLD, **{"models": ("*",), "team": "", **changes}), config(**sections))
    assert (fault or "").startswith(expected or "")
    assert (fault is None) == (expected is None)


FILE_KEY = InFile(KeyRecord(digest_of("file-key-file-key"), "laptop", "bob"), "gatehouse.yaml:8")


def test_keys_of_all_sources_are_one_list() -> None:
    restriction = replace(FILE_KEY.record, models=(), revoked_at=NOW)
    orphan = replace(OLD, digest=digest_of("gone-from-file"), models=())
    stored = {record.digest: record for record in (OLD, restriction, orphan)}
    assert list(known_keys([FILE_KEY], stored, "redis", {"Old00001": 7.0})) == [
        Known(replace(FILE_KEY.record, revoked_at=NOW), "gatehouse.yaml:8", in_file=True),
        Known(OLD, "redis", in_file=False, last_used=7.0),
    ]


KEYS = [Known(replace(OLD, key_id=key_id), "redis", in_file=False) for key_id in ("abc12345", "abd12345", "abc")]


def test_a_key_is_found_by_its_id_or_enough_of_it() -> None:
    assert find(KEYS, "abc") is KEYS[2]
    assert find(KEYS, "abd") is KEYS[1]


@pytest.mark.parametrize(
    ("key_id", "said"),
    [
        ("ab", r"3 keys have ids like 'ab': abc12345 \(redis\), abd12345 \(redis\), abc \(redis\); give more of it"),
        ("abd12346", r"no key has the id 'abd12346' \(did you mean 'abd12345'\?\)"),
        ("", r"no key has the id '' \(see 'gatehouse keys list'\)"),
    ],
)
def test_an_id_of_none_or_several_is_refused(key_id: str, said: str) -> None:
    with pytest.raises(UnknownKeyError, match=said):
        find(KEYS, key_id)


def test_relatives_are_the_active_keys_that_rotation_made() -> None:
    new, gone = successor(OLD, BIRTH, None), successor(OLD, replace(BIRTH, key_id="Gone0001"), NOW - 1)
    keys = [Known(record, "redis", in_file=False) for record in (OLD, new, gone, FILE_KEY.record)]
    assert relatives(keys, OLD, NOW) == ["New00001"]
    assert relatives(keys, new, NOW) == ["Old00001"]
    assert relatives(keys, FILE_KEY.record, NOW) == []


def read(*lines: str, known: list[Known] | None = None) -> Import:
    found = Import(config(**TIERS), known or [], "zoe", NOW)
    found.read([line.encode() for line in lines], 1)
    return found


def test_lines_to_import_are_records_and_say_who_made_them() -> None:
    found = read(to_json(OLD), "", json.dumps({"id": "b1", "digest": BIRTH.digest, "user_id": "bob"}))
    assert found.faults == []
    assert found.records == [OLD, KeyRecord(BIRTH.digest, "b1", "bob", created_at=NOW, created_by="zoe")]


def test_every_line_that_is_wrong_is_named() -> None:
    other = replace(OLD, digest=BIRTH.digest)
    found = read("{", to_json(OLD), to_json(OLD), to_json(other), to_json(replace(other, key_id="x", tier="fre")))
    assert found.faults == [
        "line 1: not a JSON object on one line",
        "line 3: digest: stands on line 2, too",
        "line 4: id: another key is called 'Old00001'",
        "line 5: no tier is called 'fre' (there are premium, standard)",
    ]


def test_an_id_that_another_key_here_has_is_refused() -> None:
    found = read(to_json(OLD), known=[Known(replace(OLD, digest=BIRTH.digest), "redis", in_file=False)])
    assert found.faults == ["line 1: id: another key is called 'Old00001'"]
    assert read(to_json(OLD), known=[Known(OLD, "redis", in_file=False)]).faults == []


def test_a_revoked_key_needs_no_tier_any_more() -> None:
    assert read(to_json(replace(REVOKED, tier="gone"))).faults == []
