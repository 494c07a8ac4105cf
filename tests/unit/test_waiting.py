"""Waiting ends when the condition holds, and tells what it saw when it never does."""

import asyncio

import pytest

from testkit.waiting import until, until_async


def test_it_gives_back_what_it_waited_for() -> None:
    looks = iter([[], [], ["here"]])
    assert until(lambda: next(looks)) == ["here"]


def test_a_condition_that_raises_does_not_hold_yet() -> None:
    answers = iter([{}, {"models": ["alpha"]}])
    assert until(lambda: next(answers)["models"]) == ["alpha"]


def test_what_never_comes_fails_with_what_was_missed_and_seen_and_raised_last() -> None:
    with pytest.raises(AssertionError, match=r"a model: not within 0.05 s, but \[\]"):
        until(list, 0.05, "a model")
    with pytest.raises(AssertionError) as failed:
        until(lambda: dict[str, str]()["models"], 0.05)
    assert isinstance(failed.value.__cause__, KeyError)


def test_it_looks_once_more_when_time_is_up() -> None:
    assert until(lambda: "there", within_s=0) == "there"


@pytest.mark.asyncio
async def test_other_tasks_go_on_meanwhile() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append("work")

    task = asyncio.create_task(work())
    assert await until_async(lambda: done) == ["work"]
    await task
