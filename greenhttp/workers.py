"""The greenlets that run user code: handlers and listeners never run in the hub.

A worker is a real `gevent.Greenlet` (so `gevent.kill`, `gevent.Timeout` and `gevent.local` work in it). Tasks that come
up in one turn of the loop are run together, before the loop waits again: the hub enters a worker, and this does one
after another, each with a fresh `contextvars` context. Where one blocks, control is back in the hub, and another worker
goes on with the rest. So a switch there and back, which costs more than a small task, is paid once a turn by tasks that
do not block.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

import gevent
from gevent.hub import Hub
from greenlet import greenlet

__all__ = ["Worker", "Workers", "deliver", "log"]

_switch = greenlet.switch  # the hub's own `switch` would first ask the worker what to do on leaving
log = logging.getLogger("greenhttp")

MAX_SPARE = 128  # idle workers kept by a hub: some 5 KB each, against about 3 µs to make a new one


_Task = tuple[Callable[..., object], tuple[Any, ...]]


class Worker(gevent.Greenlet):  # type: ignore[type-arg]  # generic for the checker only
    """Runs tasks. It is entered by a plain `switch()` first, to wait, and then by one with the tasks of a turn."""

    __slots__ = ("workers",)

    spawning_stack_limit = 0  # where a worker was made tells nothing, and would cost 1 KB of each

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.workers = workers

    def _run(self, *_: Any) -> None:
        workers = self.workers
        spare, hub, tasks = workers.spare, workers.hub, workers.tasks
        next_task = tasks.popleft
        try:
            while True:
                if len(spare) >= MAX_SPARE:
                    return
                spare.append(self)
                if _switch(hub) is not tasks:  # somebody else, who has kept a worker that served him
                    spare.remove(self)
                    continue
                while tasks:
                    self.gr_context = Context()
                    task, args = next_task()
                    if len(args) == 2:
                        # most tasks; a call with `*` would add to the C stack that a blocked greenlet keeps
                        task(args[0], args[1])
                    else:
                        task(*args)
                    del task, args  # or they, and what they are bound to, would live until the next task
        finally:
            if self in spare:  # killed while it waited
                spare.remove(self)


class Workers:
    """The workers of one hub. Get them with `Workers.of(hub)`."""

    _by_hub: ClassVar[WeakKeyDictionary[Hub, Workers]] = WeakKeyDictionary()

    __slots__ = ("coming", "hub", "spare", "tasks")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.spare: list[Worker] = []
        self.tasks: deque[_Task] = deque()  # of this turn of the loop
        #: For the end of this turn; while there are some, `_turn` is scheduled.
        self.coming: list[_Task] = []

    @classmethod
    def of(cls, hub: Hub) -> Workers:
        """The workers of `hub`."""
        workers = cls._by_hub.get(hub)
        if workers is None:
            workers = cls._by_hub[hub] = cls(hub)
        return workers

    def soon(self, task: Callable[..., object], *args: Any) -> None:
        """Anywhere: run `task(*args)` in a worker, before the loop waits again, after those that were given before.

        What it raises ends the worker and is reported by gevent, so `task` sees to its own exceptions.
        """
        if not self.coming:
            self.hub.loop.run_callback(self._turn)
        self.coming.append((task, args))

    def enter(self, task: Callable[..., object], *args: Any) -> None:
        """In the hub: run `task(*args)` in a worker, now, until it blocks or ends; those that were given before come
        first. Raises nothing either."""
        self.coming.append((task, args))
        self._turn()

    def dispatch(self, task: Callable[..., object], *args: Any) -> None:
        """Anywhere: `enter` in the hub, `soon` elsewhere."""
        if gevent.getcurrent() is self.hub:
            self.enter(task, *args)
        else:
            self.soon(task, *args)

    def _turn(self) -> None:
        """In the hub: run what has come up. Those tasks that come up meanwhile wait for the next turn, so that the loop
        can see to the network in between."""
        tasks, spare = self.tasks, self.spare
        tasks += self.coming
        self.coming.clear()
        try:
            while tasks:
                if not spare:
                    Worker(self).switch()
                spare.pop().switch(tasks)
        finally:
            if tasks:  # something was raised here, such as KeyboardInterrupt
                self.hub.loop.run_callback(self._turn)


class _Emits(Protocol):
    def emit(self, event: str, *args: Any) -> bool: ...


def deliver(emitter: _Emits, event: str, *args: Any) -> bool:
    """In a worker: run the listeners of an event that the network caused. What they raise is logged.

    `gevent.Timeout` counts as a failure of the listener; a kill (`GreenletExit`) passes through.
    Returns whether all went well.
    """
    try:
        emitter.emit(event, *args)
    except (Exception, gevent.Timeout):
        log.exception("a listener of %r on %r raised", event, emitter)
        return False
    return True
