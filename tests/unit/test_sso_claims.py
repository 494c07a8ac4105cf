"""Whom the claims of a token stand for."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from authz_service.principals import Principal
from authz_service.sso.claims import principal
from gatehouse.config.model import JwtIssuer, Name
from gatehouse.contract.model_patterns import matcher

TIERS = ("premium", "standard", "free")
TEAMS = ("search", "ads")
CLAIMS = {"iss": "https://sso.example.com", "sub": "alice", "exp": 1000}


def holder(claims: dict[str, Any], **fields: Any) -> Principal | None:
    settings = JwtIssuer.model_validate({"issuer": CLAIMS["iss"], "audience": "llm", **fields})
    return principal({**CLAIMS, **claims}, settings, TIERS, TEAMS, "sha256:0")


def known(claims: dict[str, Any], **fields: Any) -> Principal:
    found = holder(claims, **fields)
    assert found is not None
    return found


def test_the_subject_is_the_user_of_the_issuers_tier_until_the_token_expires() -> None:
    found = known({}, leeway_s=30)
    assert (found.user, found.team, found.tier, found.expires_at) == ("alice", "", "standard", 1030)
    assert found.models == ("*",)
    assert found.digest == "sha256:0"


def test_claims_are_named_as_they_stand_or_by_a_path() -> None:
    claims = {"https://example.com/team": "search", "realm_access": {"roles": ["x", "free"]}, "email": "a@b.c"}
    found = known(claims, user_claim="email", team_claim="https://example.com/team", tier_claim="realm_access.roles")
    assert (found.user, found.team, found.tier) == ("a@b.c", "search", "free")


@pytest.mark.parametrize("path", ["a.b.c", "a.", ".a", "sub.sub", "a..b", "missing"])
def test_a_path_that_leads_nowhere_is_no_claim(path: str) -> None:
    assert holder({"a": {"b": 7}}, user_claim=path) is None


@pytest.mark.parametrize(
    "user",
    [None, "", " ", "a b", "a\n", "a\tb", "a\0", "\ud800", "a\u2028", "x" * 129, "-", True, 1.5, [], {}, ["a", "b"],
     ["a", "b c"], [["a"]]],
)  # fmt: skip
def test_a_token_that_names_no_usable_user_is_nobodys(user: Any) -> None:
    assert holder({"sub": user}) is None


@pytest.mark.parametrize(("said", "user"), [(4711, "4711"), (["alice"], "alice"), ("x" * 128, "x" * 128), ("é", "é")])
def test_a_user_may_be_a_number_or_the_only_one_of_a_list(said: Any, user: str) -> None:
    assert known({"sub": said}).user == user


@given(st.text(st.characters(exclude_categories=())))
def test_a_user_by_token_could_as_well_stand_in_the_configuration(user: str) -> None:
    found = holder({"sub": user})
    assert found is None or TypeAdapter(Name).validate_python(found.user) == user
    assert found is None or found.user.encode()


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ("premium", "premium"),
        ("Premium", "standard"),
        ("gold", "standard"),
        (["free", "premium"], "premium"),
        (["gold", "free"], "free"),
        ([], "standard"),
        (None, "standard"),
        ({"premium": 1}, "standard"),
        ([["premium"]], "standard"),
    ],
)
def test_of_several_tiers_the_first_of_the_file_counts_and_an_unknown_one_does_not(said: Any, tier: str) -> None:
    assert known({"groups": said}, tier_claim="groups").tier == tier


@pytest.mark.parametrize(
    ("said", "team"),
    [("search", "search"), (["x", "ads", "search"], "search"), (["x", "y"], "x"), ("a b", ""), (None, ""), ({}, "")],
)
def test_of_several_teams_a_configured_one_counts_and_any_team_may_be_named(said: Any, team: str) -> None:
    assert known({"dept": said}, team_claim="dept").team == team


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        (["llama-*", "gpt-4o"], ["llama-70b", "gpt-4o"]),
        ("llama-* gpt-4o", ["llama-70b", "gpt-4o"]),
        ("*", ["llama-70b", "gpt-4o", "other"]),
        ([], []),
        (None, []),
        (7, []),
        ([7, "\ud800", ".*"], []),
    ],
)
def test_models_are_those_the_claim_names_and_none_without_it(said: Any, allowed: list[str]) -> None:
    models = known({"models": said}, models_claim="models").models
    assert list(filter(matcher(models), ("llama-70b", "gpt-4o", "other"))) == allowed


def test_the_tokens_of_one_subject_have_one_id_and_those_of_others_another() -> None:
    mine = known({}).key_id
    assert re.fullmatch(r"jwt-[0-9a-f]{8}", mine)
    assert known({"exp": 2000, "email": "a@b.c"}, user_claim="email").key_id == mine
    assert known({"sub": "bob"}).key_id != mine
    assert known({}, issuer="https://other.example").key_id != mine


CLAIM = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(CLAIM, CLAIM, CLAIM, CLAIM)
def test_no_claim_raises(user: Any, team: Any, tier: Any, models: Any) -> None:
    claims = {"sub": user, "a": team, "b": {"c": tier}, "d": models}
    found = holder(claims, team_claim="a", tier_claim="b.c", models_claim="d")
    if found is not None:
        assert found.tier in TIERS
        assert all(text.encode("utf-8") is not None for text in (found.user, found.team, *found.models))
