"""`Check` answers whatever it is asked: it never raises, and lets nobody pass but who has a key."""

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

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
from gatehouse.pb.external_auth_pb2 import CheckRequest, CheckResponse
from testkit.checking import checked

MINTED = mint("gh").key
KEY = "sk-fuzzed-key-0001"
RING = Keyring({digest_of(key): KeyRecord(digest_of(key), "k", "u") for key in (KEY, MINTED)})
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([KEY, MINTED, f"Bearer {KEY}", "Bearer "])


def answer(request: bytes, per_minute: int = 3) -> CheckResponse:
    gate = Gate(guesses=Guesses(per_minute))
    authz = Authz(RING, Rules(Config()), Metrics.make(CollectorRegistry()), gate=gate)
    return CheckResponse.FromString(checked(authz, request))


@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key", "other"]) | TEXT, TEXT, max_size=4), TEXT)
@example({"authorization": f"Bearer {MINTED}"}, "not an address")
@example({"x-api-key": f"{KEY},{KEY}"}, "")
@example({"x-api-key": "\0" * 70_000}, "fe80::1%eth0")
def test_any_headers_from_any_address_are_answered(headers: dict[str, str], client_ip: str) -> None:
    request = CheckRequest()
    request.attributes.request.http.headers.update(headers)
    request.attributes.source.address.socket_address.address = client_ip
    response = answer(request.SerializeToString())
    shown = {headers.get("authorization"), headers.get("x-api-key")} - {None}
    lets_pass = response.WhichOneof("http_response") == "ok_response"
    assert lets_pass or response.denied_response.status.code in (401, 429)
    assert not lets_pass or any(key in str(text) for text in shown for key in (KEY, MINTED))


@given(st.binary(max_size=400))
def test_any_bytes_are_answered(request: bytes) -> None:
    response = answer(request)
    assert response.denied_response.status.code in (401, 503)
