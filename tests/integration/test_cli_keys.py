"""`gatehouse keys` against a file and a real Redis: what it prints, keeps and notes, and when it refuses."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gatehouse.cli import app
from gatehouse.contract.key_digest import Hasher, digest_of
from gatehouse.keys.format import Kind, kind_of
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.record_json import from_json
from testkit.redis_server import RedisServer, redis_server

FILE_KEY = "sk-internal-dev-key-001"
PEPPER = "pepper-of-32-bytes-canary-4711-x"


@dataclass
class Desk:
    """A directory with a configuration, and the commands run in it."""

    folder: Path
    server: RedisServer | None = None

    @property
    def config(self) -> Path:
        return self.folder / "gatehouse.yaml"

    def configure(self, **sections: Any) -> None:
        document: dict[str, Any] = {
            "vllm": {"base_url": "http://localhost:8100/v1"},
            "logging": {"dir": str(self.folder / "logs")},
            "rate_limits": {"premium": {}, "standard": {}},
            "api_keys": {FILE_KEY: {"user_id": "dev-team", "tier": "premium", "name": "dev"}},
        }
        if self.server:
            document |= {"redis": {"url": self.server.url}, "key_store": {"type": "redis"}}
        else:
            document["key_store"] = {"type": "file", "path": str(self.folder / "keys.jsonl")}
        self.config.write_text(yaml.safe_dump(document | sections, sort_keys=False))

    def run(self, command: str, *arguments: str, typed: str | None = None) -> Result:
        words = ["keys", *command.split(), *arguments, "-c", str(self.config)]
        return CliRunner().invoke(app, words, input=typed)

    def json(self, command: str, *arguments: str, typed: str | None = None) -> dict[str, Any]:
        result = self.run(command, *arguments, "--json", typed=typed)
        assert result.exit_code == 0, result.output
        said: dict[str, Any] = json.loads(result.stdout)
        return said

    def refused(self, command: str, *arguments: str, typed: str | None = None, status: int = 1) -> str:
        """What it says, having changed nothing."""
        before = self.kept()
        result = self.run(command, *arguments, typed=typed)
        assert (result.exit_code, result.stdout) == (status, ""), result.output
        assert self.kept() == before
        return result.stderr

    def kept(self) -> dict[str, KeyRecord]:
        """What the store has, by id."""
        if self.server:
            lines = list(self.server.client().hgetall("gh:{keys}:records").values())
        else:
            file = self.folder / "keys.jsonl"
            lines = file.read_bytes().splitlines() if file.exists() else []
        return {record.key_id: record for record in map(from_json, lines)}

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "logs" / "audit.log").read_text().splitlines()]

    def everything_written(self) -> str:
        files = [file.read_bytes() for file in self.folder.rglob("*") if file.is_file()]
        if self.server:
            client = self.server.client()
            files += [name + (client.dump(name) or b"") for name in client.keys("*")]
            files += [repr(client.xrange("gh:{keys}:changes")).encode()]
        return b"\n".join(files).decode("latin-1")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["file", "redis"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    if request.param == "redis":
        desk.server = request.getfixturevalue("server")
        assert desk.server
        desk.server.client().flushall()
    desk.configure()
    return desk


@pytest.fixture
def filed(tmp_path: Path) -> Desk:
    """A desk with a store in a file."""
    desk = Desk(tmp_path)
    desk.configure()
    return desk


def test_a_new_key_is_shown_once_and_kept_as_its_digest(desk: Desk) -> None:
    made = desk.json("create --user alice --tier premium --team search --models llama-*,gpt-4o --name laptop")
    assert kind_of(made["key"], "gh") is Kind.MINTED
    assert made["key"].split("_")[1] == made["id"]
    assert desk.kept()[made["id"]] == KeyRecord(
        digest=digest_of(made["key"]),
        key_id=made["id"],
        user="alice",
        team="search",
        tier="premium",
        name="laptop",
        models=("llama-*", "gpt-4o"),
        created_at=desk.kept()[made["id"]].created_at,
        created_by=made["created_by"],
    )
    assert made["key"] not in desk.everything_written()
    assert made["key"].rsplit("_")[-1] not in desk.everything_written()


def test_people_get_the_key_alone_on_standard_output(filed: Desk) -> None:
    result = filed.run("create --user alice --expires 90d")
    assert kind_of(result.stdout.strip(), "gh") is Kind.MINTED
    assert "of alice: expires 20" in result.stderr
    assert "It is not shown again." in result.stderr


def test_a_key_has_the_limits_addresses_and_end_it_was_given(filed: Desk) -> None:
    limits = '{"requests_per_minute": 5}'
    made = filed.json("create --user a --expires 2126-01-01 --allowed-ips 10.0.0.0/8,::1 --limits", limits)
    assert (made["expires_at"], made["limits"]) == ("2126-01-01T23:59:59Z", {"requests_per_minute": 5})
    assert made["allowed_ips"] == ["10.0.0.0/8", "::1"]


def test_the_prefix_and_the_pepper_are_configurable(filed: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    filed.configure(keys={"prefix": "acme", "peppers": {"2026": "env:PEPPER_CANARY"}})
    monkeypatch.setenv("PEPPER_CANARY", PEPPER)
    made = filed.json("create --user alice")
    assert kind_of(made["key"], "acme") is Kind.MINTED
    assert filed.kept()[made["id"]].digest == Hasher({"2026": PEPPER.encode()}).newest(made["key"])
    assert made["pepper"] == "2026"
    assert filed.json("hash", typed=f"{made['key']}\n")["hash"] == filed.kept()[made["id"]].digest
    assert PEPPER not in filed.everything_written()


def test_a_pepper_that_is_not_there_is_status_2_with_the_way_out(filed: Desk) -> None:
    filed.configure(keys={"peppers": {"2026": "env:PEPPER_CANARY"}})
    said = filed.refused("create --user alice", status=2)
    assert "environment variable PEPPER_CANARY: keys.peppers.2026: is not set (export PEPPER_CANARY=…)" in said


REFUSALS = [
    (("create", "--user", "a", "--tier", "premum"), "no tier is called 'premum' (did you mean 'premium'?)"),
    (("create", "--user", "a b"), "--user: has characters that are not allowed here"),
    (("create", "--user", "a", "--expires", "1999-01-01"), "'1999-01-01' is in the past"),
    (("create", "--user", "a", "--expires", "soon"), "neither a duration such as 90d nor a day"),
    (("create", "--user", "a", "--allowed-ips", "10.0.0.0/33"), "--allowed-ips.0: '10.0.0.0/33' is not an address"),
    (("create", "--user", "a", "--limits", "{"), "--limits: must be JSON"),
    (("create", "--user", "a", "--limits", '{"request_per_minute": 1}'), "(did you mean 'requests_per_minute'?)"),
    (("rotate", "nope"), "no key has the id 'nope'"),
    (("rotate", "dev", "--overlap", "soon"), "'soon' is no duration such as 90d"),
    (("revoke", "dew"), "no key has the id 'dew' (did you mean 'dev'?)"),
    (("list", "--stale", "30"), "'30' is no duration such as 90d"),
    (("import", "/none.jsonl"), "/none.jsonl: can't be read: No such file"),
]


@pytest.mark.parametrize(("arguments", "expected"), REFUSALS)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    filed: Desk, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in filed.refused(arguments[0], *arguments[1:])
    assert not (filed.folder / "logs" / "audit.log").exists()


def test_keys_of_all_sources_are_listed_with_where_they_are(desk: Desk) -> None:
    made = desk.json("create --user alice")
    keys = desk.json("list")["keys"]
    store = "redis" if desk.server else str(desk.folder / "keys.jsonl")
    line = desk.config.read_text().splitlines().index(f"  {FILE_KEY}:") + 1
    assert [(key["id"], key["user_id"], key["source"]) for key in keys] == [
        ("dev", "dev-team", f"{desk.config}:{line}"),
        (made["id"], "alice", store),
    ]
    assert [key["id"] for key in desk.json("list --user alice")["keys"]] == [made["id"]]
    shown = desk.run("list").output + json.dumps(keys) + desk.run("show", made["id"]).output
    assert made["id"] in shown
    for secret in (made["key"], FILE_KEY, digest_of(made["key"]), digest_of(FILE_KEY)):
        assert secret not in shown


def test_stale_and_expiring_keys_can_be_found(desk: Desk) -> None:
    old = {"id": "old1", "digest": digest_of("old-old-old"), "user_id": "a", "created_at": 1.0, "created_by": "x"}
    desk.json("import", "-", typed=json.dumps(old))
    soon = desk.json("create --user a --expires 5d")["id"]
    desk.json("create --user a --expires 50d")
    assert [key["id"] for key in desk.json("list --stale 30d")["keys"]] == ["dev", "old1"]
    assert [key["id"] for key in desk.json("list --expiring 14d")["keys"]] == [soon]
    desk.json("revoke", soon)
    assert desk.json("list --expiring 14d")["keys"] == []


def test_a_key_is_shown_by_the_beginning_of_its_id(desk: Desk) -> None:
    made = desk.json("create --user alice --name laptop")
    shown = desk.json("show", made["id"][:5])
    assert (shown["id"], shown["name"], shown["status"], shown["last_used_at"]) == (
        made["id"],
        "laptop",
        "active",
        None,
    )


def test_a_successor_has_the_same_rights_and_the_old_key_ends_after_the_overlap(desk: Desk) -> None:
    old = desk.json("create --user alice --tier premium --team search --models llama-* --allowed-ips 10.0.0.0/8")
    new = desk.json("rotate", old["id"], "--overlap", "1h")
    for name in ("user_id", "team", "tier", "models", "allowed_ips", "limits", "family"):
        assert new[name] == old[name], name
    assert (new["key"] != old["key"], new["expires_at"], new["family"]) == (True, None, old["id"])
    kept = desk.kept()
    assert kept[old["id"]].expires_at == kept[new["id"]].created_at + 3600
    assert new["predecessor"]["id"] == old["id"]
    assert desk.json("rotate", new["id"])["family"] == old["id"]


def test_a_revoked_key_is_revoked_for_good(desk: Desk) -> None:
    made = desk.json("create --user alice")
    said = desk.json("revoke", made["id"], "--leaked", "--now")
    kept = desk.kept()[made["id"]]
    assert (said["status"], kept.revoked_because, kept.cut) == ("revoked", "leaked", True)
    assert kept.revoked_at
    desk.json("revoke", made["id"])
    assert desk.kept()[made["id"]] == kept
    assert "is revoked; make a new one" in desk.refused("rotate", made["id"])


def test_a_leaked_key_names_its_relatives_that_still_work(desk: Desk) -> None:
    old = desk.json("create --user alice")["id"]
    new = desk.json("rotate", old)["id"]
    assert desk.json("revoke", old, "--leaked")["still_active"] == [new]
    assert f"still active: {new}" in desk.run("revoke", old).output


def test_a_key_of_a_file_is_revoked_by_a_record_that_only_restricts(desk: Desk) -> None:
    desk.json("revoke", "dev", "--now")
    kept = desk.kept()["dev"]
    assert (kept.digest, kept.models, kept.cut) == (digest_of(FILE_KEY), (), True)
    assert desk.json("show", "dev")["status"] == "revoked"
    desk.configure(api_keys={})
    assert desk.json("list")["keys"] == []


def test_a_key_of_a_file_is_rotated_into_the_store(desk: Desk) -> None:
    new = desk.json("rotate", "dev", "--overlap", "0s")
    assert (new["user_id"], new["tier"], new["family"]) == ("dev-team", "premium", "dev")
    assert [(key["id"], key["status"]) for key in desk.json("list")["keys"]] == [
        ("dev", "expired"),
        (new["id"], "active"),
    ]


def test_without_a_store_the_way_to_one_is_shown_and_keys_of_files_have_a_line(filed: Desk) -> None:
    filed.configure(key_store={"type": "none"})
    for command in ("create --user alice", "rotate dev", "export", "import -"):
        assert "key_store: {type: file, path: keys.jsonl}" in filed.refused(command, typed="")
    line = filed.config.read_text().splitlines().index(f"  {FILE_KEY}:") + 1
    assert f"key dev stands at {filed.config}:{line}: remove it there" in filed.refused("revoke dev")
    assert [key["id"] for key in filed.json("list")["keys"]] == ["dev"]
    assert filed.json("show dev")["user_id"] == "dev-team"


def test_what_is_exported_can_be_imported_elsewhere(desk: Desk, tmp_path: Path) -> None:
    first = desk.json("create --user alice --limits", '{"requests_per_minute": 5}')
    desk.json("rotate", first["id"])
    desk.json("revoke", "dev")
    file = tmp_path / "export.jsonl"
    exported = desk.run("export").stdout
    assert desk.json("export", "--out", str(file)) == {"exported": 3, "file": str(file)}
    assert (file.read_text(), file.stat().st_mode & 0o777) == (exported, 0o600)
    assert first["key"] not in exported
    (tmp_path / "elsewhere").mkdir()
    other = Desk(tmp_path / "elsewhere")
    other.configure()
    assert other.json("import", str(file)) == {"imported": 3}
    assert other.kept() == desk.kept()


def test_an_import_is_all_or_nothing_and_names_every_line_that_is_wrong(desk: Desk) -> None:
    good = json.dumps({"id": "a1", "digest": digest_of("some-key-1"), "user_id": "a"})
    lines = [good, "{", json.dumps({"id": "a2", "digest": digest_of("some-key-2"), "user_id": "a", "tier": "gold"})]
    said = desk.refused("import -", typed="\n".join(lines))
    assert "line 2: not a JSON object on one line" in said
    assert "line 3: no tier is called 'gold' (there are premium, standard)" in said
    assert "line 1" not in said
    key = json.dumps({"id": "a1", "key": "sk-canary-4711", "user_id": "a"})
    said = desk.refused("import -", typed=key)
    assert "line 1: key: a key is not kept, only its digest" in said
    assert "canary" not in said


def test_an_old_export_does_not_revive_a_revoked_key(desk: Desk) -> None:
    made = desk.json("create --user alice")
    exported = desk.run("export").stdout
    desk.json("revoke", made["id"])
    desk.json("import", "-", typed=exported)
    assert desk.json("show", made["id"])["status"] == "revoked"


def test_every_change_is_noted_with_who_and_what(desk: Desk) -> None:
    old = desk.json("create --user alice")["id"]
    new = desk.json("rotate", old)["id"]
    desk.json("revoke", old, "--leaked")
    exported = desk.run("export").stdout
    desk.json("import", "-", typed=exported)
    noted = desk.audit()
    assert [(entry["what"], entry["key_id"]) for entry in noted] == [
        ("create", old),
        ("rotate", old),
        ("revoke", old),
        *[("import", json.loads(line)["id"]) for line in exported.splitlines()],
    ]
    assert (noted[1]["successor"], noted[2]["because"]) == (new, "leaked")
    assert all(entry["user"] and entry["time"] for entry in noted)


def test_what_cannot_be_noted_is_not_done(desk: Desk) -> None:
    made = desk.json("create --user alice")["id"]
    log = desk.folder / "logs" / "audit.log"
    log.unlink()
    log.mkdir()
    for command in ("create --user bob", f"rotate {made}", f"revoke {made}"):
        assert "can't be written (Is a directory), so nothing was changed" in desk.refused(command)


def test_a_store_that_fails_after_the_note_is_noted_too(filed: Desk) -> None:
    (filed.folder / "keys.jsonl.new").mkdir()
    assert "Is a directory" in filed.refused("create --user alice")
    assert [entry["what"] for entry in filed.audit()] == ["create", "create failed"]


def test_without_redis_nothing_is_changed_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with redis_server() as server:
        desk.server = server
        desk.configure()
    result = desk.run("create --user alice")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Redis does not keep keys now" in result.stderr
    assert "check redis.url and that Redis runs" in result.stderr
    assert not (tmp_path / "logs").exists()


def test_a_redis_that_would_forget_keys_is_warned_about_with_the_fix(desk: Desk) -> None:
    warnings = desk.json("create --user alice")["warnings"]
    if not desk.server:
        assert warnings == []
        return
    assert "appendonly is off: a restart of Redis forgets every key and revocation" in warnings[0]
    assert "set appendonly to yes" in desk.run("create --user alice").stderr
    desk.server.client().config_set("appendonly", "yes")
    assert desk.json("create --user alice")["warnings"] == []
    desk.server.client().config_set("appendonly", "no")


def test_a_revocation_during_a_rotation_wins(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotation read the key before it was revoked, and writes it after."""
    from gatehouse.cli.keys import rotating

    made = desk.json("create --user alice")["id"]
    make_successor = getattr(rotating, "successor")  # noqa: B009

    def slow(*arguments: Any) -> Any:
        found = make_successor(*arguments)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(CliRunner().invoke(app, ["keys", "revoke", made, "-c", str(desk.config)]).exit_code)
        assert os.waitpid(pid, 0)[1] == 0
        return found

    monkeypatch.setattr(rotating, "successor", slow)
    desk.json("rotate", made)
    assert desk.json("show", made)["status"] == "revoked"


class TestHash:
    def test_a_minted_key_with_a_mistake_in_it_is_refused(self, filed: Desk) -> None:
        key = filed.json("create --user alice")["key"]
        mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
        said = filed.refused("hash", typed=mistyped)
        assert "its checksum is wrong" in said
        assert mistyped not in said

    def test_what_is_hashed_already_is_refused(self, filed: Desk) -> None:
        for digest in (digest_of("some-key-1"), Hasher({"1": b"x" * 16}).newest("some-key-1")):
            assert "already is a hash" in filed.refused("hash", typed=digest)
