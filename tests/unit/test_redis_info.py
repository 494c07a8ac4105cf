"""What INFO gives away about a Redis that is unfit to keep counters."""

from typing import Any

import pytest

from gatehouse.redis_client.info import unfit_to_count

FIT = {"redis_version": "7.0.15", "role": "master", "maxmemory_policy": "noeviction", "aof_enabled": 1}


def levels(**info: Any) -> list[str]:
    return [finding.level for finding in unfit_to_count(FIT | info)]


def test_fit_redis_has_no_findings() -> None:
    assert levels() == []


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.0.1", "10.0"])
def test_redis_of_version_7_and_newer_is_fit(version: str) -> None:
    assert levels(redis_version=version) == []


@pytest.mark.parametrize("version", ["6.2.14", "5.0", "6.99.99"])
def test_older_redis_is_an_error_that_names_its_version(version: str) -> None:
    finding = next(unfit_to_count(FIT | {"redis_version": version}))
    assert finding.level == "error"
    assert version in finding.message
    assert "7.0" in finding.fix


def test_replica_is_an_error() -> None:
    assert levels(role="slave") == ["error"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_policy_that_evicts_is_a_warning_that_names_it(policy: str) -> None:
    finding = next(unfit_to_count(FIT | {"maxmemory_policy": policy}))
    assert finding.level == "warning"
    assert policy in finding.message
    assert "noeviction" in finding.fix


def test_redis_without_append_only_file_gets_advice() -> None:
    assert levels(aof_enabled=0) == ["advice"]


def test_everything_wrong_is_found_at_once() -> None:
    assert levels(redis_version="6.0", role="slave", maxmemory_policy="allkeys-lru", aof_enabled=0) == [
        "error",
        "error",
        "warning",
        "advice",
    ]
