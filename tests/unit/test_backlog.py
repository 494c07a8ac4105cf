"""The queue of what Redis has yet to hear."""

from ratelimit_service.store.backlog import Backlog, Event
from ratelimit_service.store.port import Renewal, Settlement


def settlements(*numbers: int) -> list[Event]:
    return [Settlement(f"r{number}") for number in numbers]


def test_events_come_oldest_first_and_stay_until_removed() -> None:
    backlog = Backlog()
    backlog.add(settlements(1, 2, 3))
    assert backlog.oldest(2) == backlog.oldest(2) == settlements(1, 2)
    backlog.remove(Settlement("r1"))
    assert backlog.oldest(2) == settlements(2, 3)


def test_full_backlog_drops_the_oldest_and_says_how_many() -> None:
    backlog = Backlog(most=3)
    assert backlog.add(settlements(1, 2)) == 0
    assert backlog.add(settlements(3, 4, 5)) == 2
    assert backlog.oldest(9) == settlements(3, 4, 5)


def test_repeated_sign_of_life_takes_no_more_room() -> None:
    backlog = Backlog()
    for _ in range(5):
        backlog.add([Renewal("r1", "{u:alice}", 15_000)])
    assert len(backlog) == 1


def test_event_that_was_dropped_meanwhile_may_be_removed() -> None:
    backlog = Backlog(most=1)
    backlog.add(settlements(1, 2))
    backlog.remove(Settlement("r1"))
    assert len(backlog) == 1
