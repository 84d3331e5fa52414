"""`SendPace`: how fast a client must take what it is sent."""

from __future__ import annotations

from time import monotonic

from .deadlines import NEVER
from .errors import PeerTimeoutError
from .rate import RateMeter
from .sockets import Socket

__all__ = ["SendPace"]


class SendPace:
    """Cuts the connection of a client that takes its answers too slowly, once the kernel had no room for one.

    It looks at the socket alone, of which the connection lets go before its last answer is out.

    Args:
        socket: with bytes queued.
        minimum: bytes a second; 0 is no limit.
        head_start: bytes of the answer that the kernel took at once. They count for the client.
    """

    __slots__ = ("_meter", "_socket", "due")

    def __init__(self, socket: Socket, minimum: float, head_start: int) -> None:
        self._socket = socket
        self.due = NEVER
        now = monotonic()
        self._meter = RateMeter(minimum, now, self._taken() - head_start)
        socket.deadlines.schedule(self, self._meter.next_check(now))

    def _taken(self) -> int:
        return self._socket.bytes_written - self._socket.queued

    def pause(self) -> None:
        """The client has taken all that there is."""
        self._meter.pause(monotonic(), self._taken())
        self._socket.deadlines.forget(self)

    def resume(self) -> None:
        """The kernel has no room again."""
        now = monotonic()
        self._meter.resume(now, self._taken())
        self._socket.deadlines.schedule(self, self._meter.next_check(now))

    def check_deadlines(self, now: float) -> float:
        """In the hub: see `Expiring`."""
        if not self._socket.queued:
            return NEVER
        if self._meter.too_slow(now, self._taken()):
            self._socket.destroy(PeerTimeoutError("the response was read too slowly", code="ERR_HTTP_REQUEST_TIMEOUT"))
            return NEVER
        return self._meter.next_check(now)
