"""Which Envoy runs, and what it is started in."""

import os

import pytest

from gatehouse.gateway.envoy_binary import behind, environment

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


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.40.0", "2 patches behind 1.40.2"),
        ("1.40.1", "a patch behind 1.40.2"),
        ("1.40.2", None),
        ("1.40.3", None),
        ("1.41.0", None),
    ],
)
def test_an_envoy_that_lacks_known_fixes_is_told_so(version: str, said: str | None) -> None:
    found = behind(version)
    assert (found is None) if said is None else (found is not None and said in found)
