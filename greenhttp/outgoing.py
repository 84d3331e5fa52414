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
from .sockets import FILE_PIECE, Socket, WriteDone
from .streams import HIGH_WATER_MARK, Data, encode
from .workers import ENDINGS, Workers, deliver, log

__all__ = ["NO_EXTRAS", "BodyFraming", "Extras", "MessageSink", "OutgoingMessage", "Stage"]

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


class _Backlog:
    """What a message holds until it is its turn on the connection."""

    __slots__ = ("entries", "room", "size")

    def __init__(self) -> None:
        self.entries: list[bytes | WriteDone] = []  # with the callbacks of those bytes
        self.size = 0  # in bytes
        self.room: Event | None = None  # set when nothing is held any more


class Extras:
    """What few messages need."""

    __slots__ = ("callbacks", "finish_told", "needs_drain", "removed", "send_date", "trailers")

    def __init__(self) -> None:
        self.send_date = True
        self.removed: frozenset[str] = frozenset()  # automatic headers that the user removed
        self.trailers = b""
        self.callbacks: list[Callable[..., object]] = []  # of end()
        self.needs_drain = False  # a `write()` has returned False
        self.finish_told = False


NO_EXTRAS = Extras()


class OutgoingMessage(EventEmitter):
    """A message under way to the peer.

    Events:
        'drain' (): after a `write()` that returned False, all is with the operating system; 'finish' (): the
        operating system has the whole message; 'close' (): the connection went away before that; 'error' (exception).
    """

    __slots__ = ("_announced", "_backlog", "_framing", "_stage", "_written", "extras", "headers", "socket")

    EVENTS: ClassVar[frozenset[str]] = frozenset({"close", "drain", "error", "finish"})

    # A subclass sets all of these as it is made: a call of ours for it would be felt in every message.
    socket: Socket  #: the connection's socket
    headers: OutgoingHeaders
    extras: Extras | None
    _stage: Stage
    _backlog: _Backlog | None  # while others are before it on the connection
    _written: int  # bytes of body
    # known when the head is fixed:
    _framing: BodyFraming
    _announced: int  # the Content-Length, or -1

    def _make_extras(self) -> Extras:
        if self.extras is None:
            self.extras = Extras()
        return self.extras

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
            self._make_extras().removed |= {lower}

    @property
    def send_date(self) -> bool:
        """Whether a `Date` is added (reference: `response.sendDate`)."""
        return self.extras is None or self.extras.send_date

    @send_date.setter
    def send_date(self, send: bool) -> None:
        if send != self.send_date:
            self._make_extras().send_date = send

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
        lines = b"".join([field_line(name, value) for name, value in field_pairs(headers)])
        self._make_extras().trailers += lines

    @staticmethod
    def _headers_sent(what: str) -> MessageStateError:
        return MessageStateError(f"cannot {what}: the head is fixed already", code="ERR_HTTP_HEADERS_SENT")

    # --- what a subclass says ---

    def _encode_head(self, length: int | None, *, last: bool = False) -> bytes:
        """Decide the framing and give the head as bytes.

        Args:
            length: of the whole body, if it may become the `Content-Length`.
            last: whether the message ends with the bytes that go out next.
        """
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
        sent = self._send_body(head, chunk) if chunk or head else self._backlog is None and not self.socket.queued
        if callback is not None:
            self._when_sent(callback)
        if not sent and self._stage is BODY:
            self._make_extras().needs_drain = True
        return sent

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send a part of a file as a piece of the body, without reading it. Blocks the calling greenlet until the
        operating system has it; others have their turn meanwhile.

        Args:
            fd, offset: as for `Socket.send_file`.
            count: bytes.

        Returns:
            How many bytes were sent; fewer when the connection has gone, where the file or the `Content-Length` ends,
            and where it can only be read: without a `Content-Length`, before its turn, and as `Socket.send_file` says.
        """
        if self._stage >= ENDED or self._backlog is not None:
            return 0
        if self._stage < BODY:
            self.socket.send(self._fix_head(None))
        left = min(count, self._announced - self._written) if self._framing is LENGTH else 0
        wanted = left
        while left and self._stage is BODY:
            piece = min(left, FILE_PIECE)
            self._written += piece
            sent = self.socket.send_file(fd, offset, piece)
            self._written -= piece - sent
            offset += sent
            left -= sent
            if not sent or not left:
                break
            gevent.sleep(0)  # a client that takes all at once must not keep the others from running
        return wanted - left

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
            head = self._fix_head(len(chunk), last=True)
        elif stage is FIXED:
            head = self._fix_head(None, last=True)
        elif stage is BODY:
            head = b""
        else:
            self._end_too_late(chunk, callback)
            return False
        if callback is not None:
            self._make_extras().callbacks = [callback]
        if self._framing is CHUNKED:
            last = b"0\r\n" + (self.extras or NO_EXTRAS).trailers + b"\r\n"
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
        if self._backlog is None:
            self._ended()
        return True

    def destroy(self: _Self, error: Exception | None = None) -> _Self:
        """Destroy the connection. Returns the message."""
        self.socket.destroy(error)
        return self

    # --- on the way to the socket ---

    def _fix_head(self, length: int | None, *, last: bool = False) -> bytes:
        head = self._encode_head(length, last=last)
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
            if size >= LARGE and self._backlog is None:
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
        if size >= LARGE and self._backlog is None:
            return self.socket.send_parts(head, chunk) if head else self.socket.send(chunk)
        return self._give(head + chunk if head else chunk)

    def _give(self, data: bytes) -> bool:
        backlog = self._backlog
        if backlog is None:
            return self.socket.send(data)
        backlog.entries.append(data)
        backlog.size += len(data)
        return False

    def hold(self) -> None:
        """Others are before it on the connection: keep its bytes until `take_turn()`."""
        self._backlog = _Backlog()

    def take_turn(self) -> None:
        """It is this message's turn on the connection: what was held goes out."""
        backlog, self._backlog = self._backlog, None
        assert backlog is not None
        held = self._emptied(backlog)
        if held:
            self.socket.send(b"".join([entry for entry in held if not callable(entry)]))
            for entry in held:
                if callable(entry):
                    self.socket.when_sent(entry)
        if self._stage is ENDED:
            self._ended()
        elif not self.socket.queued:
            self.drained()

    @staticmethod
    def _emptied(backlog: _Backlog) -> list[bytes | WriteDone]:
        """Take out what was held; a greenlet that waits because that is too much goes on."""
        entries, backlog.entries, backlog.size = backlog.entries, [], 0
        if backlog.room is not None:
            backlog.room.set()
        return entries

    def drop_unsent(self) -> bool:
        """Undo the whole message if none of it has gone to the socket yet. Returns whether that was so."""
        if self._backlog is not None:
            replaced = MessageStateError("the response was replaced before it was sent", code="ERR_STREAM_DESTROYED")
            for entry in self._emptied(self._backlog):
                if callable(entry):
                    entry(replaced)
        elif self._stage > FIXED:
            return False
        self._stage = OPEN
        self._written = 0
        self.headers.clear()
        if self.extras is not None:
            self.extras.trailers = b""
            self.extras.removed = frozenset()
        return True

    def _over_mark(self) -> bool:
        backlog = self._backlog
        if backlog is not None:
            return backlog.size > HIGH_WATER_MARK
        return self.socket.queued > self.socket.high_water_mark

    def _wait_for_room(self) -> None:
        while self._over_mark() and self._stage < ENDED:
            backlog = self._backlog
            if backlog is None:
                self.socket.wait_for_room()
            else:
                if backlog.room is None:
                    backlog.room = Event()
                backlog.room.clear()
                backlog.room.wait()

    def _when_sent(self, callback: Callable[..., object]) -> None:
        def done(error: BaseException | None) -> None:
            self.workers.soon(self._call_back, callback, error)

        if self._backlog is None:
            self.socket.when_sent(done)
        else:
            self._backlog.entries.append(done)

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
        if self._listeners is not None or self.extras is not None:
            self.workers.soon(self.tell_finish)

    def tell_finish(self) -> None:
        """In a worker: 'finish', once."""
        extras = self._make_extras()
        if extras.finish_told or self._stage is not FINISHED:
            return
        extras.finish_told = True
        callbacks, extras.callbacks = extras.callbacks, []
        for callback in callbacks:
            self._call_back(callback, None)
        deliver(self, "finish")

    def lost(self, error: Exception) -> None:
        """Never blocks: the connection went away before the message was complete."""
        if self._stage in (FINISHED, CLOSED):
            return
        callbacks = self._give_up(error)
        if self._listeners is not None or callbacks:
            self.workers.dispatch(self._tell_lost, callbacks, error)

    def _give_up(self, error: Exception) -> list[Callable[..., object]]:
        """No more will be sent, if not all was. Returns whom of `end()` to tell."""
        if self._stage in (FINISHED, CLOSED):
            return []
        self._stage = CLOSED
        for entry in self._emptied(self._backlog) if self._backlog is not None else ():
            if callable(entry):
                entry(error)
        return self.extras.callbacks if self.extras is not None else []

    def _tell_lost(self, callbacks: list[Callable[..., object]], error: Exception) -> None:
        for callback in callbacks:
            self._call_back(callback, error)
        deliver(self, "close")

    def drained(self) -> None:
        """Never blocks: nothing is queued any more."""
        extras = self.extras
        if extras is not None and extras.needs_drain and self._stage is BODY:
            extras.needs_drain = False
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
        except ENDINGS:
            raise
        except BaseException:
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
