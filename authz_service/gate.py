"""Checks a key before the look-up: is it well-formed, has its address failed too often? No I/O."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from authz_service.access import Rules
from authz_service.credential import Credential
from authz_service.decide import Decision, Result, decide
from authz_service.guesses import Guesses
from authz_service.keyring import Keyring
from authz_service.principals import Principals
from gatehouse.config.model import Keys
from gatehouse.contract.key_digest import Hasher
from gatehouse.keys.format import Kind, kind_of

_MANGLED, _TOO_MANY = Decision(Result.INVALID), Decision(Result.TOO_MANY_FAILURES)
_FAILURES = (Result.INVALID, Result.EXPIRED, Result.REVOKED, Result.DISABLED)
"""What all of these come to must not be told apart: they count alike."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides on keys. `last_used` collects when keys, by id, were last accepted (Unix seconds); None: not needed."""

    prefix: str = Keys().prefix
    hasher: Hasher = field(default_factory=lambda: Hasher({}))
    guesses: Guesses = field(default_factory=lambda: Guesses(Keys().failures_per_minute))
    last_used: MutableMapping[str, float] | None = None

    def decide(
        self, credential: Credential, client_ip: str, principals: Principals, rules: Rules, now: float
    ) -> Decision:
        """As `decide.decide`. A minted key whose checksum is wrong is rejected without a look-up.

        An address with too many failures waits until its minute is over, except for what nobody can guess: sound minted
        keys. So one who guesses does not lock out the colleagues behind the same address.
        """
        kind = kind_of(credential.key, self.prefix)
        if kind is Kind.MANGLED:
            return _MANGLED
        if kind is Kind.FOREIGN and self.guesses.wait_s(client_ip, now):
            return _TOO_MANY
        stale = isinstance(principals, Keyring) and principals.stale
        decision = decide(credential, client_ip, principals, rules, now, hasher=self.hasher, stale=stale)
        if decision.result in _FAILURES:
            self.guesses.failed(client_ip, now)
        elif self.last_used is not None and decision.principal and decision.result is Result.ALLOWED:
            self.last_used[decision.principal.key_id] = now
        return decision
