"""Removes guards, one at a time, and checks that a test fails without each: `make mutations`.

    python -m scripts.mutations [--list] [--only WORD]

Each mutation replaces one text in one file of a copy of the tree and runs the tests named for it. Exit status 1 if a
mutation survives. `tests/unit/test_mutations.py` holds the table to the code: every text exists exactly once.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300


class Mutation(NamedTuple):
    """`old` in `file` becomes `new`; the `tests` must notice that `guard` is gone."""

    guard: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "an expired key is rejected from the very second",
        "authz_service/decide.py",
        "if now >= principal.expires_at:",
        "if now > principal.expires_at + 1:",
        "tests/unit/test_decide.py",
    ),
    Mutation(
        "an address that is not allowed is rejected",
        "authz_service/decide.py",
        "if not all(_within(client_ip, networks)",
        "if False and not all(_within(client_ip, networks)",
        "tests/unit/test_decide.py",
    ),
    Mutation(
        "keys of a store that is silent for too long can't be decided",
        "authz_service/decide.py",
        "if stale and (principal is None or principal.only_in_store):",
        "if stale and principal is None:",
        "tests/unit/test_keyring.py tests/unit/test_decide.py",
    ),
    Mutation(
        "guesses of keys from one address are slowed down",
        "authz_service/gate.py",
        "if kind is Kind.FOREIGN and self.guesses.wait_s(client_ip, now):",
        "if False:",
        "tests/unit/test_keyring.py",
    ),
    Mutation(
        "a key store that lost a revocation revives no key",
        "authz_service/keyring.py",
        "            self._still_revoked(before)\n",
        "",
        "tests/unit/test_keyring.py",
    ),
    Mutation(
        "a token for another audience is rejected",
        "authz_service/sso/token.py",
        "if not any(ours in (audience if isinstance(audience, list) else [audience]) for ours in settings.audience):",
        "if not audience:",
        "tests/unit/test_sso_token.py",
    ),
    Mutation(
        "the key stops at the gateway",
        "authz_service/service.py",
        '_FOR_AUTHZ_ALONE = ("authorization", "x-api-key", CLIENT_IP_HEADER)',
        '_FOR_AUTHZ_ALONE = ("x-api-key", CLIENT_IP_HEADER)',
        "tests/integration/test_authz_grpc.py tests/integration/test_secrets.py",
    ),
    Mutation(
        "no request passes while no worker of authz_service answers",
        "gatehouse/envoy/filters.py",
        "failure_mode_allow=False,",
        "failure_mode_allow=True,",
        "tests/unit/test_envoy_chain.py tests/contract/test_golden.py",
    ),
    Mutation(
        "clients can't send identity headers",
        "gatehouse/envoy/listener.py",
        '_FORGEABLE = ("x-gatehouse-", "x-envoy-")',
        '_FORGEABLE = ("x-envoy-",)',
        "tests/unit/test_envoy_chain.py tests/contract/test_golden.py",
    ),
    Mutation(
        "hot restart sockets are private",
        "gatehouse/gateway/generation.py",
        '"--socket-mode", "600")',
        '"--socket-mode", "666")',
        "tests/unit/test_handover.py tests/integration/test_other_users.py",
    ),
    Mutation(
        "the operators' port rejects unknown host names",
        "portal_service/hosts.py",
        'return name in names or _is_address(name.strip("[]"))',
        "return True",
        "tests/unit/test_portal_pages.py",
    ),
    Mutation(
        "files of secrets are written for their owner alone",
        "gatehouse/files/atomic_file.py",
        "os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)",
        "os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)",
        "tests/unit/test_accepted.py tests/contract/test_key_store_file.py",
    ),
    Mutation(
        "a log is deleted only if its own time is old, too",
        "gatehouse/files/retention.py",
        " and _day_of(path) < before:",
        ":",
        "tests/unit/test_retention.py",
    ),
    Mutation(
        "a settlement in Redis counts once",
        "ratelimit_service/store/redis/settle.lua",
        "if stored ~= '' and (stored or not late) and not settled[reservations_key] then",
        "if stored or not late then",
        "tests/contract/test_store_contract.py",
    ),
    Mutation(
        "a settlement in memory counts once",
        "ratelimit_service/store/memory.py",
        "self._reservations.put(settlement.request_id, {}, now + SETTLED_TTL_MS, now)",
        "pass",
        "tests/contract/test_store_contract.py",
    ),
    Mutation(
        "a decision that comes after its request was settled reserves nothing",
        "ratelimit_service/store/memory.py",
        "if weighed.allows(ask) and not self._settled_already(ask, now):",
        "if weighed.allows(ask):",
        "tests/contract/test_store_contract.py tests/contract/test_store_agreement.py",
    ),
    Mutation(
        "the breaker ignores calls from before its last failure",
        "ratelimit_service/store/breaker.py",
        "        if began < self._failed_at:\n            return False\n        self._count = 0",
        "        self._count = 0",
        "tests/unit/test_breaker.py",
    ),
    Mutation(
        "a limiter call without identity is rejected",
        "ratelimit_service/service.py",
        "if not self._plans.identifies(who):",
        "if False:",
        "tests/unit/test_rate_limit_calls.py",
    ),
    Mutation(
        "a flood of one caller keeps out only itself",
        "ratelimit_service/waiting_room.py",
        "if self._total >= self._most and not self._is_light(holder):",
        "if self._total >= self._most:",
        "tests/unit/test_waiting_room.py",
    ),
    Mutation(
        "settlements leave the event loop to decisions",
        "ratelimit_service/service.py",
        "                await asyncio.sleep(0)\n",
        "",
        "tests/unit/test_rate_limit_calls.py",
    ),
    Mutation(
        "refusals of strangers beyond a rate are not written",
        "accesslog_service/strangers.py",
        "written = min(strangers, int(self._room))",
        "written = strangers",
        "tests/unit/test_strangers.py",
    ),
    Mutation(
        "a name that a client chose is no formula in a spreadsheet",
        "gatehouse/usage_report/export.py",
        "isinstance(value, str) and value.startswith(_FORMULA)",
        "False",
        "tests/unit/test_usage_report.py tests/unit/test_cli_usage.py",
    ),
)


def survivors(mutations: Sequence[Mutation]) -> list[Mutation]:
    """The mutations that no test noticed. Prints a line for each as it is tried."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        tree = _copy(Path(folder) / "tree")
        for number, mutation in enumerate(mutations, 1):
            caught = _is_caught(tree, mutation)
            print(f"{number:3}/{len(mutations)} {'caught  ' if caught else 'SURVIVED'} {mutation.guard}", flush=True)
            found += [] if caught else [mutation]
    return found


def _copy(tree: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _is_caught(tree: Path, mutation: Mutation) -> bool:
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file} must contain this exactly once: {mutation.old!r}")
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests.split()]
        return subprocess.run(command, cwd=tree, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 1
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check that tests notice the removal of each guard.")
    parser.add_argument("--list", action="store_true", help="print the mutations and their tests")
    parser.add_argument("--only", default="", metavar="WORD", help="only those whose guard or file contains WORD")
    options = parser.parse_args()
    chosen = [each for each in MUTATIONS if options.only in each.guard or options.only in each.file]
    if options.list:
        for each in chosen:
            print(f"{each.guard}\n    {each.file}: {each.old.strip().splitlines()[0]}\n    {each.tests}")
        return 0
    return 1 if survivors(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
