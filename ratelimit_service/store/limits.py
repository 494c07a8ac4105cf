"""A limit: an amount per period, and the algorithm that counts it."""

from dataclasses import dataclass
from enum import StrEnum

from gatehouse.contract.periods import PERIODS

MAX_AMOUNT = 2**40 - 1
"""The largest amount, burst, hit count and counter: about 1.1e12.

Below it the algorithms can keep every product exact in the doubles of Redis's Lua (see algorithms.lua).
"""

_MAX_PERIOD_S = PERIODS["year"]


class Algorithm(StrEnum):
    """How hits are counted; `algorithms` states what each promises."""

    SLIDING_WINDOW = "sliding_window"
    FIXED_WINDOW = "fixed_window"
    TOKEN_BUCKET = "token_bucket"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` hits (requests, tokens, micro-dollars, …) in `period_s` seconds.

    `burst`, for a token bucket alone, is the size of the bucket; it is `amount` unless given.
    A `shadow` limit is counted and reported, and never refuses. An amount of 0 refuses every hit.
    Raises `ValueError` when a number is out of range or `burst` goes with another algorithm.
    """

    name: str
    amount: int
    period_s: int
    algorithm: Algorithm = Algorithm.SLIDING_WINDOW
    burst: int | None = None
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= MAX_AMOUNT:
            raise ValueError(f"limit {self.name!r}: amount {self.amount} is not between 0 and {MAX_AMOUNT}")
        if not 1 <= self.period_s <= _MAX_PERIOD_S:
            raise ValueError(f"limit {self.name!r}: period {self.period_s} s is not between 1 s and a year")
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            self._check_bucket()
        elif self.burst is not None:
            raise ValueError(f"limit {self.name!r}: only a token_bucket has a burst; remove it or change the algorithm")

    def _check_bucket(self) -> None:
        if self.amount == 0:
            raise ValueError(f"limit {self.name!r}: a token_bucket of 0 never fills; use fixed_window to refuse all")
        if self.burst is not None and not 1 <= self.burst <= MAX_AMOUNT:
            raise ValueError(f"limit {self.name!r}: burst {self.burst} is not between 1 and {MAX_AMOUNT}")

    @property
    def period_ms(self) -> int:
        return self.period_s * 1000

    @property
    def capacity(self) -> int:
        """The most hits that can ever pass at once: the burst of a token bucket, else the amount."""
        return self.amount if self.burst is None else self.burst
