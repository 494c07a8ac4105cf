"""The answer that lets a request pass is, byte for byte, what protobuf would write."""

from hypothesis import given
from hypothesis import strategies as some

from gatehouse.pb.base_pb2 import HeaderValue
from gatehouse.pb.rls_pb2 import RateLimitResponse
from ratelimit_service.ok_response import passed

HEADERS = some.lists(some.tuples(some.text("abc-", min_size=1, max_size=40), some.text("0123456789ms", max_size=40)))


@given(HEADERS)
def test_bytes_are_those_of_protobuf(headers: list[tuple[str, str]]) -> None:
    pairs = [HeaderValue(key=name, value=value) for name, value in headers]
    same = RateLimitResponse(overall_code=RateLimitResponse.OK, response_headers_to_add=pairs)
    assert RateLimitResponse.FromString(passed(headers)) == same
    if all(value for _, value in headers):  # protobuf leaves out what is empty
        assert passed(headers) == same.SerializeToString()
