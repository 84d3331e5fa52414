"""`EventEmitter`: named events, listeners called in the order in which they were added.

Two rules of the house meet here: an emitter without listeners holds no table at all (thousands of them are alive),
and `emit()` runs the listeners there and then, in the greenlet that called it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from .errors import InvalidArgumentError

__all__ = ["EventEmitter", "Listener"]

Listener = Callable[..., Any]
_Emitter = TypeVar("_Emitter", bound="EventEmitter")


class _Once:
    """A listener that takes itself off before it runs."""

    __slots__ = ("emitter", "event", "listener")

    def __init__(self, emitter: EventEmitter, event: str, listener: Listener) -> None:
        self.emitter, self.event, self.listener = emitter, event, listener

    def __call__(self, *args: Any) -> Any:
        self.emitter.off(self.event, self)
        return self.listener(*args)


class EventEmitter:
    """What `Server`, sockets and messages have in common (reference: events)."""

    __slots__ = ("__weakref__", "_listeners")

    #: The events that this class emits; a subclass adds its own.
    EVENTS: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        # event -> listeners; the tuples are never changed, so `emit` walks them without a copy
        self._listeners: dict[str, tuple[Listener, ...]] | None = None

    def on(self: _Emitter, event: str, listener: Listener) -> _Emitter:
        """Call `listener` at every `event`, after those that were added before it. Returns the emitter.

        Raises:
            ValueError: this emitter never emits `event`; the message names the nearest that it does.
            TypeError: `listener` cannot be called.
        """
        if event not in self.EVENTS:
            near = difflib.get_close_matches(str(event), self.EVENTS, 1, 0)
            known = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidArgumentError(f"{type(self).__name__} never emits {event!r}{known}")
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {listener!r}")
        if self._listeners is None:
            self._listeners = {}
        self._listeners[event] = (*self._listeners.get(event, ()), listener)
        return self

    def once(self: _Emitter, event: str, listener: Listener) -> _Emitter:
        """Call `listener` at the next `event` only. Returns the emitter; raises as `on()` does."""
        return self.on(event, _Once(self, event, listener))

    def off(self: _Emitter, event: str, listener: Listener) -> _Emitter:
        """Take the newest registration of `listener` off; nothing happens if there is none. Returns the emitter."""
        kept = list(self.listeners(event))
        for index in reversed(range(len(kept))):
            found = kept[index]
            if found == listener or (isinstance(found, _Once) and found.listener == listener):
                del kept[index]
                self._keep(event, tuple(kept))
                break
        return self

    def remove_all_listeners(self: _Emitter, event: str | None = None) -> _Emitter:
        """Take off every listener of `event`, or of all events. Returns the emitter."""
        if event is None:
            self._listeners = None
        else:
            self._keep(event, ())
        return self

    def listeners(self, event: str) -> tuple[Listener, ...]:
        """The listeners of `event`, oldest first."""
        return self._listeners.get(event, ()) if self._listeners is not None else ()

    def listener_count(self, event: str) -> int:
        """How many listeners `event` has."""
        return len(self.listeners(event))

    def emit(self, event: str, *args: Any) -> bool:
        """Run the listeners of `event` with `args`, here and now. Returns whether there were any.

        Raises:
            Exception: whatever a listener raises; those after it are not called.
        """
        listeners = self._listeners
        if listeners is None:
            return False
        found = listeners.get(event)
        if found is None:
            return False
        for listener in found:
            listener(*args)
        return True

    def _keep(self, event: str, listeners: tuple[Listener, ...]) -> None:
        if self._listeners is None:
            return
        if listeners:
            self._listeners[event] = listeners
        else:
            self._listeners.pop(event, None)
            if not self._listeners:
                self._listeners = None
