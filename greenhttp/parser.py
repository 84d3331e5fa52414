"""Bytes in, events out: llhttp (Node's parser, by way of httptools) with what it leaves to its user.

Pure: no socket, no clock, no greenlet. The caller hands bytes in with `receive()` and takes events out with
`next_event()` when it has room for them, so a flood of pipelined requests stays here as bytes.

- llhttp is fed up to the end of a head, then up to the end of its body, so sizes are exact, the next request is not
  looked at before its turn, and the bytes after an upgrade are known. Both a head and a chunked body end in a blank
  line; lines end in CRLF only, or llhttp fails.
- Its callbacks only record (an exception out of one would lose its type).
"""

from __future__ import annotations

import enum
import re

import httptools

from .errors import RemoteProtocolError
from .framing import RequestHead, judge_request
from .status import METHODS

__all__ = ["MAX_HEADER_SIZE", "End", "ParserLimits", "RequestEvent", "RequestParser"]

MAX_HEADER_SIZE = 16 * 1024  # bytes, start line and fields together. Precedents: Node 16 KiB, h11 16, Tornado 64
MAX_CHUNK_EXTENSIONS = 16 * 1024  # bytes, of one chunk. Precedent: Node
MAX_MESSAGE_EXTENSIONS = 64 * 1024  # bytes, of one message
_CHUNK_SLICE = 1024  # bytes of a chunked body given to llhttp at a time: how exactly extensions are counted
LONG_BODY = 64 * 1024  # bytes from which on a body of known length does not pass through llhttp
MAX_SPARE = 64  # llhttp parsers that no message needs just now, kept by a server
_BARE_CHUNK_LINE = 20  # bytes around a chunk without extensions: 16 digits and two line ends

_METHODS = {method.encode(): method for method in METHODS}
_BLANK_LINE = b"\r\n\r\n"  # with the end of the line before it
_HTTP_VERSION = re.compile(rb" HTTP/[0-9]\.[0-9]\Z")

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
}


class End:
    """The end of a message; `fields` are its trailers as received: name, value, name, value, ..."""

    __slots__ = ("fields",)

    def __init__(self, fields: list[bytes]) -> None:
        self.fields = fields

    def __repr__(self) -> str:
        return f"<End {len(self.fields) // 2} trailers>"


RequestEvent = RequestHead | bytes | End


class _Recorder:
    """What llhttp calls, of all parsers of a server: it tells the one that is being fed.

    A parser that got the callbacks itself would hold seven bound methods, a fifth of an idle connection's memory.
    """

    def __init__(self) -> None:
        self.parser: RequestParser
        self.spare: list[httptools.HttpRequestParser] = []
        # bound once, so that every llhttp gets the same objects
        for name in [name for name in dir(self) if name.startswith("on_")]:
            setattr(self, name, getattr(self, name))

    def on_url(self, part: bytes) -> None:
        """A piece of the request target."""
        self.parser.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field, of the head or of the trailers."""
        parser = self.parser
        if parser.fields is None:
            parser.fields = [name, value]
        else:
            parser.fields += (name, value)

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self.parser.headers_completed()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        parser = self.parser
        if parser.body is None:
            parser.body = [data]
        else:
            parser.body.append(data)
        parser.content += len(data)
        parser.chunk_open = False

    def on_chunk_header(self) -> None:
        """The end of a chunk's first line."""
        self.parser.chunk_lines += 1
        self.parser.chunk_open = True

    def on_chunk_complete(self) -> None:
        """The end of a chunk."""
        self.parser.chunk_open = False

    def on_message_complete(self) -> None:
        """The end of a message."""
        self.parser.message_completed()


class ParserLimits:
    """What one server allows in a message. Sizes in bytes; `max_headers_count` 0 sets no limit."""

    __slots__ = ("max_header_size", "max_headers_count", "recorder", "require_host")

    def __init__(
        self, max_header_size: int = MAX_HEADER_SIZE, max_headers_count: int = 1000, require_host: bool = True
    ) -> None:
        self.max_header_size = max_header_size
        self.max_headers_count = max_headers_count
        self.require_host = require_host
        self.recorder = _Recorder()


class _Stage(enum.IntEnum):
    HEAD = 0  # between messages, or within a head
    BODY = 1  # a body of known length
    CHUNKS = 2
    UPGRADED = 3  # the bytes belong to another protocol, unless `ignore_upgrade()` is called
    REFRAMING = 4  # within `ignore_upgrade()`
    CLOSED = 5  # that was the last request: what follows is ignored
    FAILED = 6  # nothing after the bad bytes is looked at


# Looked up for every request: a global is found faster than a member of an enum.
_HEAD, _BODY, _CHUNKS, _UPGRADED, _REFRAMING, _CLOSED, _FAILED = _Stage


class RequestParser:
    """The requests of one connection, one after another.

    Args:
        limits: shared by the connections of a server.
    """

    __slots__ = (
        "_begin",
        "_error",
        "_events",
        "_extensions",
        "_fed",
        "_head",
        "_limits",
        "_llhttp",
        "_max_header_size",
        "_overhead",
        "_remaining",
        "_stage",
        "body",
        "buffered",
        "chunk_lines",
        "chunk_open",
        "content",
        "fields",
        "target",
    )

    def __init__(self, limits: ParserLimits) -> None:
        self._limits = limits
        self._max_header_size = limits.max_header_size
        self._stage = _HEAD
        self.buffered = b""  # received, if not all is parsed; llhttp has seen what is before `_fed`,
        self._begin = 0  # and what is before `_begin` is done with
        self._fed = 0
        self._events: list[RequestEvent] = []
        self.fields: list[bytes] | None = None  # of the head or the trailers under way
        self.target = b""
        self._head: RequestHead | None = None  # of the message under way
        self.body: list[bytes] | None = None  # pieces not yet in `_events`
        self._remaining = 0  # bytes of a body of known length
        self.chunk_lines = 0  # and
        self.content = 0  # bytes of body, of the stretch being fed
        self.chunk_open = False  # after a chunk line: neither data nor the end of that chunk yet
        self._overhead = 0  # bytes since the last chunk line that were not body
        self._extensions = 0  # bytes of chunk extensions in this message
        self._error: RemoteProtocolError | None = None
        self._llhttp: httptools.HttpRequestParser | None = None  # borrowed while a message is under way

    @property
    def mid_head(self) -> bool:
        """Whether some bytes of a head are here, and not all."""
        return self._stage is _HEAD and self._fed > self._begin

    def receive(self, data: bytes) -> None:
        """Take in bytes from the peer."""
        if self.buffered:
            self.buffered = self.buffered[self._begin :] + data
            self._fed -= self._begin
            self._begin = 0
        else:
            self.buffered = data

    def next_event(self) -> RequestEvent | None:
        """The next thing that the bytes mean; None: more bytes are needed, or another protocol has begun.

        Raises:
            RemoteProtocolError: the peer broke a rule or a limit. Every further call raises the same.
        """
        events = self._events
        while not events:
            stage = self._stage
            if stage is _FAILED:
                assert self._error is not None
                raise self._error
            if self._fed == len(self.buffered):
                return None
            try:
                if stage is _HEAD:
                    self._parse_head()
                elif stage is _BODY:
                    self._parse_body()
                elif stage is _CHUNKS:
                    self._parse_chunks()
                elif stage is _CLOSED:
                    self._forget()
                else:
                    return None
            except httptools.HttpParserError as error:
                # what our own callbacks raise comes as the context of httptools' error
                cause = error.__context__
                self._fail(stage, cause if isinstance(cause, RemoteProtocolError) else self._translated(error))
            except RemoteProtocolError as error:
                self._fail(stage, error)
        return events.pop(0)

    def take_rest(self) -> bytes:
        """The bytes after the head of an upgrade or CONNECT request; they leave the parser."""
        rest = self.buffered[self._fed :]
        self._forget()
        return rest

    def ignore_upgrade(self) -> None:
        """Go on as if the last head had asked for no upgrade: its body is framed, and other requests follow.

        llhttp has left HTTP by then, so a new one learns of the framing from a head made up for it.
        """
        head = self._head
        assert head is not None
        self._llhttp = None
        self._stage = _REFRAMING
        if head.chunked:
            made_up = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        elif head.content_length:
            made_up = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % head.content_length
        else:
            head.complete = True
            self._stage = _HEAD if head.keep_alive else _CLOSED
            return
        self._feed(made_up)

    # --- one stretch of bytes for llhttp ---

    def _parse_head(self) -> None:
        data, begin, fed = self.buffered, self._begin, self._fed
        size = len(data)
        end = data.find(_BLANK_LINE, fed - 3 if fed - begin > 3 else begin) + 4  # it may have begun in the bytes fed
        if end < 4:
            end = size
            unfinished = data[begin:].strip(b"\r\n") != b""  # empty lines before a head are nothing yet
        else:
            unfinished = False
        if end - begin > self._max_header_size:
            start = size - len(data[begin:].lstrip(b"\r\n"))  # empty lines before a head do not count
            limit = start + self._max_header_size
            if end > limit:
                if fed < limit:
                    self._feed(memoryview(data)[fed:limit])  # a fault within the limit comes first
                raise self._oversized_head(start)
        try:
            self._feed(data if fed == 0 and end == size else memoryview(data)[fed:end])
        except httptools.HttpParserUpgrade:
            self._stage = _UPGRADED
        if unfinished:
            self._fed = end
            return
        if self._stage is _HEAD:
            self._give_back()
        if end == size:
            self.buffered = b""
            self._begin = self._fed = 0
        else:
            self._begin = self._fed = end

    def _parse_body(self) -> None:
        data, fed = self.buffered, self._fed
        end = min(len(data), fed + self._remaining)
        self._remaining -= end - fed
        part = data if fed == 0 and end == len(data) else memoryview(data)[fed:end]
        if self._llhttp is not None:
            self._feed(part)
        else:
            self.body = [bytes(part)]
            if not self._remaining:
                self.message_completed()
        self._add_body()
        if self._stage is _HEAD:
            self._give_back()
        if end == len(data):
            self._forget()
        else:
            self._begin = self._fed = end

    def _parse_chunks(self) -> None:
        data = self.buffered
        view = memoryview(data)
        while self._stage is _CHUNKS and self._fed < len(data):
            fed = self._fed
            end = data.find(_BLANK_LINE, max(self._begin, fed - 3), fed + _CHUNK_SLICE) + 4
            if end < 4:
                end = min(len(data), fed + _CHUNK_SLICE)
            self.chunk_lines = self.content = 0
            self._feed(view[fed:end])
            self._fed = end
            if self._stage is _CHUNKS:
                self._count_overhead(end - fed - self.content)
        self._add_body()
        if self._stage is _CHUNKS:
            self._begin = max(self._begin, self._fed - 3)  # a blank line may have begun there
            return
        if self._stage is _HEAD:
            self._give_back()
        if self._fed == len(data):
            self._forget()
        else:
            self._begin = self._fed

    def _count_overhead(self, size: int) -> None:
        """Bound what llhttp reports nothing of: chunk extensions, and trailers before their end. `size` in bytes."""
        if self.chunk_lines:
            self._extensions += max(0, self._overhead + size - _BARE_CHUNK_LINE * self.chunk_lines)
            self._overhead = 0
        else:
            self._overhead += size
        if self.chunk_open:  # so far these are trailers, or the data of the chunk follows
            if self._overhead > self._max_header_size:
                raise _overflow("trailers", 431)
        elif self._overhead > MAX_CHUNK_EXTENSIONS or self._extensions > MAX_MESSAGE_EXTENSIONS:
            raise RemoteProtocolError(
                "Parse Error: too many chunk extensions", code="HPE_CHUNK_EXTENSIONS_OVERFLOW", status_hint=413
            )

    def _add_body(self) -> None:
        body = self.body
        if body:
            self._events.append(body[0] if len(body) == 1 else b"".join(body))
            self.body = None

    def _feed(self, data: bytes | memoryview) -> None:
        recorder = self._limits.recorder
        llhttp = self._llhttp
        if llhttp is None:
            spare = recorder.spare
            llhttp = self._llhttp = spare.pop() if spare else httptools.HttpRequestParser(recorder)
        recorder.parser = self
        llhttp.feed_data(data)

    def _give_back(self) -> None:
        """Between messages llhttp remembers nothing, so an idle connection needs none."""
        spare = self._limits.recorder.spare
        if self._llhttp is not None and len(spare) < MAX_SPARE:
            spare.append(self._llhttp)
        self._llhttp = None

    def _forget(self) -> None:
        self.buffered = b""
        self._begin = self._fed = 0

    def _fail(self, stage: _Stage, error: RemoteProtocolError) -> None:
        if stage is _HEAD:
            self._events.clear()  # llhttp finds some faults only after it has reported the head
        else:
            self._add_body()  # what came before the fault was in order
        self._stage = _FAILED
        self._error = error

    def _translated(self, error: httptools.HttpParserError) -> RemoteProtocolError:
        reason = str(error)
        # the rest of the request line may not be here yet
        status = 505 if "HTTP version" in reason and b" HTTP/" in self._request_line() else 400
        return RemoteProtocolError(
            f"Parse Error: {reason}", code=_CODES.get(type(error), _code(reason)), status_hint=status
        )

    def _oversized_head(self, start: int) -> RemoteProtocolError:
        line_is_whole = b"\r\n" in self.buffered[start : start + self._max_header_size]
        return _overflow("headers", 431) if line_is_whole else _overflow("request line", 414)

    def _request_line(self) -> bytes:
        return self.buffered[self._begin :].lstrip(b"\r\n").partition(b"\r\n")[0]

    # --- what llhttp reports, within `feed_data`: it is only recorded ---

    def headers_completed(self) -> None:
        """The end of a head."""
        if self._stage is _REFRAMING:
            head = self._head
            assert head is not None
        else:
            llhttp, limits, fields = self._llhttp, self._limits, self.fields or []
            assert llhttp is not None
            version = llhttp.get_http_version()
            if version != "1.1":
                self._judge_version(version)
            method = _METHODS.get(llhttp.get_method())
            if method is None:
                raise RemoteProtocolError("Parse Error: not an HTTP method", code="HPE_INVALID_METHOD")
            if len(fields) > 2 * limits.max_headers_count > 0:
                raise _overflow("number of headers", 431)
            head = self._head = RequestHead(method, self.target, version, fields)
            judge_request(head, limits.require_host)
            self._events.append(head)
            self.fields = None
            self.target = b""
            if head.upgrade:
                self._stage = _UPGRADED
                return
        if head.chunked:
            self._stage = _CHUNKS
            self._overhead = self._extensions = 0
        elif head.content_length:
            self._stage = _BODY
            self._remaining = head.content_length
            if head.content_length >= LONG_BODY:
                self._llhttp = None  # it would only copy what needs no parsing
        if self._stage is not _HEAD:
            self.fields = None  # of the made-up head
            self.target = b""

    def _judge_version(self, version: str) -> None:
        line = self._request_line()
        if version == "1.0" and line.endswith(b" HTTP/1.0"):  # llhttp calls RTSP/1.0 by the same number
            return
        status = 505 if _HTTP_VERSION.search(line) and version != "0.9" else 400
        raise RemoteProtocolError(
            "only HTTP/1.0 and HTTP/1.1 are understood", code="HPE_INVALID_VERSION", status_hint=status
        )

    def message_completed(self) -> None:
        """The end of a message."""
        head = self._head
        assert head is not None
        if self._stage is _UPGRADED:
            return
        if self._stage is _HEAD:
            head.complete = True
        else:
            self._add_body()
            if self.fields and sum(map(len, self.fields)) + 2 * len(self.fields) + 2 > self._max_header_size:
                raise _overflow("trailers", 431)
            self._events.append(End(self.fields or []))
            if self.fields:
                # fields in a trailer can switch llhttp's idea of whether the connection persists
                self.fields = None
                self._llhttp = None
            self._stage = _HEAD
        self._head = None
        if not head.keep_alive:
            self._stage = _CLOSED


def _overflow(what: str, status: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"Parse Error: {what} over the limit", code="HPE_HEADER_OVERFLOW", status_hint=status)


def _code(reason: str) -> str:
    return next((code for part, code in _CODES_BY_REASON.items() if part in reason), "HPE_INVALID_CONSTANT")
