"""The greenlets that run user code: handlers and listeners never run in the hub.

A worker is a real `gevent.Greenlet` (so `gevent.kill`, `gevent.Timeout` and `gevent.local` work in it). Tasks that come
up in one turn of the loop are run together, as soon as the loop has seen to the network: the hub enters a worker, and
this does one after another, each with a fresh `contextvars` context. Where one blocks, control is back in the hub, and
another worker goes on with the rest. So a switch there and back, which costs more than a small task, is paid once a
turn by tasks that do not block.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

import gevent
from gevent.hub import Hub
from greenlet import GreenletExit, greenlet

__all__ = ["ENDINGS", "Worker", "Workers", "deliver", "log"]

_switch = greenlet.switch  # the hub's own `switch` would first ask the worker what to do on leaving
log = logging.getLogger("greenhttp")
_Task = tuple[Callable[..., object], tuple[Any, ...]]

#: What is to end the greenlet, or the process, in which user code raises it. Everything else it may raise is its
#: failure, also what is no `Exception`: `gevent.Timeout`, `asyncio.CancelledError`.
ENDINGS = (GreenletExit, KeyboardInterrupt, SystemExit)
_AFTER_ALL_OTHERS = -2  # libev's lowest priority
MAX_SPARE = 128  # idle workers kept by a hub: some 5 KB each, against about 3 µs to make a new one


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
                    if self.has_links():
                        return  # what is local to a thread, here to a greenlet, is not for the next task
        finally:
            if self in spare:  # killed while it waited
                spare.remove(self)


class Workers:
    """The workers of one hub. Get them with `Workers.of(hub)`."""

    _by_hub: ClassVar[WeakKeyDictionary[Hub, Workers]] = WeakKeyDictionary()

    __slots__ = ("_after_events", "coming", "hub", "spare", "tasks")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.spare: list[Worker] = []
        self.tasks: deque[_Task] = deque()  # of this turn of the loop
        #: For the end of this turn; while there are some, `turn` is scheduled.
        self.coming: list[_Task] = []
        # what the network has caused comes before greenlets that are ready to go on, which may be many
        self._after_events = hub.loop.check(ref=False, priority=_AFTER_ALL_OTHERS)
        self._after_events.start(self.turn)

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
            self.hub.loop.run_callback(self.turn)
        self.coming.append((task, args))

    def enter(self, task: Callable[..., object], *args: Any) -> None:
        """In the hub: run `task(*args)` in a worker, now, until it blocks or ends; those that were given before come
        first. Raises nothing either."""
        self.coming.append((task, args))
        self.turn()

    def dispatch(self, task: Callable[..., object], *args: Any) -> None:
        """Anywhere: `enter` in the hub, `soon` elsewhere."""
        if gevent.getcurrent() is self.hub:
            self.enter(task, *args)
        else:
            self.soon(task, *args)

    def turn(self) -> None:
        """In the hub: run what has come up. Those tasks that come up meanwhile wait for the next turn, so that the loop
        can see to the network in between."""
        tasks, spare = self.tasks, self.spare
        if self.coming:
            tasks += self.coming
            self.coming.clear()
        try:
            while tasks:
                if not spare:
                    Worker(self).switch()
                spare.pop().switch(tasks)
        finally:
            if tasks:  # something was raised here, such as KeyboardInterrupt
                self.hub.loop.run_callback(self.turn)

    @classmethod
    def _forget_tasks(cls) -> None:
        """In a process that a task has forked: what waits behind that is the parent's to do."""
        if not isinstance(gevent.getcurrent(), Worker):
            return
        for workers in cls._by_hub.values():
            workers.tasks.clear()
            workers.coming.clear()


os.register_at_fork(after_in_child=Workers._forget_tasks)


class _Emits(Protocol):
    def emit(self, event: str, *args: Any) -> bool: ...


def deliver(emitter: _Emits, event: str, *args: Any) -> bool:
    """In a worker: run the listeners of an event that the network caused. What they raise is logged.

    `gevent.Timeout` counts as a failure of the listener; what is of `ENDINGS` passes through.
    Returns whether all went well.
    """
    try:
        emitter.emit(event, *args)
    except ENDINGS:
        raise
    except BaseException:
        log.exception("a listener of %r on %r raised", event, emitter)
        return False
    return True
