"""`Deadlines`: one timer for many. The tests wait for an event that a check sets, never for the clock alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from greenhttp.deadlines import NEVER, Deadlines

LONG = 5.0  # seconds that a test waits at most for what comes after hundredths


class Item:
    """Writes down when it was checked; `then` tells its next deadline."""

    def __init__(self, then: Callable[[float], float] = lambda now: NEVER) -> None:
        self.due = NEVER
        self.checked: list[float] = []
        self.done = Event()
        self.then = then

    def check_deadlines(self, now: float) -> float:
        self.checked.append(now)
        following = self.then(now)
        if following == NEVER:
            self.done.set()
        return following


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines(gevent.get_hub())


def soon(seconds: float = 0.02) -> float:
    return time.monotonic() + seconds


def test_an_item_is_checked_once_and_not_before_its_deadline(deadlines: Deadlines):
    item, deadline = Item(), soon()
    deadlines.schedule(item, deadline)
    assert item.done.wait(LONG)
    assert len(item.checked) == 1
    assert item.checked[0] >= deadline
    assert item.due == NEVER


def test_a_deadline_that_is_over_is_checked_at_once_but_not_by_the_caller(deadlines: Deadlines):
    item = Item()
    deadlines.schedule(item, soon(-1.0))
    assert item.checked == []
    assert item.done.wait(LONG)


def test_never_schedules_nothing(deadlines: Deadlines):
    item = Item()
    deadlines.schedule(item, NEVER)
    assert item.due == NEVER


def test_items_are_checked_in_the_order_of_their_deadlines(deadlines: Deadlines):
    order: list[str] = []

    def named(name: str) -> Item:
        def then(now: float) -> float:
            order.append(name)
            return NEVER

        return Item(then)

    late, early, middle = named("late"), named("early"), named("middle")
    now = time.monotonic()
    deadlines.schedule(late, now + 0.08)
    deadlines.schedule(early, now + 0.02)
    deadlines.schedule(middle, now + 0.05)
    assert late.done.wait(LONG)
    assert order == ["early", "middle", "late"]


def test_a_later_deadline_leaves_the_item_where_it_is(deadlines: Deadlines):
    item = Item()
    deadlines.schedule(item, soon(1.0))
    first = item.due
    deadlines.schedule(item, soon(100.0))
    assert item.due == first


def test_an_earlier_deadline_moves_the_item_up(deadlines: Deadlines):
    item = Item()
    deadlines.schedule(item, soon(1000.0))
    deadlines.schedule(item, soon())
    assert item.done.wait(LONG)
    assert len(item.checked) == 1


def test_a_forgotten_item_is_not_checked(deadlines: Deadlines):
    forgotten, kept = Item(), Item()
    deadlines.schedule(forgotten, soon(0.01))
    deadlines.schedule(kept, soon(0.05))
    deadlines.forget(forgotten)
    assert forgotten.due == NEVER
    assert kept.done.wait(LONG)
    assert forgotten.checked == []


def test_to_forget_an_item_that_is_not_scheduled_does_nothing(deadlines: Deadlines):
    item = Item()
    deadlines.forget(item)
    deadlines.schedule(item, soon(0.01))
    assert item.done.wait(LONG)
    deadlines.forget(item)
    assert item.due == NEVER


def test_a_forgotten_item_can_be_scheduled_anew(deadlines: Deadlines):
    item = Item()
    deadlines.schedule(item, soon(0.02))
    deadlines.forget(item)
    deadlines.schedule(item, soon(0.02))
    assert item.done.wait(LONG)
    assert len(item.checked) == 1


def test_the_answer_of_a_check_is_the_next_deadline(deadlines: Deadlines):
    item = Item(lambda now: now + 0.01 if len(item.checked) < 3 else NEVER)
    deadlines.schedule(item, soon(0.01))
    assert item.done.wait(LONG)
    assert len(item.checked) == 3
    assert item.checked == sorted(item.checked)


def test_an_item_that_answers_with_the_past_does_not_hold_up_the_loop(deadlines: Deadlines):
    busy = Item(lambda now: now - 1.0)
    other = Item()
    deadlines.schedule(busy, soon(0.01))
    deadlines.schedule(other, soon(0.03))
    assert other.done.wait(LONG)
    deadlines.forget(busy)
    assert len(busy.checked) >= 1


def test_a_check_may_schedule_and_forget_others_of_its_own_group(deadlines: Deadlines):
    deadline = soon(0.02)
    items: list[Item] = []

    def forget_the_others(now: float) -> float:
        for item in items:
            deadlines.forget(item)
        deadlines.schedule(follower, now + 0.01)
        return NEVER

    follower = Item()
    items += [Item(forget_the_others) for _ in range(3)]
    for item in items:
        deadlines.schedule(item, deadline)
    assert follower.done.wait(LONG)
    assert all(item.due == NEVER for item in items)


def test_one_whose_deadline_was_moved_by_the_check_of_another_waits_for_the_new_one(deadlines: Deadlines):
    deadline = soon(0.02)
    first = second = None

    def move(other: Item, now: float) -> float:
        if not other.checked:
            deadlines.schedule(other, now + 0.03)
        return NEVER

    first = Item(lambda now: move(second, now))
    second = Item(lambda now: move(first, now))
    deadlines.schedule(first, deadline)
    deadlines.schedule(second, deadline)
    assert first.done.wait(LONG)
    assert second.done.wait(LONG)
    assert (len(first.checked), len(second.checked)) == (1, 1)
    assert abs(first.checked[0] - second.checked[0]) >= 0.02


@pytest.mark.parametrize(("ahead", "late"), [(0.5, 0.011), (9.0, 0.011), (11.0, 1.0), (3600.0, 1.0)])
def test_near_deadlines_are_grouped_by_the_hundredth_and_far_ones_by_the_second(
    deadlines: Deadlines, ahead: float, late: float
):
    item, deadline = Item(), soon(ahead)
    deadlines.schedule(item, deadline)
    assert deadline <= item.due <= deadline + late
    deadlines.forget(item)


def test_far_deadlines_within_a_second_share_a_group(deadlines: Deadlines):
    second = float(int(time.monotonic()) + 100)
    items = [Item() for _ in range(10)]
    for index, item in enumerate(items):
        deadlines.schedule(item, second + 0.05 + index / 20)
    assert {item.due for item in items} == {second + 1.0}


def test_a_thousand_items_with_one_deadline_are_all_checked(deadlines: Deadlines):
    items, deadline = [Item() for _ in range(1000)], soon(0.03)
    for item in items:
        deadlines.schedule(item, deadline)
    gevent.wait([item.done for item in items], timeout=LONG)
    assert {len(item.checked) for item in items} == {1}
