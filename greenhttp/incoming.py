"""`IncomingMessage`: a message that the peer sends; on the server a request, on the client a response.

The fields stay as received until somebody asks for them; a message without a body has no inflow until somebody reads.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from .errors import ConnectionLostError
from .events import Listener
from .framing import RequestHead, ResponseHead
from .headers import HeaderList, flat_fields, incoming_headers
from .sockets import Socket
from .streams import Inflow, Progress, Readable

__all__ = ["IncomingMessage", "MessageSource"]

_Self = TypeVar("_Self", bound="IncomingMessage")
_NO_FIELDS: tuple[bytes, ...] = ()


class Fate(enum.IntEnum):
    """What has become of the exchange that a message belongs to."""

    UNDER_WAY = 0
    OVER = 1
    ABORTED = 2  # the peer went away first


UNDER_WAY, OVER, ABORTED = Fate


class MessageSource(Protocol):
    """The connection that a message comes from. None of these blocks."""

    def body_wanted(self, message: Any) -> None: ...
    def listener_failed(self, message: Any) -> None: ...
    def message_heard(self, message: Any) -> None: ...
    def message_read(self, message: Any) -> None: ...
    def message_dropped(self, message: Any, error: Exception | None) -> None: ...
    def read_interrupted(self, message: Any) -> None: ...
    @property
    def closing(self) -> bool: ...


class IncomingMessage(Readable):
    """A request, read by the server, or a response, read by the client (reference: `http.IncomingMessage`).

    As a context manager it is closed at the end: see `close()`.

    Events:
        'data' (chunk), 'end' (): the body was delivered; 'aborted' (): the peer went away first, then 'error'
        (exception);
        'timeout' (socket); 'close' (): once, when the exchange is over or the connection is gone.
    """

    __slots__ = ("_fate", "_headers", "_source", "head", "socket")

    EVENTS: ClassVar[frozenset[str]] = Readable.EVENTS | {"aborted", "timeout"}

    def __init__(self, head: RequestHead | ResponseHead, source: MessageSource, socket: Socket) -> None:
        self._listeners = None
        self.inflow = None
        #: For the connection: the head; which of the two kinds it is follows from where the message came.
        self.head: Any = head
        self._source = source
        self._headers: dict[str, Any] | None = None
        self._fate = UNDER_WAY
        #: The connection's socket.
        self.socket = socket

    def __repr__(self) -> str:
        what = f"{self.method} {self.url}" if isinstance(self.head, RequestHead) else self.status_code
        return f"<IncomingMessage {what}>"

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the head ---

    @property
    def method(self) -> str:
        """`'GET'`, ...; empty for a response."""
        head = self.head
        return head.framing.method if isinstance(head, RequestHead) else ""

    @property
    def url(self) -> str:
        """The request target exactly as sent; empty for a response."""
        head = self.head
        return head.target.decode("latin-1") if isinstance(head, RequestHead) else ""

    @property
    def status_code(self) -> int | None:
        """200, ...; None for a request."""
        head = self.head
        return head.framing.status if isinstance(head, ResponseHead) else None

    @property
    def status_message(self) -> str | None:
        """The phrase as sent, `'OK'`; None for a request."""
        head = self.head
        return head.framing.reason if isinstance(head, ResponseHead) else None

    @property
    def http_version(self) -> str:
        """`'1.1'` or `'1.0'`."""
        version: str = self.head.framing.version
        return version

    @property
    def http_version_major(self) -> int:
        """The first number of `http_version`."""
        return int(self.head.framing.version[0])

    @property
    def http_version_minor(self) -> int:
        """The second number of `http_version`."""
        return int(self.head.framing.version[2])

    @property
    def headers(self) -> dict[str, Any]:
        """Lower-case names to values; repeated lines are joined, `set-cookie` is a list (reference:
        `message.headers`)."""
        if self._headers is None:
            self._headers = incoming_headers(self.head.fields)
        return self._headers

    @property
    def raw_headers(self) -> HeaderList:
        """Name, value, name, value, ... as received."""
        return flat_fields(self.head.fields)

    @property
    def trailers(self) -> dict[str, Any]:
        """The fields after a chunked body, once `'end'` has come; like `headers`."""
        return incoming_headers(self.raw_trailers_seen())

    @property
    def raw_trailers(self) -> HeaderList:
        """The fields after a chunked body, once `'end'` has come; like `raw_headers`."""
        return flat_fields(self.raw_trailers_seen())

    def raw_trailers_seen(self) -> Sequence[bytes]:
        """The trailers as bytes, when the reader is at the end of the body."""
        inflow = self.inflow
        return inflow.trailers if inflow is not None and inflow.progress is Progress.ENDED else _NO_FIELDS

    # --- body ---

    def read(self, size: int | None = -1) -> Any:
        """As `Readable.read`; a body that came with its head is handed over as it is."""
        head = self.head
        body = head.body
        if not body or self.inflow is not None or self._listeners is not None or (size != -1 and size is not None):
            return super().read(size)
        head.body = None
        return body

    def on(self: _Self, event: str, listener: Listener) -> _Self:
        """As `Readable.on`."""
        super().on(event, listener)
        self._source.message_heard(self)
        return self

    # --- state ---

    @property
    def aborted(self) -> bool:
        """Whether the peer went away before the exchange was over."""
        return self._fate is ABORTED

    @property
    def connection(self) -> Socket:
        """The same as `socket`."""
        return self.socket

    @property
    def complete(self) -> bool:
        """Whether all of the message has come."""
        if self.inflow is None:
            return bool(self.head.complete)
        return self.inflow.progress in (Progress.COMPLETE, Progress.ENDED)

    @property
    def destroyed(self) -> bool:
        """Whether the connection is gone."""
        return self.socket.destroyed

    @property
    def closing(self) -> bool:
        """Whether the server is closing; long-polls and streams should come to an end."""
        return self._source.closing

    def set_timeout(self: _Self, seconds: float, callback: Listener | None = None) -> _Self:
        """`'timeout'` after `seconds` without a byte either way, while the body is incomplete. Returns the
        message."""
        if callback is not None:
            self.on("timeout", callback)
        # else the connection may serve others by now
        if not self._fate and not (self.complete and isinstance(self.head, ResponseHead)):
            self.socket.set_timeout(seconds)
        return self

    def destroy(self: _Self, error: Exception | None = None) -> _Self:
        """Destroy the connection, if it still serves this message. Returns the message."""
        self._source.message_dropped(self, error)
        return self

    def close(self) -> None:
        """No more is wanted of it: a response that has not come to its end is destroyed with its connection, so that
        nothing waits for a reader; one that has, and a request, loses nothing."""
        if isinstance(self.head, ResponseHead) and not self.complete:
            self.destroy()

    # --- for the connection ---

    def continue_sent(self) -> None:
        """`100 Continue` has gone out: the client waits for it no more, if it did."""
        if self.head.framing.expects_continue:
            self.head.framing = self.head.framing.without(expects_continue=True)

    def open_body(self) -> Inflow:
        """The inflow of a body that is on its way."""
        self.inflow = Inflow(self, self.socket.workers, self.socket.high_water_mark)
        return self.inflow

    def finish(self, trailers: Sequence[bytes]) -> None:
        """In the hub: the body is complete."""
        assert self.inflow is not None
        self.inflow.finish(trailers)

    def abort(self, error: Exception) -> None:
        """The rest will not come: 'aborted', 'error' if somebody listens, 'close'."""
        if self._fate:
            return
        self._fate = ABORTED
        unfinished = not self.complete
        if unfinished:
            self._reading().fail(error)
        if self._listeners is not None:
            self.socket.workers.dispatch(self._deliver_abort, error if unfinished else None)

    def exchange_over(self) -> None:
        """The exchange is over: 'close', after 'end' if that is still on its way."""
        if self._fate:
            return
        self._fate = OVER
        if self._listeners is not None:
            inflow = self.inflow
            if inflow is None or not inflow.pumping:  # else `_at_end` follows
                self.socket.workers.soon(self._deliver, "close")

    def _deliver_abort(self, error: Exception | None) -> None:
        self._deliver("aborted")
        if error is not None and self.listener_count("error"):
            self._deliver("error", error)
        self._deliver("close")

    def _open_inflow(self) -> Inflow:
        inflow = Inflow(self, self.socket.workers, self.socket.high_water_mark)
        head = self.head
        if head.complete:
            body = head.body
            if body:
                inflow.push(body)
                head.body = None
            # taken: by `read()`, which saw the end too
            inflow.progress = Progress.ENDED if body is None else Progress.COMPLETE
        return inflow

    def wants_bytes(self) -> None:
        self._source.body_wanted(self)

    def _interrupted(self) -> None:
        self._source.read_interrupted(self)

    def _at_end(self) -> None:
        self._source.message_read(self)
        if self._fate and self.inflow is not None and self.inflow.pumping:
            self.socket.workers.soon(self._deliver, "close")

    def _listener_failed(self) -> None:
        self._source.listener_failed(self)


def aborted_error() -> ConnectionLostError:
    """The error of a message whose peer went away."""
    return ConnectionLostError("aborted", code="ECONNRESET")
