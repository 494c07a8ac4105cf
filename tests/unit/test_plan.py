"""What a request must pass, and whose counters it is charged to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.config import Config
from gatehouse.contract import access_log
from gatehouse.contract.asks import MAX_NUMBER, NOTHING_SAID, Asks
from ratelimit_service.caller import Caller
from ratelimit_service.estimate.answer_lengths import FEW, UNKNOWN
from ratelimit_service.estimate.guess import BYTES_PER_TOKEN, TOKENS_PER_IMAGE, Tokens, estimate, uncounted
from ratelimit_service.plan import LEASE_TTL_MS, Plans
from ratelimit_service.rules.key_rules import KeyRules
from ratelimit_service.rules.rule_set import NOTHING
from ratelimit_service.store.limits import MAX_AMOUNT, Algorithm, Limit
from ratelimit_service.store.port import Charge

CONFIG = Config.model_validate(
    {
        "models": {
            "llama": {
                "backends": [{"url": "http://h/v1"}],
                "aliases": ["gpt-4o"],
                "price_per_million_tokens": {"input": 1.0, "cached_input": 0.5, "output": 4.0},
            },
            "free-model": {"backends": [{"url": "http://h/v1"}]},
        },
        "default_model": "gpt-4o",
        "rate_limits": {
            "standard": {"requests_per_hour": 300, "requests_per_minute": 30},
            "bursty": {"algorithm": "token_bucket", "requests_per_second": 5},
            "watched": {"algorithm": "fixed_window", "requests_per_day": 1, "shadow": True},
            "metered": {"tokens_per_minute": 1000, "output_tokens_per_day": 100_000, "budget_usd_per_month": 2.5},
            "by-model": {"models": {"llama": {"requests_per_minute": 3}}},
            "crowded": {"concurrent_requests": 4},
            "unlimited": {},
        },
        "users": {"alice": {"limits": {"requests_per_day": 50}}},
        "teams": {"search": {"limits": {"requests_per_day": 500}}},
    }
)
PLANS = Plans(CONFIG)


FIVE_A_DAY = '{"requests_per_day":5}'


def caller(tier: str, user: str = "bob", model: str = "llama", **more: object) -> Caller:
    return Caller(user, tier=tier, model=model, request_id="r-1", **more)  # type: ignore[arg-type]


def charges(tier: str, user: str = "bob", model: str = "llama", **more: object) -> tuple[Charge, ...]:
    return PLANS.plan(caller(tier, user, model, **more)).ask.charges


def test_every_window_of_the_tier_is_charged_one_request_shortest_first() -> None:
    found = charges("standard")
    assert [charge.limit for charge in found] == [
        Limit("requests_per_minute", 30, 60, Algorithm.SLIDING_WINDOW),
        Limit("requests_per_hour", 300, 3600, Algorithm.SLIDING_WINDOW),
    ]
    assert [(charge.hits, charge.reserve) for charge in found] == [(1, False)] * 2


def test_the_rules_stand_in_the_order_of_their_charges() -> None:
    plan = PLANS.plan(caller("standard", "alice", team="search", key_id="laptop", key_limits=FIVE_A_DAY))
    assert [rule.limit for rule in plan.rules] == [charge.limit for charge in plan.ask.charges]
    assert plan.ask.request_id == "r-1"


def test_a_tier_counts_as_it_says() -> None:
    assert [charge.limit for charge in charges("bursty")] == [
        Limit("requests_per_second", 5, 1, Algorithm.TOKEN_BUCKET)
    ]


def test_a_shadow_tier_is_charged_as_a_shadow() -> None:
    shadow = Limit("requests_per_day", 1, 86_400, Algorithm.FIXED_WINDOW, shadow=True)
    assert [charge.limit for charge in charges("watched")] == [shadow]


@pytest.mark.parametrize("tier", ["unlimited", "unknown", ""])
def test_a_tier_without_limits_charges_nothing(tier: str) -> None:
    plan = PLANS.plan(caller(tier))
    assert (plan.ask.charges, plan.ask.leases, plan.rules) == ((), (), ())


def test_user_team_and_key_are_charged_beside_the_tier_each_on_its_own() -> None:
    found = charges("standard", "alice", team="search", key_id="laptop", key_limits=FIVE_A_DAY)
    assert [charge.limit.name for charge in found] == [
        "requests_per_minute",
        "requests_per_hour",
        "user_requests_per_day",
        "team_requests_per_day",
        "key_requests_per_day",
    ]
    assert len({charge.bucket for charge in found}) == len(found)


def test_counters_are_the_users_whatever_key_is_used() -> None:
    assert charges("standard", key_id="old") == charges("standard", key_id="rotated")


def test_keys_of_one_family_share_a_counter_and_others_do_not() -> None:
    first = charges("unlimited", key_id="k1", key_limits=FIVE_A_DAY)
    second = charges("unlimited", key_id="k2", key_family="k1", key_limits=FIVE_A_DAY)
    other = charges("unlimited", key_id="k2", key_limits=FIVE_A_DAY)
    assert first == second != other
    assert [charge.limit.amount for charge in first] == [5]


def test_a_settlement_charges_the_limits_that_the_request_was_admitted_by() -> None:
    who = caller("unlimited", key_id="k2", key_family="k1", key_limits='{"concurrent_requests":2,"tokens_per_day":90}')
    asked, settled = PLANS.plan(who).ask, PLANS.settlement(who, Tokens(3, 4))
    assert [charge.bucket for charge in settled.charges] == [charge.bucket for charge in asked.charges]
    assert [charge.hits for charge in settled.charges] == [7]
    assert list(settled.leases) == [lease.key for lease in asked.leases] != []


@pytest.mark.parametrize(
    "limits", ["{", "7", '{"requests_per_day":"many"}', '{"requests_per_fortnight":1}', "{}", "\0"]
)
def test_limits_of_a_key_that_nobody_can_read_leave_those_of_its_tier(limits: str) -> None:
    assert charges("standard", key_id="k1", key_limits=limits) == charges("standard")


def test_unreadable_limits_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    told: list[None] = []
    rules = KeyRules(lambda: told.append(None))
    assert [rules.of("{"), rules.of("{"), rules.of(""), rules.of(FIVE_A_DAY) is NOTHING] == [NOTHING] * 3 + [False]
    assert len(told) == len(caplog.records) == 1


def test_a_team_shares_its_counter() -> None:
    one, other = (charges("unlimited", user, team="search") for user in ("bob", "carol"))
    assert one == other != ()


@pytest.mark.parametrize("model", ["llama", "gpt-4o", ""])
def test_a_models_limit_holds_under_all_of_its_names_and_as_the_default(model: str) -> None:
    (charge,) = charges("by-model", model=model)
    assert charge == charges("by-model", model="llama")[0]
    assert charge.limit.name == "model_requests_per_minute"


@pytest.mark.parametrize("model", ["free-model", "no-such"])
def test_a_models_limit_is_for_that_model_alone(model: str) -> None:
    assert charges("by-model", model=model) == ()


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_users_share_a_counter(one: str, other: str) -> None:
    keys = [{charge.key for charge in charges("standard", user) + charges("by-model", user)} for user in (one, other)]
    assert keys[0].isdisjoint(keys[1]) is (one != other)


def slot_tag(key: str) -> str:
    """What Redis Cluster hashes: between the first `{` and the first `}` after it, if there is something."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else key


@given(st.text(min_size=1))
def test_all_counters_of_a_user_are_on_one_slot_of_a_cluster(user: str) -> None:
    charged = [*charges("metered", user), *charges("by-model", user)]
    leases = PLANS.plan(caller("crowded", user)).ask.leases
    tags = {slot_tag(key) for key in (*(each.key for each in charged), *(each.key for each in leases))}
    assert len(tags) == 1
    assert tags.pop().startswith("u:")


def test_tokens_and_money_are_reserved_by_a_guess() -> None:
    found = {
        charge.limit.name: (charge.hits, charge.reserve)
        for charge in charges("metered", asks=Asks(100, prompt_bytes=401))
    }
    assert found == {
        "tokens_per_minute": (101 + 100, True),
        "output_tokens_per_day": (100, True),
        "budget_usd_per_month": (101 * 1 + 100 * 4, True),
    }


def reserved(tier: str = "metered", **asks: int | None) -> dict[str, int]:
    return {charge.limit.name: charge.hits for charge in charges(tier, asks=Asks(**asks))}  # type: ignore[arg-type]


def test_choices_and_images_count() -> None:
    found = reserved(max_tokens=90, choices=3, prompt_bytes=4, images=0)
    assert (found["tokens_per_minute"], found["output_tokens_per_day"]) == (271, 270)
    assert estimate(Asks(1, 1, 0, 3), 0).input == 3 * TOKENS_PER_IMAGE


def test_a_guess_above_the_whole_limit_needs_no_empty_window_and_has_no_room_for_a_second() -> None:
    assert reserved(max_tokens=10, prompt_bytes=4_000)["tokens_per_minute"] == 501
    assert reserved(max_tokens=10, prompt_bytes=3_960)["tokens_per_minute"] == 1000
    assert reserved(max_tokens=1, prompt_bytes=4 * 10**7)["budget_usd_per_month"] == 1_250_001


@pytest.mark.parametrize(
    ("asks", "limit", "hits"),
    [
        ({"max_tokens": 1001}, "tokens_per_minute", 1001),
        ({"max_tokens": 101, "choices": 10, "prompt_bytes": 800}, "tokens_per_minute", 1010),
        ({"max_tokens": 100_001}, "output_tokens_per_day", 100_001),
        ({"max_tokens": 625_001}, "budget_usd_per_month", 2_500_004),
        ({"max_tokens": MAX_NUMBER, "choices": 99}, "tokens_per_minute", MAX_AMOUNT),
    ],
)
def test_what_is_asked_for_beyond_the_whole_limit_is_charged_as_such_so_that_it_never_passes(
    asks: dict[str, Any], limit: str, hits: int
) -> None:
    assert reserved(**asks)[limit] == hits


def test_what_is_asked_for_up_to_the_whole_limit_may_pass() -> None:
    assert reserved(max_tokens=1000)["tokens_per_minute"] == 1000
    assert reserved(max_tokens=1000, prompt_bytes=4)["tokens_per_minute"] == 501


def test_no_output_is_held_back_for_what_generates_nothing() -> None:
    assert reserved(max_tokens=0, prompt_bytes=40) == {"tokens_per_minute": 10, "budget_usd_per_month": 10}
    assert reserved(max_tokens=0, images=1) == {"tokens_per_minute": 501, "budget_usd_per_month": 1024}


def test_what_uses_no_tokens_meets_no_limit_on_any() -> None:
    assert reserved(max_tokens=0) == {}
    assert reserved("standard", max_tokens=0) == {"requests_per_minute": 1, "requests_per_hour": 1}
    plan = PLANS.plan(caller("metered", asks=Asks(0)))
    assert (plan.rules, plan.shown) == ((), ())


def test_a_request_without_a_bound_is_taken_for_a_usual_one_of_its_user_and_model() -> None:
    plans, unbounded = Plans(CONFIG), Asks(None, 2, 0, 0)
    bob = caller("metered", asks=unbounded)
    assert plans.guess(bob).output == 2 * UNKNOWN
    for _ in range(FEW):
        plans.learn(bob, Tokens(10, 61))
        plans.learn(caller("metered", user="carol", asks=Asks(7)), Tokens(10, 7))
    assert plans.guess(bob).output == 2 * 31
    assert plans.guess(caller("metered", model="gpt-4o", asks=unbounded)).output == 62, "an alias is the same model"
    assert plans.guess(caller("metered", model="free-model", asks=unbounded)).output == 2 * UNKNOWN
    assert plans.guess(caller("metered", user="carol", asks=unbounded)).output == 2 * UNKNOWN, "bounds teach nothing"
    assert plans.guess(caller("metered", asks=Asks(5, 2))).output == 10


def test_a_model_without_a_price_costs_nothing() -> None:
    found = {charge.limit.name: charge.hits for charge in charges("metered", model="free-model", asks=Asks(100))}
    assert found["budget_usd_per_month"] == 0


def settled(tier: str, true: Tokens | None) -> dict[str, int]:
    return {charge.limit.name: charge.hits for charge in PLANS.settlement(caller(tier), true).charges}


def test_the_end_puts_the_true_counts_in_the_place_of_the_guess() -> None:
    assert settled("metered", Tokens(1200, 300, 1000)) == {
        "tokens_per_minute": 1500,
        "output_tokens_per_day": 300,
        "budget_usd_per_month": 200 + 500 + 1200,
    }


def test_what_was_not_reserved_is_not_settled() -> None:
    assert settled("standard", Tokens(10, 10)) == {}


def test_when_nobody_knows_the_counts_the_guess_stays() -> None:
    assert settled("metered", None) == {}


def test_a_count_beyond_reason_is_held_within_what_can_be_counted() -> None:
    assert settled("metered", Tokens(2**60, 2**60))["tokens_per_minute"] == MAX_AMOUNT


def test_one_lease_is_asked_for_renewed_and_given_back() -> None:
    who = caller("crowded")
    (lease,) = PLANS.plan(who).ask.leases
    assert (lease.name, lease.limit, lease.ttl_ms) == ("concurrent_requests", 4, LEASE_TTL_MS)
    assert [(each.request_id, each.key, each.ttl_ms) for each in PLANS.renewals(who)] == [
        ("r-1", lease.key, LEASE_TTL_MS)
    ]
    assert PLANS.settlement(who, None).leases == (lease.key,)


def test_a_lease_outlives_two_signs_of_life_that_are_lost() -> None:
    assert LEASE_TTL_MS >= 3 * access_log.PERIOD_S * 1000


numbers = st.integers(0, MAX_NUMBER)


@given(st.builds(Asks, st.none() | numbers, numbers, numbers, numbers), st.integers(0, 2**15))
def test_a_guess_is_the_size_of_the_prompt_and_what_may_come(asks: Asks, usual: int) -> None:
    guess = estimate(asks, usual)
    text = guess.input - asks.images * TOKENS_PER_IMAGE
    assert text * BYTES_PER_TOKEN >= asks.prompt_bytes > (text - 1) * BYTES_PER_TOKEN
    assert guess.output == (usual if asks.max_tokens is None else asks.max_tokens) * asks.choices
    for charge in charges("metered", asks=asks):
        assert 0 <= charge.hits <= MAX_AMOUNT


def test_an_answer_that_nobody_counted_is_charged_the_guess_or_its_size() -> None:
    guess = Tokens(10, 100)
    assert uncounted(NOTHING_SAID, guess, 4001) == Tokens(10, 1001)
    assert uncounted(NOTHING_SAID, guess, 5) == guess
    assert uncounted(Asks(0, prompt_bytes=40), Tokens(10, 0), 4000) == Tokens(10, 0)
