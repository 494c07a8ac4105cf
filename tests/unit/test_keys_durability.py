"""What INFO gives away about a Redis in which keys are not safe."""

from typing import Any

from gatehouse.keys.durability import findings

SAFE = {"aof_enabled": 1, "aof_last_write_status": "ok", "maxmemory_policy": "noeviction"}


def said(snapshots: bool | None = True, **info: Any) -> list[str]:
    found = list(findings(SAFE | info, snapshots))
    assert all(finding.level == "warning" and finding.fix for finding in found)
    return [finding.message for finding in found]


def test_an_append_only_redis_that_evicts_nothing_is_safe() -> None:
    assert said() == said(snapshots=None) == said(maxmemory_policy="volatile-lru") == []


def test_a_redis_that_keeps_nothing_is_said_to_forget_everything() -> None:
    assert said(snapshots=False, aof_enabled=0) == [
        "appendonly is off: a restart of Redis forgets every key and revocation"
    ]


def test_one_that_takes_snapshots_forgets_what_came_after() -> None:
    for snapshots in (True, None):
        assert "since its last snapshot" in said(snapshots=snapshots, aof_enabled=0)[0]


def test_one_that_evicts_may_drop_all_keys_at_once() -> None:
    assert "maxmemory-policy is allkeys-lru" in said(maxmemory_policy="allkeys-lru")[0]


def test_one_that_cannot_write_its_file_is_found() -> None:
    assert said(aof_last_write_status="err") == ["Redis could not write its append-only file"]
