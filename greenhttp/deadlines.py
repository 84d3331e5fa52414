"""Coarse deadlines for many connections, with one timer for all of them.

A connection that keeps being active costs nothing here: it stays where its first deadline put it, and when that strikes
it is asked for the next one. Far deadlines are grouped by the second, near ones by the hundredth of a second.
"""

from __future__ import annotations

import heapq
import math
import time
from typing import Any, Protocol

from gevent.hub import Hub

__all__ = ["NEVER", "Deadlines", "Expiring"]

NEVER = math.inf
_FAR = 10.0  # seconds from which on a deadline may come up to a second late


class Expiring(Protocol):
    """What can be put among `Deadlines`. `due` belongs to them; it starts as `NEVER`."""

    due: float

    def check_deadlines(self, now: float) -> float:
        """In the hub, never blocks: act on what is over, and tell the next deadline (`time.monotonic()`), or
        `NEVER`."""
        ...


class Deadlines:
    """The deadlines of one server or agent, on the clock `time.monotonic()`.

    Args:
        hub: whose loop runs the timer. The timer does not keep the loop alive.
    """

    __slots__ = ("_groups", "_hub", "_order", "_timer", "_timer_due")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._groups: dict[float, set[Expiring]] = {}
        self._order: list[float] = []  # a heap of the keys of `_groups`
        self._timer: Any = None
        self._timer_due = NEVER

    def schedule(self, item: Expiring, deadline: float) -> None:
        """See to it that `item` is checked at `deadline`, or earlier if that was asked for before."""
        if deadline >= item.due:
            return
        far = deadline - time.monotonic() > _FAR
        due = float(math.ceil(deadline)) if far else math.ceil(deadline * 100) / 100
        if due >= item.due:
            return
        self.forget(item)
        group = self._groups.get(due)
        if group is None:
            group = self._groups[due] = set()
            heapq.heappush(self._order, due)
            if due < self._timer_due:
                self._start_timer(due)
        group.add(item)
        item.due = due

    def forget(self, item: Expiring) -> None:
        """`item` will not be checked again, unless it is scheduled anew."""
        group = self._groups.get(item.due)
        if group is not None:
            group.discard(item)
        item.due = NEVER

    def _start_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.close()
        loop = self._hub.loop
        loop.update_now()  # a timer counts from the loop's idea of now, which may be old
        self._timer = loop.timer(max(0.0, due - time.monotonic()), ref=False)
        self._timer.start(self._strike)
        self._timer_due = due

    def _strike(self) -> None:
        """In the hub."""
        now = time.monotonic()
        self._timer_due = NEVER
        while self._order and self._order[0] <= now:
            due = heapq.heappop(self._order)
            group = self._groups.pop(due)
            for item in group:
                item.due = NEVER
            for item in group:
                if item.due == NEVER:  # else it was scheduled anew by the check of another
                    next_due = item.check_deadlines(now)
                    if next_due < NEVER:
                        self.schedule(item, max(next_due, now + 0.001))
        while self._order and not self._groups[self._order[0]]:
            del self._groups[heapq.heappop(self._order)]
        if self._order:
            self._start_timer(self._order[0])
        elif self._timer is not None:
            self._timer.close()
            self._timer, self._timer_due = None, NEVER
