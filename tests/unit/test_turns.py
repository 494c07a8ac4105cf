"""Work goes round those that should do it, and past those that can't."""

from accesslog_service.turns import REST_S, Turns


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def turns(workers: str, preferred: int, clock: Clock | None = None) -> Turns[str]:
    return Turns(workers, preferred, clock or Clock())


def taken(turns: Turns[str], count: int) -> str:
    return "".join(turns.next() for _ in range(count))


def test_those_that_decide_take_turns_and_the_others_stand_by() -> None:
    assert taken(turns("abcd", 2), 6) == "ababab"
    assert taken(turns("a", 1), 3) == "aaa"


def test_a_failure_is_left_alone_for_a_while() -> None:
    clock = Clock()
    some = turns("abcd", 2, clock)
    assert some.next() == "a"
    some.failed("a")
    assert taken(some, 3) == "bbb"
    clock.now = REST_S
    assert taken(some, 4) == "abab"


def test_when_all_that_decide_fail_the_others_are_told() -> None:
    some = turns("abcd", 2)
    for _ in range(2):
        some.failed(some.next())
    assert taken(some, 4) == "cdcd"


def test_when_all_fail_each_is_tried_again() -> None:
    some = turns("abc", 2)
    for _ in range(3):
        some.failed(some.next())
    assert sorted(taken(some, 3)) == ["a", "b", "c"]
