"""gatehouse usage and gatehouse simulate over many records: how long they take, and how much memory.

    python -m benchmarks.usage [--records 10000000] [--replayed 100000]

Logs of 28 days are written to a temporary directory (650 bytes a record) and removed afterwards.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from testkit.request_logs import record

ROOT = Path(__file__).parents[1]
DAYS = 28
DIFFERENT = 100_000
"""Lines generated one by one; each day repeats them with its own date."""
LIMITS = "{requests_per_minute: 20, tokens_per_day: 2_000_000, concurrent_requests: 4}"
QUESTIONS = ("day", "user,model", "user,key,endpoint,status,hour")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as name:
        folder = Path(name)
        small, large = folder / "small", folder / "large"
        _write(small, options.replayed)
        _write(large, options.records)
        size = sum(file.stat().st_size for file in large.iterdir())
        print(f"{options.records:,} records, {size / 1e9:.1f} GB, {os.cpu_count()} CPUs")
        for by in QUESTIONS:
            arguments = ["usage", "--log", str(large), "--by", by, "--limit", "1", "--json"]
            _report(f"usage --by {by}", options.records, arguments)
        config = folder / "new.yaml"
        config.write_text(f"vllm: {{base_url: 'http://localhost:1/v1'}}\nrate_limits: {{standard: {LIMITS}}}\n")
        _report("simulate", options.replayed, ["simulate", "-c", str(config), str(small), "--json"])


def _report(what: str, records: int, arguments: list[str]) -> None:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "gatehouse.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = json.load(process.stdout)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    assert process.returncode == 0
    assert said["total"]["requests"] == records if "total" in said else said["requests"] == records
    rate, cpu = records / seconds, used.ru_utime + used.ru_stime
    peak = used.ru_maxrss / 1024
    print(f"{what:42} {seconds:6.1f} s {rate:11,.0f} records/s {cpu:6.1f} s CPU {peak:6.0f} MiB")


def _write(folder: Path, records: int) -> None:
    folder.mkdir()
    lines = list(_lines(min(DIFFERENT, max(1, records // DAYS))))
    for day in range(DAYS):
        date = (datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat().encode()
        count = records // DAYS + (day < records % DAYS)
        text = b"".join(lines).replace(b"2026-11-01T", date + b"T")
        with (folder / f"requests_{date.decode()}.log").open("wb") as file:
            for _ in range(count // len(lines)):
                file.write(text)
            file.write(b"".join(lines[: count % len(lines)]).replace(b"2026-11-01T", date + b"T"))


def _lines(count: int) -> Iterator[bytes]:
    pick = random.Random(7)
    for _ in range(count):
        prompt, completion = pick.randrange(4000), pick.randrange(800)
        yield record(
            pick.uniform(-43_200, 43_199),
            request_id=f"{pick.getrandbits(128):032x}",
            trace_id=f"{pick.getrandbits(128):032x}",
            user_id=f"user-{pick.randrange(500)}",
            team=f"team-{pick.randrange(20)}",
            key_id=f"{pick.randrange(1000):08x}",
            model=f"model-{pick.randrange(8)}",
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost_usd=(prompt + 3 * completion) / 1e6,
            duration_ms=round(pick.lognormvariate(7.5, 1), 3),
            ttft_ms=round(pick.lognormvariate(5, 0.7), 3),
            bytes_in=prompt * 4,
            bytes_out=completion * 200,
            user_agent="OpenAI/Python 1.50.0",
        ).line()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--replayed", type=int, default=100_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
