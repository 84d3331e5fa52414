"""llhttp (Node's parser, by way of httptools): what it is asked, and what its errors mean.

It judges the syntax of heads, and takes chunked bodies apart. What a head says is read from its bytes once they are
known to be in order, and bodies of known length need no parser at all. Its callbacks only record: an exception out of
one would lose its type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools

from .errors import RemoteProtocolError

__all__ = ["BLANK_LINE", "ChunkDecoder", "ChunkRecorder", "HeadChecker", "overflow", "translated"]

MAX_CHUNK_EXTENSIONS = 16 * 1024  # bytes, of one chunk. Precedent: Node
MAX_MESSAGE_EXTENSIONS = 64 * 1024  # bytes, of one message
MAX_SPARE = 64  # llhttp parsers that no chunked body needs just now, kept by a server
BLANK_LINE = b"\r\n\r\n"  # with the end of the line before it
_CHUNK_SLICE = 1024  # bytes of a chunked body given to llhttp at a time: how exactly extensions are counted
_BARE_CHUNK_LINE = 20  # bytes around a chunk without extensions: 16 digits and two line ends
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_ANY_BODY = memoryview(bytes(64 * 1024))

# httptools hides llhttp's error number; its words tell most of them. Node's names:
_CODES: dict[type[Exception], str] = {
    httptools.HttpParserInvalidMethodError: "HPE_INVALID_METHOD",
    httptools.HttpParserInvalidURLError: "HPE_INVALID_URL",
}
_CODES_BY_REASON = {
    "version": "HPE_INVALID_VERSION",
    "dot": "HPE_INVALID_VERSION",
    "expected CR ": "HPE_CR_EXPECTED",
    "xpected LF ": "HPE_LF_EXPECTED",
    "Duplicate Content-Length": "HPE_UNEXPECTED_CONTENT_LENGTH",
    "Transfer-Encoding can't": "HPE_INVALID_TRANSFER_ENCODING",
    "`Transfer-Encoding`": "HPE_INVALID_TRANSFER_ENCODING",
    "header": "HPE_INVALID_HEADER_TOKEN",
    "hunk": "HPE_INVALID_CHUNK_SIZE",
    "Content-Length": "HPE_INVALID_CONTENT_LENGTH",
    "Transfer-Encoding": "HPE_INVALID_TRANSFER_ENCODING",
    "CR": "HPE_CR_EXPECTED",
    "Connection: close": "HPE_CLOSED_CONNECTION",
    "status": "HPE_INVALID_STATUS",
}

Bytes = bytes | memoryview


def translated(error: httptools.HttpParserError, status_hint: int = 400) -> RemoteProtocolError:
    """What httptools raised, as our error with Node's code."""
    reason = str(error)
    code = _CODES.get(type(error)) or next(
        (code for part, code in _CODES_BY_REASON.items() if part in reason), "HPE_INVALID_CONSTANT"
    )
    return RemoteProtocolError(f"Parse Error: {reason}", code=code, status_hint=status_hint)


def overflow(what: str, status_hint: int) -> RemoteProtocolError:
    """The error for more of `what` than is allowed."""
    return RemoteProtocolError(
        f"Parse Error: {what} over the limit", code="HPE_HEADER_OVERFLOW", status_hint=status_hint
    )


class HeadChecker:
    """Judges the syntax of heads, those of all connections of a server or an agent.

    One llhttp sees all heads that arrive whole; between messages it remembers nothing. So whoever checks a head sees to
    it that llhttp is between messages again afterwards: by `skip_body()`, or by `renew()`, after a fault too.

    Args:
        make: `httptools.HttpRequestParser` or `HttpResponseParser`.
    """

    __slots__ = ("_llhttp", "_make", "complete")

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._llhttp = make(self)
        #: Whether llhttp takes the head for a whole message.
        self.complete = False

    def on_message_complete(self) -> None:
        """llhttp: the end of a message."""
        self.complete = True

    def check(self, head: Bytes) -> None:
        """Judge a whole head.

        Raises:
            httptools.HttpParserError: it breaks the syntax.
        """
        self.complete = False
        try:
            self._llhttp.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # an upgrade, or a fault; or llhttp alone believed that the head before was the last of its connection
            self.renew()
            self.check_part(self._llhttp, head)

    def renew(self) -> None:
        """Forget what came before: the last head was the end of its connection, or at fault."""
        self._llhttp = self._make(self)

    def begin(self) -> Any:
        """An llhttp of its own, for a head that arrives in parts."""
        return self._make(self)

    def check_part(self, llhttp: Any, part: Bytes) -> None:
        """Judge a part of a head; raises as `check` does."""
        self.complete = False
        try:
            llhttp.feed_data(part)
        except httptools.HttpParserUpgrade:
            self.complete = True

    def skip_body(self, *, chunked: bool, length: int | None) -> None:
        """The head of a message with a body was checked: let llhttp believe that the body has come."""
        if chunked:
            self._llhttp.feed_data(_LAST_CHUNK)
        elif length and length <= len(_ANY_BODY):
            self._llhttp.feed_data(_ANY_BODY[:length])
        if not self.complete:
            self.renew()


class ChunkRecorder:
    """What llhttp calls about chunked bodies, those of all connections of a server or an agent.

    It tells the decoder that is being fed: one that got the callbacks itself would hold seven bound methods.
    """

    def __init__(self) -> None:
        self.decoder: ChunkDecoder
        self.spare: list[httptools.HttpRequestParser] = []
        # bound once, so that every llhttp gets the same objects
        for name in [name for name in dir(self) if name.startswith("on_")]:
            setattr(self, name, getattr(self, name))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A trailer, or the field of the made-up head."""
        self.decoder.trailers += (name, value)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        decoder = self.decoder
        decoder.pieces.append(data)
        decoder.content += len(data)
        decoder.in_chunk = False

    def on_chunk_header(self) -> None:
        """The end of a chunk's first line."""
        self.decoder.chunk_lines += 1
        self.decoder.in_chunk = True

    def on_chunk_complete(self) -> None:
        """The end of a chunk."""
        self.decoder.in_chunk = False

    def on_message_complete(self) -> None:
        """The end of the trailers."""
        self.decoder.complete = True


class ChunkDecoder:
    """Takes one chunked body apart (RFC 9112 section 7.1), within the limits on what is not body.

    llhttp takes it for the body of a request that is made up for it, whatever the message is.

    Args:
        recorder: shared by the connections of a server or an agent.
        max_trailer_size: in bytes.
    """

    __slots__ = (
        "_extensions",
        "_llhttp",
        "_max_trailer_size",
        "_overhead",
        "_recorder",
        "chunk_lines",
        "complete",
        "content",
        "in_chunk",
        "pieces",
        "trailers",
    )

    def __init__(self, recorder: ChunkRecorder, max_trailer_size: int) -> None:
        self._recorder = recorder
        self._max_trailer_size = max_trailer_size
        self._overhead = 0  # bytes since the last chunk line that were not body
        self._extensions = 0  # bytes of chunk extensions in this message
        self.pieces: list[bytes] = []  # of the body, decoded and not yet taken
        self.chunk_lines = 0  # and
        self.content = 0  # bytes of body, in the slice being fed
        self.in_chunk = False  # after a chunk line: neither data nor the end of that chunk yet
        self.complete = False
        self.trailers: list[bytes] = []  # name, value, name, value, ...
        self._llhttp = recorder.spare.pop() if recorder.spare else httptools.HttpRequestParser(recorder)
        self._feed(_CHUNKED_HEAD)
        self.trailers = []

    def take_body(self) -> bytes:
        """What was decoded since the last call."""
        pieces, self.pieces = self.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def decode(self, data: bytes, begin: int) -> int:
        """Decode `data` from `begin` on, as far as the end of the body. Returns where it stopped.

        Raises:
            RemoteProtocolError: the syntax or a limit was broken; what was in order before can be taken.
        """
        view = memoryview(data)
        size = len(data)
        while begin < size and not self.complete:
            # the body ends in a blank line, if it has trailers or not: nothing after it may be fed
            end = data.find(BLANK_LINE, max(0, begin - 3), begin + _CHUNK_SLICE) + 4
            if end < 4:
                end = min(size, begin + _CHUNK_SLICE)
            self.chunk_lines = self.content = 0
            try:
                self._feed(view[begin:end])
            except httptools.HttpParserError as error:
                raise translated(error) from error
            if not self.complete:
                self._count_overhead(end - begin - self.content)
            begin = end
        if self.complete:
            self._finish()
        return begin

    def _feed(self, data: Bytes) -> None:
        self._recorder.decoder = self
        self._llhttp.feed_data(data)

    def _finish(self) -> None:
        trailers = self.trailers
        if not trailers:
            # between messages llhttp remembers nothing; but a field in a trailer can switch its idea of persistence
            if len(self._recorder.spare) < MAX_SPARE:
                self._recorder.spare.append(self._llhttp)
        elif sum(map(len, trailers)) + 2 * len(trailers) + 2 > self._max_trailer_size:
            raise overflow("trailers", 431)

    def _count_overhead(self, size: int) -> None:
        """Bound what llhttp reports nothing of: chunk extensions, and trailers before their end. `size` in bytes."""
        if self.chunk_lines:
            self._extensions += max(0, self._overhead + size - _BARE_CHUNK_LINE * self.chunk_lines)
            self._overhead = 0
        else:
            self._overhead += size
        if self.in_chunk:  # so far these are trailers, or the data of the chunk follows
            if self._overhead > self._max_trailer_size:
                raise overflow("trailers", 431)
        elif self._overhead > MAX_CHUNK_EXTENSIONS or self._extensions > MAX_MESSAGE_EXTENSIONS:
            raise RemoteProtocolError(
                "Parse Error: too many chunk extensions", code="HPE_CHUNK_EXTENSIONS_OVERFLOW", status_hint=413
            )
