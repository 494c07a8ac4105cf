"""Who may pass, and as whom."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_service.access import Rules
from authz_service.credential import Credential, Unusable
from authz_service.decide import Decision, Result, decide
from authz_service.principals import Principal, Principals, principals
from gatehouse.config.model import ApiKey, Config
from gatehouse.contract.key_digest import digest_of

KEY = "sk-internal-dev-key-001"
NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
FREE = Rules(Config())
ALICE = {"name": "laptop", "user_id": "alice", "team": "search", "tier": "premium"}


def known(**fields: Any) -> dict[str, Principal]:
    """One key, `KEY`, of Alice's."""
    return principals({digest_of(KEY): ApiKey.model_validate(ALICE | fields)})


def decided(
    keys: Principals, key: str = KEY, client_ip: str = "10.1.2.3", now: float = NOW, rules: Rules = FREE
) -> Decision:
    return decide(Credential(key), client_ip, keys, rules, now)


def test_the_holder_of_a_key_passes_as_who_they_are() -> None:
    result, principal, _ = decided(known())
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
    _, principal, _ = decided(known(team=None))
    assert principal is not None
    assert principal.team == ""


def test_a_key_without_a_name_is_known_by_the_start_of_its_digest() -> None:
    _, principal, _ = decided(known(name=None))
    assert principal is not None
    assert digest_of(KEY).startswith(f"sha256:{principal.key_id}")
    assert len(principal.key_id) == 8


def test_no_key_is_missing_and_no_readable_key_is_invalid() -> None:
    assert decide(Unusable.MISSING, "10.1.2.3", known(), FREE, NOW) == Decision(Result.MISSING)
    assert decide(Unusable.INVALID, "10.1.2.3", known(), FREE, NOW) == Decision(Result.INVALID)


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


RULED: dict[str, Any] = {"vllm": {"base_url": "http://h/v1"}, "rate_limits": {"premium": {}}}


@pytest.mark.parametrize(
    "holder",
    [
        {"users": {"alice": {"allowed_ips": ["10.0.0.0/8"]}}},
        {"teams": {"search": {"allowed_ips": ["10.0.0.0/8"]}}},
        {"rate_limits": {"premium": {"allowed_ips": ["10.0.0.0/8"]}}},
    ],
    ids=["user", "team", "tier"],
)
def test_addresses_are_those_that_user_team_tier_and_key_all_allow(holder: dict[str, Any]) -> None:
    rules = Rules(Config.model_validate(RULED | holder))
    keys = known(allowed_ips=["10.1.0.0/16", "192.0.2.0/24"])
    assert decided(keys, client_ip="10.1.2.3", rules=rules).result is Result.ALLOWED
    for client_ip in ("10.2.0.0", "192.0.2.1", "", "2001:db8::1"):
        assert decided(keys, client_ip=client_ip, rules=rules) == Decision(
            Result.IP_NOT_AUTHORIZED, keys[digest_of(KEY)]
        )
    assert decided(known(), client_ip="192.0.2.1", rules=rules).result is Result.IP_NOT_AUTHORIZED
    someone = known(user_id="sam", team=None, tier="standard")
    assert decided(someone, client_ip="192.0.2.1", rules=rules).result is Result.ALLOWED


def test_the_keys_of_a_disabled_user_are_refused_wherever_they_are_used_from() -> None:
    rules = Rules(Config.model_validate(RULED | {"users": {"alice": {"disabled": True}}}))
    keys = known(allowed_ips=["192.0.2.0/24"])
    assert decided(keys, rules=rules) == Decision(Result.DISABLED, keys[digest_of(KEY)])
    assert decided(known(user_id="sam"), rules=rules).result is Result.ALLOWED


def test_who_passes_brings_what_holds_of_them() -> None:
    rules = Rules(Config.model_validate(RULED))
    found = decided(known(models=["llama"]), rules=rules).access
    assert found is not None
    assert found.models == ("llama",)
