"""Secrets stand elsewhere: a configuration says where, and no message shows one."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from gatehouse.config import Config, ConfigError
from gatehouse.config.model import Keys
from gatehouse.config.secret import resolve
from gatehouse.contract.key_digest import Hasher
from gatehouse.keys.peppers import hasher
from gatehouse.redis_client.client import connect

SECRET = "canary-pepper-of-32-bytes-4711-x"


def said(reference: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        hasher(Keys(peppers={"1": reference}), environment or {})
    return str(caught.value)


def test_a_secret_comes_from_the_environment() -> None:
    assert resolve("env:PEPPER", "keys.peppers.1", {"PEPPER": SECRET}) == SECRET.encode()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_or_from_a_file_whose_line_end_is_not_part_of_it(tmp_path: Path, end: str) -> None:
    file = tmp_path / "pepper"
    file.write_bytes(f"{SECRET}{end}".encode())
    assert resolve(f"file:{file}", "keys.peppers.1") == SECRET.encode()


def test_bytes_that_are_no_text_are_a_secret_too(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_bytes(b"\xff\x00" * 16)
    assert resolve(f"file:{tmp_path / 'pepper'}", "x") == b"\xff\x00" * 16


def test_a_variable_that_is_not_set_is_named_with_its_field_and_the_fix() -> None:
    assert said("env:PEPPER_1") == "environment variable PEPPER_1: keys.peppers.1: is not set (export PEPPER_1=…)"


def test_a_file_that_is_not_there_is_named_with_its_field_and_the_fix(tmp_path: Path) -> None:
    file = tmp_path / "none"
    assert said(f"file:{file}").startswith(
        f"{file}: keys.peppers.1: can't be read: No such file or directory (create it"
    )


def test_an_empty_secret_is_none() -> None:
    assert "keys.peppers.1: the secret is empty" in said("env:PEPPER", {"PEPPER": ""})


def test_a_pepper_that_can_be_guessed_is_refused_and_not_shown() -> None:
    message = said("env:PEPPER", {"PEPPER": "canary-4711"})
    assert "keys.peppers.1: is shorter than 16 bytes (make one with: openssl rand -hex 32)" in message
    assert "canary" not in message


@pytest.mark.parametrize("written", [SECRET, "env:", "env:1x", "file:", "env:PEPPER ", ""])
def test_what_is_no_reference_is_refused_and_not_shown(written: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Keys.model_validate({"peppers": {"1": written}})
    message = caught.value.errors(include_input=False)[0]["msg"]
    assert "env:NAME (an environment variable) or file:PATH" in message
    assert "canary" not in message


def test_the_last_pepper_hashes_new_keys_and_all_are_tried() -> None:
    keys = Keys(peppers={"old": "env:OLD", "new": "env:NEW"})
    made = hasher(keys, {"OLD": SECRET, "NEW": SECRET[::-1]})
    assert made.digests("a-key-of-some-kind") == Hasher({"old": SECRET.encode(), "new": SECRET[::-1].encode()}).digests(
        "a-key-of-some-kind"
    )
    assert made.newest("a-key-of-some-kind").startswith("hmac-sha256:new:")


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"keys": {"prefix": "g h"}}, "keys.prefix"),
        ({"keys": {"prefix": "gh_"}}, "keys.prefix"),
        ({"keys": {"peppers": {"a:b": "env:X"}}}, "keys.peppers"),
        ({"key_store": {"type": "etcd"}}, "key_store.type"),
        ({"key_store": {"max_stale_s": -1}}, "key_store.max_stale_s"),
    ],
)
def test_a_mistake_is_found_in_its_place(section: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"vllm": {"base_url": "http://h/v1"}, **section})
    assert ".".join(map(str, caught.value.errors()[0]["loc"])).startswith(path)


def test_the_redis_url_may_be_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("unix:///run/redis.sock\n")
    monkeypatch.setenv("WHERE", "unix:///run/redis.sock")
    for url in (f"file:{tmp_path / 'url'}", "env:WHERE"):
        config = Config.model_validate({"vllm": {"base_url": "http://h/v1"}, "redis": {"url": url}})
        client = connect(str(config.redis.url))
        assert isinstance(client, Redis)
        assert client.connection_pool.connection_kwargs["path"] == "/run/redis.sock"


def test_a_redis_url_that_is_not_there_is_told_by_its_field() -> None:
    with pytest.raises(ConfigError, match=r"redis\.url"):
        connect("file:/nowhere/url")
