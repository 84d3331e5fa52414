"""The transport: one non-blocking socket, driven by the hub, without a greenlet of its own.

An `Owner` (an HTTP connection) gets the bytes as they come. Without one, after an upgrade, the socket is a duplex
stream for users. What the kernel does not take at once waits in a queue, pieces of files too; a write watcher exists
only while there is one.
"""

from __future__ import annotations

import enum
import os
import socket as stdlib_socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Protocol, TypeVar

import gevent
import gevent.socket
from gevent.event import Event

from .deadlines import NEVER, Deadlines
from .errors import ConnectionLostError, MessageStateError
from .events import Listener
from .streams import HIGH_WATER_MARK, Data, Inflow, Readable, encode
from .workers import Workers

__all__ = ["Owner", "Socket", "WriteDone"]

READ_SIZE = 64 * 1024  # bytes asked of the kernel at a time, while they come in such amounts;
SMALL_READ_SIZE = 4 * 1024  # else so many: a large buffer for each request head would cost as much as its parsing.
# As long as a connection has never had more at a time: what Python allocates by itself, with 33 bytes for the object
TINY_READ_SIZE = 512 - 33
MAX_READS = 8  # of one socket in a row
LINGER_TIME = 2.0  # seconds that a closing connection waits for the peer's end. Precedents: nginx 5, Apache 2
LINGER_BYTES = 1024 * 1024  # bytes thrown away meanwhile
FILE_PIECE = 1024 * 1024  # bytes of a file at a time: the hub serves nobody else while the kernel reads them from disk
_MAX_BUFFERS = 64  # handed to one sendmsg; well under IOV_MAX
_READ, _WRITE = 1, 2  # libev's event masks

#: Called when queued bytes were handed to the kernel (None), or never will be (the error). Never blocks.
WriteDone = Callable[[BaseException | None], object]
_Self = TypeVar("_Self", bound="Socket")


class Owner(Protocol):
    """Who gets what a socket receives. All are called in the hub or in the greenlet that closes; none blocks."""

    def data_received(self, data: bytes) -> None: ...
    def before_end(self) -> None: ...
    def eof_received(self) -> None: ...
    def write_blocked(self) -> None: ...
    def drained(self) -> None: ...
    def timed_out(self) -> bool: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def check_deadlines(self, now: float) -> float: ...
    def write_failed(self, error: OSError) -> None: ...
    def leave_agent(self) -> None: ...


class State(enum.IntEnum):
    """Where a socket is between open and closed."""

    OPEN = 0
    ENDING = 1  # no more writes; what is queued goes out, then the end
    ENDED = 2  # our end is out; the peer's is awaited
    CLOSED = 3


_OPEN, _ENDING, _ENDED, _CLOSED = State


class _FilePiece:
    """Bytes of a file among those that are queued."""

    __slots__ = ("fd", "left", "offset")

    def __init__(self, fd: int, offset: int, left: int) -> None:
        self.fd = fd
        self.offset = offset
        self.left = left  # bytes that the kernel has not taken

    def __len__(self) -> int:
        return self.left

    def send(self, sock: Any) -> int:
        """Hand the kernel what it takes. Returns how many bytes that was: 0 where the file ends, or cannot be sent.

        Raises:
            OSError: as `socket.send`, of the socket only.
        """
        try:
            sent = os.sendfile(sock.fileno(), self.fd, self.offset, self.left)
        except (BlockingIOError, InterruptedError, ConnectionError, TimeoutError):
            raise
        except OSError:
            return 0  # it is about the file, and whoever then reads that is told
        self.offset += sent
        self.left -= sent
        return sent


class Socket(Readable):
    """One connected stream socket: TCP or Unix (reference: `net.Socket`).

    Args:
        sock: connected and non-blocking; this object closes it.
        workers: which greenlets run the listeners.
        deadlines: where timeouts are kept.
        timeout: seconds without a byte either way until `'timeout'`; 0 is never.
        high_water_mark: bytes, of either direction.

    Events:
        those of `Readable`, 'timeout' (), 'drain' (), 'finish' (): our end is out, 'connect' (), 'free' (),
        'agent_remove' ().
    """

    __slots__ = (
        "_out",
        "_peer",
        "_read_size",
        "_read_watcher",
        "_room",
        "_sock",
        "_state",
        "_told",
        "_write_watcher",
        "bytes_read",
        "bytes_written",
        "corked",
        "deadlines",
        "due",
        "high_water_mark",
        "last_activity",
        "lingers",
        "owner",
        "queued",
        "reading_on",
        "timeout",
        "workers",
    )

    EVENTS: ClassVar[frozenset[str]] = Readable.EVENTS | {
        "agent_remove",
        "connect",
        "drain",
        "finish",
        "free",
        "timeout",
    }

    #: Whether the bytes travel inside TLS.
    encrypted = False

    def __init__(
        self,
        sock: Any,
        workers: Workers,
        deadlines: Deadlines,
        *,
        timeout: float = 0,
        high_water_mark: int = HIGH_WATER_MARK,
    ) -> None:
        super().__init__()
        self._sock = sock
        self.workers = workers
        self.deadlines = deadlines
        self.timeout = timeout
        self.high_water_mark = high_water_mark
        self.owner: Owner | None = None
        self.due = NEVER
        self.last_activity = monotonic()
        self._told = NEVER  # `last_activity` of the silence that 'timeout' was emitted for
        self._read_size = TINY_READ_SIZE
        self.bytes_read = 0
        self.bytes_written = 0  # the queued ones too, as in Node
        self.queued = 0  # bytes that the kernel has not taken
        self.corked = False  # `send` only queues
        self.lingers = -1  # bytes that a closing connection still throws away; negative: it does not linger
        self._out: deque[bytes | memoryview | _FilePiece | WriteDone] | None = None
        self._room: Event | None = None  # set when the queue is below the mark again
        self._state = _OPEN
        self._peer: Any = None
        self._write_watcher: Any = None
        self.reading_on = True
        self._read_watcher: Any = workers.hub.loop.io(sock.fileno(), _READ)
        self._read_watcher.start(self._on_readable)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.remote_address}:{self.remote_port} {self._state.name.lower()}>"

    # --- facts ---

    @property
    def destroyed(self) -> bool:
        """Whether the socket is closed."""
        return self._state is _CLOSED

    @property
    def writable(self) -> bool:
        """Whether `write()` may still be called to an effect."""
        return self._state is _OPEN

    @property
    def remote_address(self) -> str | None:
        """The peer's IP address; None for a Unix socket, or when it is gone."""
        peer = self._peer_name()
        return peer[0] if isinstance(peer, tuple) else None

    @property
    def remote_port(self) -> int | None:
        """The peer's port; None for a Unix socket, or when it is gone."""
        peer = self._peer_name()
        return peer[1] if isinstance(peer, tuple) else None

    @property
    def local_address(self) -> Any:
        """Our end as the operating system names it: `(host, port, ...)` or a path; None when closed."""
        try:
            return self._sock.getsockname()
        except OSError:
            return None

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return int(self._sock.fileno())

    def _peer_name(self) -> Any:
        if self._peer is None and self._state is not _CLOSED:
            try:
                self._peer = self._sock.getpeername()
            except OSError:
                return None
        return self._peer

    def emit(self, event: str, *args: Any) -> bool:
        """As `EventEmitter.emit`; `'agent_remove'` takes the socket out of its agent's pool."""
        if event == "agent_remove" and self.owner is not None:
            self.owner.leave_agent()
        return super().emit(event, *args)

    # --- options ---

    def set_timeout(self: _Self, seconds: float, callback: Listener | None = None) -> _Self:
        """`'timeout'` after `seconds` without a byte either way; 0 switches it off. Returns the socket."""
        if seconds < 0:
            raise ValueError("a timeout is a number of seconds, 0 for none")
        self.timeout = seconds
        if seconds:
            if callback is not None:
                self.once("timeout", callback)
            self.last_activity = monotonic()
            if self._state is not _CLOSED:
                self.deadlines.schedule(self, self.last_activity + seconds)
        elif callback is not None:
            self.off("timeout", callback)
        return self

    def set_no_delay(self: _Self, no_delay: bool = True) -> _Self:
        """Send small packets at once (TCP_NODELAY, the default here); nothing on a Unix socket. Returns the
        socket."""
        if self._sock.family != stdlib_socket.AF_UNIX:
            self._sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, no_delay)
        return self

    def set_keep_alive(self: _Self, enable: bool = False, initial_delay: float = 0) -> _Self:
        """Probe an idle peer (SO_KEEPALIVE) after `initial_delay` seconds. Returns the socket."""
        self._sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, enable)
        if enable and initial_delay and self._sock.family != stdlib_socket.AF_UNIX:
            self._sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_KEEPIDLE, max(1, int(initial_delay)))
        return self

    # --- in ---

    def _on_readable(self) -> None:
        """In the hub: read once; while much comes, a few times more before others have their turn."""
        reads = 0
        while True:
            try:
                data = self._sock.recv(self._read_size)
            except (BlockingIOError, InterruptedError):
                self._read_size = SMALL_READ_SIZE
                return
            except OSError as error:
                self._read_failed(error)
                return
            self.last_activity = monotonic()
            if not data:
                self.pause_reading()
                self._on_eof()
                return
            size = len(data)
            self.bytes_read += size
            full = size == self._read_size
            waiting = 0
            if full:
                self._read_size = READ_SIZE
                waiting = len(self.workers.coming)
            elif self._read_size == READ_SIZE:
                self._read_size = SMALL_READ_SIZE
            owner = self.owner
            if owner is not None:
                owner.data_received(data)
            else:
                self._take_in(data)
            if not full:
                return
            reads += 1
            if reads == MAX_READS or not self.reading_on or len(self.workers.coming) > waiting:
                return  # others have their turn, and so has a handler that this has caused

    def _take_in(self, data: bytes) -> None:
        """Nobody owns the socket: bytes are for a reader, or thrown away before it closes."""
        if self.lingers >= 0:
            self.lingers -= len(data)
            if self.lingers < 0:
                self.destroy()
        elif not self._reading().push(data):
            self.pause_reading()

    def is_quiet(self) -> bool:
        """Whether neither bytes nor the peer's end wait in the kernel."""
        try:
            self._sock.recv(1, stdlib_socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        return False

    def _read_failed(self, error: OSError) -> None:
        """In the hub: the peer is gone."""
        if self.owner is not None:
            self.owner.before_end()
        self.destroy(error)

    def _on_eof(self) -> None:
        """In the hub: the peer has ended its side."""
        if self.owner is not None:
            self.owner.before_end()
        if self.owner is not None:
            self.owner.eof_received()
            return
        if self.inflow is not None:
            self.inflow.finish()
        else:
            self._reading().finish()
        if self._state is _ENDED:
            self.destroy()

    def pause_reading(self) -> None:
        """Leave what comes in the kernel, so that the peer has to wait."""
        if self.reading_on:
            self.reading_on = False
            self._read_watcher.stop()

    def resume_reading(self) -> None:
        """Read again."""
        if not self.reading_on and self._state is not _CLOSED:
            self.reading_on = True
            self._read_watcher.start(self._on_readable)

    def _open_inflow(self) -> Inflow:
        return Inflow(self, self.workers, self.high_water_mark)

    def wants_bytes(self) -> None:
        if self.owner is None:
            self.resume_reading()

    def unread(self, data: bytes) -> None:
        """Put bytes that an owner has not used before those that are still to come."""
        if data and not self._reading().push(data):
            self.pause_reading()

    # --- out ---

    def send(self, data: bytes) -> bool:
        """Never blocks: hand `data` to the kernel, or queue what it does not take. Returns whether it took all."""
        if self._out is None and not self.corked:
            if self._state is not _OPEN:
                return False
            size = len(data)
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._write_failed(error)
                return False
            self.last_activity = monotonic()
            self.bytes_written += size
            if sent == size:
                return True
            self._queue(memoryview(data)[sent:] if sent else data)
            return False
        if self._state is not _OPEN:
            return False
        self.bytes_written += len(data)
        self._queue(data)
        return False

    def send_parts(self, *parts: bytes) -> bool:
        """As `send`, for parts that are too large to be joined."""
        if self._state is not _OPEN:
            return False
        for part in parts:
            self.bytes_written += len(part)
            self._queue(part, watch=False)
        if not self.corked and self._write_watcher is None:
            self._flush()
        return self._out is None

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """In a greenlet: send a piece of a file behind what is queued, and block until the kernel has it (sendfile(2)).

        Args:
            fd: of a regular file, that stays open meanwhile. Its position is neither used nor moved.
            offset: where the piece begins, in bytes.
            count: bytes; more than `FILE_PIECE` are for another call.

        Returns:
            How many bytes were sent; fewer when the connection has gone, where the file ends, and where it can only be
            read: over TLS, and from some file systems.
        """
        if self._state is not _OPEN or self.encrypted:
            return 0
        piece = _FilePiece(fd, offset, min(count, FILE_PIECE))
        size = piece.left
        sent = Event()
        self.bytes_written += size
        self._queue(piece, watch=False)
        self.when_sent(lambda _: sent.set())
        if not self.corked and self._write_watcher is None:
            self._flush()
        try:
            sent.wait()
        except BaseException:  # a timeout or a kill: nobody knows how much of the file is out, which is closed next
            self.destroy()
            raise
        return size - piece.left

    def when_sent(self, done: WriteDone) -> None:
        """Call `done` when the kernel has all that was sent so far; at once if it has."""
        if self._out is None:
            done(None if self._state is not _CLOSED else ConnectionLostError("the connection is closed", code="EPIPE"))
        else:
            self._out.append(done)

    def uncork(self) -> None:
        """In the hub: send what `send` has queued while `corked`."""
        self.corked = False
        if self._out is not None and self._write_watcher is None:
            self._flush()

    def _queue(self, data: bytes | memoryview | _FilePiece, *, watch: bool = True) -> None:
        if self._out is None:
            self._out = deque()
        self._out.append(data)
        self.queued += len(data)
        if watch and not self.corked:
            self._watch_writable()

    def _watch_writable(self) -> None:
        if self._write_watcher is None:
            self._write_watcher = self.workers.hub.loop.io(self._sock.fileno(), _WRITE)
            self._write_watcher.start(self._flush)
            if self.owner is not None:
                self.owner.write_blocked()

    def _flush(self) -> None:
        """Hand the queue to the kernel, as far as it takes it."""
        out = self._out
        while out:
            first = out[0]
            if callable(first):
                out.popleft()
                first(None)
                out = self._out
                continue
            buffers: list[Any] = []
            try:
                if type(first) is _FilePiece:
                    sent = first.send(self._sock)
                else:
                    for entry in out:
                        if len(buffers) == _MAX_BUFFERS or not isinstance(entry, (bytes, memoryview)):
                            break
                        buffers.append(entry)
                    sent = self._sock.sendmsg(buffers)
            except (BlockingIOError, InterruptedError):
                self._watch_writable()
                return
            except OSError as error:
                self._write_failed(error)
                return
            self.last_activity = monotonic()
            self.queued -= sent
            if type(first) is _FilePiece and (not sent or not first.left):
                self.queued -= first.left  # the file had fewer bytes
                self.bytes_written -= first.left
                out.popleft()
            for buffer in buffers:
                if sent < len(buffer):
                    out[0] = memoryview(buffer)[sent:]
                    break
                sent -= len(buffer)
                out.popleft()
            if self._room is not None and self.queued < self.high_water_mark:
                self._room.set()
        if self._state is _CLOSED:
            return
        self._out = None
        if self._write_watcher is not None:
            self._write_watcher.close()
            self._write_watcher = None
        if self._state is _ENDING:
            self._send_end()
        elif self.owner is not None:
            self.owner.drained()
        elif self.listener_count("drain"):
            self.workers.dispatch(self._deliver, "drain")

    def _write_failed(self, error: OSError) -> None:
        if self.owner is not None:
            self.owner.write_failed(error)
        else:
            self.destroy(error)

    def abandon_writing(self, error: OSError) -> None:
        """The peer takes no more: what is queued is lost, but what it said before can still be read."""
        self._state = _ENDED
        if self._write_watcher is not None:
            self._write_watcher.close()
            self._write_watcher = None
        self._lose_queue(error)

    def read_rest(self, error: OSError) -> None:
        """In the hub: read what is here, then destroy the socket with `error`."""
        self.resume_reading()
        while self.reading_on:
            before = self.bytes_read
            self._on_readable()
            if self.bytes_read == before:
                break
        self.destroy(error)

    def wait_for_room(self) -> None:
        """In a greenlet: block while more than the high-water mark is queued. Returns when closed, too."""
        while self.queued > self.high_water_mark and self._state is not _CLOSED:
            if self._room is None:
                self._room = Event()
            self._room.clear()
            self._room.wait()

    @property
    def writer_waits(self) -> bool:
        """Whether a greenlet is blocked in `wait_for_room()`."""
        return self._room is not None and not self._room.is_set()

    def write(self, data: Data, encoding: str | None = None, callback: Callable[..., object] | None = None) -> bool:
        """Send `data`; a `str` in `encoding` (UTF-8). Blocks while the queue is over the high-water mark.

        Args:
            data: text or bytes.
            encoding: of a `str`.
            callback: called when the kernel has the data, or with the error if it never will.

        Returns:
            Whether the kernel took all of it; if not, `'drain'` follows.

        Raises:
            TypeError: `data` is neither text nor bytes.
            RuntimeError: `end()` was called before (`ERR_STREAM_WRITE_AFTER_END`).
        """
        chunk = encode(data, encoding)
        if self._state in (_ENDING, _ENDED):
            raise MessageStateError("write after end", code="ERR_STREAM_WRITE_AFTER_END")
        if self.queued > self.high_water_mark:
            self.wait_for_room()
        if self._state is _CLOSED:
            gevent.sleep(0)  # a loop of writes to nobody must not keep the others from running
        sent = self.send(chunk) if chunk else self._out is None
        if callback is not None:
            self.when_sent(lambda error: self.workers.soon(callback, *([error] if error else [])))
        return sent

    def end(self, data: Data | None = None, encoding: str | None = None) -> None:
        """Send `data`, then our end (FIN), when what is queued has gone. Reading goes on until the peer's end."""
        if self._state is not _OPEN:
            return
        if data:
            self.write(data, encoding)
        if self._state is _OPEN:
            self._state = _ENDING
            if self._out is None:
                self._send_end()

    def close_gently(self) -> None:
        """Send what is queued, then our end; throw away what the peer still sends until it closes too, and not for
        long.

        Closing at once would make the kernel answer unread bytes with a reset, which can cost the peer our last
        answer
        (RFC 9112 section 9.6).
        """
        if self._state is _CLOSED:
            return
        self.owner = None
        self.lingers = LINGER_BYTES
        self.resume_reading()
        self.end()

    def _send_end(self) -> None:
        self._state = _ENDED
        try:
            self._sock.shutdown(stdlib_socket.SHUT_WR)
        except OSError:
            self.destroy()  # the peer was faster
            return
        if self.listener_count("finish"):
            self.workers.dispatch(self._deliver, "finish")
        if self.lingers >= 0:
            self.deadlines.forget(self)
            self.deadlines.schedule(self, monotonic() + LINGER_TIME)
        elif self.inflow is not None and self.inflow.progress > 0 and not self.reading_on:
            self.destroy()  # the peer's end had come before

    # --- end ---

    def destroy(self: _Self, error: Exception | None = None) -> _Self:
        """Close now; what is queued is lost. `'error'` (if there is one) and `'close'` follow. Returns the socket."""
        if self._state is _CLOSED:
            return self
        self._peer_name()
        self._release()
        self._sock.close()
        self._lose(error)
        return self

    def _release(self) -> None:
        self._state = _CLOSED
        self.reading_on = False
        self._read_watcher.close()
        if self._write_watcher is not None:
            self._write_watcher.close()
            self._write_watcher = None
        self.deadlines.forget(self)

    def _lose(self, error: Exception | None) -> None:
        cause = error or ConnectionLostError("the connection was closed", code="ECONNRESET")
        self._lose_queue(cause)
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.connection_lost(error)
        if self.inflow is not None:
            self.inflow.fail(cause)
        if self._listeners is not None:
            self.workers.dispatch(self._deliver_end, error)

    def _lose_queue(self, error: Exception) -> None:
        out, self._out = self._out, None
        self.queued = 0
        for entry in out or ():
            if callable(entry):
                entry(error)
        if self._room is not None:
            self._room.set()

    def _deliver_end(self, error: Exception | None) -> None:
        """In a worker."""
        if error is not None and self.listener_count("error"):
            self._deliver("error", error)
        self._deliver("close")

    def detach(self) -> gevent.socket.socket:
        """Give the connection away, as a plain `gevent.socket.socket` that first returns what was not read here.

        Raises:
            RuntimeError: bytes are still queued for sending, or the socket is closed.
        """
        if self._state is _CLOSED or self._out is not None:
            raise MessageStateError("cannot detach: the socket is closed, or bytes still wait to be sent")
        unread = b""
        if self.inflow is not None:
            unread = b"".join(self.inflow.chunks)
        self._release()
        family, kind, proto = self._sock.family, self._sock.type, self._sock.proto
        detached = _DetachedSocket(family, kind, proto, fileno=self._sock.detach())
        detached.unread = unread
        self._lose(None)
        return detached

    def check_deadlines(self, now: float) -> float:
        """In the hub: see `Expiring`."""
        if self._state is _CLOSED:
            return NEVER
        if self.lingers >= 0 and self._state is _ENDED:
            self.destroy()
            return NEVER
        deadline = NEVER
        if self.timeout:
            deadline = self.last_activity + self.timeout
            if deadline <= now:
                self._time_out()
                deadline = now + self.timeout
        if self.owner is not None:
            deadline = min(deadline, self.owner.check_deadlines(now))
        return deadline if self._state is not _CLOSED else NEVER

    def is_new_silence(self) -> bool:
        """Whether `'timeout'` was not emitted yet since the last byte; it is now."""
        told, self._told = self._told, self.last_activity
        return told != self.last_activity

    def _time_out(self) -> None:
        if self.listener_count("timeout"):
            if self.is_new_silence():
                self.workers.enter(self._deliver, "timeout")
        elif self.owner is None or not self.owner.timed_out():
            self.destroy()


class _DetachedSocket(gevent.socket.socket):
    """A gevent socket that returns some bytes before those of the kernel."""

    unread = b""

    def recv(self, size: int, *flags: int) -> bytes:
        if not self.unread:
            return super().recv(size, *flags)
        data = self.unread[:size]
        if not (flags and flags[0] & stdlib_socket.MSG_PEEK):
            self.unread = self.unread[size:]
        return data

    def recv_into(self, buffer: Any, size: int = 0, *flags: int) -> int:
        if not self.unread:
            return super().recv_into(buffer, size, *flags)
        with memoryview(buffer).cast("B") as view:
            data = self.recv(size or len(view), *flags)
            view[: len(data)] = data
        return len(data)
