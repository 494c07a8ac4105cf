"""An observer of stores that fail, for tests of how they go on."""

from ratelimit_service.store.port import FailureKind


class Counts:
    """Notes what a resilient store tells its observer."""

    def __init__(self) -> None:
        self.failures: list[FailureKind] = []
        self.degraded = 0
        self.lost = 0
        self.restored: list[int] = []

    def on_failure(self, kind: FailureKind) -> None:
        self.failures.append(kind)

    def on_degraded(self) -> None:
        self.degraded += 1

    def on_lost(self, events: int) -> None:
        self.lost += events

    def on_restored(self, limits: int) -> None:
        self.restored.append(limits)
