"""The greenlets that run user code: handlers and listeners never run in the hub.

A worker is a real `gevent.Greenlet` (so `gevent.kill`, `gevent.Timeout` and `gevent.local` work in it) that the hub
enters directly, without the detour over the loop's queue. When its task blocks or ends, control is back in the hub. It
then waits for the next task, with a fresh `contextvars` context for each.
"""

from __future__ import annotations

import logging
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


class Worker(gevent.Greenlet):  # type: ignore[type-arg]  # generic for the checker only
    """Runs one task after another: `switch(task, args)` gives it the next. At first it is to be entered without."""

    __slots__ = ("workers",)

    spawning_stack_limit = 0  # where a worker was made tells nothing, and would cost 1 KB of each

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.workers = workers

    def _run(self, *_: Any) -> None:
        workers = self.workers
        spare, hub = workers.spare, workers.hub
        try:
            while True:
                if len(spare) >= MAX_SPARE:
                    return
                spare.append(self)
                task, args = _switch(hub)
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

    __slots__ = ("hub", "spare")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.spare: list[Worker] = []

    @classmethod
    def of(cls, hub: Hub) -> Workers:
        """The workers of `hub`."""
        workers = cls._by_hub.get(hub)
        if workers is None:
            workers = cls._by_hub[hub] = cls(hub)
        return workers

    def enter(self, task: Callable[..., object], *args: Any) -> None:
        """In the hub: run `task(*args)` in a worker, now, until it blocks or ends.

        What it raises ends the worker and is reported by gevent, so `task` sees to its own exceptions.
        """
        spare = self.spare
        if not spare:
            Worker(self).switch()
        worker = spare.pop()
        worker.gr_context = Context()
        worker.switch(task, args)

    def soon(self, task: Callable[..., object], *args: Any) -> None:
        """Anywhere: run `task(*args)` in a worker, after the greenlet that runs now has blocked or ended."""
        self.hub.loop.run_callback(self.enter, task, *args)

    def dispatch(self, task: Callable[..., object], *args: Any) -> None:
        """Anywhere: `enter` in the hub, `soon` elsewhere."""
        if gevent.getcurrent() is self.hub:
            self.enter(task, *args)
        else:
            self.soon(task, *args)


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
