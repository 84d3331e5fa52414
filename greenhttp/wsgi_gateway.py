"""`gateway(app)`: a WSGI application as a request handler (PEP 3333).

A body whose length is known when its first piece comes leaves in one packet with its head; of a stream every piece
leaves when the application gives it.
"""

from __future__ import annotations

import inspect
import io
import math
import os
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from wsgiref.util import FileWrapper, is_hop_by_hop

from .errors import (
    BodyLengthError,
    ConnectionLostError,
    HTTPError,
    InvalidArgumentError,
    InvalidHeaderError,
    MessageStateError,
)
from .headers import OutgoingHeaders, field_line, validate_header_value
from .incoming import IncomingMessage
from .outgoing import BODY, CLOSED, ENDED, LARGE, content_length
from .response import ServerResponse, first_lines
from .server import TIMEOUT
from .streams import HIGH_WATER_MARK
from .workers import ENDINGS
from .wsgi_environ import Environ, Environs, server_environ

__all__ = ["WSGI_OPTIONS", "Application", "Gateway", "gateway", "is_application"]

Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
_FRAMEWORKS = frozenset(("bottle", "django", "falcon", "flask", "pyramid"))
Handler = Callable[[IncomingMessage, ServerResponse], None]

#: Options of a server whose handler is a gateway. An application may be silent for as long as it works, so only the
#: waiting for a client is limited. Precedent: pywsgi cuts no request; `keep_alive_timeout` is the server's `timeout`.
WSGI_OPTIONS: Mapping[str, Any] = {"ignore_upgrade": True, "timeout": 0, "keep_alive_timeout": TIMEOUT}


class _Start:
    """What an application says by `start_response`. Shared by answers that are alike."""

    __slots__ = ("code", "fields", "length", "lines", "phrase")

    def __init__(self, status: str, headers: tuple[tuple[str, str], ...]) -> None:
        self.code, self.phrase = _status(status)
        fields = OutgoingHeaders()
        lengths = []  # kept apart: the most various of all fields, that whoever sends the body may find out, and faster
        for name, value in headers:
            if name == "Content-Length" and type(value) is str:
                lengths.append(value)
                continue
            lower, field = _field(name, value)
            if lower in fields:
                fields.add(name, value)
            else:
                fields[lower] = field
        spelled_otherwise = fields.pop("content-length", None)
        if spelled_otherwise is not None:
            lengths.append(spelled_otherwise[1])
        self.length = content_length(lengths[0] if len(lengths) == 1 else lengths) if lengths else None
        self.fields = fields
        #: The first lines of the answer, if nothing in them has to be weighed; else empty.
        self.lines = first_lines(self.code, self.phrase, fields)


_known_start = lru_cache(maxsize=256)(_Start)  # most answers of an application have one of a few heads


def _status(status: str) -> tuple[int, str]:
    """Code and phrase of `'200 OK'`."""
    if not isinstance(status, str):
        raise TypeError(f"a status must be a str, not {status!r}")
    if "\r" in status or "\n" in status:
        raise InvalidArgumentError("carriage return or newline in status")
    code, _, phrase = status.partition(" ")
    if not (len(code) == 3 and code.isascii() and code.isdigit() and code >= "200"):  # interim ones are the server's
        raise InvalidArgumentError(f"a status must be 200 to 999, a space and a phrase, not {status!r}")
    validate_header_value("status", phrase)
    return int(code), phrase


@lru_cache(maxsize=512)  # where heads differ, most of their fields do not
def _field(name: str, value: str) -> tuple[str, tuple[str, Any, bytes]]:
    """A field of an application as `OutgoingHeaders` keeps it."""
    if not (isinstance(name, str) and isinstance(value, str)):
        raise TypeError(f"names and values of headers must be of type str: {name!r}: {value!r}")
    lower = name.lower()
    if lower != "connection" and is_hop_by_hop(name):
        raise InvalidArgumentError(f"{name} is a hop-by-hop header; they are the server's (PEP 3333)")
    try:
        return lower, (name, value, field_line(name, value))
    except InvalidHeaderError:
        for what, text in (("name", name), ("value", value)):
            if "\r" in text or "\n" in text:
                raise InvalidHeaderError(f"carriage return or newline in header {what}") from None
        value.encode("latin-1")  # if it is this, a UnicodeError tells it best
        raise


_UNSAID = _Start("200 OK", ())  # when `start_response` was called to no effect, because something was invalid


class _Answer:
    """What one call of an application says."""

    __slots__ = ("length", "lines", "response", "start")

    def __init__(self, response: ServerResponse) -> None:
        self.response = response
        self.start: _Start | None = None  # what `start_response` was called with
        self.length: int | None = None  # the Content-Length of the application
        self.lines = b""  # all that has to be said before the length, if nothing has to be weighed

    def start_response(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Fix status and headers; they leave with the first piece of the body.

        Args:
            status: as `'200 OK'`.
            headers: pairs; not changed.
            exc_info: of the error that this answer tells; it may then replace one that was not sent yet.

        Returns:
            `write`.

        Raises:
            TypeError, ValueError: something is invalid.
            RuntimeError: it was called before, and `exc_info` is missing.
            Exception: that of `exc_info`, if the head has gone already.
        """
        response = self.response
        if exc_info is not None:
            try:
                if response._stage >= BODY:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # its traceback holds this frame
            response.headers.clear()
        elif self.start is not None:
            raise MessageStateError("start_response was called before: a second call needs exc_info (PEP 3333)")
        self.start = _UNSAID
        fields = tuple(headers)
        try:
            start = _known_start(status, fields)
        except TypeError:  # something is no str; or the pairs are lists, which cannot be looked up
            start = _Start(status, fields)
        self.start = start
        self.length = start.length
        self.lines = b"" if response.headers else start.lines  # some may be set before the application is called
        response._status = start.code
        response._message = start.phrase
        response.headers.update(start.fields)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, now. Blocks while more than the high-water mark waits to be sent.

        Raises:
            TypeError: `data` is no bytes.
            ValueError: the body would be longer than its `Content-Length`; the surplus is not sent.
            ConnectionError: the client has gone.
        """
        response = self.response
        if self.start is None:
            raise MessageStateError("the application gave a body before it called start_response")
        if isinstance(data, str):
            raise TypeError("a body must be bytes, not str")
        stage = response._stage
        if stage >= ENDED:
            if stage is CLOSED:
                raise ConnectionLostError("the client has gone", code="EPIPE")
            raise _too_long(self.length)
        if stage < BODY and self.length is not None:
            if self.length == len(data):
                self.finish(data, returned=False)
                return
            self._announce()
        response.write(data)

    def _announce(self) -> None:
        """Put the application's `Content-Length` on; not where it would be wrong (RFC 9110 section 8.6)."""
        response = self.response
        status = response._status
        if status != 204 and (status != 304 or self.length):
            response.headers.set("Content-Length", str(self.length))
        if not response.req.head.framing.ordinary:
            self._persist()

    def _persist(self) -> None:
        """Where the body ends is known: keep the connection of an HTTP/1.0 client that has asked for it."""
        response = self.response
        headers = response.headers
        if (
            response.req.http_version == "1.0"
            and "connection" not in headers
            and response._connection.may_persist(response, last=False)
        ):
            headers.set("Connection", "keep-alive")

    def finish(self, data: bytes, *, returned: bool = True) -> None:
        """Send `data`, all of the body or the last of it. `returned`: whether the application has."""
        if self.start is None:
            raise MessageStateError("the application returned before it called start_response")
        response = self.response
        length = self.length
        if (
            self.lines
            and type(data) is bytes
            and (length is None or length == len(data))
            and response.end_at_once(self.lines, data)
        ):
            return
        if isinstance(data, str):
            raise TypeError("a body must be bytes, not str")
        if response._stage < BODY:
            inflow = response.req.inflow
            if returned and inflow is not None:
                inflow.asked = False  # what the application has not read nobody will
            if length is not None and (length != len(data) or not length):
                self._announce()
            elif not response.req.head.framing.ordinary:
                self._persist()
        response.end(data)

    def send_all(self, result: Iterable[bytes]) -> None:
        """Send what an application returned."""
        if isinstance(result, (list, tuple)):
            size = sum(map(len, result))
            if size < LARGE:
                self.finish(b"".join(result))
                return
            if self.length is None:
                self.length = size
        elif type(result) is FileWrapper:
            result = self._send_file(result.filelike)
        response = self.response
        for chunk in result:
            if chunk:
                self.write(chunk)
                if response.req.method == "HEAD":
                    break  # its head is out
        if response._stage < ENDED:
            self.finish(b"")

    def _send_file(self, file: Any) -> Iterable[bytes]:
        """Send a file up to the Content-Length (PEP 3333), as far as that goes without reading it. Returns the pieces
        that are left."""
        response = self.response
        plain = None
        if self.start is not None and response._stage < BODY and response._status not in (204, 304):
            plain = _plain_file(file)
        if plain is not None:
            fd, offset, count = plain
            if self.length is not None:
                count = min(count, self.length)
            if count <= HIGH_WATER_MARK:  # faster in one packet with its head
                self.finish(file.read(count))
                return ()
            if self.length is None:
                self.length = count
            self._announce()
            sent = response.send_file(fd, offset, count)
            if sent == count or response._stage is CLOSED:
                return ()
            file.seek(offset + sent)
        return _pieces(file, math.inf if self.length is None else self.length - response._written)


def _plain_file(file: Any) -> tuple[int, int, int] | None:
    """Descriptor, position, and bytes from there to the end, of a regular file that is read as it is; else None.

    Only what `open(..., "rb")` returns is known to be that: the descriptor of a `GzipFile` has other bytes than its
    `read()` gives, and so may that of any class with a `read()` of its own.
    """
    raw = file.raw if type(file) is io.BufferedReader else file
    if type(raw) is not io.FileIO:
        return None
    status = os.fstat(raw.fileno())
    if not (stat.S_ISREG(status.st_mode) and status.st_size):  # those of /proc say 0, and have more
        return None
    offset = file.tell()
    return raw.fileno(), offset, max(0, status.st_size - offset)


def _pieces(file: Any, limit: float) -> Iterator[bytes]:
    """The rest of a file, at most `limit` bytes."""
    while piece := file.read(min(HIGH_WATER_MARK, limit)):
        yield piece
        limit -= len(piece)


def _too_long(length: int | None) -> BodyLengthError:
    return BodyLengthError(
        f"the body is longer than its Content-Length of {length} bytes; the surplus was not sent",
        code="ERR_HTTP_CONTENT_LENGTH_MISMATCH",
    )


class Gateway:
    """Calls an application for each request.

    Args:
        application: the WSGI application.
        environ: entries for each environ, over those of the gateway.
        errors: `wsgi.errors`, a text stream; tracebacks go there too. None: `sys.stderr`.
        log: a text stream for a line about each request; None: no lines.
    """

    __slots__ = ("_environs", "_listener", "application", "environ", "errors", "log")

    def __init__(
        self, application: Application, *, environ: Mapping[str, Any] | None = None, errors: Any = None, log: Any = None
    ) -> None:
        self.application = application
        self.environ = dict(environ or ())
        self.errors = errors
        self.log = log
        self._environs = Environs({})
        self._listener: object = None  # whose requests these are for

    def base_environ(self, request: IncomingMessage) -> Environ:
        """What each environ begins as. Asked for at the first request of a listener, and after `forget()`."""
        source: Any = request._source
        address = source.server.address() or request.socket.local_address
        return server_environ(address, self.errors or sys.stderr, self.environ, secure=request.socket.encrypted)

    def forget(self) -> None:
        """`base_environ()` may say something else from now on."""
        self._listener = None

    def handle(self, request: IncomingMessage, response: ServerResponse) -> None:
        """The request handler."""
        listener = request._source.server._listener  # type: ignore[attr-defined]  # its source is a server's connection
        if listener is not self._listener:
            self._environs = Environs(self.base_environ(request))
            self._listener = listener
        answer = _Answer(response)
        try:
            result = self.application(self._environs.make(request), answer.start_response)
            if type(result) is list and len(result) == 1:
                answer.finish(result[0])
                return
            try:
                answer.send_all(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except ENDINGS:
            raise
        except BaseException as error:
            self._failed(request, response, error)

    def _failed(self, request: IncomingMessage, response: ServerResponse, error: BaseException) -> None:
        """The application raised, or it gave what cannot be sent: 500, or the client sees that the body is cut."""
        if (request.aborted or response.destroyed) and isinstance(error, (HTTPError, StopIteration)):
            # the client has gone, or the application has taken the connection, which some tell by StopIteration
            return
        self._environs.base["wsgi.errors"].write(f"{request.method} {request.url} failed\n{traceback.format_exc()}")
        if isinstance(error, BodyLengthError) and response._stage is BODY and response._written == response._announced:
            response.end()  # what the client was promised it has
        else:
            response._connection.listener_failed(request)

    def handle_and_log(self, request: IncomingMessage, response: ServerResponse) -> None:
        """The request handler, with a line in the log when the application is done."""
        begin = time.time()
        try:
            self.handle(request, response)
        finally:
            now = time.time()
            head = request.head
            framing = head.framing
            peer = request.socket.remote_address or "-"
            target = head.target.decode("ascii", "backslashreplace").replace('"', "%22")
            size = response._written or "-"
            self.log.write(
                f'{peer} - - [{_when(int(now))}] "{framing.method} {target} HTTP/{framing.version}" '
                f"{response._status} {size} {now - begin:.6f}\n"
            )


@lru_cache(maxsize=2)
def _when(second: int) -> str:
    """That second of `time.time()`, in local time."""
    return datetime.fromtimestamp(second).isoformat(" ")


def gateway(
    application: Application, *, environ: Mapping[str, Any] | None = None, errors: Any = None, log: Any = None
) -> Handler:
    """A request handler, for `create_server()`, that calls a WSGI application.

    The server should be made with `WSGI_OPTIONS`, or upgrade requests will not come here, and silence is limited.

    Args:
        application, environ, errors, log: as for `Gateway`.
    """
    made = Gateway(application, environ=environ, errors=errors, log=log)
    return made.handle if log is None else made.handle_and_log


def is_application(found: Callable[..., object]) -> bool:
    """Whether `found` looks like a WSGI application rather than a request handler: by the class of a framework, or by
    the names of its two parameters."""
    if any(kind.__module__.partition(".")[0] in _FRAMEWORKS for kind in type(found).__mro__):
        return True
    try:
        names = list(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # some callables in C have none
        return False
    return len(names) == 2 and (names[0] in ("environ", "env") or names[1] == "start_response")
