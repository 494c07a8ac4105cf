"""How long answers usually are: learned from requests that ended, for requests that set no maximum."""

from collections import OrderedDict, deque

UNKNOWN = 512
"""Tokens assumed for an answer, while fewer than `FEW` are known."""

FEW = 5
"""Answers that an estimate needs at least."""

RECENT = 32
"""Answers remembered for each user and model."""

HOLDERS = 4096
"""Pairs of user and model that are remembered. The one whose last answer is the oldest is forgotten first."""

LEAST, MOST = 16, 32_768
"""Bounds of a guess: runs of very short or very long answers say little about the next one."""


class _Recent:
    __slots__ = ("tokens", "usual")

    def __init__(self) -> None:
        self.tokens: deque[int] = deque(maxlen=RECENT)
        self.usual = UNKNOWN

    def add(self, tokens: int) -> None:
        self.tokens.append(tokens)
        if len(self.tokens) >= FEW:
            self.usual = min(max(_p90(self.tokens), LEAST), MOST)


class Lengths:
    """Tokens per choice, by user and model; in this process's memory, 8 MiB at most."""

    def __init__(self, holders: int = HOLDERS) -> None:
        self._holders = holders
        self._recent: OrderedDict[tuple[str, str], _Recent] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recent)

    def usual(self, user: str, model: str) -> int:
        """The 90th percentile of recent answers, or `UNKNOWN`."""
        recent = self._recent.get((user, model))
        return UNKNOWN if recent is None else recent.usual

    def learn(self, user: str, model: str, tokens: int) -> None:
        """Record an answer to `user`, by its tokens per choice."""
        holder = (user, model)
        recent = self._recent.setdefault(holder, _Recent())
        recent.add(tokens)
        self._recent.move_to_end(holder)
        if len(self._recent) > self._holders:
            self._recent.popitem(last=False)


def _p90(tokens: deque[int]) -> int:
    """The 90th percentile, by nearest rank."""
    return sorted(tokens)[-(-len(tokens) * 9 // 10) - 1]
