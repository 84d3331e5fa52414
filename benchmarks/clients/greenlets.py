"""The clients on gevent: as many greenlets as requests at a time, each asks again as soon as it has its answer."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from .tally import Tally, Task

__all__ = ["run"]


def run(task: Task, ask: Callable[[], tuple[int | None, bytes]], about: str) -> None:
    """
    Args:
        ask: one exchange; returns the status and the whole body.
    """
    tally = Tally(task)

    def work() -> None:
        try:
            while tally.running:
                tally.count(*ask())
        except Exception as error:
            tally.fail(error)

    workers = [gevent.spawn(work) for _ in range(task.concurrency)]
    gevent.sleep(task.warm_up)
    tally.start()
    gevent.sleep(task.seconds)
    tally.stop()
    gevent.joinall(workers)
    tally.report(f"{about}, gevent {gevent.__version__}")
