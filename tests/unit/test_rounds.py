"""Running the same tests in rounds: what is read of pytest, and what is said in the end."""

from collections import Counter

from scripts.rounds import results, table

OUTPUT = """
tests/a/test_x.py::test_one[sliding window] PASSED                       [ 33%]
tests/a/test_x.py::test_two FAILED                                       [ 66%]
tests/a/test_x.py::test_three[1] SKIPPED (needs Redis)                   [100%]
FAILED tests/a/test_x.py::test_two - AssertionError
"""


def test_how_each_test_ended_is_read() -> None:
    assert results(OUTPUT) == {
        "tests/a/test_x.py::test_one[sliding window]": "passed",
        "tests/a/test_x.py::test_two": "failed",
        "tests/a/test_x.py::test_three[1]": "skipped",
    }


def test_those_that_failed_come_first() -> None:
    counts = {"good": Counter(passed=20), "bad": Counter(passed=19, failed=1)}
    assert table(counts) == "  19 of 20  bad\n  20 of 20  good"
