"""The configuration is read in another process, and taken up in slices that hold up no answer."""

import asyncio
import gc
import sys
import time
from pathlib import Path

import pytest

from ratelimit_service.dropin.config import reader_process
from ratelimit_service.dropin.config.files import Source
from ratelimit_service.dropin.config.parse import ConfigError, load
from ratelimit_service.dropin.config.rules import dump

NESTED = """
domain: d
descriptors:
  - key: a
    rate_limit: {unit: day, requests_per_unit: 5, name: n, replaces: [{name: o}]}
    metadata: {x: [1, {y: z}]}
    descriptors:
      - {key: b, value: "v*", share_threshold: true, descriptors: [{key: c, rate_limit: {unlimited: true}}]}
      - {key: c, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 7, algorithm: token_bucket, burst: 9}}
  - {key: z, detailed_metric: true, value_to_metric: true}
"""


def read(folder: Path, **options: bool) -> object:
    return asyncio.run(reader_process.read(Source(folder), merge_domains=options.get("merge_domains", False)))


def test_rules_arrive_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(NESTED)
    (tmp_path / "b.yaml").write_text("domain: e")
    assert read(tmp_path) == load([("a.yaml", NESTED), ("b.yaml", "domain: e")])


def test_no_files_are_no_rules(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


def test_fault_arrives_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{NESTED}  - {{value: x}}\n")
    with pytest.raises(ConfigError, match=r"^a\.yaml: descriptor has empty key$"):
        read(tmp_path)


def test_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere")
    with pytest.raises(OSError, match=r"a\.yaml"):
        read(tmp_path)


def test_process_that_dies_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="ended with status 1"):
        read(tmp_path)


def test_garbage_collection_goes_on_afterwards(tmp_path: Path) -> None:
    read(tmp_path)
    assert gc.isenabled()


def test_ten_thousand_rules_hold_up_no_answer(tmp_path: Path) -> None:
    """The original stops for 13 ms; measured in the time of this thread, so that a busy machine is no excuse."""
    rule = "- {{key: user, value: u{0}, rate_limit: {{unit: day, requests_per_unit: {0}}}}}"
    rules = "\n".join(map(rule.format, range(10_000)))
    (tmp_path / "a.yaml").write_text(f"domain: d\ndescriptors:\n{rules}")

    async def longest_turn() -> float:
        longest, done = 0.0, asyncio.create_task(reader_process.read(Source(tmp_path), merge_domains=False))
        while not done.done():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
        assert len(list(dump(await done))) == 10_000
        return longest

    assert asyncio.run(longest_turn()) < 0.013


# Where the files are


def names(source: Source) -> list[str]:
    return [name for name, _ in source.read()]


def test_what_is_named_like_the_directory_is_read_beside_it(tmp_path: Path) -> None:
    config = tmp_path / "config"
    for path in ("config/a.yaml", "config.b.yaml", "config.d/c.yaml", "other.yaml", "configs.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("domain: d")
    assert names(Source(config, siblings=True)) == ["a.yaml", "../config.b.yaml", "../config.d/c.yaml"]
    assert names(Source(config)) == ["a.yaml"]


def test_fingerprint_sees_what_is_beside_the_directory(tmp_path: Path) -> None:
    source = Source(tmp_path / "config", siblings=True)
    before = source.fingerprint()
    (tmp_path / "config.b.yaml").write_text("domain: d")
    assert source.fingerprint() != before


def test_place_that_is_gone_is_no_empty_configuration(tmp_path: Path) -> None:
    assert Source(tmp_path / "config", siblings=True).exists()
    assert not Source(tmp_path / "config").exists()
    assert not Source(tmp_path / "gone" / "config", siblings=True).exists()
