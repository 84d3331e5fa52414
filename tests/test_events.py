"""`EventEmitter`: who is called, in which order, with what; and what happens when listeners change underway."""

from __future__ import annotations

from typing import ClassVar

import pytest

from greenhttp import EventEmitter, HTTPError, IncomingMessage, Server, ServerResponse, Socket


class Bell(EventEmitter):
    EVENTS: ClassVar[frozenset[str]] = frozenset({"ring", "break", "headers_sent"})


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def ringing(*names: str) -> tuple[Bell, list[str]]:
    """A bell whose `'ring'` has one listener for each name; each writes its name into the list."""
    bell, calls = Bell(), []
    for name in names:
        bell.on("ring", lambda name=name: calls.append(name))
    return bell, calls


def test_listeners_run_in_the_order_in_which_they_were_added_with_the_arguments():
    bell, calls = Bell(), []
    bell.on("ring", lambda *args: calls.append(("first", args)))
    bell.on("ring", lambda *args: calls.append(("second", args)))
    assert bell.emit("ring", 1, None) is True
    assert calls == [("first", (1, None)), ("second", (1, None))]


def test_emit_tells_whether_anybody_listened():
    bell, _ = ringing("a")
    assert bell.emit("ring") is True
    assert bell.emit("break") is False
    assert Bell().emit("ring") is False


def test_emit_runs_the_listeners_before_it_returns():
    bell, calls = ringing("listener")
    bell.emit("ring")
    calls.append("after")
    assert calls == ["listener", "after"]


def test_the_same_listener_added_twice_is_called_twice():
    bell, calls = Bell(), []
    listener = lambda: calls.append(1)  # noqa: E731
    bell.on("ring", listener).on("ring", listener).emit("ring")
    assert calls == [1, 1]
    assert bell.listeners("ring") == (listener, listener)


def test_on_once_off_and_remove_all_listeners_return_the_emitter():
    bell = Bell()
    assert bell.on("ring", print) is bell
    assert bell.once("ring", print) is bell
    assert bell.off("ring", print) is bell
    assert bell.remove_all_listeners("ring") is bell
    assert bell.remove_all_listeners() is bell


def test_once_is_called_once_and_is_off_before_it_runs():
    bell, counts = Bell(), []
    bell.once("ring", lambda: counts.append(bell.listener_count("ring")))
    bell.emit("ring")
    bell.emit("ring")
    assert counts == [0]


def test_a_once_listener_that_emits_the_same_event_is_not_called_again():
    bell, calls = Bell(), []

    def again() -> None:
        calls.append(1)
        bell.emit("ring")

    bell.once("ring", again).emit("ring")
    assert calls == [1]


def test_a_once_listener_that_raises_is_off_all_the_same():
    bell = Bell()
    bell.once("ring", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bell.emit("ring")
    assert bell.emit("ring") is False


def test_off_takes_the_newest_registration_off_also_one_of_once():
    bell, calls = Bell(), []
    listener = calls.append
    bell.on("ring", listener).on("ring", print).once("ring", listener)
    bell.off("ring", listener)
    assert bell.listeners("ring") == (listener, print)
    bell.off("ring", listener).off("ring", listener)
    assert bell.listeners("ring") == (print,)


def test_off_for_a_stranger_does_nothing():
    bell, calls = ringing("a")
    bell.off("ring", print).off("break", print).off("unheard of", print)
    Bell().off("ring", print)
    bell.emit("ring")
    assert calls == ["a"]


def test_a_bound_method_can_be_taken_off_again():
    """Each look at `calls.append` is another object, and equal."""
    bell, calls = Bell(), []
    bell.on("ring", calls.append).off("ring", calls.append)
    assert bell.listener_count("ring") == 0


def test_listeners_added_during_an_emit_wait_for_the_next():
    bell, calls = Bell(), []
    bell.on("ring", lambda: bell.on("ring", lambda: calls.append("new")))
    bell.emit("ring")
    assert calls == []
    bell.emit("ring")
    assert calls == ["new"]


def test_listeners_taken_off_during_an_emit_still_run_in_it():
    bell, calls = Bell(), []
    bell.on("ring", lambda: bell.remove_all_listeners())
    bell.on("ring", lambda: calls.append("second"))
    bell.emit("ring")
    bell.emit("ring")
    assert calls == ["second"]


def test_what_a_listener_raises_comes_out_of_emit_and_those_after_it_are_not_called():
    bell, calls = ringing("a")
    bell.on("ring", lambda: 1 / 0)
    bell.on("ring", lambda: calls.append("c"))
    with pytest.raises(ZeroDivisionError):
        bell.emit("ring")
    assert calls == ["a"]


def test_remove_all_listeners_of_one_event_or_of_all():
    bell, calls = ringing("a", "b")
    bell.on("break", lambda: calls.append("break"))
    bell.remove_all_listeners("ring")
    assert (bell.emit("ring"), bell.emit("break")) == (False, True)
    bell.remove_all_listeners()
    assert bell.emit("break") is False
    assert calls == ["break"]


def test_listener_count_and_listeners():
    bell, _ = ringing("a", "b")
    assert bell.listener_count("ring") == len(bell.listeners("ring")) == 2
    assert bell.listeners("break") == ()
    assert Bell().listener_count("ring") == 0


@pytest.mark.parametrize(("wrong", "near"), [("rings", "ring"), ("headersSent", "headers_sent"), ("brake", "break")])
def test_an_event_that_is_never_emitted_is_refused_and_the_nearest_named(wrong: str, near: str):
    bell = Bell()
    for add in (bell.on, bell.once):
        with pytest.raises(ValueError, match=f"Bell never emits '{wrong}'; did you mean '{near}'"):
            add(wrong, print)
    assert bell.listener_count(wrong) == 0


def test_an_emitter_without_events_names_none():
    with pytest.raises(HTTPError, match=r"never emits 'ring'\Z"):
        EventEmitter().on("ring", print)


@pytest.mark.parametrize("listener", [None, "print", 1])
def test_a_listener_must_be_callable(listener: object):
    bell = Bell()
    with pytest.raises(TypeError, match="must be callable"):
        bell.on("ring", listener)
    assert bell.listeners("ring") == ()


def test_an_emitter_without_listeners_holds_no_table():
    """Thousands of them are alive."""
    bell = Bell()
    assert bell._listeners is None
    bell.on("ring", print).off("ring", print)
    assert bell._listeners is None


@pytest.mark.parametrize("emitter", [Server, Socket, IncomingMessage, ServerResponse])
def test_what_the_package_emits_is_in_snake_case(emitter: type[EventEmitter]):
    assert emitter.EVENTS
    assert all(event.replace("_", "").isalpha() and event.islower() for event in emitter.EVENTS)
