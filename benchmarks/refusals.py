"""Do refusals tell by their timing whether a key exists? Unknown, expired, revoked and disabled keys, in turn.

    python -m benchmarks.refusals [--rounds 20000]

One worker's decision, without a transport, which would only hide differences. What is printed for each kind is the
median, and how far it is from that of unknown keys, in units of the spread of single calls.
"""

import argparse
import random
import statistics
import time
from typing import cast

from authz_service.access import Rules
from authz_service.gate import Gate
from authz_service.guesses import Guesses
from authz_service.keyring import Keyring
from authz_service.metrics import Metrics
from authz_service.service import Authz
from gatehouse.config.model import Config
from gatehouse.contract.key_digest import digest_of
from gatehouse.keys.format import mint
from gatehouse.keys.record import KeyRecord
from gatehouse.pb.external_auth_pb2 import CheckRequest
from gatehouse.rpc.service import Context

KEYS = 1000
"""Keys of each kind: enough that caches of the last one help none of them."""

CONFIG = Config.model_validate(
    {"vllm": {"base_url": "http://127.0.0.1:1/v1"}, "users": {"gone": {"disabled": True}}, "rate_limits": {"free": {}}}
)


def record(key: str, key_id: str, kind: str) -> KeyRecord:
    user = "gone" if kind == "disabled" else "alice"
    expires_at = 1.0 if kind == "expired" else 9e9
    return KeyRecord(
        digest_of(key), key_id, user, tier="free", expires_at=expires_at, revoked_at=1.0 if kind == "revoked" else None
    )


def message(key: str) -> bytes:
    request = CheckRequest()
    request.attributes.request.http.headers["authorization"] = f"Bearer {key}"
    return request.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000)
    rounds = parser.parse_args().rounds
    kinds = ("unknown", "expired", "revoked", "disabled")
    minted = {kind: [mint("gh") for _ in range(KEYS)] for kind in kinds}
    records = [record(m.key, m.key_id, kind) for kind in kinds[1:] for m in minted[kind]]
    keyring = Keyring({r.digest: r for r in records})
    authz = Authz(keyring, Rules(CONFIG), Metrics.make(), gate=Gate(guesses=Guesses(0)))
    messages = {kind: [message(m.key) for m in minted[kind]] for kind in kinds}
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in random.sample(kinds, len(kinds)):
            asked = random.choice(messages[kind])
            began = time.perf_counter()
            authz.check(asked, cast(Context, None))
            took[kind].append(time.perf_counter() - began)
    middle = {kind: statistics.median(each) for kind, each in took.items()}
    spread = statistics.quantiles(took["unknown"], n=10)
    for kind in kinds:
        apart = (middle[kind] - middle["unknown"]) / (spread[8] - spread[0])
        print(f"{kind:10} {middle[kind] * 1e6:6.1f} us   {apart:+5.2f} spreads from unknown")


if __name__ == "__main__":
    main()
