"""`ServerResponse`: the answer to one request (reference: `http.ServerResponse`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from time import monotonic, time
from typing import Any, ClassVar, Protocol, TypeVar

from .errors import InvalidArgumentError, InvalidHeaderError
from .events import Listener
from .framing import RequestFraming
from .headers import Headers, OutgoingHeaders, validate_header_value
from .incoming import IncomingMessage
from .outgoing import (
    CHUNKED,
    ENDED,
    FINISHED,
    FIXED,
    LARGE,
    LENGTH,
    NO_EXTRAS,
    NONE,
    OPEN,
    UNTIL_CLOSE,
    OutgoingMessage,
    content_length,
)
from .sockets import Socket
from .status import STATUS_CODES
from .streams import Data, encode

__all__ = ["ResponseSink", "ServerResponse", "first_lines"]

_Self = TypeVar("_Self", bound="ServerResponse")
_DECIDING = frozenset(("connection", "content-length", "date", "trailer", "transfer-encoding"))


class ResponseSink(Protocol):
    """The connection that a response leaves by. None of these blocks."""

    persists: bool  #: whether it may be kept after any answer, as far as the connection itself is concerned
    persistence: bytes  #: the `Connection` and `Keep-Alive` lines of an answer after which the connection is kept

    def may_persist(self, response: Any, *, last: bool) -> bool: ...
    def response_given(self, response: Any) -> None: ...
    def listener_failed(self, message: Any) -> None: ...


@lru_cache(maxsize=256)
def _status_line(code: int, message: str | None) -> bytes:
    if message is None:
        message = STATUS_CODES.get(code, "unknown")
    validate_header_value("status message", message)
    return f"HTTP/1.1 {code} {message}\r\n".encode("latin-1")


def first_lines(status: int, message: str | None, fields: OutgoingHeaders) -> bytes:
    """The status line and `fields`, if they leave nothing to be weighed about framing, persistence and date; else
    nothing."""
    if not _DECIDING.isdisjoint(fields) or (status != 200 and (status < 200 or status == 204 or status == 304)):
        return b""
    return _status_line(status, message) + fields.encode()


class _DateLine:
    """The `Date` line, made once a second (RFC 9110 section 6.6.1)."""

    def __init__(self) -> None:
        self.line = b""
        self.expires = 0.0

    def now(self) -> bytes:
        clock = monotonic()
        if clock >= self.expires:
            seconds = time()
            self.line = f"Date: {formatdate(seconds, usegmt=True)}\r\n".encode("ascii")
            self.expires = clock + 1 - seconds % 1
        return self.line


_date = _DateLine()


def _checked_status(code: object) -> int:
    number = int(code) if isinstance(code, str) and code.isascii() and code.isdigit() else code
    if type(number) is not int or not 100 <= number <= 999:
        raise InvalidArgumentError(f"invalid status code: {code!r}", code="ERR_HTTP_INVALID_STATUS_CODE")
    return number


class ServerResponse(OutgoingMessage):
    """The answer to one request. Made by the server, given to `'request'` listeners.

    Events:
        those of `OutgoingMessage`, and 'timeout' (socket).
    """

    __slots__ = ("_connection", "_message", "_status", "is_last", "req")

    EVENTS: ClassVar[frozenset[str]] = OutgoingMessage.EVENTS | {"timeout"}

    def __init__(self, request: IncomingMessage, connection: ResponseSink, socket: Socket) -> None:
        self._listeners = None
        self.socket = socket
        self.headers = OutgoingHeaders()
        self.extras = None
        self._stage = OPEN
        self._backlog = None
        self._written = 0
        #: The request that this answers.
        self.req = request
        self._connection = connection
        self._status = 200
        self._message: str | None = None
        #: For the connection: whether it closes after this response.
        self.is_last = False

    def __repr__(self) -> str:
        return f"<ServerResponse {self._status} to {self.req.method} {self.req.url} {self._stage.name.lower()}>"

    # --- the head ---

    @property
    def status_code(self) -> int:
        """The status that is sent, or was; set it before the head is fixed."""
        return self._status

    @status_code.setter
    def status_code(self, code: int) -> None:
        code = _checked_status(code)
        if self._stage is OPEN:  # later it would not be what is sent
            self._status = code

    @property
    def status_message(self) -> str | None:
        """The phrase; None sends the standard one."""
        return self._message

    @status_message.setter
    def status_message(self, message: str | None) -> None:
        if message is not None:
            validate_header_value("status message", message)
        if self._stage is OPEN:
            self._message = message

    def write_head(self: _Self, status: int, *message_and_headers: Any, headers: Headers | None = None) -> _Self:
        """Fix the status and the headers; they leave with the first bytes of the body (reference:
        `response.writeHead`).

        Args:
            status: 100 to 999.
            message_and_headers: the phrase, then the headers; either may be left out.
            headers: a mapping, pairs or a flat list, added to those set before; theirs win.

        Returns:
            The response.

        Raises:
            TypeError, ValueError: something is invalid; nothing has changed.
            RuntimeError: the head is fixed already (`ERR_HTTP_HEADERS_SENT`).
        """
        if self._stage is not OPEN:
            raise self._headers_sent("write the head")
        code = _checked_status(status)
        message = self._message
        if message_and_headers:
            rest = list(message_and_headers)
            if isinstance(rest[0], str) or rest[0] is None:
                message = rest.pop(0)
                if message is not None:
                    validate_header_value("status message", message)
            if rest:
                headers = rest.pop(0)
            if rest:
                raise TypeError("write_head takes a status, a message and headers")
        if headers:
            self.headers.merge(headers)
        self._status, self._message = code, message
        self._stage = FIXED
        return self

    def _encode_head(self, length: int | None, *, last: bool = False) -> bytes:
        headers = self.headers
        status = self._status
        request: RequestFraming = self.req.head.framing
        extras = self.extras or NO_EXTRAS
        removed = extras.removed
        parts = [_status_line(status, self._message), headers.encode()]
        if extras.send_date and "date" not in headers:
            parts.append(_date.now())

        # framing: RFC 9112 section 6
        framing_line = b""
        bodiless = status < 200 or status == 204 or status == 304
        if "content-length" in headers:
            if "transfer-encoding" in headers:
                raise InvalidHeaderError(
                    "set Content-Length or Transfer-Encoding, not both", code="ERR_HTTP_INVALID_HEADER_VALUE"
                )
            announced, framing = content_length(headers.value("content-length")), LENGTH
        else:
            announced = -1
            if bodiless:
                framing = NONE
            elif "transfer-encoding" in headers:
                framing = CHUNKED if "chunked" in str(headers.value("transfer-encoding")).lower() else UNTIL_CLOSE
            elif (
                length is not None
                and not extras.trailers
                and "trailer" not in headers
                and "content-length" not in removed
            ):
                framing, announced = LENGTH, length
                if length or request.method != "HEAD":  # nothing was said about the length of the real answer
                    framing_line = b"Content-Length: %d\r\n" % length
            elif "transfer-encoding" not in removed and (request.version == "1.1" or self._te_chunked()):
                framing, framing_line = CHUNKED, b"Transfer-Encoding: chunked\r\n"
            else:
                framing = UNTIL_CLOSE

        # persistence: RFC 9112 section 9.3
        persists = framing != UNTIL_CLOSE and self._connection.may_persist(self, last=last)
        if "connection" in headers:
            options = [option.strip() for option in _joined(headers.value("connection")).lower().split(",")]
            persists = persists and "close" not in options and (request.version == "1.1" or "keep-alive" in options)
        elif "connection" in removed:
            persists = persists and request.version == "1.1"
        elif persists and request.version == "1.1":
            parts.append(self._connection.persistence)
        else:
            persists = False
            parts.append(b"Connection: close\r\n")

        parts.append(framing_line)
        parts.append(b"\r\n")
        self._framing = NONE if bodiless or request.method == "HEAD" else framing
        self._announced = announced
        self.is_last = not persists
        return b"".join(parts)

    def end(
        self,
        data: Data | None = None,
        encoding: str | None = None,
        callback: Callable[..., object] | None = None,
    ) -> bool:
        """Send the last piece, if any, and complete the response: see `OutgoingMessage.end`."""
        chunk = data if type(data) is bytes else b"" if data is None else encode(data, encoding)
        status = self._status
        if (
            callback is None
            and self.extras is None
            and _DECIDING.isdisjoint(self.headers)
            and (status == 200 or (status > 200 and status != 204 and status != 304))
            and self.end_at_once(_status_line(status, self._message) + self.headers.encode(), chunk)
        ):
            return True
        return super().end(chunk, None, callback)

    def end_at_once(self, lines: bytes, chunk: bytes) -> bool:
        """Send the whole response, if nothing has to be weighed for it: most are of this kind. Returns whether it was.

        Args:
            lines: what `first_lines` gave.
            chunk: all of the body.
        """
        size = len(chunk)
        connection = self._connection
        request = self.req
        if (
            self._stage is not OPEN
            or size >= LARGE
            or self._backlog is not None
            or not connection.persists
            or not request.head.framing.ordinary
            or (request.inflow is not None and not request.complete)
        ):
            return False
        self._written = size
        self._stage = ENDED
        if self.socket.send(
            b"%b%b%bContent-Length: %d\r\n\r\n%b" % (lines, _date.now(), connection.persistence, size, chunk)
        ):
            self._stage = FINISHED
            if self._listeners is not None:
                self.workers.soon(self.tell_finish)
        else:
            self.socket.when_sent(self.sent)
        connection.response_given(self)
        return True

    def _te_chunked(self) -> bool:
        return "chunked" in str(self.req.headers.get("te", "")).lower()

    # --- interim answers ---

    def write_continue(self, callback: Listener | None = None) -> None:
        """Send `100 Continue`: the client may send its body (reference: `response.writeContinue`).

        Args:
            callback: called when it was sent.
        """
        self._write_interim(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.req.continue_sent()
        self.req.wants_bytes()
        if callback is not None:
            self._when_sent(callback)

    def write_processing(self) -> None:
        """Send `102 Processing`."""
        self._write_interim(b"HTTP/1.1 102 Processing\r\n\r\n")

    def write_early_hints(self, hints: str | list[str] | Mapping[str, Any]) -> None:
        """Send `103 Early Hints` (RFC 8297).

        Args:
            hints: a `Link` value, a list of them, or a mapping with `link` and more headers.

        Raises:
            TypeError, ValueError: a value is invalid; nothing was sent.
        """
        fields = OutgoingHeaders()
        fields.merge(hints if isinstance(hints, Mapping) else {"Link": hints})
        self._write_interim(b"HTTP/1.1 103 Early Hints\r\n" + fields.encode() + b"\r\n")

    def _write_interim(self, data: bytes) -> None:
        if self._stage >= FIXED:
            raise self._headers_sent("send an interim answer")
        if self.req.http_version == "1.1":  # RFC 9110 section 15.2: none to an HTTP/1.0 client
            self._give(data)

    # --- the rest ---

    def set_timeout(self: _Self, seconds: float, callback: Callable[..., object] | None = None) -> _Self:
        """`'timeout'` after `seconds` without a byte either way (reference: `response.setTimeout`). Returns the
        response."""
        if callback is not None:
            self.on("timeout", callback)
        self.socket.set_timeout(seconds)
        return self

    def _ended(self) -> None:
        if self._framing == LENGTH and self._written < self._announced:
            self.is_last = True  # the peer must see that the body is cut
            self.socket.when_sent(lambda _: self.socket.destroy())
        self.socket.when_sent(self.sent)
        self._connection.response_given(self)


def _joined(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
