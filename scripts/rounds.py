"""`python -m scripts.rounds 20 [TESTS]`: run the same tests that many times, each round in processes of its own,
and report how often each test passed. Without TESTS, those for exact limits under load.

For promises about time and chance, where one passing run proves little. Exit status 1: a test has failed in some round.
Ctrl-C ends it with the results so far.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

EXACT = ("tests/faults/test_limits_under_load.py", "tests/faults/test_gateway_under_load.py")
_RESULT = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)

Results = Mapping[str, Counter[str]]
"""Each test's outcomes, counted."""


def once(tests: Sequence[str]) -> dict[str, str]:
    """How each test ended. What a test that failed has said is printed."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-m", "not vllm", "--color=no", *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = results(done.stdout)
    if done.returncode or not found:
        print(done.stdout + done.stderr, flush=True)
    return found


def results(output: str) -> dict[str, str]:
    """What pytest's verbose output says of each test."""
    return {match[1]: match[2].lower() for match in _RESULT.finditer(output)}


def table(counts: Results) -> str:
    """A line a test, those that failed first."""
    lines = sorted((-ends["failed"] - ends["error"], name, ends) for name, ends in counts.items())
    return "\n".join(f"{ends['passed']:4} of {ends.total()}  {name}" for _, name, ends in lines)


def main() -> int:
    options = argparse.ArgumentParser(description="Run the same tests several times in a row.")
    options.add_argument("rounds", type=int)
    options.add_argument("tests", nargs="*", default=EXACT, help="files, or names of tests, as pytest takes them")
    asked = options.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        for number in range(1, asked.rounds + 1):
            began = time.monotonic()
            found = once(asked.tests)
            for name, end in found.items():
                counts[name][end] += 1
            good = sum(end == "passed" for end in found.values())
            print(f"round {number}: {good} of {len(found)} passed, {time.monotonic() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("stopped")
    print(table(counts))
    return int(not counts or any(ends["failed"] + ends["error"] for ends in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
