"""Verdicts, over a real store in memory with a clock that stands still unless told."""

import asyncio
from collections.abc import Sequence

import pytest

from ratelimit_service.dropin.answer import HeaderNames, headers, merge, metadata
from ratelimit_service.dropin.config.parse import load
from ratelimit_service.dropin.decide import Code, Modes, Question, Verdict
from ratelimit_service.dropin.match import Descriptor, Override, matches
from ratelimit_service.store.limits import MAX_AMOUNT
from ratelimit_service.store.memory import MemoryStore

OK, OVER = Code.OK, Code.OVER_LIMIT

CONFIG = """
domain: d
descriptors:
  - key: two
    metadata: {from: two, both: {a: 1}}
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: five
    metadata: {from: five, both: {a: 2, b: 2}}
    rate_limit: {unit: hour, requests_per_unit: 5, name: five_an_hour}
  - key: none
    rate_limit: {unit: day, requests_per_unit: 0}
  - key: shadow
    shadow_mode: true
    rate_limit: {unit: minute, requests_per_unit: 1}
  - key: quota
    quota_mode: true
    rate_limit: {unit: minute, requests_per_unit: 1}
  - key: quota2
    quota_mode: true
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: sliding
    rate_limit: {unit: minute, requests_per_unit: 2, algorithm: sliding_window}
  - key: bucket
    rate_limit: {unit: minute, requests_per_unit: 2, algorithm: token_bucket, burst: 3}
  - key: free
    rate_limit: {unlimited: true}
"""


class Service:
    """Answers as the drop-in does, without gRPC."""

    def __init__(self, modes: Modes | None = None) -> None:
        self.now = 1_000_000_020_000
        self._store = MemoryStore(lambda: self.now)
        self._rules = load([("f.yaml", CONFIG)])
        self._modes = modes or Modes()

    def ask(self, *descriptors: str | Descriptor, hits: int = 0) -> Verdict:
        asked = [d if isinstance(d, Descriptor) else descriptor(d) for d in descriptors]
        question = Question(asked, matches(self._rules, "d", asked), hits, self._modes)
        verdict = question.verdict(asyncio.run(self._store.decide(question.ask())))
        asyncio.run(self._store.refund(question.refunds()))
        return verdict

    def codes(self, *descriptors: str | Descriptor, hits: int = 0) -> list[Code]:
        """The overall code, and each one's."""
        verdict = self.ask(*descriptors, hits=hits)
        return [verdict.code, *(status.code for status in verdict.statuses)]

    def left(self, key: str) -> int:
        return self.ask(descriptor(key, hits=0)).statuses[0].remaining


def descriptor(key: str, *, hits: int | None = None, negative: bool = False) -> Descriptor:
    return Descriptor(((key, "x"),), hits, negative)


@pytest.fixture
def service() -> Service:
    return Service()


def test_limit_lets_its_amount_pass(service: Service) -> None:
    assert [service.ask("two").code for _ in range(4)] == [OK, OK, OVER, OVER]


def test_status_tells_what_remains_and_when_it_resets(service: Service) -> None:
    (status,) = service.ask("two").statuses
    assert (status.remaining, status.reset_s) == (1, 60 - service.now // 1000 % 60)


def test_next_window_starts_afresh(service: Service) -> None:
    service.ask("two", hits=2)
    service.now += 60_000
    assert service.ask("two").code is OK


def test_amount_of_zero_refuses_all(service: Service) -> None:
    assert service.ask("none").code is OVER


def test_descriptor_without_a_limit_is_ok(service: Service) -> None:
    assert service.codes("unknown", "free") == [OK, OK, OK]


def test_one_limit_refuses_for_all_but_each_has_its_own_code(service: Service) -> None:
    service.ask("two", hits=2)
    assert service.codes("five", "two", "unknown") == [OVER, OK, OVER, OK]


def test_refused_request_consumes_nothing(service: Service) -> None:
    service.ask("two", hits=2)
    service.ask("five", "two")
    assert service.left("five") == 5


def test_refused_requests_are_counted_if_wanted() -> None:
    service = Service(Modes(count_refused=True))
    service.ask("two", hits=2)
    assert service.codes("five", "two") == [OVER, OK, OVER]
    assert service.left("five") == 4


def test_request_hits_count_for_each_descriptor_without_its_own(service: Service) -> None:
    service.ask("five", descriptor("two", hits=1), hits=4)
    assert (service.left("five"), service.left("two")) == (1, 1)


@pytest.mark.parametrize("key", ["two", "sliding", "bucket"])
def test_check_only_consumes_nothing(service: Service, key: str) -> None:
    before = service.left(key)
    assert service.ask(descriptor(key, hits=0)).code is OK
    assert service.left(key) == before


@pytest.mark.parametrize(("key", "amount"), [("two", 2), ("sliding", 2), ("bucket", 3), ("none", 0)])
def test_check_only_passes_up_to_and_with_the_limit(service: Service, key: str, amount: int) -> None:
    service.ask(descriptor(key, hits=amount))
    assert service.ask(descriptor(key, hits=0)).code is OK
    service.ask(descriptor(key, hits=1))
    assert service.ask(descriptor(key, hits=0)).code is OVER


def test_reported_use_is_counted_even_beyond_the_limit(service: Service) -> None:
    """The tokens of a response are spent, whether they fitted or not."""
    assert service.ask(descriptor("five", hits=4)).code is OK
    assert service.ask(descriptor("five", hits=100)).code is OVER
    assert service.ask("five").code is OVER


def test_enormous_hits_are_over_and_no_error(service: Service) -> None:
    assert service.ask(descriptor("five", hits=2**64 - 1)).code is OVER
    assert service.ask(descriptor("five", hits=2**64 - 1)).statuses[0].hits == MAX_AMOUNT


def test_negative_hits_are_given_back_and_never_more_than_was_taken(service: Service) -> None:
    service.ask(descriptor("five", hits=4))
    assert service.ask(descriptor("five", hits=3, negative=True)).code is OK
    assert service.left("five") == 4
    service.ask(descriptor("five", hits=3, negative=True))
    assert service.left("five") == 5


def test_override_counts_by_its_own_limit(service: Service) -> None:
    once = Descriptor((("any", "x"),), override=Override(1, "MINUTE"))
    assert [service.ask(once).code for _ in range(2)] == [OK, OVER]


# Shadow


def test_shadow_limit_is_over_but_answers_ok(service: Service) -> None:
    service.ask("shadow")
    verdict = service.ask("shadow", "two")
    assert (verdict.code, [status.over for status in verdict.statuses]) == (OK, [True, False])
    assert service.left("two") == 1


def test_global_shadow_refuses_nothing_and_says_so() -> None:
    service = Service(Modes(shadow=True))
    verdicts = [service.ask("two") for _ in range(3)]
    assert [(v.code, v.shadowed) for v in verdicts] == [(OK, False), (OK, False), (OK, True)]
    assert verdicts[2].statuses[0].code is OVER


# Quotas


def test_one_quota_alone_refuses(service: Service) -> None:
    assert [service.ask("quota").code for _ in range(2)] == [OK, OVER]


def test_quotas_refuse_when_all_are_over(service: Service) -> None:
    assert service.codes("quota", "quota2") == [OK, OK, OK]
    assert service.codes("quota", "quota2") == [OK, OVER, OK]
    assert service.codes("quota", "quota2") == [OVER, OVER, OVER]


def test_other_limit_refuses_whatever_the_quotas_say(service: Service) -> None:
    service.ask("two", hits=2)
    assert service.codes("quota", "quota2", "two") == [OVER, OK, OK, OVER]


def test_global_quota_mode_makes_every_limit_a_quota() -> None:
    service = Service(Modes(quota=True))
    service.ask("two", hits=2)
    assert service.codes("two", "five") == [OK, OVER, OK]


def test_descriptor_without_a_limit_is_a_quota_with_room_in_global_quota_mode() -> None:
    service = Service(Modes(quota=True))
    service.ask("two", hits=2)
    assert service.codes("two", "unknown") == [OK, OVER, OK]
    assert service.codes("two", "free") == [OVER, OVER, OK]


# One counter twice


def remaining(verdict: Verdict) -> list[int]:
    return [status.remaining for status in verdict.statuses]


def test_counter_that_comes_twice_is_counted_in_turn(service: Service) -> None:
    assert remaining(service.ask("five", "five", "two")) == [4, 3, 1]


def test_counter_that_comes_twice_is_counted_in_turn_beyond_its_limit() -> None:
    service = Service(Modes(count_refused=True))
    service.ask("five", hits=3)
    verdict = service.ask("five", descriptor("five", hits=7), "five")
    assert (remaining(verdict), [status.over for status in verdict.statuses]) == ([1, 0, 0], [False, True, True])
    assert service.ask(descriptor("five", hits=0)).code is OVER


def test_limits_that_share_a_counter_each_tell_of_their_own(service: Service) -> None:
    few, many = (Descriptor((("any", "x"),), override=Override(amount, "DAY")) for amount in (5, 100))
    assert remaining(service.ask(few, many)) == [4, 98]


def test_check_of_a_counter_that_comes_twice_adds_nothing(service: Service) -> None:
    assert remaining(service.ask("five", descriptor("five", hits=0))) == [4, 4]


# Headers

NAMES = HeaderNames("Limit", "Remaining", "Reset")


def told(verdict: Verdict) -> Sequence[str]:
    return [value for _, value in headers(verdict, NAMES)]


def test_headers_tell_of_the_limit_that_is_nearest(service: Service) -> None:
    verdict = service.ask("five", "two", "free")
    assert headers(verdict, NAMES) == [
        ("Limit", "2"),
        ("Remaining", "1"),
        ("Reset", str(60 - service.now // 1000 % 60)),
    ]


def test_headers_tell_of_the_last_limit_that_is_over(service: Service) -> None:
    service.ask("two", hits=2)
    assert told(service.ask("none", "two", "five"))[:2] == ["2", "0"]


def test_headers_tell_of_the_limit_that_refused_and_not_of_a_quota_that_did_not(service: Service) -> None:
    service.ask("two", hits=2)
    service.ask("quota", "quota2")
    assert service.codes("two", "quota", "quota2") == [OVER, OVER, OVER, OK]
    assert told(service.ask("two", "quota", "quota2"))[:2] == ["2", "0"]


def test_headers_tell_of_the_first_quota_when_all_refuse(service: Service) -> None:
    for _ in range(2):
        service.ask("quota2", "quota")
    assert told(service.ask("quota2", "quota"))[:2] == ["2", "0"]


def test_headers_tell_of_the_limit_in_the_way_in_global_shadow_mode() -> None:
    service = Service(Modes(shadow=True))
    service.ask("five", hits=5)
    service.ask("two", hits=2)
    assert told(service.ask("five", "two"))[:2] == ["2", "0"]


def test_no_limit_no_headers(service: Service) -> None:
    assert told(service.ask("unknown", "free")) == []


# Dynamic metadata


def test_metadata_repeats_the_request_and_merges_what_passed(service: Service) -> None:
    asked = [
        descriptor("five"),
        descriptor("two", hits=1),
        Descriptor((("a", "b"), ("c", "")), override=Override(3, "DAY")),
    ]
    assert metadata("d", asked, 2, service.ask(*asked).statuses) == {
        "domain": "d",
        "hitsAddend": 2,
        "descriptors": [
            {"entries": ["five=x"]},
            {"entries": ["two=x"], "hitsAddend": 1},
            {"entries": ["a=b", "c="], "limit": "requests_per_unit:3 unit:DAY"},
        ],
        "metadata": {"from": "five", "both": {"a": 2, "b": 2}},
    }


def test_metadata_of_a_limit_that_is_over_is_left_out(service: Service) -> None:
    service.ask("two", hits=2)
    said = metadata("d", [], 0, service.ask("two", "five").statuses)
    assert said["metadata"]["from"] == "five"


def test_merge_keeps_the_first_where_both_differ() -> None:
    assert merge({"a": 1, "b": {"c": 1}}, {"a": {"x": 2}, "b": {"c": 2, "d": 3}, "e": 4}) == {
        "a": 1,
        "b": {"c": 1, "d": 3},
        "e": 4,
    }
