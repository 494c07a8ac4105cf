"""Random configurations of envoyproxy/ratelimit, and random requests that often meet them."""

from dataclasses import dataclass
from random import Random
from typing import Any

from gatehouse.pb.ratelimit_pb2 import RateLimitDescriptor
from gatehouse.pb.rls_pb2 import RateLimitRequest

KEYS = ("a", "b", "c", "d-e")
VALUES = ("", "x", "y", "xy", "x.1", "10.0.0.1", "zé", "a:b|c")
PATTERNS = ("*", "x*", "xy*", "1*")
LONG = ("hour", "DAY", "week", "Month", "year")
SHORT = ("second", "minute")
MANY = 4_000_000_000
NAMES = ("n1", "n2", "n3")
UNITS = range(3, 8)
"""Of an override, from an hour on: a shorter window may end between two servers' looks at it."""


@dataclass(frozen=True)
class Made:
    """What may be made: without `plain` all that both understand; with it, only what cannot count differently when
    refused requests are not counted."""

    random: Random
    plain: bool = False

    def configuration(self, domain: str) -> dict[str, Any]:
        return {"domain": domain, "descriptors": self._descriptors(1)}

    def request(self, domains: list[str]) -> RateLimitRequest:
        domain = "unknown" if self._is(0.03) else self.random.choice(domains)
        request = RateLimitRequest(domain=domain)
        if self._is(0.3) and not self.plain:
            request.hits_addend = self.random.choice((1, 2, 3, 7))
        for number in range(self.random.choice((1, 1, 1, 2, 2, 3, 4))):
            descriptor = self._asked()
            if self.plain:
                descriptor.entries[0].key = KEYS[number]  # no counter comes twice
            request.descriptors.append(descriptor)
        return request

    def _descriptors(self, depth: int) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for _ in range(self.random.randint(1, 5)):
            one = self._descriptor(depth)
            found.setdefault(f"{one['key']}_{one.get('value', '')}", one)
        return list(found.values())

    def _descriptor(self, depth: int) -> dict[str, Any]:
        one: dict[str, Any] = {"key": self.random.choice(KEYS)}
        if self._is(0.6):
            one["value"] = self.random.choice(PATTERNS if self._is(0.4) else VALUES[1:])
        if depth == 1 or self._is(0.75):
            one["rate_limit"] = self._rate_limit()
        if depth < 3 and self._is(0.35):
            one["descriptors"] = self._descriptors(depth + 1)
        flags = ["detailed_metric", "value_to_metric", *([] if self.plain else ["shadow_mode"])]
        if "*" in one.get("value", "") and not self.plain:
            flags.append("share_threshold")
        return one | {flag: True for flag in flags if self._is(0.2)}

    def _rate_limit(self) -> dict[str, Any]:
        if self._is(0.1):
            limit: dict[str, Any] = {"unlimited": True}
        elif self._is(0.15):
            limit = {"unit": self.random.choice(SHORT), "requests_per_unit": MANY}
        else:
            limit = {"unit": self.random.choice(LONG), "requests_per_unit": self.random.choice((0, 1, 2, 3, 5, 9, 50))}
        name = self.random.choice(NAMES) if self._is(0.4) else ""
        others = [other for other in NAMES if other != name]
        replaces = [{"name": self.random.choice(others)}] if self._is(0.15) else []
        return limit | ({"name": name} if name else {}) | ({"replaces": replaces} if replaces else {})

    def _asked(self) -> RateLimitDescriptor:
        descriptor = RateLimitDescriptor()
        for _ in range(self.random.choice((1, 1, 1, 2, 2, 3))):
            descriptor.entries.add(key=self.random.choice(KEYS), value=self.random.choice(VALUES))
        if self.plain:
            return descriptor
        if self._is(0.15):
            descriptor.hits_addend.value = self.random.choice((0, 0, 1, 2, 5))
        if self._is(0.03):
            del descriptor.entries[:]
        elif self._is(0.08):
            unit: Any = self.random.choice(UNITS)
            descriptor.limit.requests_per_unit = self.random.choice((0, 1, 4, 100))
            descriptor.limit.unit = unit
            descriptor.entries[0].key += f"-{unit}"  # there, windows of two units that begin together are one counter
        return descriptor

    def _is(self, likely: float) -> bool:
        return self.random.random() < likely
