"""What a worker knows of keys: files and store together, and what is left when the store is gone."""

import asyncio
import math
import time
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from authz_service import store as following
from authz_service.access import Rules
from authz_service.credential import Credential
from authz_service.decide import Decision, Result, decide
from authz_service.gate import Gate
from authz_service.guesses import Guesses
from authz_service.keyring import IN_USE, Keyring
from authz_service.metrics import StoreMetrics
from gatehouse.config.model import Config
from gatehouse.contract.key_digest import Hasher, digest_of
from gatehouse.keys.format import mint
from gatehouse.keys.record import KeyRecord
from gatehouse.keys.standing import ONLY_RESTRICTS
from gatehouse.keys.store import Change
from testkit.fakes.key_store import MemoryKeyStore

NOW = 1_800_000_000.0
KEY = "sk-keyring-key-0001"
ALICE = KeyRecord(digest_of(KEY), "laptop", "alice")
RULES = Rules(Config())
REVOKED = replace(ALICE, revoked_at=NOW - 1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ring(listed: KeyRecord | None = None, stored: KeyRecord | None = None, max_stale_s: float | None = 300) -> Keyring:
    keyring = Keyring({listed.digest: listed} if listed else {}, max_stale_s)
    if max_stale_s is not None:
        keyring.apply(complete(*[stored] if stored else []))
    return keyring


def complete(*records: KeyRecord) -> Change:
    return Change({record.digest: record for record in records}, complete=True)


def result(keyring: Keyring, key: str = KEY) -> Result:
    return decide(Credential(key), "192.0.2.7", keyring, RULES, NOW, stale=keyring.stale).result


@pytest.mark.parametrize(
    ("listed", "stored", "expected"),
    [
        (None, None, Result.INVALID),
        (ALICE, None, Result.ALLOWED),
        (None, ALICE, Result.ALLOWED),
        (None, REVOKED, Result.REVOKED),
        (ALICE, REVOKED, Result.REVOKED),
        (ALICE, replace(ALICE, models=ONLY_RESTRICTS, expires_at=NOW), Result.EXPIRED),
        (replace(ALICE, expires_at=NOW), replace(ALICE, expires_at=math.inf), Result.EXPIRED),
        (None, replace(ALICE, models=ONLY_RESTRICTS), Result.INVALID),
        (None, replace(ALICE, revoked_at=NOW + 3600), Result.REVOKED),
    ],
)
def test_a_store_adds_keys_and_restricts_those_in_files(
    listed: KeyRecord | None, stored: KeyRecord | None, expected: Result
) -> None:
    assert result(ring(listed, stored)) is expected


def test_a_store_does_not_say_whose_a_key_in_a_file_is() -> None:
    keyring = ring(ALICE, replace(ALICE, user="mallory", tier="premium", models=("gpt-*",)))
    principal = keyring.get(ALICE.digest)
    assert principal is not None
    assert (principal.user, principal.tier, principal.only_in_store) == ("alice", "standard", False)


def test_a_change_of_one_key_is_one_step_and_leaves_the_others_as_they_are() -> None:
    other = replace(ALICE, digest=digest_of("sk-keyring-other"), key_id="other")
    keyring = ring()
    keyring.apply(complete(ALICE, other))
    kept = keyring.get(other.digest)
    keyring.apply(Change({ALICE.digest: REVOKED}))
    assert result(keyring) is Result.REVOKED
    assert keyring.get(other.digest) is kept


def test_a_principal_is_made_once_and_only_those_in_use_are_kept() -> None:
    records = {f"sha256:{n:064x}": KeyRecord(f"sha256:{n:064x}", f"k{n}", "u") for n in range(IN_USE + 10)}
    keyring = Keyring(records)
    first = keyring.get(f"sha256:{0:064x}")
    assert keyring.get(f"sha256:{0:064x}") is first
    for digest in records:
        assert keyring.get(digest) is not None
    assert len(keyring._made) == IN_USE


@pytest.mark.parametrize(
    "later",
    [
        complete(),
        complete(ALICE),
        Change({ALICE.digest: ALICE}),
        Change({ALICE.digest: None}),
        complete(replace(ALICE, expires_at=math.inf)),
    ],
    ids=["all-gone", "back-in-time", "put-back", "removed", "another"],
)
@pytest.mark.parametrize("listed", [None, ALICE])
def test_a_revoked_key_never_revives_whatever_the_store_says_later(listed: KeyRecord | None, later: Change) -> None:
    keyring = ring(listed, REVOKED)
    keyring.apply(later)
    assert result(keyring) is Result.REVOKED
    keyring.lose_touch()
    assert result(keyring) is Result.REVOKED


def test_a_key_that_a_complete_change_does_not_name_is_gone() -> None:
    keyring = ring(None, ALICE)
    keyring.apply(complete())
    assert result(keyring) is Result.INVALID


def test_f17_without_the_store_its_keys_count_for_a_while_and_then_nobody_can_say() -> None:
    clock = Clock()
    listed = replace(ALICE, digest=digest_of("sk-keyring-listed"))
    keyring = Keyring({listed.digest: listed}, 300, clock)
    keyring.apply(complete(ALICE))
    clock.now += 10_000  # nothing has changed for long: the store is still there
    assert result(keyring) is Result.ALLOWED
    assert keyring.age_s() == 0
    keyring.lose_touch()
    clock.now += 300
    keyring.lose_touch()
    assert [result(keyring, key) for key in (KEY, "sk-unknown-key")] == [Result.ALLOWED, Result.INVALID]
    assert keyring.age_s() == 300
    clock.now += 1
    assert [result(keyring, key) for key in (KEY, "sk-unknown-key")] == [Result.UNAVAILABLE] * 2
    assert result(keyring, "sk-keyring-listed") is Result.ALLOWED
    keyring.apply(complete(ALICE))
    assert [result(keyring, key) for key in (KEY, "sk-unknown-key")] == [Result.ALLOWED, Result.INVALID]


def test_before_the_store_has_spoken_only_files_count() -> None:
    keyring = Keyring({ALICE.digest: ALICE}, 300)
    assert [result(keyring, key) for key in (KEY, "sk-unknown-key")] == [Result.ALLOWED, Result.UNAVAILABLE]


def test_without_a_store_nothing_is_ever_stale() -> None:
    keyring = Keyring({})
    assert (result(keyring), keyring.age_s()) == (Result.INVALID, 0)


class Follower:
    """`store.follow` running, over a store in memory."""

    def __init__(self, keyring: Keyring, *records: KeyRecord) -> None:
        self.store = MemoryKeyStore(*records)
        self.keyring = keyring
        self.registry = CollectorRegistry()
        self.tried = asyncio.Event()

    async def __aenter__(self) -> "Follower":
        metrics = StoreMetrics(self.registry)
        self.task = asyncio.create_task(following.follow(self.store, self.keyring, metrics, self.tried))
        await asyncio.wait_for(self.tried.wait(), 5)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def becomes(self, expected: Result, within_s: float = 2) -> None:
        deadline = time.monotonic() + within_s
        while result(self.keyring) is not expected:
            assert time.monotonic() < deadline, f"still {result(self.keyring)} after {within_s} s"
            await asyncio.sleep(0.01)

    def errors(self) -> float:
        return self.registry.get_sample_value("api_key_store_errors_total") or 0


@pytest.mark.asyncio
async def test_f42_what_is_made_and_revoked_in_the_store_counts_within_two_seconds() -> None:
    async with Follower(Keyring({}, 300)) as follower:
        assert result(follower.keyring) is Result.INVALID
        await follower.store.put([ALICE])
        await follower.becomes(Result.ALLOWED)
        await follower.store.put([REVOKED])
        await follower.becomes(Result.REVOKED)


@pytest.mark.asyncio
async def test_a_store_that_fails_is_asked_again_and_its_return_counts_within_two_seconds() -> None:
    async with Follower(Keyring({}, 0.0), ALICE) as follower:
        assert result(follower.keyring) is Result.ALLOWED
        follower.store.fail()
        await follower.becomes(Result.UNAVAILABLE)
        await asyncio.sleep(1)
        assert 2 <= follower.errors() <= 8
        follower.store.up = True
        follower.store.records[ALICE.digest] = REVOKED
        await follower.becomes(Result.REVOKED)


@pytest.mark.asyncio
async def test_a_store_that_is_down_at_the_start_is_not_waited_for() -> None:
    follower = Follower(Keyring({}, 300), ALICE)
    follower.store.up = False
    async with follower:
        assert result(follower.keyring) is Result.UNAVAILABLE
        follower.store.up = True
        await follower.becomes(Result.ALLOWED)


@pytest.mark.asyncio
async def test_a_mistake_in_the_store_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower(Keyring({}, 0.0), ALICE)

    async def broken() -> object:
        raise RuntimeError(KEY)

    good, follower.store.all = follower.store.all, broken  # type: ignore[assignment,method-assign]
    async with follower:
        assert result(follower.keyring) is Result.UNAVAILABLE
        follower.store.all = good  # type: ignore[method-assign]
        await follower.becomes(Result.ALLOWED)
    assert "RuntimeError; this is a bug" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.asyncio
async def test_last_use_is_told_in_batches_and_what_the_store_does_not_take_is_told_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "REPORT_EVERY_S", 0.02)
    store, used = MemoryKeyStore(), {"laptop": NOW}
    store.up = False
    task = asyncio.create_task(following.report_use(store, used))
    await asyncio.sleep(0.1)
    assert used == {"laptop": NOW}
    used["laptop"] = NOW + 5
    store.up = True
    await asyncio.sleep(0.1)
    assert (store.noted, used) == ({"laptop": NOW + 5}, {})
    used["phone"] = NOW + 9
    task.cancel()
    await asyncio.wait([task])
    assert store.noted == {"laptop": NOW + 5, "phone": NOW + 9}


class Spy(dict[str, object]):
    """Principals that note each look-up."""

    asked = 0

    def get(self, digest: str, default: object = None) -> object:
        self.asked += 1
        return super().get(digest, default)


def through(gate: Gate, keyring: Keyring, key: str, client_ip: str = "192.0.2.7") -> Decision:
    return gate.decide(Credential(key), client_ip, keyring, RULES, NOW)


def test_f40_every_single_change_of_a_minted_key_is_refused_without_a_look_up() -> None:
    minted = mint("gh").key
    principals, gate = Spy(), Gate()
    for place in range(len(minted)):
        for other in "0Az-_~!":
            if other != minted[place]:
                changed = minted[:place] + other + minted[place + 1 :]
                assert gate.decide(Credential(changed), "192.0.2.7", principals, RULES, NOW) == Decision(Result.INVALID)  # type: ignore[arg-type]
    assert principals.asked == 0
    assert gate.guesses.wait_s("192.0.2.7", NOW) == 0, "what is refused unseen is no guess"


def test_f40_who_guesses_waits_but_not_the_bearer_of_a_minted_key_beside_them() -> None:
    minted = mint("gh").key
    listed = {record.digest: record for record in (ALICE, KeyRecord(digest_of(minted), "minted", "bob"))}
    keyring, gate = Keyring(listed), Gate(guesses=Guesses(5))
    for number in range(5):
        assert through(gate, keyring, f"sk-guess-{number}").result is Result.INVALID
    assert through(gate, keyring, "sk-guess-5").result is Result.TOO_MANY_FAILURES
    assert through(gate, keyring, KEY).result is Result.TOO_MANY_FAILURES
    assert through(gate, keyring, minted).result is Result.ALLOWED
    assert through(gate, keyring, mint("gh").key).result is Result.INVALID
    assert through(gate, keyring, KEY, "192.0.2.8").result is Result.ALLOWED


@pytest.mark.parametrize("record", [replace(ALICE, expires_at=NOW), REVOKED])
def test_expired_and_revoked_keys_count_as_unknown_ones_do(record: KeyRecord) -> None:
    gate, keyring = Gate(guesses=Guesses(2)), Keyring({record.digest: record})
    assert [through(gate, keyring, KEY).result for _ in range(3)][2] is Result.TOO_MANY_FAILURES


def test_when_nobody_can_say_nobody_has_guessed() -> None:
    gate, keyring = Gate(guesses=Guesses(1)), Keyring({}, 300)
    assert [through(gate, keyring, KEY).result for _ in range(3)] == [Result.UNAVAILABLE] * 3


def test_a_key_is_found_under_every_form_it_may_be_kept_in_and_all_are_always_tried() -> None:
    hasher = Hasher({"1": b"p" * 32, "2": b"q" * 32})
    for digest in hasher.digests(KEY):
        found = through(Gate(hasher=hasher), Keyring({digest: replace(ALICE, digest=digest)}), KEY)
        assert found.result is Result.ALLOWED
    assert through(Gate(hasher=hasher), Keyring({}), KEY).result is Result.INVALID
    for key in (KEY, "sk-unknown-key"):
        spy = Spy()
        Gate(hasher=hasher).decide(Credential(key), "192.0.2.7", spy, RULES, NOW)  # type: ignore[arg-type]
        assert spy.asked == 3


def test_only_what_passes_is_noted_as_used() -> None:
    used: dict[str, float] = {}
    gate = Gate(last_used=used)
    through(gate, Keyring({ALICE.digest: REVOKED}), KEY)
    through(gate, Keyring({}), KEY)
    assert used == {}
    through(gate, Keyring({ALICE.digest: ALICE}), KEY)
    assert used == {"laptop": NOW}
