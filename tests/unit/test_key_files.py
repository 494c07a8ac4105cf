"""Key files: the same keys as in gatehouse.yaml, from any number of mounted files, together or not at all."""

import os
from pathlib import Path

import pytest

from gatehouse.config import ConfigError
from gatehouse.contract.key_digest import digest_of
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import to_json
from gatehouse.loading.files import Files
from gatehouse.loading.key_table import KeyRetention

HASHED = digest_of("sk-secret-hashed")
LATER = iter(range(1, 10_000))


class Folder:
    """A folder with a gatehouse.yaml and key files, and what `Files` makes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = Files(path / "gatehouse.yaml", KeyRetention.RECORDS, {})

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.write_text(text)
        at = file.stat().st_mtime_ns + 1_000_000 * next(LATER)  # two changes of one size within one tick of the clock
        os.utime(file, ns=(at, at))
        return file

    def main(self, *key_files: str, keys: str = "{}", tiers: str = "{standard: {}, premium: {}}") -> None:
        paths = [str(self.path / name) for name in key_files]
        text = f"vllm: {{base_url: 'http://h/v1'}}\nrate_limits: {tiers}\nkey_files: {paths}\napi_keys: {keys}\n"
        self.write("gatehouse.yaml", text)

    def users(self) -> set[str]:
        return {record.user for record in self.files.records.values()}

    def faults(self) -> str:
        with pytest.raises(ConfigError) as caught:
            self.files.load()
        return self._short(str(caught.value))

    def reload(self) -> str:
        return self._short("\n".join(map(str, self.files.reload())))

    def _short(self, text: str) -> str:
        assert "secret" not in text
        return text.replace(f"{self.path}/", "")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_keys_of_every_file_are_known(folder: Folder) -> None:
    folder.main("a.yaml", "b.yaml", keys="{sk-secret-main: {user_id: mia}}")
    folder.write("a.yaml", f"{HASHED}: {{user_id: ann, tier: premium}}\nsk-secret-2: {{user_id: abe}}\n")
    folder.write("b.yaml", "api_keys:\n  sk-secret-3: {user_id: bob, expires_at: 2027-01-01, models: ['llama-*']}\n")
    folder.files.load()
    assert folder.users() == {"mia", "ann", "abe", "bob"}
    assert folder.files.records[HASHED].tier == "premium"
    assert folder.files.records[digest_of("sk-secret-3")].models == ("llama-*",)
    assert sorted(path.name for path in folder.files.seen) == ["a.yaml", "b.yaml", "gatehouse.yaml"]


def test_a_key_file_may_hold_exported_records(folder: Folder) -> None:
    folder.main("k.jsonl")
    records = [KeyRecord(digest_of(f"sk-secret-{i}"), f"id{i}", f"user{i}") for i in range(3)]
    folder.write("k.jsonl", "\n".join(map(to_json, records)) + "\n")
    folder.files.load()
    assert sorted(folder.files.records.values(), key=lambda r: r.key_id) == records
    folder.write("k.jsonl", to_json(records[0]) + "\n" + to_json(records[0]) + "\n\nnonsense\n")
    said = folder.reload()
    assert "k.jsonl:2: this key is listed twice" in said
    assert "k.jsonl:4: not a JSON object" in said
    assert len(folder.users()) == 3


@pytest.mark.parametrize("text", ["", "---\n", "api_keys:\n", "api_keys: {}\n", "{}\n"])
def test_an_empty_key_file_has_no_keys(folder: Folder, text: str) -> None:
    folder.main("a.yaml")
    folder.write("a.yaml", text)
    folder.files.load()
    assert folder.users() == set()


MISTAKES = [
    (
        "sk-secret-1: {user_id: a}\nsk-secret-2: {user_id: b, tier: premiun}\n",
        "a.yaml:2: <key>.tier: no tier is called",
    ),
    ("api_keys:\n  sk-secret-1: {user_id: a, teir: b}\n", "a.yaml:2: api_keys.<key>.teir: unknown field (did you mean"),
    ("sk-secret-1: {}\n", "a.yaml:1: <key>.user_id: is missing"),
    ("sk-secret-1: {user_id: a, team: {x: 1, x: 2}}\n", "a.yaml:1: <key>.team: this name is used twice here"),
    ("sk-secret-1: {user_id: a}\nsk-secret-1: {user_id: a}\n", "a.yaml:2: this name is used twice here"),
    ("x: {user_id: a}\n", "a.yaml:1: <key>: a key is 8 to 512 visible"),
    ("- sk-secret-1\n", "a.yaml:1: must be a mapping of keys"),
    ("api_keys: [sk-secret-1]\n", "a.yaml:1: must be a mapping of keys"),
    ("\n\nsk-secret-main: {user_id: a}\n", "a.yaml:3: <key>: this key is in gatehouse.yaml too"),
    ("sk-secret-1: {user_id: a, name: main}\n", "a.yaml:1: <key>.name: a key in gatehouse.yaml has this name too"),
    ("sk-secret-1: {user_id: a", "a.yaml:2: not valid YAML"),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_is_named_with_file_and_line_and_never_the_key(folder: Folder, text: str, expected: str) -> None:
    folder.main("a.yaml", keys="{sk-secret-main: {user_id: mia, name: main}}")
    folder.write("a.yaml", text)
    assert expected in folder.faults()


def test_a_key_in_two_key_files_is_a_mistake_however_it_is_written(folder: Folder) -> None:
    folder.main("a.yaml", "b.yaml")
    folder.write("a.yaml", f"{HASHED}: {{user_id: a}}\n")
    folder.write("b.yaml", "sk-secret-hashed: {user_id: b}\n")
    assert "b.yaml:1: <key>: this key is in a.yaml too" in folder.faults()


def test_mistakes_in_every_file_are_told_at_once(folder: Folder) -> None:
    folder.main("a.yaml", "b.yaml", "c.yaml")
    folder.write("a.yaml", "sk-secret-1: {}\n")
    folder.write("c.yaml", "sk-secret-2: {}\n")
    said = folder.faults()
    assert "a.yaml:1" in said
    assert "b.yaml: can't be read: No such file" in said
    assert "c.yaml:1" in said


def test_a_change_is_taken_up_and_what_is_the_same_stays_the_same_object(folder: Folder) -> None:
    folder.main("a.yaml", keys="{sk-secret-main: {user_id: mia}}")
    folder.write("a.yaml", f"sk-secret-1: {{user_id: ann}}\n{HASHED}: {{user_id: abe}}\n")
    folder.files.load()
    before = dict(folder.files.records)
    folder.write("a.yaml", f"sk-secret-9: {{user_id: zoe}}\n{HASHED}: {{user_id: abe}}\n")
    assert folder.reload() == ""
    assert folder.users() == {"mia", "abe", "zoe"}
    assert all(folder.files.records[d] is before[d] for d in (HASHED, digest_of("sk-secret-main")))


def test_a_bad_or_missing_key_file_keeps_its_keys_while_others_change(folder: Folder) -> None:
    folder.main("a.yaml", "b.yaml")
    a = folder.write("a.yaml", "sk-secret-1: {user_id: ann}\n")
    folder.write("b.yaml", "sk-secret-2: {user_id: bob}\n")
    folder.files.load()
    folder.write("a.yaml", "sk-secret-1: {user_id: ann, teir: x}\n")
    folder.write("b.yaml", "sk-secret-3: {user_id: ben}\n")
    assert "a.yaml:1: <key>.teir: unknown field" in folder.reload()
    assert folder.users() == {"ann", "ben"}
    a.unlink()
    assert "a.yaml: can't be read" in folder.reload()
    assert folder.users() == {"ann", "ben"}
    folder.write("a.yaml", "sk-secret-4: {user_id: abe}\n")
    assert folder.reload() == ""
    assert folder.users() == {"abe", "ben"}


def test_a_bad_gatehouse_yaml_changes_nothing_but_key_files_go_on(folder: Folder) -> None:
    folder.main("a.yaml", keys="{sk-secret-main: {user_id: mia}}")
    folder.write("a.yaml", "sk-secret-1: {user_id: ann}\n")
    config = folder.files.load()
    folder.write("gatehouse.yaml", "sevrer: {}\n")
    folder.write("a.yaml", "sk-secret-1: {user_id: abe}\n")
    assert "gatehouse.yaml:1: sevrer: unknown field" in folder.reload()
    assert folder.files.config is config
    assert folder.users() == {"mia", "abe"}


def test_files_that_do_not_fit_together_change_nothing_at_all(folder: Folder) -> None:
    folder.main("a.yaml", keys="{sk-secret-main: {user_id: mia}}")
    folder.write("a.yaml", "sk-secret-1: {user_id: ann, tier: premium}\n")
    folder.files.load()
    folder.main("a.yaml", keys="{sk-secret-new: {user_id: max}}", tiers="{standard: {}}")
    assert "a.yaml:1: <key>.tier: no tier is called 'premium'" in folder.reload()
    assert folder.users() == {"mia", "ann"}
    folder.main("a.yaml", keys="{sk-secret-1: {user_id: max}}")
    assert "a.yaml:1: <key>: this key is in gatehouse.yaml too" in folder.reload()
    assert folder.users() == {"mia", "ann"}
    folder.write("a.yaml", "")
    assert folder.reload() == ""
    assert folder.users() == {"max"}


def test_a_key_moves_from_one_file_to_another_in_either_order(folder: Folder) -> None:
    folder.main("a.yaml", "b.yaml")
    folder.write("a.yaml", "sk-secret-1: {user_id: ann}\n")
    folder.write("b.yaml", "")
    folder.files.load()
    folder.write("b.yaml", "sk-secret-1: {user_id: ann}\n")
    assert "this key is in a.yaml too" in folder.reload()
    folder.write("a.yaml", "")
    assert folder.reload() == ""
    assert folder.users() == {"ann"}


def test_key_files_come_and_go_with_the_list(folder: Folder) -> None:
    folder.main()
    folder.files.load()
    folder.main("a.yaml")
    assert "a.yaml: can't be read" in folder.reload()
    folder.write("a.yaml", "sk-secret-1: {user_id: ann}\n")
    assert folder.reload() == ""
    assert folder.users() == {"ann"}
    folder.main()
    assert folder.reload() == ""
    assert folder.users() == set()


def test_keys_in_plain_text_do_not_stay_in_memory(folder: Folder) -> None:
    import gc

    folder.main("a.yaml", keys="{sk-secret-main-canary: {user_id: mia}}")
    folder.write("a.yaml", "sk-secret-file-canary: {user_id: ann}\n")
    folder.files.load()
    held = [
        value
        for found in gc.get_objects()
        if type(found) in (dict, list, tuple, set)
        for value in found
        if isinstance(value, str) and value.startswith("sk-secret-") and value.endswith("-canary")
    ]
    assert held == []
