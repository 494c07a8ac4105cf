"""The copy that services go by: settings that name a file of keys, which says of them what gatehouse.yaml does."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings

from gatehouse.config.model import Config
from gatehouse.config.source import parse
from gatehouse.contract.key_digest import digest_of
from gatehouse.loading.accepted import accepted, forget_others
from gatehouse.loading.complete import load_whole
from gatehouse.loading.files import Files
from gatehouse.loading.key_table import KeyRetention
from gatehouse.loading.load import Loaded
from testkit.envoy_configs import CONFIGS, valid_configs

PLAIN = "sk-internal-dev-key-001"
TEXT = f"""
vllm: {{base_url: 'http://h/v1'}}
logging: {{dir: "caf\\u00e9 \\U0001F600"}}
rate_limits: {{gold: {{requests_per_minute: 5}}, standard: {{}}}}
api_keys:
  {PLAIN}: {{user_id: dev}}
  '{digest_of("sk-another")}':
    {{user_id: al, team: t, tier: gold, name: laptop, models: ['llama-*'], expires_at: 2099-01-01,
      allowed_ips: [10.0.0.0/8], limits: {{requests_per_minute: 2}}}}
"""


def published(directory: Path, text: str = TEXT) -> Path:
    """A copy of a configuration that holds `text`."""
    file, copy = directory / "mine.yaml", directory / "gatehouse.yaml"
    file.write_text(text)
    accepted(load_whole(file), copy).publish(copy)
    return copy


def keys_of(copy: Path) -> Path:
    (file,) = yaml.safe_load(copy.read_text())["key_files"]
    return Path(file)


def test_it_says_the_same_of_settings_and_keys(tmp_path: Path) -> None:
    copy = published(tmp_path)
    own, copied = Files(tmp_path / "mine.yaml", KeyRetention.RECORDS, {}), Files(copy, KeyRetention.RECORDS, {})
    changed = {"key_files": (str(keys_of(copy)),)}
    assert own.load().model_copy(update=changed) == copied.load()
    assert own.records == copied.records
    assert len(own.records) == 2


def test_it_holds_no_key_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    copy = published(tmp_path)
    for file in (copy, keys_of(copy)):
        assert PLAIN not in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600
    assert digest_of(PLAIN) not in copy.read_text()


def test_the_file_of_keys_changes_its_name_with_what_it_holds_and_only_then(tmp_path: Path) -> None:
    first = keys_of(published(tmp_path))
    written = first.stat().st_mtime_ns
    assert keys_of(published(tmp_path, TEXT.replace("gold", "paid"))) != first
    assert keys_of(published(tmp_path, TEXT + "users: {dev: {disabled: true}}\n")) == first
    assert first.stat().st_mtime_ns == written


def test_without_keys_there_is_no_file_of_them(tmp_path: Path) -> None:
    copy = published(tmp_path, "vllm: {base_url: 'http://h/v1'}\n")
    assert Files(copy, KeyRetention.RECORDS, {}).load().key_files == ()
    assert list(tmp_path.glob("keys-*")) == []


def test_keys_that_the_environment_changes_stay_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, copy = tmp_path / "mine.yaml", tmp_path / "gatehouse.yaml"
    file.write_text(TEXT.replace(PLAIN, "lowercase-key"))
    monkeypatch.setenv("GATEHOUSE_API_KEYS__LOWERCASE-KEY__USER_ID", "other")
    accepted(load_whole(file), copy).publish(copy)
    records = Files(copy, KeyRetention.RECORDS)
    records.load()
    assert records.records[digest_of("lowercase-key")].user == "other"
    assert len(records.records) == 2


def test_key_files_of_others_come_after(tmp_path: Path) -> None:
    """What clashes with a key of gatehouse.yaml is the other file's fault."""
    other = tmp_path / "other.yaml"
    other.write_text("{}")
    copy = published(tmp_path, f"{TEXT}key_files: ['{other}']\n")
    files = Files(copy, KeyRetention.RECORDS, {})
    files.load()
    other.write_text(f"{PLAIN}: {{user_id: eve}}\nsk-a-new-one: {{user_id: eve}}\n")
    (problem,) = files.reload()
    assert problem.origin == str(other)
    assert files.records[digest_of(PLAIN)].user == "dev"


def test_files_of_keys_that_nobody_names_any_more_go(tmp_path: Path) -> None:
    copy, file = tmp_path / "gatehouse.yaml", tmp_path / "mine.yaml"
    made = []
    for user in ("a", "b", "c"):
        file.write_text(TEXT.replace("user_id: dev", f"user_id: {user}"))
        made.append(accepted(load_whole(file), copy))
    forget_others(copy, *made[1:])
    assert {path.name for path in tmp_path.glob("keys-*")} == {each.keys.name for each in made[1:] if each.keys}


@given(valid_configs)
@example(CONFIGS["long"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_whatever_is_valid_comes_back_as_it_was(tmp_path: Path, config: Config) -> None:
    """Names that look like numbers, dates or YAML itself included."""
    written, copy = config.model_dump(mode="json", exclude_unset=True), tmp_path / "gatehouse.yaml"
    accepted(Loaded(config, (), None, b"", written, None), copy).publish(copy)
    assert parse(copy.read_bytes(), "copy").data == {**written, "key_files": list(config.key_files)}
