"""`Check` has an answer to everything, and never raises."""

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from authz_service.access import Rules
from authz_service.decide import Result
from authz_service.metrics import Metrics
from authz_service.principals import principals
from authz_service.service import Authz
from gatehouse.config.model import ApiKey, Config
from gatehouse.contract.key_digest import digest_of
from gatehouse.contract.names import CLIENT_IP_HEADER
from gatehouse.pb.external_auth_pb2 import CheckRequest, CheckResponse
from testkit.checking import checked

KEY = "sk-the-only-key-0001"
CONFIG = Config.model_validate({"teams": {"search": {"allowed_ips": ["10.0.0.0/8", "::/0"], "models": ["a*", "b"]}}})
KEYS = {digest_of(KEY): ApiKey.model_validate({"user_id": "alice", "team": "search", "models": ["?*"]})}
REGISTRY = CollectorRegistry()
AUTHZ = Authz(principals(KEYS), Rules(CONFIG), Metrics.make(REGISTRY))
CODES = {0, 14, 16}  # OK, UNAVAILABLE, UNAUTHENTICATED


def answered(request: bytes) -> CheckResponse:
    return CheckResponse.FromString(checked(AUTHZ, request))


def errors() -> float:
    return REGISTRY.get_sample_value("api_auth_decisions_total", {"result": Result.ERROR}) or 0


@given(st.binary())
@example(b"\x0a\xff")
def test_any_bytes_have_an_answer(request: bytes) -> None:
    response = answered(request)
    assert response.status.code in CODES - {0}
    assert response.denied_response.status.code in (401, 503)


HEADERS = st.dictionaries(
    st.sampled_from(["authorization", "x-api-key"]) | st.text(max_size=20),
    st.sampled_from([KEY, f"Bearer {KEY}", f"bearer  {KEY}"]) | st.text() | st.builds("Bearer {}".format, st.text()),
)
ADDRESSES = st.sampled_from(["10.1.2.3", "::1", "::ffff:11.0.0.1", "fe80::1%eth0", "192.0.2.1"]) | st.text()


@given(HEADERS, ADDRESSES, ADDRESSES)
def test_any_headers_and_addresses_are_decided(headers: dict[str, str], told: str, address: str) -> None:
    request = CheckRequest()
    request.attributes.request.http.headers.update({**headers, CLIENT_IP_HEADER: told})
    request.attributes.source.address.socket_address.address = address
    before = errors()
    response = answered(request.SerializeToString())
    assert errors() == before, "decided, not failed"
    assert response.status.code in CODES
    if response.HasField("ok_response"):
        assert KEY in "".join(headers.values())
        assert response.dynamic_metadata["user"] == "alice"
