"""Failed attempts of each client address, counted by the minute: guessing keys must be slow. Pure."""

import math
from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

MAX_ADDRESSES = 10_000
WINDOW_S = 60.0


class Guesses:
    """At most `per_minute` failures of an address; 0: no limit. `now` is in seconds, of any clock.

    `per_minute` may change. Remembers the `max_addresses` that failed last. An IPv6 address counts as its /64, since a
    host has a whole one.
    """

    def __init__(self, per_minute: int, max_addresses: int = MAX_ADDRESSES) -> None:
        self.per_minute = per_minute
        self._max_addresses = max_addresses
        self._minutes: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when the minute ends, failures in it

    def wait_s(self, address: str, now: float) -> int:
        """Whole seconds until `address` may try again; 0: it may now."""
        if not self.per_minute or not self._minutes:
            return 0
        ends, failures = self._minutes.get(_site(address), (now, 0))
        over = (
            failures >= self.per_minute and now < ends <= now + WINDOW_S
        )  # a clock that was set back must not lock anybody out
        return math.ceil(min(ends - now, WINDOW_S)) if over else 0

    def failed(self, address: str, now: float) -> None:
        """`address` has used an unknown key."""
        if not self.per_minute:
            return
        site = _site(address)
        ends, failures = self._minutes.pop(site, (now, 0))
        self._minutes[site] = (ends, failures + 1) if now < ends <= now + WINDOW_S else (now + WINDOW_S, 1)
        if len(self._minutes) > self._max_addresses:
            self._minutes.popitem(last=False)


@lru_cache(MAX_ADDRESSES)
def _site(address: str) -> str:
    """What counts as one client. Anything that is not an address is one client, too."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or IPv6Network((int(parsed) >> 64 << 64, 64)))
