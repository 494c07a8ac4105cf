"""What Envoy is started in."""

import os

import pytest

from gatehouse.proxy.binary import environment

RSEQ = "glibc.pthread.rseq=0"


@pytest.mark.parametrize(
    ("given", "told"),
    [(None, RSEQ), ("", RSEQ), ("glibc.malloc.arena_max=2", f"glibc.malloc.arena_max=2:{RSEQ}")],
)
def test_envoys_allocator_has_restartable_sequences_to_itself(
    monkeypatch: pytest.MonkeyPatch, given: str | None, told: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    found = environment()
    assert found.pop("GLIBC_TUNABLES") == told
    assert found.items() <= os.environ.items(), "the rest is as it was"
