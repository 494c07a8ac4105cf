"""An identity provider: it signs tokens and publishes its keys over HTTP, as a real one does.

with IdentityProvider() as idp:
    token = idp.token(sub="alice")
    idp.rotate()   # signs with new keys from here on, and publishes them alone
"""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "llm"
ALGORITHMS = ("RS256", "ES256", "EdDSA")


def base64url(data: Any) -> str:
    """A part of a token."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class SigningKey:
    """A private key, and the JWK of its public half."""

    def __init__(self, algorithm: str, kid: str | None) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private: Any
        match algorithm:
            case "RS256":
                self.private = rsa.generate_private_key(65537, 2048)
                jwk = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
            case "ES256":
                self.private = ec.generate_private_key(ec.SECP256R1())
                jwk = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
            case _:
                self.private = ed25519.Ed25519PrivateKey.generate()
                jwk = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        name = {} if kid is None else {"kid": kid}
        self.jwk: dict[str, Any] = {**jwk, **name, "use": "sig", "alg": algorithm}

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        """`claims`, signed. A header of None is left out."""
        fields = {"kid": self.kid, **header}
        headers = {name: value for name, value in fields.items() if value is not None}
        return jwt.PyJWS().encode(json.dumps(claims).encode(), self.private, self.algorithm, headers)


class IdentityProvider:
    """Serves on one free port of 127.0.0.1 while the block runs. `fetched` counts requests for keys.

    `keys` are its keys by algorithm. `body`, when set, is what it publishes instead of them, `configuration` instead
    of its configuration document; `delay_s` is how long it takes to answer.
    """

    def __init__(self) -> None:
        self.fetched = 0
        self.body: bytes | None = None
        self.configuration: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay_s = 0.0
        self._generation = 0
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.rotate()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def jwks_url(self) -> str:
        return f"{self.issuer}/keys"

    def rotate(self) -> None:
        """Sign with new keys, and publish only these."""
        self._generation += 1
        self.keys = {algorithm: SigningKey(algorithm, f"{algorithm}-{self._generation}") for algorithm in ALGORITHMS}

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Claims that are all right, but for those given. A claim of None is left out."""
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600}
        return {name: value for name, value in {**usual, **claims}.items() if value is not None}

    def token(self, algorithm: str = "RS256", **claims: Any) -> str:
        return self.keys[algorithm].sign(self.claims(**claims))

    def jwk_set(self) -> bytes:
        return json.dumps({"keys": [key.jwk for key in self.keys.values()]}).encode()

    def up(self) -> None:
        """Listen, on the same port every time."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    @contextmanager
    def publishing(self, body: bytes) -> Iterator[None]:
        """For a while, publish `body` in the place of keys."""
        self.body = body
        try:
            yield
        finally:
            self.body = None

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/.well-known/openid-configuration":
            usual = json.dumps({"issuer": self.issuer, "jwks_uri": self.jwks_url}).encode()
            body = usual if self.configuration is None else self.configuration
        else:
            self.fetched += 1
            body = self.jwk_set() if self.body is None else self.body
        time.sleep(self.delay_s)
        request.send_response(self.status)
        for name, value in {"content-length": str(len(body)), **self.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
