"""Flow control for bytes that come in, and what both directions share.

A `Readable` can be used in two styles, and both see the same bytes, the same end and the same errors: blocking and
file-like (`read()`, iteration), or with events (`'data'`, `'end'`, `pipe()`). What has come and was not yet taken waits
in an `Inflow`; when that is over its high-water mark, the source is not read any further.
"""

from __future__ import annotations

import codecs
import enum
import errno
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import gevent
from gevent.hub import Waiter

from .errors import HTTPError, MessageStateError
from .events import EventEmitter, Listener
from .workers import Workers, deliver

__all__ = ["HIGH_WATER_MARK", "Data", "Inflow", "Readable", "encode", "errno_code"]

HIGH_WATER_MARK = 64 * 1024  # bytes held for one direction of one message. Precedents: asyncio 64 KiB, Node 16 to 64

Data = bytes | bytearray | memoryview | str
_Self = TypeVar("_Self", bound="Readable")


def encode(data: Data, encoding: str | None = None) -> bytes:
    """`data` as bytes that nobody else can change; a `str` in `encoding` (UTF-8 unless named).

    Raises:
        TypeError: `data` is neither a `str` nor bytes-like.
        UnicodeEncodeError, LookupError: the encoding cannot express it, or is unknown.
    """
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        return data.encode(encoding or "utf-8")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a chunk must be str or bytes-like, not {type(data).__name__}")


class Progress(enum.IntEnum):
    """How far an inflow has come."""

    OPEN = 0  # more may come
    COMPLETE = 1  # all has come; not all was taken
    ENDED = 2  # the reader has seen the end
    LOST = 3  # cut off before the end


class Flow(enum.IntEnum):
    """Who moves the bytes on."""

    ON_DEMAND = 0  # blocking reads, or nobody yet
    FLOWING = 1  # 'data' events
    PAUSED = 2  # `pause()` was called


class Inflow:
    """Bytes on their way from a source to the reader of `owner`.

    The source calls `push`, `finish` and `fail`; in the hub, or in the greenlet that ends the connection.

    Args:
        owner: whose readers and listeners get the bytes. It is not kept alive: a source can see that nobody wants the
            rest, when its owner is gone.
        workers: which greenlets run its listeners.
        high_water_mark: in bytes.
    """

    __slots__ = (
        "_owner",
        "asked",
        "chunks",
        "decoder",
        "error",
        "flow",
        "mark",
        "progress",
        "pumping",
        "size",
        "trailers",
        "waiter",
        "workers",
    )

    def __init__(self, owner: Readable, workers: Workers, high_water_mark: int) -> None:
        self._owner = weakref.ref(owner)
        self.workers = workers
        self.mark = high_water_mark
        self.chunks: deque[bytes] = deque()
        self.size = 0  # bytes in `chunks`
        self.progress = Progress.OPEN
        self.flow = Flow.ON_DEMAND
        self.asked = False  # somebody has shown that they want the bytes
        self.pumping = False  # a worker is delivering 'data'
        self.waiter: Waiter[None] | None = None  # of the greenlet blocked in a read
        self.decoder: codecs.IncrementalDecoder | None = None
        self.error: Exception | None = None
        self.trailers: Sequence[bytes] = ()  # came with the end

    # --- the source's side ---

    def push(self, data: bytes) -> bool:
        """Add `data`. Returns whether there is room for more."""
        self.chunks.append(data)
        self.size += len(data)
        self._wake()
        return self.size < self.mark

    def finish(self, trailers: Sequence[bytes] = ()) -> None:
        """The end has come."""
        if self.progress is Progress.OPEN:
            self.trailers = trailers
            self.progress = Progress.COMPLETE
            self._wake()

    def fail(self, error: Exception) -> None:
        """No more will come, and what came is not all."""
        if self.progress is Progress.OPEN:
            self.progress = Progress.LOST
            self.error = error
            self._wake()

    @property
    def has_reader(self) -> bool:
        """Whether somebody takes the bytes just now."""
        return self.waiter is not None or self.flow is not Flow.ON_DEMAND

    def _wake(self) -> None:
        if self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            if gevent.getcurrent() is self.workers.hub:
                waiter.switch(None)
            else:
                self.workers.hub.loop.run_callback(waiter.switch, None)
        elif self.flow is Flow.FLOWING and not self.pumping:
            self.pumping = True
            self.workers.dispatch(self._pump)

    # --- the reader's side ---

    def ask(self) -> None:
        """Somebody wants the bytes: let the source go on if there is room."""
        self.asked = True
        owner = self._owner()
        if self.progress is Progress.OPEN and self.size < self.mark and owner is not None:
            owner.wants_bytes()

    def set_flow(self, flow: Flow) -> None:
        """Start or stop the `'data'` events; they start soon, not within this call."""
        self.flow = flow
        self.asked = True
        if flow is Flow.FLOWING and not self.pumping:
            self.pumping = True
            # the owner is kept until then: whoever listens need not keep it
            self.workers.soon(self._pump, self._owner())

    def take(self, limit: int = -1) -> bytes:
        """The oldest chunk, or its first `limit` bytes; b'' if there is none."""
        if not self.chunks:
            return b""
        chunk = self.chunks.popleft()
        if 0 <= limit < len(chunk):
            self.chunks.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        self.size -= len(chunk)
        return chunk

    def put_back(self, chunks: list[bytes]) -> None:
        """Undo `take`, for a read that was interrupted."""
        self.chunks.extendleft(reversed(chunks))
        self.size += sum(map(len, chunks))

    def wait(self) -> None:
        """In a greenlet: block until more has come, or the end.

        Raises:
            RuntimeError: another greenlet is reading.
        """
        if self.waiter is not None:
            raise MessageStateError("another greenlet is reading this stream already")
        waiter = self.waiter = Waiter(self.workers.hub)
        try:
            self.ask()
            waiter.get()
        except BaseException:  # a timeout or a kill
            owner = self._owner()
            if owner is not None:
                owner._interrupted()
            raise
        finally:
            if self.waiter is waiter:
                self.waiter = None

    def wait_for_chunk(self) -> None:
        """In a greenlet: block until a chunk or the end is there; raises if the stream was cut off."""
        self.asked = True
        while not self.chunks and self.progress is Progress.OPEN:
            self.wait()
        if not self.chunks and self.progress is Progress.LOST:
            assert self.error is not None
            raise self.error

    def text(self, data: bytes, *, final: bool = False) -> Any:
        """`data` as the reader wants it: bytes, or text after `set_encoding()`."""
        return data if self.decoder is None else self.decoder.decode(data, final)

    def see_end(self) -> bool:
        """Whether the reader is at the end; the first time, `'end'` is on its way."""
        if self.progress is Progress.COMPLETE and not self.chunks:
            self.progress = Progress.ENDED
            owner = self._owner()
            if owner is not None:
                if owner._listeners is not None and owner.listener_count("end"):
                    self.workers.soon(owner._deliver, "end")
                owner._at_end()
        return self.progress is Progress.ENDED

    def _pump(self, owner: Readable | None = None) -> None:
        """In a worker: 'data' for what there is, then 'end' if that is next. A blocked listener holds it, and so
        the source."""
        owner = owner or self._owner()
        try:
            while owner is not None and self.flow is Flow.FLOWING and self.progress is not Progress.LOST:
                if self.chunks:
                    chunk = self.text(self.take())
                    if chunk and not owner._deliver("data", chunk):
                        break
                elif self.progress is Progress.COMPLETE:
                    rest = self.text(b"", final=True)
                    if rest and not owner._deliver("data", rest):
                        break
                    self.progress = Progress.ENDED
                    owner._deliver("end")
                    owner._at_end()
                    break
                elif self.progress is Progress.OPEN:
                    self.ask()
                    if not self.chunks:
                        break
                else:
                    break
        finally:
            self.pumping = False


class Readable(EventEmitter):
    """A source of bytes: file-like and blocking, or with events (reference: the Readable stream).

    Events:
        'data' (chunk), 'end': all was delivered, 'close', 'error' (exception).
    """

    __slots__ = ("inflow",)

    EVENTS: ClassVar[frozenset[str]] = frozenset({"data", "end", "close", "error"})

    def __init__(self) -> None:
        super().__init__()
        #: For the source: what has come and was not taken yet; made on its first use.
        self.inflow: Inflow | None = None

    # --- what a subclass says ---

    def _open_inflow(self) -> Inflow:
        """Make the inflow, on its first use."""
        raise NotImplementedError

    def wants_bytes(self) -> None:
        """In any greenlet, never blocks: there is room, the source may go on."""
        raise NotImplementedError

    def _at_end(self) -> None:
        """In any greenlet, never blocks: the reader has seen the end."""

    def _listener_failed(self) -> None:
        """In a worker: a listener has raised (it is logged already)."""

    def _interrupted(self) -> None:
        """In any greenlet, never blocks: a blocking read was given up, by a timeout or a kill."""

    # --- blocking style ---

    def read(self, size: int | None = -1) -> Any:
        """Block until `size` bytes are here, or all of the rest if it is negative or None; b'' at the end.

        After `set_encoding()` the bytes come decoded.

        Raises:
            HTTPError: the stream was cut off before its end (`ConnectionLostError`, `RemoteProtocolError`, ...).
        """
        inflow = self._reading()
        wanted = -1 if size is None else size
        if wanted < 0 and inflow.progress is Progress.COMPLETE and len(inflow.chunks) == 1:
            inflow.asked = True
            return self._taken(inflow, inflow.take())  # a small body that was here before the handler
        taken: list[bytes] = []
        try:
            while wanted:
                inflow.wait_for_chunk()
                chunk = inflow.take(wanted)
                if not chunk:
                    break
                taken.append(chunk)
                wanted -= len(chunk) if wanted > 0 else 0
        except BaseException:
            inflow.put_back(taken)  # a read that is interrupted takes nothing
            raise
        return self._taken(inflow, b"".join(taken))

    def read1(self, size: int = -1) -> Any:
        """Block until something is here; at most `size` bytes of it; b'' at the end. Raises as `read()` does."""
        inflow = self._reading()
        inflow.wait_for_chunk()
        return self._taken(inflow, inflow.take(size))

    def readline(self, size: int | None = -1) -> Any:
        """Block until a line is here, with its line feed; at most `size` bytes of it. Raises as `read()` does."""
        inflow = self._reading()
        wanted = -1 if size is None else size
        taken: list[bytes] = []
        try:
            while wanted:
                inflow.wait_for_chunk()
                line_end = inflow.chunks[0].find(b"\n") + 1 if inflow.chunks else 0
                limit = min(line_end, wanted) if line_end and wanted > 0 else line_end or wanted
                chunk = inflow.take(limit)
                if not chunk:
                    break
                taken.append(chunk)
                if chunk.endswith(b"\n"):
                    break
                wanted -= len(chunk) if wanted > 0 else 0
        except BaseException:
            inflow.put_back(taken)
            raise
        return self._taken(inflow, b"".join(taken))

    def readinto(self, buffer: Any) -> int:
        """Block until something is here and copy it into `buffer`. Returns how many bytes, 0 at the end."""
        inflow = self._reading()
        inflow.wait_for_chunk()
        with memoryview(buffer).cast("B") as view:
            chunk = inflow.take(len(view))
            view[: len(chunk)] = chunk
        inflow.see_end()
        return len(chunk)

    def __iter__(self: _Self) -> Iterator[Any]:
        """The chunks, as they come. Raises as `read()` does."""
        while True:
            chunk = self.read1()
            if chunk:
                yield chunk
            elif self._reading().progress is Progress.ENDED:
                return

    def _reading(self) -> Inflow:
        inflow = self.inflow
        if inflow is None:
            inflow = self.inflow = self._open_inflow()
        return inflow

    @staticmethod
    def _taken(inflow: Inflow, data: bytes) -> Any:
        if inflow.decoder is None:
            inflow.see_end()
            return data
        at_end = inflow.progress is Progress.COMPLETE and not inflow.chunks
        text = inflow.text(data, final=at_end)
        inflow.see_end()
        return text

    # --- events style ---

    def on(self: _Self, event: str, listener: Listener) -> _Self:
        """As `EventEmitter.on`; a `'data'` listener sets the stream flowing, unless `pause()` was called."""
        super().on(event, listener)
        if event == "data" and self._reading().flow is Flow.ON_DEMAND:
            self.resume()
        return self

    def pause(self: _Self) -> _Self:
        """No `'data'` from now on; what comes is kept, and the source held when that is too much. Returns the
        stream."""
        self._reading().set_flow(Flow.PAUSED)
        return self

    def resume(self: _Self) -> _Self:
        """Let `'data'` flow, soon; without a listener the bytes are thrown away. Returns the stream."""
        self._reading().set_flow(Flow.FLOWING)
        return self

    def pipe(self, destination: Any, *, end: bool = True) -> Any:
        """Write all that comes to `destination`, whose blocking `write()` holds the source, then `end()` it.

        Args:
            destination: anything with `write` and `end`.
            end: whether to call its `end()`.

        Returns:
            `destination`.
        """
        self.on("data", destination.write)
        if end:
            self.on("end", destination.end)
        return destination

    def set_encoding(self: _Self, encoding: str) -> _Self:
        """Deliver text in `encoding`; a character is never broken over two chunks. Returns the stream.

        Raises:
            LookupError: the encoding is unknown.
        """
        self._reading().decoder = codecs.getincrementaldecoder(encoding)("replace")
        return self

    @property
    def readable(self) -> bool:
        """Whether there may be something to read still."""
        return self._reading().progress < Progress.ENDED

    def _deliver(self, event: str, *args: Any) -> bool:
        """In a worker: run the listeners of `event`. What they raise is logged and told to `_listener_failed`."""
        if deliver(self, event, *args):
            return True
        self._listener_failed()
        return False


def errno_code(error: BaseException) -> str | None:
    """Node's name for an error: its `code`, or that of the errno (`'ECONNRESET'`)."""
    if isinstance(error, HTTPError):
        return error.code
    return errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
