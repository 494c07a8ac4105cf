"""What is counted, under which names, and that there is an end to them."""

import re

import pytest

from ratelimit_service.dropin import stats as module
from ratelimit_service.dropin.config.rules import RateLimit
from ratelimit_service.dropin.decide import Code, Status, Verdict
from ratelimit_service.dropin.match import Match
from ratelimit_service.dropin.stats import Stats
from ratelimit_service.store.limits import Limit

PREFIX = "ratelimit_service_rate_limit_"


def match(*path: str, shadow: bool = False) -> Match:
    return Match(RateLimit(Limit("l", 10, 60), "MINUTE", shadow=shadow), "key", path)


class Counted:
    def __init__(self) -> None:
        self.stats = Stats(near_ratio=0.8)

    def answer(self, *statuses: Status, shadowed: bool = False) -> None:
        self.stats.answered(Verdict(Code.OK, statuses, shadowed))

    def value(self, name: str, **labels: str) -> float | None:
        pairs = ",".join(f'{label}="{value}"' for label, value in labels.items())
        sample = re.escape(f"{name}{{{pairs}}}" if pairs else name)
        found = re.search(rf"^{sample} (\S+)$", self.stats.exposition(), re.MULTILINE)
        return float(found[1]) if found else None

    def limit(self, name: str, **labels: str) -> float | None:
        return self.value(PREFIX + name, **labels)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.mark.parametrize(
    ("hits", "remaining", "near"), [(1, 9, 0), (1, 2, 0), (1, 1, 1), (5, 0, 2), (2, 0, 2), (0, 0, 0)]
)
def test_hits_near_the_limit_are_those_above_the_ratio(counted: Counted, hits: int, remaining: int, near: int) -> None:
    counted.answer(Status(match("d", "k"), hits, False, remaining))
    assert counted.limit("near_limit", domain="d", key1="k") == near
    assert counted.limit("within_limit", domain="d", key1="k") == hits


def test_refused_hits_are_over_the_limit(counted: Counted) -> None:
    counted.answer(Status(match("d", "k"), 3, True))
    assert [counted.limit(name, domain="d", key1="k") for name in ("total_hits", "over_limit", "within_limit")] == [
        3,
        3,
        0,
    ]


def test_shadowed_hits_are_counted_as_such(counted: Counted) -> None:
    counted.answer(Status(match("d", "k", shadow=True), 3, True), shadowed=True)
    assert counted.limit("shadow_mode", domain="d", key1="k") == 3
    assert counted.value("ratelimit_service_global_shadow_mode") == 1


def test_levels_below_the_second_are_added_up(counted: Counted) -> None:
    counted.answer(Status(match("d", "a", "b", "c"), 1), Status(match("d", "a", "b", "e"), 2))
    assert counted.limit("total_hits", domain="d", key1="a", key2="b") == 3
    assert "ratelimit.service.rate_limit.d.a.b.e.total_hits: 2" in list(counted.stats.lines())


def test_labels_keep_their_dots_unless_they_are_split_as_the_original_does(counted: Counted) -> None:
    counted.answer(Status(match("my.domain", "k"), 1))
    assert counted.limit("total_hits", domain="my.domain", key1="k") == 1
    counted.stats = Stats(split_labels=True)
    counted.answer(Status(match("my.domain", "k"), 1), Status(match("d", "1.5", "x"), 2))
    assert counted.limit("total_hits", domain="my", key1="domain", key2="k") == 1
    assert counted.limit("total_hits", domain="d", key1="1", key2="5") == 2


def test_counters_are_whole_numbers_of_their_type_and_nothing_else(counted: Counted) -> None:
    counted.answer(Status(match('d"\\', "k\n"), 3))
    counted.stats.took(0.02)
    text = counted.stats.exposition()
    assert "# TYPE ratelimit_service_rate_limit_total_hits counter\n" in text
    assert 'ratelimit_service_rate_limit_total_hits{domain="d\\"\\\\",key1="k\\n"} 3\n' in text
    assert "# TYPE ratelimit_service_response_time_seconds histogram\n" in text
    assert 'ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="0.01"} 0\n' in text
    assert 'ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="0.025"} 1\n' in text
    assert 'ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="+Inf"} 1\n' in text
    assert "_created" not in text


def test_descriptor_without_a_limit_is_not_counted(counted: Counted) -> None:
    counted.answer(Status(None), Status(Match(RateLimit(None), "key", ("d", "k"))))
    assert counted.limit("total_hits", domain="d", key1="k") is None


def test_number_of_series_is_bounded(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PATHS", 2)
    for i in range(5):
        counted.answer(Status(match("d", f"k{i}"), 1))
        counted.stats.domain_not_found(f"d{i}")
    assert counted.limit("total_hits", domain="d", key1="k1") == 1
    assert counted.limit("total_hits", domain="other", key1="other") == 3
    assert counted.limit("domain_not_found", domain="other") == 3


def test_calls_errors_and_reloads_are_counted(counted: Counted) -> None:
    counted.stats.took(0.2)
    counted.stats.failed("redis_error")
    counted.stats.config_loaded(False)
    assert counted.value("ratelimit_service_total_requests", grpc_method="ShouldRateLimit") == 1
    assert counted.value("ratelimit_service_response_time_seconds_count", grpc_method="ShouldRateLimit") == 1
    assert counted.value("ratelimit_service_should_rate_limit_error", err_type="redis_error") == 1
    assert counted.value("ratelimit_service_config_load_error") == 1
