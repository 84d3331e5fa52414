"""`OutgoingMessage`: what every message that we send has in common: its headers, its body, and how far it has come.

The head waits for the first bytes of the body, and leaves in one packet with them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import gevent
from gevent.event import Event

from .errors import BodyLengthError, ConnectionLostError, InvalidHeaderError, MessageStateError
from .events import EventEmitter
from .headers import Headers, OutgoingHeaders, field_line, field_pairs
from .sockets import Socket, WriteDone
from .streams import Data, encode
from .workers import Workers, deliver, log

__all__ = ["BodyFraming", "MessageSink", "OutgoingMessage", "Stage"]

LARGE = 16 * 1024  # bytes from which on a copy costs more than a second buffer in the system call
_Self = TypeVar("_Self", bound="OutgoingMessage")


class Stage(enum.IntEnum):
    """How far an outgoing message has come; it only goes forward."""

    OPEN = 0  # headers may change
    FIXED = 1  # the head is fixed and waits for the first bytes of the body
    BODY = 2  # the head has gone
    ENDED = 3  # `end()` was called; bytes are under way
    FINISHED = 4  # the operating system has all of it
    CLOSED = 5  # the connection went away first


OPEN, FIXED, BODY, ENDED, FINISHED, CLOSED = Stage


class BodyFraming(enum.IntEnum):
    """How the receiver finds the end of the body (RFC 9112 section 6)."""

    NONE = 0  # there is no body, whatever is written
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3


NONE, LENGTH, CHUNKED, UNTIL_CLOSE = BodyFraming


class MessageSink(Protocol):
    """The connection that a message leaves by."""

    def listener_failed(self, message: Any) -> None: ...


class OutgoingMessage(EventEmitter):
    """A message under way to the peer.

    Events:
        'drain' (): after a `write()` that returned False, all is with the operating system; 'finish' (): the
        operating system has
        the whole message; 'close' (): the connection went away before that; 'error' (exception).
    """

    __slots__ = (
        "_announced",
        "_callbacks",
        "_finish_told",
        "_framing",
        "_held",
        "_held_size",
        "_needs_drain",
        "_removed",
        "_room",
        "_stage",
        "_trailers",
        "_turn",
        "_written",
        "headers",
        "send_date",
        "socket",
    )

    EVENTS: ClassVar[frozenset[str]] = frozenset({"close", "drain", "error", "finish"})

    def __init__(self, socket: Socket) -> None:
        self._listeners = None
        #: The connection's socket.
        self.socket = socket
        self.headers = OutgoingHeaders()
        #: Whether a `Date` is added.
        self.send_date = True
        self._stage = OPEN
        self._framing = NONE
        self._announced = -1  # the Content-Length
        self._written = 0  # bytes of body
        self._turn = False  # whether the bytes may go to the socket; those before are held
        self._held: list[bytes | WriteDone] | None = None  # with the callbacks of those bytes
        self._held_size = 0
        self._room: Event | None = None  # set when nothing is held any more
        self._needs_drain = False
        self._removed: frozenset[str] | None = None  # automatic headers that the user removed
        self._trailers: bytes = b""
        self._callbacks: list[Callable[..., object]] | None = None  # of end()
        self._finish_told = False

    # --- headers ---

    def set_header(self, name: str, value: object) -> None:
        """Set a header; a list makes a line for each item (reference: `response.setHeader`).

        Raises:
            TypeError, ValueError: the name or a value is invalid; nothing has changed.
            RuntimeError: the head is fixed (`ERR_HTTP_HEADERS_SENT`).
        """
        if self._stage is not OPEN:
            raise self._headers_sent("set a header")
        self.headers.set(name, value)

    def get_header(self, name: str) -> Any:
        """The value as it was set, in any letter case; None if it was not (reference: `response.getHeader`)."""
        return self.headers.value(name)

    def remove_header(self, name: str) -> None:
        """Forget a header; one that would be added automatically is not added then (reference:
        `response.removeHeader`).

        Raises:
            RuntimeError: the head is fixed (`ERR_HTTP_HEADERS_SENT`).
        """
        if self._stage is not OPEN:
            raise self._headers_sent("remove a header")
        self.headers.remove(name)
        lower = name.lower()
        if lower == "date":
            self.send_date = False
        elif lower in ("connection", "content-length", "transfer-encoding"):
            self._removed = (self._removed or frozenset()) | {lower}

    @property
    def headers_sent(self) -> bool:
        """Whether the head is fixed; its bytes may still wait for the first of the body."""
        return self._stage != OPEN

    def add_trailers(self, headers: Headers) -> None:
        """Fields to send after a chunked body; with any other framing they are dropped (reference:
        `response.addTrailers`).

        Raises:
            TypeError, ValueError: a field is invalid; nothing has changed.
        """
        self._trailers += b"".join([field_line(name, value) for name, value in field_pairs(headers)])

    @staticmethod
    def _headers_sent(what: str) -> MessageStateError:
        return MessageStateError(f"cannot {what}: the head is fixed already", code="ERR_HTTP_HEADERS_SENT")

    # --- what a subclass says ---

    def _encode_head(self, length: int | None) -> bytes:
        """Decide the framing and give the head as bytes. `length`: of the whole body, if it is known to be all."""
        raise NotImplementedError

    def _ended(self) -> None:
        """All bytes of the message were given to the socket. Called while it is this message's turn."""

    # --- body ---

    @property
    def writable_ended(self) -> bool:
        """Whether `end()` was called."""
        return self._stage in (ENDED, FINISHED)

    @property
    def writable_finished(self) -> bool:
        """Whether the operating system has the whole message."""
        return self._stage == FINISHED

    @property
    def body_size(self) -> int:
        """Bytes of body so far, without their framing."""
        return self._written

    @property
    def destroyed(self) -> bool:
        """Whether the connection went away before the message was complete; writing is to no effect then."""
        return self._stage is CLOSED

    def flush_headers(self) -> None:
        """Send the head now, without waiting for the body."""
        if self._stage < BODY:
            head = self._fix_head(None)
            self._give(head)

    def write(self, data: Data, encoding: str | None = None, callback: Callable[..., object] | None = None) -> bool:
        """Send a piece of the body (reference: `response.write`).

        Blocks the calling greenlet while more than the high-water mark waits to be sent, so that a loop of writes
        runs in constant memory. After the connection has gone nothing is sent and nothing raised: see `destroyed`.

        Args:
            data: text or bytes; an empty piece sends nothing.
            encoding: of a `str`; UTF-8 unless named.
            callback: called when the operating system has the piece, or with the error if it never will.

        Returns:
            Whether the operating system took all of it; if not, `'drain'` follows.

        Raises:
            TypeError: `data` is neither text nor bytes; the message stays usable.
            ValueError: the body would be longer than its `Content-Length`; the surplus is not sent.
            RuntimeError: never; a write after `end()` emits `'error'` (`ERR_STREAM_WRITE_AFTER_END`).
        """
        chunk = encode(data, encoding)
        if self._stage >= ENDED:
            return self._write_too_late(callback)
        if self._over_mark():
            self._wait_for_room()
            if self._stage >= ENDED:
                return self._write_too_late(callback)
        head = self._fix_head(None) if self._stage < BODY else b""
        sent = self._send_body(head, chunk) if chunk or head else not self.socket.queued
        if callback is not None:
            self._when_sent(callback)
        if not sent and self._stage is BODY:
            self._needs_drain = True
        return sent

    def end(
        self,
        data: Data | None = None,
        encoding: str | None = None,
        callback: Callable[..., object] | None = None,
    ) -> bool:
        """Send the last piece, if any, and complete the message (reference: `response.end`).

        Args:
            data, encoding: as for `write()`; as the first and only piece its length becomes the `Content-Length`.
            callback: called when the operating system has all of it, or with the error if it never will.

        Returns:
            Whether this call ended the message; a second one changes nothing.

        Raises:
            TypeError, ValueError: as for `write()`; the message stays open.
        """
        chunk = b"" if data is None else encode(data, encoding)
        stage = self._stage
        if stage is OPEN:
            head = self._fix_head(len(chunk))
        elif stage is FIXED:
            head = self._fix_head(None)
        elif stage is BODY:
            head = b""
        else:
            self._end_too_late(chunk, callback)
            return False
        if callback is not None:
            self._callbacks = [callback]
        if self._framing is CHUNKED:
            last = b"0\r\n" + self._trailers + b"\r\n"
            if chunk:
                last = b"%x\r\n%b\r\n%b" % (len(chunk), chunk, last)
            self._written += len(chunk)
            self._stage = ENDED
            self._give(head + last)
        else:
            if chunk or head:
                self._send_body(head, chunk)
            if self._stage is BODY:  # the connection may have gone
                self._stage = ENDED
        if self._turn:
            self._ended()
        return True

    def destroy(self: _Self, error: Exception | None = None) -> _Self:
        """Destroy the connection. Returns the message."""
        self.socket.destroy(error)
        return self

    # --- on the way to the socket ---

    def _fix_head(self, length: int | None) -> bytes:
        head = self._encode_head(length)
        self._stage = BODY
        return head

    def _send_body(self, head: bytes, chunk: bytes) -> bool:
        """Frame `chunk` and send it behind `head`."""
        if self._framing is NONE:
            return self._give(head) if head else True
        size = len(chunk)
        if self._framing is CHUNKED:
            self._written += size
            if not size:
                return self._give(head)
            if size >= LARGE and self._turn:
                return self.socket.send_parts(head + b"%x\r\n" % size, chunk, b"\r\n")
            return self._give(b"%b%x\r\n%b\r\n" % (head, size, chunk))
        if self._framing is LENGTH and self._written + size > self._announced:
            fits = chunk[: self._announced - self._written]
            self._written = self._announced
            self._give(head + fits)
            raise BodyLengthError(
                f"the body is longer than its Content-Length of {self._announced} bytes; the surplus was not sent",
                code="ERR_HTTP_CONTENT_LENGTH_MISMATCH",
            )
        self._written += size
        if size >= LARGE and self._turn:
            return self.socket.send_parts(head, chunk) if head else self.socket.send(chunk)
        return self._give(head + chunk if head else chunk)

    def _give(self, data: bytes) -> bool:
        if self._turn:
            return self.socket.send(data)
        if self._held is None:
            self._held = []
        self._held.append(data)
        self._held_size += len(data)
        return False

    def take_turn(self) -> None:
        """It is this message's turn on the connection: what was held goes out."""
        self._turn = True
        held = self._release_held()
        if held:
            self.socket.send(b"".join([entry for entry in held if not callable(entry)]))
            for entry in held:
                if callable(entry):
                    self.socket.when_sent(entry)
        if self._stage is ENDED:
            self._ended()

    def _release_held(self) -> list[bytes | WriteDone]:
        """Take out what was held; a greenlet that waits because that is too much goes on."""
        held, self._held, self._held_size = self._held or [], None, 0
        if self._room is not None:
            self._room.set()
        return held

    def drop_unsent(self) -> bool:
        """Undo the whole message if none of it has gone to the socket yet. Returns whether that was so."""
        if self._turn and self._stage > FIXED:
            return False
        for entry in self._release_held():
            if callable(entry):
                entry(MessageStateError("the response was replaced before it was sent", code="ERR_STREAM_DESTROYED"))
        self._stage = OPEN
        self._framing, self._announced, self._written = NONE, -1, 0
        self.headers.clear()
        self._trailers = b""
        self._removed = None
        return True

    def _over_mark(self) -> bool:
        socket = self.socket
        return (socket.queued if self._turn else self._held_size) > socket.high_water_mark

    def _wait_for_room(self) -> None:
        while self._over_mark() and self._stage < ENDED:
            if self._turn:
                self.socket.wait_for_room()
            else:
                if self._room is None:
                    self._room = Event()
                self._room.clear()
                self._room.wait()

    def _when_sent(self, callback: Callable[..., object]) -> None:
        def done(error: BaseException | None) -> None:
            self.workers.soon(self._call_back, callback, error)

        if self._turn:
            self.socket.when_sent(done)
        elif self._held is None:
            self._held = [done]
        else:
            self._held.append(done)

    @property
    def workers(self) -> Workers:
        """Which greenlets run the listeners."""
        return self.socket.workers

    # --- how it ends ---

    def sent(self, error: BaseException | None) -> None:
        """Never blocks: the operating system has the whole message, or never will."""
        if self._stage is not ENDED:
            return  # `lost` has come
        if error is not None:
            # given to the socket whole, the connection does not know it any more
            self.lost(error if isinstance(error, Exception) else ConnectionLostError(str(error), code="ECONNRESET"))
            return
        self._stage = FINISHED
        self._needs_drain = False
        if self._listeners is not None or self._callbacks is not None:
            self.workers.soon(self.tell_finish)

    def tell_finish(self) -> None:
        """In a worker: 'finish', once."""
        if self._finish_told or self._stage != FINISHED:
            return
        self._finish_told = True
        for callback in self._callbacks or ():
            self._call_back(callback, None)
        self._callbacks = None
        deliver(self, "finish")

    def lost(self, error: Exception) -> None:
        """Never blocks: the connection went away before the message was complete."""
        if self._stage in (FINISHED, CLOSED):
            return
        self._stage = CLOSED
        for entry in self._release_held():
            if callable(entry):
                entry(error)
        callbacks, self._callbacks = self._callbacks, None
        if self._listeners is not None or callbacks:
            self.workers.dispatch(self._tell_lost, callbacks or [], error)

    def _tell_lost(self, callbacks: list[Callable[..., object]], error: Exception) -> None:
        for callback in callbacks:
            self._call_back(callback, error)
        deliver(self, "close")

    def drained(self) -> None:
        """In the hub: nothing is queued any more."""
        if self._needs_drain and self._stage is BODY:
            self._needs_drain = False
            if self.listener_count("drain"):
                self.workers.dispatch(deliver, self, "drain")

    def _write_too_late(self, callback: Callable[..., object] | None) -> bool:
        error = self._too_late_error()
        if callback is not None:
            self.workers.soon(self._call_back, callback, error)
        if self._stage is CLOSED:
            gevent.sleep(0)  # a loop of writes to nobody must not keep the others from running
        else:
            self._report(error)
        return False

    def _end_too_late(self, chunk: bytes, callback: Callable[..., object] | None) -> None:
        error = self._too_late_error()
        if callback is not None:
            self.workers.soon(self._call_back, callback, error)
        if chunk and self._stage != CLOSED:
            self._report(error)

    def _too_late_error(self) -> Exception:
        if self._stage is CLOSED:
            return ConnectionLostError("the connection has gone", code="ERR_STREAM_DESTROYED")
        return MessageStateError("write after end", code="ERR_STREAM_WRITE_AFTER_END")

    def _report(self, error: Exception) -> None:
        if self.listener_count("error"):
            self.workers.soon(deliver, self, "error", error)
        else:
            log.error("%r: %s", self, error)

    def _call_back(self, callback: Callable[..., object], error: BaseException | None) -> None:
        try:
            callback(*([error] if error is not None else []))
        except (Exception, gevent.Timeout):
            log.exception("the callback %r raised", callback)


def content_length(value: object) -> int:
    """The number in a `Content-Length` header that our own user set.

    Raises:
        ValueError: it is not a number of bytes.
    """
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise InvalidHeaderError(
            f"Content-Length must be a number of bytes, not {value!r}", code="ERR_INVALID_ARG_VALUE"
        )
    return int(text)
