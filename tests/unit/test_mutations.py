"""The table of guards fits the code, so that `make mutations` never tries what is gone."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


def source(file: str) -> Path:
    """The file of a package, wherever that is installed."""
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / rest


def test_there_are_twenty_and_more() -> None:
    assert len({each.guard for each in MUTATIONS}) == len(MUTATIONS) >= 20


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.guard)
def test_each_guard_is_there_exactly_once_and_so_are_its_tests(mutation: Mutation) -> None:
    assert source(mutation.file).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new
    assert [test for test in mutation.tests.split() if not (ROOT / test).exists()] == []
