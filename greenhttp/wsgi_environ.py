"""The environ of one request: what PEP 3333 and CGI (RFC 3875) call the parts of an HTTP request.

Most clients send the same fields again and again, so what fields mean is remembered by their bytes; what a server says
of itself is a template that is copied.
"""

from __future__ import annotations

import io
import platform
import re
import socket as stdlib_socket
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote
from wsgiref.util import FileWrapper

import gevent
import gevent.socket
from gevent.event import Event
from gevent.lock import Semaphore

from ._version import __version__
from .framing import RequestFraming, RequestHead
from .incoming import IncomingMessage
from .parser import MAX_SHARED_HEADS
from .streams import HIGH_WATER_MARK

__all__ = [
    "BASE_ENVIRON",
    "SERVER_SOFTWARE",
    "Closed",
    "Connection",
    "Environ",
    "Environs",
    "Input",
    "server_environ",
    "server_name",
]

Environ = dict[str, Any]

SERVER_SOFTWARE = f"gevent/{gevent.__version__} greenhttp/{__version__} Python/{platform.python_version()}"
_KNOWN_HEAD = 256  # bytes of fields that are remembered together; those of browsers are longer, and rarely the same
_KNOWN_LINES = 2048  # bytes of fields that are remembered one by one
# What a request sets in its copy of a template; there from the start, so that the copy need not grow.
_OF_EACH_REQUEST = (
    "SERVER_PROTOCOL",
    "REQUEST_METHOD",
    "PATH_INFO",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "wsgi.input",
    "greenhttp.request",
    "greenhttp.closed",
)
# The framing tells CONTENT_LENGTH, once. HTTP_PROXY has a meaning as a variable of the process, for programs that an
# application may run, and no client may set that (httpoxy; RFC 3875 section 4.1.18 lets us leave it out).
_LEFT_OUT = frozenset(("CONTENT_LENGTH", "PROXY"))
_COOKIES = frozenset(("HTTP_COOKIE", "HTTP_COOKIE2"))  # their lines are joined as RFC 6265 and RFC 2965 write them
_WILDCARDS = frozenset(("", "0.0.0.0", "::"))
BASE_ENVIRON: Environ = {  # what is the same on all servers
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": SERVER_SOFTWARE,
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,  # greenlets take turns within the application, as threads do
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper,
    "wsgi.input_terminated": True,
}
_ABSOLUTE_FORM = re.compile(r"[^:/?#]+://([^/?#]*)(.*)")  # RFC 9112 section 3.2.2


class _Lazy:
    """Stands for an object that is made when somebody first asks for one of its public names."""

    __slots__ = ("_made", "_request")

    def __init__(self, request: IncomingMessage) -> None:
        self._request = request
        self._made: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked by `copy`, debuggers and the like
            raise AttributeError(name)
        if self._made is None:
            self._made = self._make(self._request)
        return getattr(self._made, name)

    def _make(self, request: IncomingMessage) -> Any:
        raise NotImplementedError


class Closed(_Lazy):
    """`environ['greenhttp.closed']`: a `gevent.event.Event` that is set when the client has gone away or the exchange
    is over."""

    __slots__ = ()

    def _make(self, request: IncomingMessage) -> Event:
        event = Event()
        if request._fate:
            event.set()
        else:
            request.on("close", event.set)
        return event


class Connection(_Lazy):
    """`environ['gunicorn.socket']` of an upgrade request: the connection as a `gevent.socket.socket`, for libraries
    that speak another protocol on it. Its first use takes it from the server; who does that closes it."""

    __slots__ = ("_sending",)

    def __init__(self, request: IncomingMessage) -> None:
        super().__init__(request)
        self._sending = Semaphore()

    def _make(self, request: IncomingMessage) -> gevent.socket.socket:
        return request.socket.detach()

    def send(self, data: Any, flags: int = 0) -> int:
        """Send all of `data`, after what others send: simple-websocket counts on that, as blocking sockets do it."""
        with self._sending:
            self.sendall(data, flags)
        return len(data)


class _Raw(io.RawIOBase):
    """A request as `io.BufferedReader` wants it."""

    def __init__(self, request: IncomingMessage) -> None:
        self._request = request

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._request.readinto(buffer)


class Input:
    """`wsgi.input`: the body as it comes, to its end, whether it has a length or comes in chunks.

    A client that waits for `100 Continue` is sent it by the first read. All methods block, and raise an `OSError` when
    the client goes away before the end.
    """

    __slots__ = ("_lines", "_request")

    def __init__(self, request: IncomingMessage) -> None:
        self._request = request
        self._lines: io.BufferedReader | None = None  # once lines are read: they are cut from larger pieces

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer only at the end; all of the rest if it is negative or None."""
        data: bytes = (self._lines or self._request).read(size)
        return data

    def _reader(self) -> io.BufferedReader:
        if self._lines is None:
            self._lines = io.BufferedReader(_Raw(self._request), HIGH_WATER_MARK)
        return self._lines

    def readline(self, size: int | None = -1) -> bytes:
        """The next line with its line feed; at most `size` bytes of it."""
        return self._reader().readline(-1 if size is None else size)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines of the rest; no more of them once `hint` bytes are reached."""
        return self._reader().readlines(-1 if hint is None else hint)

    def __iter__(self) -> Iterator[bytes]:
        """The lines."""
        return iter(self._reader())


class _NoInput:
    """`wsgi.input` of requests without a body."""

    __slots__ = ()

    def read(self, size: int | None = -1) -> bytes:
        """Nothing is left."""
        return b""

    readline = read

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """No lines."""
        return []

    def __iter__(self) -> Iterator[bytes]:
        """No lines."""
        return iter(())


_NO_INPUT = _NoInput()


def server_environ(address: Any, errors: Any, extra: Mapping[str, Any], *, secure: bool) -> Environ:
    """What is the same in all requests of a server.

    Args:
        address: where it listens.
        errors: `wsgi.errors`.
        extra: entries of the user, that win.
        secure: whether it speaks TLS.
    """
    name, port = server_name(address, secure=secure)
    return {
        **BASE_ENVIRON,
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "wsgi.url_scheme": "https" if secure else "http",
        "wsgi.errors": errors,
        **extra,
    }


def server_name(address: Any, *, secure: bool) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT; neither may be empty (PEP 3333), not even on a Unix socket."""
    if not isinstance(address, tuple):
        return "localhost", "443" if secure else "80"
    host, port = address[:2]
    if host in _WILDCARDS:
        host = stdlib_socket.gethostname()
    return f"[{host}]" if ":" in host else host, str(port)  # RFC 3875 section 4.1.14


class Environs:
    """Makes the environs of a server's requests. Those of requests with the same fields begin as copies of one.

    Args:
        base: what is the same in all: `server_environ`.
    """

    __slots__ = ("_known", "_new", "_whole", "base")

    def __init__(self, base: Environ) -> None:
        self.base = base
        self._new = partial(_beginning, dict.fromkeys(_OF_EACH_REQUEST) | base)
        self._known = lru_cache(maxsize=256)(self._new)
        self._whole: dict[RequestHead, Environ] = {}  # with the target, of heads that come again and again

    def make(self, request: IncomingMessage) -> Environ:
        """The environ of `request`."""
        whole = self._whole.get(request.head)
        environ = self._begin(request) if whole is None else whole.copy()
        socket = request.socket
        peer = socket._peer or socket._peer_name()
        if type(peer) is tuple:
            environ["REMOTE_ADDR"] = peer[0]
            environ["REMOTE_PORT"] = str(peer[1])
        else:  # a Unix socket; RFC 3875 section 4.1.8 wants an address all the same, and the user may have named one
            environ["REMOTE_ADDR"] = environ["REMOTE_ADDR"] or ""
            if environ["REMOTE_PORT"] is None:
                del environ["REMOTE_PORT"]
        environ["greenhttp.request"] = request
        environ["greenhttp.closed"] = Closed(request)
        return environ

    def _begin(self, request: IncomingMessage) -> Environ:
        """What follows from the head of `request`."""
        head = request.head
        raw = head.raw
        if len(raw) - len(head.target) <= _KNOWN_HEAD:
            environ = self._known(head.framing, raw.partition(b" HTTP/1.")[2]).copy()
        else:
            environ = self._new(head.framing, raw.lstrip(b"\r\n"))
        target: str = head.target.decode("latin-1")
        if target[0] != "/":
            target = _origin_form(environ, target)
        path, _, query = target.partition("?")
        environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
        environ["QUERY_STRING"] = query
        if head.shared and "HTTP_UPGRADE" not in environ:
            environ["wsgi.input"] = _NO_INPUT  # shared heads have no body
            if len(self._whole) >= MAX_SHARED_HEADS:
                self._whole.clear()
            self._whole[head] = environ.copy()
            return environ
        environ["wsgi.input"] = Input(request)
        if "HTTP_UPGRADE" in environ:
            environ["gunicorn.socket"] = Connection(request)
        return environ


def _beginning(base: Environ, framing: RequestFraming, head: bytes) -> Environ:
    """What follows from a head, or from its end: on a copy of `base` all but the target."""
    entry = _entry if len(head) <= _KNOWN_LINES else _entry.__wrapped__
    lines = head.split(b"\r\n")[1:-2]
    known = dict(map(entry, lines))
    if len(known) < len(lines):
        known = _joined(map(entry, lines))
    known.pop("", None)
    environ = base | known
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if framing.version == "1.1" else "HTTP/1.0"
    environ["REQUEST_METHOD"] = framing.method
    if framing.content_length is not None:
        environ["CONTENT_LENGTH"] = str(framing.content_length)
    return environ


@lru_cache(maxsize=512)  # whatever differs between the heads of two clients, most of their lines are the same
def _entry(line: bytes) -> tuple[str, str]:
    """Key and value of a field in an environ; an empty key drops it.

    One whose name has an underscore is dropped: it would read as one with a hyphen, which a proxy in front may have
    judged.
    """
    raw, _, rest = line.partition(b":")
    if b"_" in raw:
        return "", ""
    name = raw.decode("ascii").upper().replace("-", "_")
    value = rest.strip(b" \t").decode("latin-1")
    if name == "CONTENT_TYPE":
        return name, value
    return ("", "") if name in _LEFT_OUT else (f"HTTP_{name}", value)


def _joined(entries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Entries of which some have the same key: their values make one."""
    known: dict[str, str] = {}
    for key, value in entries:
        if key not in known:
            known[key] = value
        elif key != "CONTENT_TYPE":  # of these the first one counts
            known[key] += f"{'; ' if key in _COOKIES else ','}{value}"
    return known


def _origin_form(environ: Environ, target: str) -> str:
    """The path and query of a target in another form; the host that it names wins (RFC 9112 section 3.2.2)."""
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        return ""  # `OPTIONS *` asks about the server as a whole
    authority, path = absolute.groups()
    environ["HTTP_HOST"] = authority.rpartition("@")[2]
    return path if path.startswith("/") else f"/{path}"
