"""`envoy.service.auth.v3.Authorization` over `decide`: protobuf in, protobuf out.

What Envoy's filter expects (ext_authz, `external_auth.proto`): status OK brings the identity, as headers for the model
server and as dynamic metadata for the filters that follow; any other status brings the finished answer for the client.
"""

import logging
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from typing import Any, Protocol

from authz_service.access import REMEMBERED, Access, Rules
from authz_service.credential import Credential, Unusable, parse
from authz_service.decide import Decision, Result, admit, decide
from authz_service.gate import Gate
from authz_service.metrics import Metrics
from authz_service.principals import Principal, Principals
from gatehouse.contract import errors
from gatehouse.contract.errors import ClientError
from gatehouse.contract.names import CLIENT_IP_HEADER
from gatehouse.pb.base_pb2 import HeaderValue, HeaderValueOption
from gatehouse.pb.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse
from gatehouse.pb.http_status_pb2 import HttpStatus
from gatehouse.pb.status_pb2 import Status
from gatehouse.rpc.service import Context, Unary

log = logging.getLogger(__name__)

NAME = "envoy.service.auth.v3.Authorization"

MAX_ANSWERS = 4096
"""Serialized answers to cache: enough for the keys in use, not for all keys that exist."""

_GRPC_STATUS = {401: 16, 429: 8, 503: 14}  # UNAUTHENTICATED, RESOURCE_EXHAUSTED, UNAVAILABLE


_FOR_AUTHZ_ALONE = ("authorization", "x-api-key", CLIENT_IP_HEADER)


def allowed(principal: Principal) -> bytes:
    """The answer that allows `principal`: its identity goes to later filters and to the model server, its key does not.

    The models it may use are appended: concatenated serialized messages are one message (protobuf encoding, "Last One
    Wins"), so `allowed(…) + usable(…)` is the whole answer, and its long part is cached once for all callers.
    """
    identity = _identity(principal)
    headers = {f"x-gatehouse-{name.replace('_', '-')}": value for name, value in identity.items() if value}
    ok = OkHttpResponse(headers=_headers(headers), headers_to_remove=_FOR_AUTHZ_ALONE)
    response = CheckResponse(status=Status(), ok_response=ok)
    response.dynamic_metadata.update({**identity, **_own_limits(principal)})
    return response.SerializeToString()


def usable(access: Access) -> bytes:
    """The rest of the answer: the models that Envoy lets through."""
    response = CheckResponse()
    response.dynamic_metadata.update({"models": list(access.models), "expressions": list(access.expressions)})
    return response.SerializeToString()


def denied(error: ClientError, **metadata: str) -> bytes:
    """The answer that rejects a request with `error`. Its code and `metadata` go to the access log."""
    denial = DeniedHttpResponse(
        status=HttpStatus(code=error.status), headers=_headers(_error_headers(error)), body=error.json().decode()
    )
    response = CheckResponse(status=Status(code=_GRPC_STATUS[error.status]), denied_response=denial)
    response.dynamic_metadata.update({"error_code": error.code, **metadata})
    return response.SerializeToString()


def refused(result: Result, principal: Principal) -> bytes:
    """The rejection of a known key. To the client, an expired or revoked key, or one of a disabled user, looks like an
    unknown one."""
    if result is not Result.IP_NOT_AUTHORIZED:
        return denied(errors.INVALID_API_KEY, key_id=principal.key_id)
    return denied(errors.IP_NOT_AUTHORIZED, **_identity(principal))


def _identity(principal: Principal) -> dict[str, str]:
    return {"user": principal.user, "team": principal.team, "tier": principal.tier, "key_id": principal.key_id}


def _own_limits(principal: Principal) -> dict[str, str]:
    """For the limiter, which stores no keys: it counts under the family if there is one, else under the key's id."""
    own = {
        "key_limits": principal.limits,
        "key_family": principal.family if principal.family != principal.key_id else "",
    }
    return {name: value for name, value in own.items() if value}


def _error_headers(error: ClientError) -> dict[str, str]:
    """RFC 9110 §11.6.1: a 401 names the scheme. OpenAI's clients honour `x-should-retry`: a wrong key stays wrong."""
    headers = {"content-type": "application/json"}
    if error.status == 401:
        headers |= {"www-authenticate": "Bearer", "x-should-retry": "false"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return headers


def _headers(values: Mapping[str, str]) -> list[HeaderValueOption]:
    overwrite = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return [HeaderValueOption(header=HeaderValue(key=k, value=v), append_action=overwrite) for k, v in values.items()]


@lru_cache
def _wait(seconds: int) -> bytes:
    return denied(errors.too_many_failures(max(1, seconds)))


_UNAVAILABLE = denied(errors.AUTH_UNAVAILABLE)
_DENIED = {
    Result.MISSING: denied(errors.MISSING_API_KEY),
    Result.INVALID: denied(errors.INVALID_API_KEY),
    Result.UNAVAILABLE: _UNAVAILABLE,
}


class Tokens(Protocol):
    """Resolves JSON Web Tokens to principals."""

    async def holder(self, token: str) -> Principal | Result:
        """The principal of `token`, even if expired by now, or why it is rejected. Never raises."""
        ...


class Authz:
    """Answers `Check`. Takes and returns serialized messages: an answer that never changes is serialized once.

    Without `tokens` a JSON Web Token is treated as a key, and an unknown one.
    """

    def __init__(
        self,
        principals: Principals,
        rules: Rules,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        tokens: Tokens | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._usable = lru_cache(REMEMBERED)(usable)
        self._gate = gate or Gate()
        self._metrics = metrics
        self._clock = clock
        self.adopt(principals, rules, tokens)

    def adopt(
        self, principals: Principals, rules: Rules, tokens: Tokens | None = None, gate: Gate | None = None
    ) -> None:
        """Apply all of it at once: a check sees the old or the new, never a mixture. Without a `gate` the old one
        stays."""
        self._principals, self._rules, self._tokens = principals, rules, tokens
        self._gate = gate or self._gate
        self._allowed = lru_cache(MAX_ANSWERS)(allowed)
        self._refused = lru_cache(MAX_ANSWERS)(refused)  # cached: as quick as an unknown key

    @property
    def methods(self) -> Mapping[str, Mapping[str, Unary]]:
        """The methods for the gRPC server."""
        return {NAME: {"Check": Unary(self.check, decode=bytes, encode=bytes)}}

    def check(self, request: bytes, _context: Context) -> bytes | Coroutine[Any, Any, bytes]:
        """The `CheckResponse` to a `CheckRequest`: at once for a key, once it is resolved for a token.

        Never raises: a request that can't be decided gets 503.
        """
        try:
            message = CheckRequest.FromString(request)
            credential, client_ip = parse(message.attributes.request.http.headers), _client_ip(message)
            if self._tokens and isinstance(credential, Credential) and credential.looks_like_a_token:
                return self._check_token(self._tokens, credential.key, client_ip)
            return self._counted(self._of_key(credential, client_ip), client_ip)
        except Exception as error:
            return self._undecided(error)

    async def _check_token(self, tokens: Tokens, token: str, client_ip: str) -> bytes:
        try:
            found = await tokens.holder(token)
            if isinstance(found, Result):
                return self._counted(Decision(found), client_ip)
            return self._counted(admit(found, client_ip, self._rules, self._clock()), client_ip)
        except Exception as error:
            return self._undecided(error)

    def _of_key(self, credential: Credential | Unusable, client_ip: str) -> Decision:
        if not isinstance(credential, Credential):
            return decide(credential, client_ip, self._principals, self._rules, self._clock())
        return self._gate.decide(credential, client_ip, self._principals, self._rules, self._clock())

    def _counted(self, decision: Decision, client_ip: str) -> bytes:
        answer = self._answer(decision, client_ip)
        self._metrics.decisions[decision.result].inc()
        return answer

    def _undecided(self, error: Exception) -> bytes:
        """If the RPC failed instead, Envoy would send an answer of its own, without a body."""
        log.error("a check failed: %s", _without_values(error))
        self._metrics.decisions[Result.ERROR].inc()
        return _UNAVAILABLE

    def _answer(self, decision: Decision, client_ip: str) -> bytes:
        result, principal, access = decision
        if result is Result.TOO_MANY_FAILURES:
            return _wait(self._gate.guesses.wait_s(client_ip, self._clock()))
        if principal is None:
            return _DENIED[result]
        if access is not None:
            return self._allowed(principal) + self._usable(access)
        return self._refused(result, principal)


def _client_ip(request: CheckRequest) -> str:
    """The client's address, as far as proxies are trusted. Without the header it is the address of the connection,
    which behind a proxy is the proxy's."""
    attributes = request.attributes
    return attributes.request.http.headers.get(CLIENT_IP_HEADER) or attributes.source.address.socket_address.address


def _without_values(error: Exception) -> str:
    """What failed and where. The exception's text is left out: it may quote its input, and that may be a key."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno}"
