"""`Workers`: which greenlet runs user code, and when."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

import greenhttp
from greenhttp.workers import Worker, Workers

from .support import bounded, eventually

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def workers() -> Workers:
    return Workers.of(gevent.get_hub())


@pytest.fixture
def in_hub() -> Callable[..., Any]:
    """`in_hub(call)`: what `call()` gives in the hub."""

    def run(call: Callable[[], Any]) -> Any:
        given: list[Any] = []
        done = Event()
        gevent.get_hub().loop.run_callback(lambda: (given.append(call()), done.set()))
        with bounded("the callback"):
            done.wait()
        return given[0]

    return run


def test_given_tasks_of_one_turn_when_none_blocks_then_one_worker_runs_them_in_order(workers: Workers):
    seen: list[tuple[int, object]] = []
    for number in range(5):
        workers.soon(lambda number=number: seen.append((number, gevent.getcurrent())))
    eventually(lambda: len(seen) == 5, "all five")

    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    assert len({greenlet for _, greenlet in seen}) == 1
    assert isinstance(seen[0][1], Worker)


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2), (1, 2, 3)])
def test_a_task_gets_its_arguments(workers: Workers, arguments: tuple[int, ...]):
    seen: list[tuple[int, ...]] = []
    workers.soon(lambda *given: seen.append(given), *arguments)
    eventually(lambda: seen, "the task")

    assert seen == [arguments]


def test_given_tasks_in_one_worker_then_each_has_a_context_of_its_own(workers: Workers):
    seen: list[str] = []

    def task() -> None:
        seen.append(colour.get())
        colour.set("red")

    workers.soon(task)
    workers.soon(task)
    eventually(lambda: len(seen) == 2, "both")

    assert seen == ["none", "none"]
    assert colour.get() == "none"


def test_when_a_task_blocks_then_those_behind_it_run_in_the_same_turn(workers: Workers, in_hub: Any):
    seen: list[str] = []
    go_on = Event()

    def blocks() -> None:
        seen.append("begun")
        go_on.wait()
        seen.append("done")

    def turn() -> list[str]:
        workers.soon(blocks)
        workers.enter(lambda: seen.append("behind"))
        return list(seen)

    assert in_hub(turn) == ["begun", "behind"]
    go_on.set()
    eventually(lambda: "done" in seen, "the first task")


def test_enter_runs_what_was_given_before_first_and_all_of_it_at_once(workers: Workers, in_hub: Any):
    seen: list[int] = []

    def turn() -> list[int]:
        workers.soon(seen.append, 1)
        workers.soon(seen.append, 2)
        workers.enter(seen.append, 3)
        return list(seen)

    assert in_hub(turn) == [1, 2, 3]


def test_given_a_task_that_comes_up_again_and_again_then_others_have_their_turns(workers: Workers):
    rounds = [0]
    stop = Event()

    def again() -> None:
        rounds[0] += 1
        if not stop.is_set():
            workers.soon(again)

    workers.soon(again)
    eventually(lambda: rounds[0] > 10, "many rounds")  # it sleeps by a timer, so the loop has come to its timers
    stop.set()


def test_when_a_task_ends_its_worker_then_those_behind_it_run_all_the_same(workers: Workers):
    seen: list[str] = []

    def dies() -> None:
        seen.append("dies")
        raise gevent.GreenletExit

    workers.soon(dies)
    workers.soon(seen.append, "behind")
    eventually(lambda: len(seen) == 2, "both")

    assert seen == ["dies", "behind"]


def test_when_somebody_switches_to_a_worker_that_has_no_task_then_it_is_not_given_two(workers: Workers, in_hub: Any):
    """A task may have left its greenlet's `switch` with a timer or an event."""
    kept: list[Worker] = []
    workers.soon(lambda: kept.append(gevent.getcurrent()))  # type: ignore[arg-type]
    eventually(lambda: kept and kept[0] in workers.spare, "a worker at rest")
    in_hub(kept[0].switch)

    assert workers.spare.count(kept[0]) == 1

    go_on = Event()
    ran: list[Any] = []

    def blocks() -> None:
        ran.append(gevent.getcurrent())
        go_on.wait()
        ran.append(go_on.is_set())

    for _ in workers.spare:
        workers.soon(blocks)
    eventually(lambda: not workers.spare, "all workers at work")
    workers.soon(blocks)
    eventually(lambda: len(ran) == len(set(ran)) > 1, "one more")
    assert True not in ran, "a blocked task was woken"
    go_on.set()
    eventually(lambda: ran.count(True) * 2 == len(ran), "the end of all")


FORK = """
import multiprocessing, os, time
from gevent import monkey

monkey.patch_all()

import gevent
from greenhttp.workers import Workers

def job():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.05,))
    process.start()  # the child comes to its hub, which is in the middle of a turn
    while process.is_alive():
        time.sleep(0.01)

workers = Workers.of(gevent.get_hub())
workers.soon(job)
workers.soon(os.write, 1, b"once\\n")
gevent.sleep(0.2)
"""


def test_a_child_that_a_task_forks_leaves_the_other_tasks_to_its_parent():
    environ = {**os.environ, "PYTHONPATH": str(Path(greenhttp.__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, env=environ, timeout=20)

    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr


def test_a_worker_that_others_watch_is_not_used_again(workers: Workers):
    """So do locals of threads, to go when their greenlet does."""
    kept: list[Any] = []

    def task() -> None:
        kept.append(gevent.getcurrent())
        kept[0].link(lambda worker: kept.append("ended"))

    workers.soon(task)
    eventually(lambda: "ended" in kept, "the end of the worker")

    assert kept[0] not in workers.spare


def test_when_a_worker_at_rest_is_killed_then_it_is_forgotten(workers: Workers):
    kept: list[Worker] = []
    workers.soon(lambda: kept.append(gevent.getcurrent()))  # type: ignore[arg-type]
    eventually(lambda: kept and kept[0] in workers.spare, "a worker at rest")
    kept[0].kill()

    assert kept[0] not in workers.spare
