"""Where long-polls wait, in the servers on gevent."""

from __future__ import annotations

from gevent.event import Event

__all__ = ["Gate"]


class Gate:
    """Closed again for newcomers as soon as it has been opened for those who wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self._opened = Event()

    def wait(self) -> None:
        """Block the calling greenlet until `open()`."""
        self.waiting += 1
        self._opened.wait()

    def open(self) -> None:
        opened, self._opened, self.waiting = self._opened, Event(), 0
        opened.set()
