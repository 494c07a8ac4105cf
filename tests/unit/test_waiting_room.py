"""Who may wait for a decision when too many do."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.waiting_room import Room


def test_all_come_in_while_there_is_room() -> None:
    room = Room(most=3)
    assert [room.enter("alice") for _ in range(4)] == [True, True, True, False]


def test_a_flood_of_one_keeps_out_itself_and_no_other() -> None:
    room = Room(most=10)
    assert sum(room.enter("flood") for _ in range(50)) == 10
    assert [room.enter(f"user-{i}") for i in range(5)] == [True] * 5
    assert not room.enter("flood")


def test_who_has_left_makes_room() -> None:
    room = Room(most=1)
    assert room.enter("alice")
    room.leave("alice")
    assert room.enter("alice")


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=200), st.integers(1, 10))
def test_never_more_than_twice_as_many(steps: list[tuple[str, bool]], most: int) -> None:
    room = Room(most)
    inside: list[str] = []
    for holder, leaves in steps:
        if leaves and inside:
            room.leave(inside.pop())
        elif room.enter(holder):
            inside.append(holder)
        assert len(inside) <= 2 * most
