"""Who may pass, and as whom."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.credential import Credential, Unusable
from authz_service.decide import Decision, Result, decide
from authz_service.principals import Principals, models_regex, principals
from gatehouse.config.model import ApiKey
from gatehouse.keys.digest import digest_of

KEY = "sk-internal-dev-key-001"
NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
ALICE = {"name": "laptop", "user_id": "alice", "team": "search", "tier": "premium"}


def known(**fields: Any) -> Principals:
    """One key, `KEY`, of Alice's."""
    return principals({digest_of(KEY): ApiKey.model_validate(ALICE | fields)})


def decided(keys: Principals, key: str = KEY, client_ip: str = "10.1.2.3", now: float = NOW) -> Decision:
    return decide(Credential(key), client_ip, keys, now)


def test_the_holder_of_a_key_passes_as_who_they_are() -> None:
    result, principal = decided(known())
    assert result is Result.ALLOWED
    assert principal is not None
    assert (principal.user, principal.team, principal.tier, principal.key_id) == (
        "alice",
        "search",
        "premium",
        "laptop",
    )
    assert (principal.expires_at, principal.networks) == (math.inf, ())


def test_a_user_without_a_team_has_an_empty_one() -> None:
    _, principal = decided(known(team=None))
    assert principal is not None
    assert principal.team == ""


def test_a_key_without_a_name_is_known_by_the_start_of_its_digest() -> None:
    _, principal = decided(known(name=None))
    assert principal is not None
    assert digest_of(KEY).startswith(f"sha256:{principal.key_id}")
    assert len(principal.key_id) == 8


def test_no_key_is_missing_and_no_readable_key_is_invalid() -> None:
    assert decide(Unusable.MISSING, "10.1.2.3", known(), NOW) == Decision(Result.MISSING)
    assert decide(Unusable.INVALID, "10.1.2.3", known(), NOW) == Decision(Result.INVALID)


@pytest.mark.parametrize("key", [KEY[:-1], KEY + "1", KEY.upper(), "", digest_of(KEY), digest_of(KEY)[7:], "sk-\udcff"])
def test_any_other_key_is_nobodys(key: str) -> None:
    assert decided(known(), key) == Decision(Result.INVALID)


@given(st.text(st.characters(exclude_categories=())))
@example(KEY)
def test_only_the_very_key_passes(key: str) -> None:
    assert (decided(known(), key).result is Result.ALLOWED) == (key == KEY)


def test_a_holder_listed_under_the_digest_of_another_key_does_not_pass_by_it() -> None:
    (alice,) = known().values()
    assert decided({digest_of("another-key"): alice}, "another-key") == Decision(Result.INVALID)


def test_no_keys_let_nobody_pass() -> None:
    assert decided({}) == Decision(Result.INVALID)


def test_f43_a_key_is_refused_from_the_second_it_expires_at() -> None:
    keys = known(expires_at=datetime.fromtimestamp(NOW, UTC))
    assert decided(keys, now=NOW - 0.001).result is Result.ALLOWED
    assert decided(keys, now=NOW) == Decision(Result.EXPIRED, keys[digest_of(KEY)])
    assert decided(keys, now=NOW + 1).result is Result.EXPIRED


def test_an_expired_key_is_refused_for_its_age_wherever_it_comes_from() -> None:
    keys = known(expires_at=datetime.fromtimestamp(NOW, UTC), allowed_ips=["192.0.2.0/24"])
    assert decided(keys).result is Result.EXPIRED


@pytest.mark.parametrize(
    ("networks", "client_ip"),
    [
        (["10.0.0.0/8"], "10.255.255.255"),
        (["10.1.2.3"], "10.1.2.3"),
        (["192.0.2.0/24", "10.0.0.0/8"], "10.0.0.1"),
        (["2001:db8::/32"], "2001:DB8::1"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1"),
        (["::ffff:10.0.0.0/104"], "10.255.255.255"),
        (["::ffff:10.0.0.0/104"], "::ffff:10.0.0.1"),
        (["64:ff9b::/96"], "64:ff9b::a00:1"),
        (["0.0.0.0/0"], "203.0.113.9"),
        (["::/0"], "2001:db8::1"),
    ],
)
def test_a_client_inside_the_allowed_networks_passes(networks: Sequence[str], client_ip: str) -> None:
    assert decided(known(allowed_ips=networks), client_ip=client_ip).result is Result.ALLOWED


@pytest.mark.parametrize(
    ("networks", "client_ip"),
    [
        (["10.0.0.0/8"], "11.0.0.0"),
        (["10.1.2.3"], "10.1.2.4"),
        (["10.0.0.0/8"], "::ffff:11.0.0.1"),
        (["10.0.0.0/8"], "::10.0.0.1"),
        (["::ffff:10.0.0.0/104"], "11.0.0.0"),
        (["2001:db8::/32"], "10.0.0.1"),
        (["0.0.0.0/0"], "2001:db8::1"),
        (["0.0.0.0/0"], ""),
        (["0.0.0.0/0"], "10.1.2.3:4567"),
        (["0.0.0.0/0"], "/run/client.sock"),
        (["0.0.0.0/0"], "10.1.2.3, 10.1.2.4"),
    ],
)
def test_a_client_elsewhere_or_without_an_address_is_refused(networks: Sequence[str], client_ip: str) -> None:
    keys = known(allowed_ips=networks)
    assert decided(keys, client_ip=client_ip) == Decision(Result.IP_NOT_AUTHORIZED, keys[digest_of(KEY)])


def test_who_has_no_key_does_not_learn_that_addresses_matter() -> None:
    keys = known(allowed_ips=["192.0.2.0/24"])
    assert decided(keys, "sk-guess") == decided(known(), "sk-guess") == Decision(Result.INVALID)


@pytest.mark.parametrize("client_ip", ["", "nonsense", "::1"])
def test_a_key_without_networks_works_from_everywhere(client_ip: str) -> None:
    assert decided(known(), client_ip=client_ip).result is Result.ALLOWED


LETTERS = "ab-.[]()|^$\\{}+#! \n\t_é"
PATTERN = st.text(LETTERS + "*?", max_size=8)


def may_use(patterns: Sequence[str], model: str) -> bool:
    r"""As Python's `fullmatch` reads it, and as RE2 does: a search, in which `$` is the very end (Python's `\Z`)."""
    regex = models_regex(patterns)
    found = re.search(regex.removesuffix("$") + r"\Z", model) is not None
    assert found == (re.fullmatch(regex, model) is not None)
    return found


def test_models_become_one_anchored_expression() -> None:
    assert models_regex(["llama-*", "gpt-4o"]) == r"^(?s:llama\-.*|gpt\-4o)$"
    assert models_regex(["*"]) == "^(?s:.*)$"


@given(st.lists(PATTERN, max_size=3), st.text(LETTERS, max_size=8))
def test_model_patterns_mean_what_a_shell_means_by_them(patterns: list[str], model: str) -> None:
    literal_brackets = [pattern.replace("[", "[[]") for pattern in patterns]
    wanted = any(fnmatchcase(model, pattern) for pattern in literal_brackets)
    assert may_use(patterns, model) == (wanted or (not patterns and model == ""))


@given(PATTERN, st.data())
def test_every_name_made_from_a_pattern_matches_it(pattern: str, data: st.DataObject) -> None:
    fill = {"*": st.text(LETTERS, max_size=4), "?": st.sampled_from(LETTERS)}
    assert may_use(["other", pattern], "".join(data.draw(fill[c]) if c in fill else c for c in pattern))


@given(st.text(LETTERS, min_size=1, max_size=8), st.text(LETTERS, min_size=1, max_size=4))
def test_a_name_without_wildcards_matches_itself_and_nothing_longer(model: str, more: str) -> None:
    assert may_use([model], model)
    assert not may_use([model], model + more)
    assert not may_use([model], more + model)
    assert not may_use([model], model[:-1])


@given(st.text(LETTERS, min_size=1))
def test_a_key_with_no_models_may_use_none(model: str) -> None:
    assert not may_use([], model)
