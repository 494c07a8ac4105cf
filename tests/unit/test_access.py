"""What key, user, team and tier together allow."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.access import EVERYTHING, Access, Rules
from authz_service.principals import Principal
from gatehouse.config.model import Config
from gatehouse.contract.model_patterns import matcher
from portal_service.catalogue import usable

BACKENDS = [{"url": "http://h/v1"}]
SHORT = {"vllm": {"base_url": "http://h/v1", "default_model": "llama-70b"}}
LONG = {
    "models": {
        "llama-70b": {"backends": BACKENDS, "aliases": ["gpt-4o"]},
        "llama-8b": {"backends": BACKENDS},
        "mistral": {"backends": BACKENDS, "aliases": ["gpt-3.5", "small"]},
    }
}


def access(
    form: dict[str, Any],
    own: Sequence[str] = ("*",),
    user: Sequence[str] = (),
    team: Sequence[str] = (),
    tier: Sequence[str] = (),
) -> Access:
    """What Alice of the team search and the tier standard may use, by patterns at each level."""
    held: dict[str, Any] = {
        "users": {"alice": {"models": [*user]}} if user else {},
        "teams": {"search": {"models": [*team]}} if team else {},
        "rate_limits": {"standard": {"allowed_models": [*tier]} if tier else {}},
    }
    return Rules(Config.model_validate(form | held)).of(alice(*own))


def alice(*models: str, user: str = "alice", tier: str = "standard") -> Principal:
    return Principal("sha256:0", user, "search", tier, "laptop", models)


def may(found: Access, name: str) -> bool:
    """As Envoy decides, and the list of models."""
    return usable(json.dumps(found.models), json.dumps(found.expressions))(name)


def test_who_is_restricted_nowhere_may_use_everything() -> None:
    assert access(LONG).models == access(SHORT).models == EVERYTHING
    assert access(LONG, own=["**"], tier=["x", "*"]).models == EVERYTHING


def test_named_models_become_the_list_of_all_their_names() -> None:
    found = access(LONG, own=["llama-*"])
    assert (found.models, found.expressions) == (("llama-70b", "gpt-4o", "llama-8b"), ())


def test_a_list_of_all_models_is_said_in_a_word() -> None:
    assert access(LONG, own=["llama-*", "small"]).models == EVERYTHING


@pytest.mark.parametrize("level", ["own", "user", "team", "tier"])
@pytest.mark.parametrize("form", [SHORT, LONG], ids=["short", "long"])
def test_each_level_restricts(form: dict[str, Any], level: str) -> None:
    found = access(form, **{level: ["llama-8b", "mist*"]})
    assert [name for name in ("llama-70b", "llama-8b", "mistral") if may(found, name)] == ["llama-8b", "mistral"]


@pytest.mark.parametrize("form", [SHORT, LONG], ids=["short", "long"])
def test_every_level_must_allow(form: dict[str, Any]) -> None:
    found = access(form, own=["llama-*"], user=["*b"], team=["*-8*", "mistral"], tier=["?lama*"])
    assert [name for name in ("llama-70b", "llama-8b", "mistral", "gpt-4o") if may(found, name)] == ["llama-8b"]


def test_a_model_is_allowed_by_any_of_its_names_at_each_level() -> None:
    found = access(LONG, own=["mistral"], team=["gpt-*"])
    assert found.models == ("mistral", "gpt-3.5", "small")


def test_levels_that_agree_on_nothing_allow_nothing() -> None:
    for form in (SHORT, LONG):
        found = access(form, own=["llama-8b"], team=["mistral"])
        assert (found.models, found.expressions) == ((), ())


def test_names_need_no_expression_however_many_they_are() -> None:
    names = [f"meta-llama/Llama-3.{i}-70B" for i in range(60)]
    found = access(SHORT, own=names)
    assert (found.models, found.expressions) == (tuple(sorted(names)), ())


def test_the_default_model_is_listed_because_its_route_looks_into_the_list() -> None:
    found = access(SHORT, own=["llama-*"])
    assert found.models == ("llama-70b",)
    assert found.expressions == (r"^(?s:llama\-)",)


def test_expressions_that_envoy_could_not_evaluate_allow_nothing_and_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = access(SHORT, own=["exact", *(f"{letter}-a-long-pattern-*" for letter in "abcdefghi")])
    assert (found.models, found.expressions) == (("exact",), ())
    assert "too many or too long" in caplog.text


def test_callers_whom_nothing_tells_apart_share_what_was_worked_out() -> None:
    rules = Rules(Config.model_validate(LONG | {"users": {"alice": {"models": ["llama-*"]}}}))
    strangers = {id(rules.of(alice("gpt-*", user=f"user-{i}", tier=f"tier-{i}"))) for i in range(1000)}
    assert len(strangers) == 1
    assert rules.of(alice("gpt-*")) is not rules.of(alice("gpt-*", user="bob"))


def test_a_key_that_may_use_no_model_gets_none() -> None:
    assert access(LONG, own=[]).models == access(SHORT, own=[]).models == ()


PATTERNS = st.lists(st.text("ab*?", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.tuples(PATTERNS, PATTERNS, PATTERNS, PATTERNS), st.text("ab", min_size=1, max_size=4))
def test_a_name_may_be_used_if_each_level_has_a_pattern_for_it(lists: tuple[list[str], ...], name: str) -> None:
    own, user, team, tier = lists
    allowed = all(matcher(each)(name) for each in lists)
    assert may(access(SHORT, own, user, team, tier), name) == allowed
    named = {"models": {name: {"backends": BACKENDS}, "unused": {"backends": BACKENDS}}}
    assert may(access(named, own, user, team, tier), name) == allowed
