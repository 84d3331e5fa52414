"""Bytes in, events out: the messages of one connection, one after another, requests or responses.

Pure: no socket, no clock, no greenlet. The caller hands bytes in with `receive()` and takes events out with
`next_event()` when it has room for them, so a flood of pipelined requests stays here as bytes.

llhttp judges the syntax of a head; what it says is then read from its bytes, in two searches. So the fields that
decide nothing cost nothing until somebody asks for them, and a body of known length is not parsed at all.
"""

from __future__ import annotations

import enum
import re
from typing import Any, ClassVar, Generic, TypeVar

import httptools

from .errors import RemoteProtocolError
from .framing import (
    REQUEST_DECIDERS,
    RESPONSE_DECIDERS,
    RequestFraming,
    RequestHead,
    ResponseFraming,
    ResponseHead,
    judge_request,
    judge_response,
)
from .llhttp import BLANK_LINE, ChunkDecoder, ChunkRecorder, HeadChecker, overflow, translated

__all__ = [
    "MAX_HEADER_SIZE",
    "MAX_SHARED_HEADS",
    "End",
    "ParserLimits",
    "RequestEvent",
    "RequestParser",
    "ResponseEvent",
    "ResponseLimits",
    "ResponseParser",
]

MAX_HEADER_SIZE = 16 * 1024  # bytes, start line and fields together. Precedents: Node 16 KiB, h11 16, Tornado 64
_SHORTEST_FIELD = 4  # bytes of a line: a name, a colon and the line's end
_ANY_COUNT = 2**63
_MAX_KNOWN = 2048  # bytes of a connection's last head that are kept, to know the same fields again
_MAX_SHARED = 256  # bytes of a head that is looked up as a whole; those of browsers are longer, and rarely the same
MAX_SHARED_HEADS = 256  # kept by a server

_VERSIONS = {b"HTTP/1.1\r\n": "1.1", b"HTTP/1.0\r\n": "1.0"}
# also with empty lines before it, or more than one blank between its parts
_REQUEST_LINE = re.compile(rb"[\r\n]*([^\r\n ]+) +([^\r\n ]+) +(HTTP/1\.[01]\r\n)")
_METHOD = re.compile(rb"[\r\n]*([A-Z-]+) ")
_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/(0\.9|1\.[01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")
_RESPONSE_VERSION = re.compile(rb"[\r\n]*HTTP/(?:0\.9|1\.[01]) ")
_HTTP_VERSION = re.compile(rb" HTTP/[0-9]\.[0-9]\Z")


class End:
    """The end of a message; `fields` are its trailers as received: name, value, name, value, ..."""

    __slots__ = ("fields",)

    def __init__(self, fields: list[bytes]) -> None:
        self.fields = fields

    def __repr__(self) -> str:
        return f"<End {len(self.fields) // 2} trailers>"


RequestEvent = RequestHead | bytes | End
ResponseEvent = ResponseHead | bytes | End


class ParserLimits:
    """What one server allows in a message. Sizes in bytes; `max_headers_count` 0 sets no limit."""

    __slots__ = ("_max_header_size", "_max_headers_count", "checker", "heads", "recorder", "require_host", "safe_size")

    _make_llhttp: ClassVar[Any] = httptools.HttpRequestParser

    def __init__(
        self, max_header_size: int = MAX_HEADER_SIZE, max_headers_count: int = 1000, require_host: bool = True
    ) -> None:
        self._max_header_size = max_header_size
        self._max_headers_count = max_headers_count
        self.require_host = require_host
        self.checker = HeadChecker(type(self)._make_llhttp)
        self.recorder = ChunkRecorder()
        #: Heads of requests that came again, from programs that ask for the same again and again, by their bytes; None
        #: for what has come once.
        self.heads: dict[bytes, RequestHead | None] = {}
        self._find_safe_size()

    def _find_safe_size(self) -> None:
        self.heads.clear()  # they were within the old limits
        #: A head of so many bytes cannot be over any limit.
        self.safe_size = min(self._max_header_size, _SHORTEST_FIELD * (self._max_headers_count or _ANY_COUNT))

    @property
    def max_header_size(self) -> int:
        """Bytes of a head, and of trailers."""
        return self._max_header_size

    @max_header_size.setter
    def max_header_size(self, size: int) -> None:
        self._max_header_size = size
        self._find_safe_size()

    @property
    def max_headers_count(self) -> int:
        """Lines; 0 sets no limit."""
        return self._max_headers_count

    @max_headers_count.setter
    def max_headers_count(self, count: int) -> None:
        self._max_headers_count = count
        self._find_safe_size()


class ResponseLimits(ParserLimits):
    """What one agent allows in a response."""

    __slots__ = ()

    _make_llhttp = httptools.HttpResponseParser


class _Stage(enum.IntEnum):
    HEAD = 0  # between messages, or within a head
    BODY = 1  # a body of known length
    CHUNKS = 2
    REST = 3  # a body that ends with the connection
    END = 4  # of a body; to be reported
    UPGRADED = 5  # the bytes belong to another protocol, unless `ignore_upgrade()` is called
    CLOSED = 6  # that was the last message: what follows is ignored
    FAILED = 7  # nothing after the bad bytes is looked at


# Looked up for every message: a global is found faster than a member of an enum.
_HEAD, _BODY, _CHUNKS, _REST, _END, _UPGRADED, _CLOSED, _FAILED = _Stage

_Head = TypeVar("_Head", RequestHead, ResponseHead)
_NOTHING_SEEN = RequestFraming(b"", "GET", "1.1", keep_alive=True)
_request_deciders = REQUEST_DECIDERS.findall
_response_deciders = RESPONSE_DECIDERS.findall


class _MessageParser(Generic[_Head]):
    """What both directions have in common: the search for the end of a head, and bodies."""

    __slots__ = (
        "_begin",
        "_checked",
        "_chunks",
        "_error",
        "_keep_alive",
        "_limits",
        "_llhttp",
        "_remaining",
        "_stage",
        "buffered",
    )

    _START_LINE: ClassVar[str]

    def __init__(self, limits: ParserLimits) -> None:
        self._limits = limits
        self._stage = _HEAD
        self.buffered = b""  # received, if not all is used; what is before `_begin` is used,
        self._begin = 0
        self._llhttp: Any = None  # of a head that arrives in parts
        self._checked = 0  # how far it, or the decoder of chunks, has come
        self._remaining = 0  # bytes of a body of known length
        self._chunks: ChunkDecoder | None = None
        self._keep_alive = True  # whether another message may follow the one under way
        self._error: RemoteProtocolError | None = None

    @property
    def mid_head(self) -> bool:
        """Whether some bytes of a head are here, and not all."""
        return self._llhttp is not None

    @property
    def body_left(self) -> int | None:
        """Bytes of the body under way that have not come; None if nobody can know."""
        return None if self._stage is _CHUNKS else self._remaining

    def receive(self, data: bytes) -> None:
        """Take in bytes from the peer."""
        if self.buffered:
            self.buffered = self.buffered[self._begin :] + data
            self._checked -= self._begin
            self._begin = 0
        else:
            self.buffered = data

    def next_event(self) -> _Head | bytes | End | None:
        """The next thing that the bytes mean; None: more bytes are needed, or another protocol has begun.

        Raises:
            RemoteProtocolError: the peer broke a rule or a limit. Every further call raises the same.
        """
        try:
            if self._stage is _HEAD:
                return self._next_head()
            if self._stage is _BODY:
                return self._next_of_body()
            if self._stage is _CHUNKS:
                return self._next_of_chunks()
        except httptools.HttpParserError as error:
            raise self._fail(self._translated(error)) from error
        except RemoteProtocolError as error:
            self._fail(error)
            raise
        stage = self._stage
        if stage is _FAILED:
            assert self._error is not None
            raise self._error
        if stage is _END:
            return self._end()
        if stage is _REST:
            return self.take_rest() or None
        if stage is _CLOSED:
            self._use(len(self.buffered))
        return None

    def _fail(self, error: RemoteProtocolError) -> RemoteProtocolError:
        self._stage, self._error = _FAILED, error
        # llhttp may wait for the body of a head that it found in order: it would take the next head, of another
        # connection, for that body
        self._limits.checker.renew()
        return error

    def take_rest(self) -> bytes:
        """The bytes that are not part of a message; they leave the parser."""
        rest = self.buffered[self._begin :]
        self._use(len(self.buffered))
        return rest

    # --- heads ---

    def _next_head(self) -> _Head | None:
        raise NotImplementedError

    def _translated(self, error: httptools.HttpParserError) -> RemoteProtocolError:
        return translated(error)

    def _skip_empty_lines(self) -> None:
        data = self.buffered
        self._use(len(data) - len(data[self._begin :].lstrip(b"\r\n")))

    def _check_part(self, end: int) -> None:
        """Show llhttp what has come of a head, so that a fault is found at once."""
        data = self.buffered
        if self._llhttp is None:
            if not data[self._begin : end].strip(b"\r\n"):
                self._use(end)  # empty lines before a head are nothing yet
                return
            self._llhttp = self._limits.checker.begin()
            self._checked = self._begin
        if end - self._begin > self._limits.max_header_size:
            self._check_size(end)
        part = memoryview(data)[self._checked : end]
        self._checked = end
        self._limits.checker.check_part(self._llhttp, part)

    def _check_size(self, end: int) -> None:
        """A head is over the limit; a fault within the limit comes first."""
        data = self.buffered
        start = len(data) - len(data[self._begin :].lstrip(b"\r\n"))  # empty lines before a head do not count
        limit = start + self._limits.max_header_size
        if end <= limit:
            return
        if self._llhttp is None or self._checked < limit:
            self._check_part(limit)
        line_is_whole = b"\r\n" in data[start:limit]
        raise overflow("headers", 431) if line_is_whole else overflow(self._START_LINE, 414)

    # --- bodies ---

    def _next_of_body(self) -> bytes | None:
        data, begin = self.buffered, self._begin
        end = min(len(data), begin + self._remaining)
        if end == begin:
            return None
        self._remaining -= end - begin
        if not self._remaining:
            self._stage = _END
        self._use(end)
        return data if not begin and end == len(data) else data[begin:end]

    def _next_of_chunks(self) -> bytes | End | None:
        chunks, data = self._chunks, self.buffered
        assert chunks is not None
        try:
            begin = chunks.decode(data, max(self._begin, self._checked))
        except RemoteProtocolError as error:
            if not chunks.pieces:
                raise
            self._stage, self._error = _FAILED, error
            return chunks.take_body()  # what came before the fault was in order
        if chunks.complete:
            self._use(begin)
            self._stage = _END
        else:
            # the last bytes may be the first of the blank line that ends the body
            self._checked = begin
            self._begin = max(self._begin, begin - 3)
        if chunks.pieces:
            return chunks.take_body()
        return self._end() if chunks.complete else None

    def _start_body(self, *, chunked: bool, length: int | None) -> None:
        if chunked:
            self._stage = _CHUNKS
            self._checked = 0
            self._chunks = ChunkDecoder(self._limits.recorder, self._limits.max_header_size)
        elif length:
            self._stage = _BODY
            self._remaining = length
        else:
            self._stage = _HEAD if self._keep_alive else _CLOSED

    def _end(self) -> End:
        self._stage = _HEAD if self._keep_alive else _CLOSED
        chunks, self._chunks = self._chunks, None
        return End(chunks.trailers if chunks is not None else [])

    def _use(self, end: int) -> None:
        """The bytes before `end` are done with."""
        if end == len(self.buffered):
            self.buffered = b""
            end = 0
        self._begin = end


class RequestParser(_MessageParser[RequestHead]):
    """The requests of one connection.

    Args:
        limits: shared by the connections of a server.
    """

    __slots__ = ("_fields", "_framing")

    _START_LINE = "request line"

    def __init__(self, limits: ParserLimits) -> None:
        super().__init__(limits)
        # most clients send the same fields with every request of a connection: then they mean the same
        self._fields = b""  # the last head from its version on
        self._framing = _NOTHING_SEEN

    def known(self, data: bytes) -> RequestHead | None:
        """The head that `data` is, if it has come twice before, on any connection, and is all that has come."""
        if len(data) > _MAX_SHARED or self.buffered or self._stage is not _HEAD:
            return None
        return self._limits.heads.get(data)

    @property
    def next_method(self) -> str:
        """The method of the head that comes next; empty if not all of it is here."""
        found = _METHOD.match(self.buffered, self._begin)
        return found[1].decode("ascii") if found is not None else ""

    def ignore_upgrade(self, head: RequestHead) -> None:
        """Go on as if `head`, the last, had asked for no upgrade: its body is framed, and other requests follow."""
        head.framing = head.framing.without(upgrade=True)
        self._open_body(head.framing)
        if not head.framing.has_body:
            head.body, head.complete = b"", True

    def _next_head(self) -> RequestHead | None:
        data, begin = self.buffered, self._begin
        size = len(data)
        limits = self._limits
        # a blank line may have begun in the bytes that were looked at before
        end = data.find(BLANK_LINE, begin if self._llhttp is None else max(begin, self._checked - 3)) + 4
        if end < 4:
            if data:
                self._check_part(size)
            return None
        checker = limits.checker
        large = end - begin > limits.safe_size
        if large:
            self._check_size(end)
        raw = data if not begin and end == size else data[begin:end]
        if self._llhttp is None:
            checker.check(raw)
        else:
            self._check_part(end)
        line = raw.split(b" ", 2)
        framing = self._framing
        if line[-1] != self._fields or line[0] != framing.raw_method:
            found = self._read_line(raw, line)
            if found is None:
                self._skip_empty_lines()
                return self._next_head()
            line, framing = found
        if large and raw.strip(b"\r\n").count(b"\n") > limits.max_headers_count > 0:
            raise overflow("number of headers", 431)
        if self._llhttp is not None:
            self._llhttp = None
        elif not framing.keep_alive:
            checker.renew()
        elif not checker.complete:
            checker.skip_body(chunked=framing.chunked, length=framing.content_length)
        if framing.has_body or framing.upgrade:
            body = self._body_at_hand(framing, end)
            if body is None:
                self._open_body(framing)
            else:
                end += len(body)
        else:
            body = b""
            if not framing.keep_alive:
                self._stage = _CLOSED
        head = RequestHead(framing, line[1], raw, body)
        # as `_use`, for every request
        if end == size:
            self.buffered = b""
            self._begin = 0
            if size <= _MAX_SHARED and raw is data and framing.ordinary and not framing.has_body:
                self._share(head)
        else:
            self._begin = end
        return head

    def _share(self, head: RequestHead) -> None:
        """The next request that has the same bytes is given this head, if they have come twice: see `known`."""
        heads = self._limits.heads
        if head.raw not in heads:
            if len(heads) >= MAX_SHARED_HEADS:
                heads.clear()
            heads[head.raw] = None
        elif heads[head.raw] is None:
            heads[head.raw] = head
            head.shared = True

    def _read_line(self, raw: bytes, line: list[bytes]) -> tuple[list[bytes], RequestFraming] | None:
        """Method, target and what the head means; None if it consists of empty lines."""
        version = _VERSIONS.get(line[-1][:10])
        usual = version is not None and len(line) == 3 and line[0][0] > 32 and line[1] != b""
        if not usual:
            found = _REQUEST_LINE.match(raw)
            if found is None:
                if raw.strip(b"\r\n"):
                    raise self._bad_version()
                return None
            line = list(found.groups())
            version = _VERSIONS[line[2]]
        assert version is not None
        framing = judge_request(line[0], version, self._limits.require_host, *_request_deciders(raw))
        # a target is no part of what is remembered, so that the next one may be missing: only `CONNECT` gets so far
        if usual and len(line[2]) <= _MAX_KNOWN and line[0] != b"CONNECT":
            self._fields, self._framing = line[2], framing
        return line, framing

    def _body_at_hand(self, framing: RequestFraming, begin: int) -> bytes | None:
        """The body, if all of it has come with the head and nobody has to be asked for it."""
        length = framing.content_length
        if not length or begin + length > len(self.buffered) or framing.expects_continue or framing.upgrade:
            return None
        if not framing.keep_alive:
            self._stage = _CLOSED
        return self.buffered[begin : begin + length]

    def _open_body(self, framing: RequestFraming) -> None:
        self._keep_alive = framing.keep_alive
        if framing.upgrade:
            self._stage = _UPGRADED
        else:
            self._start_body(chunked=framing.chunked, length=framing.content_length)

    def _translated(self, error: httptools.HttpParserError) -> RemoteProtocolError:
        # the rest of the request line may not be here yet
        status = 505 if "HTTP version" in str(error) and b" HTTP/" in self._request_line() else 400
        return translated(error, status)

    def _bad_version(self) -> RemoteProtocolError:
        line = self._request_line()
        status = 505 if _HTTP_VERSION.search(line) and not line.endswith(b"/0.9") else 400
        return RemoteProtocolError(
            "only HTTP/1.0 and HTTP/1.1 are understood", code="HPE_INVALID_VERSION", status_hint=status
        )

    def _request_line(self) -> bytes:
        return self.buffered[self._begin :].lstrip(b"\r\n").partition(b"\r\n")[0]


class ResponseParser(_MessageParser[ResponseHead]):
    """The responses on one connection of a client.

    Args:
        limits: shared by the connections of an agent.
    """

    __slots__ = ("_framing", "_raw", "method")

    _START_LINE = "status line"

    def __init__(self, limits: ResponseLimits) -> None:
        super().__init__(limits)
        #: Of the request whose response comes next: it decides whether there is a body.
        self.method = "GET"
        # a server that is asked often sends the same head again and again
        self._raw = b""  # the last one
        self._framing: ResponseFraming

    def end_of_input(self) -> End | None:
        """No more bytes will come: the end of a message, if this is how it ends."""
        return self._end() if self._stage is _REST else None

    def _next_head(self) -> ResponseHead | None:
        data, begin = self.buffered, self._begin
        # a blank line may have begun in the bytes that were looked at before
        end = data.find(BLANK_LINE, begin if self._llhttp is None else max(begin, self._checked - 3)) + 4
        size = len(data)
        if end < 4:
            if data:
                self._check_part(size)
            return None
        if end - begin > self._limits.safe_size:
            self._check_size(end)
        raw = data if not begin and end == size else data[begin:end]
        if raw == self._raw and self._llhttp is None:
            framing = self._framing
        else:
            found = self._judge(raw, end)
            if found is None:
                self._skip_empty_lines()
                return self._next_head()
            framing = found
        method = self.method
        length = framing.plain_length
        if length >= 0 and end + length <= size and method != "HEAD" and method != "CONNECT":
            self._use(end + length)
            return ResponseHead(framing, raw, data[end : end + length])
        body: bytes | None = None
        if framing.upgrade or (method == "CONNECT" and framing.final):
            self._stage = _UPGRADED
        elif framing.bodiless or method == "HEAD":
            body = b""
            if not framing.bodiless:
                framing = framing.without_body()
            if not framing.keep_alive and framing.final:
                self._stage = _CLOSED
        elif framing.until_close:
            self._stage, self._keep_alive = _REST, False
        else:
            self._keep_alive = framing.keep_alive
            known = framing.content_length
            if known is not None and end + known <= size:
                body = data[end : end + known]
                end += known
                if not framing.keep_alive:
                    self._stage = _CLOSED
            else:
                self._start_body(chunked=framing.chunked, length=known)
        self._use(end)
        return ResponseHead(framing, raw, body)

    def _translated(self, error: httptools.HttpParserError) -> RemoteProtocolError:
        if "Pause" in str(error):
            return RemoteProtocolError("Parse Error: status 101 without an upgrade", code="HPE_INVALID_STATUS")
        return translated(error)

    def _judge(self, raw: bytes, end: int) -> ResponseFraming | None:
        """What a head that ends before `end` means; None if it consists of empty lines."""
        limits, checker = self._limits, self._limits.checker
        in_parts = self._llhttp is not None
        if in_parts:
            self._check_part(end)
        else:
            checker.check(raw)
        found = _STATUS_LINE.match(raw)
        if found is None:
            if not raw.strip(b"\r\n"):
                return None
            if _RESPONSE_VERSION.match(raw):
                raise RemoteProtocolError(
                    "Parse Error: no valid status, or a control character after it", code="HPE_INVALID_STATUS"
                )
            raise RemoteProtocolError(
                "Parse Error: only HTTP/1.0 and HTTP/1.1 are understood", code="HPE_INVALID_VERSION"
            )
        version, status, reason = found.groups()
        framing = judge_response(version, status, reason or b"", *_response_deciders(raw))
        if len(raw) > limits.safe_size and raw.strip(b"\r\n").count(b"\n") > limits.max_headers_count > 0:
            raise overflow("number of headers", 431)
        if in_parts:
            self._llhttp = None
        elif not framing.keep_alive:
            checker.renew()
        elif not checker.complete:
            checker.skip_body(chunked=framing.chunked, length=framing.content_length)
        if len(raw) <= _MAX_KNOWN:
            self._raw, self._framing = raw, framing
        return framing
