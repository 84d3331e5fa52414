"""What the live tests share: a raw client that sees every byte, and a record of events. Every wait here is bounded."""

from __future__ import annotations

import socket as stdlib_socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from greenhttp import https

from .tls import TLSWire

LIMIT = 5.0  # seconds that a test waits for anything before it fails


@contextmanager
def bounded(what: object, seconds: float = LIMIT) -> Iterator[None]:
    """Fail with `what` (asked for its `str` only then) unless the block ends in time."""
    timeout = gevent.Timeout(seconds)
    timeout.start()
    try:
        yield
    except gevent.Timeout as caught:
        if caught is not timeout:
            raise
        raise AssertionError(f"nothing came within {seconds} s: {what}") from None
    finally:
        timeout.close()


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition()` holds. For facts that have no event, such as what the kernel holds."""
    with bounded(what):
        while not condition():
            gevent.sleep(0.002)


class Heard(list[tuple[Any, ...]]):
    """The events of emitters, in order, as tuples `(event, *args)`."""

    def __init__(self) -> None:
        super().__init__()
        self._more = Event()

    def listen(self, emitter: Any, *events: str) -> Heard:
        """Record `events` of `emitter`. Returns the record."""
        for event in events:
            emitter.on(event, lambda *args, event=event: self.note(event, *args))
        return self

    def note(self, event: str, *args: Any) -> None:
        """Record by hand."""
        self.append((event, *args))
        self._more.set()

    @property
    def names(self) -> list[str]:
        """The events without their arguments."""
        return [entry[0] for entry in self]

    def wait_for(self, event: str, count: int = 1) -> tuple[Any, ...]:
        """Block until `event` has come `count` times; what came with the last of them."""
        with bounded(f"{event!r} after {self.names}"):
            while self.names.count(event) < count:
                self._more.clear()
                self._more.wait()
        return [entry for entry in self if entry[0] == event][count - 1][1:]


class Fields:
    """The fields of a message, by name in any letter case."""

    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """Every value of `name`."""
        return [value for found, value in self.headers if found.lower() == name.lower()]

    def __getitem__(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None


@dataclass
class Response(Fields):
    """An answer as the raw client has parsed it."""

    version: str
    status: int
    message: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes = b""
    raw_body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)


class RawClient:
    """One client connection, by hand.

    Args:
        where: a server, its `address()`, or the path of a Unix socket.
        receive_buffer: bytes that the kernel takes for a reader that does not read.
        secure: speak TLS; an https server is known to want it.
    """

    def __init__(self, where: Any, *, receive_buffer: int | None = None, secure: bool = False) -> None:
        address = where.address() if hasattr(where, "address") else where
        family = stdlib_socket.AF_UNIX
        if not isinstance(address, str):
            family = stdlib_socket.AF_INET6 if len(address) == 4 else stdlib_socket.AF_INET
        self.buffer = b""
        self.sock: Any = socket.socket(family, stdlib_socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, receive_buffer)
        try:
            with bounded(f"a connection to {address}"):
                self.sock.connect(address)
                if secure or isinstance(where, https.Server):
                    self.sock = TLSWire(self.sock).handshake()
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def local_port(self) -> int:
        """The port of our end."""
        return int(self.sock.getsockname()[1])

    def send(self, data: bytes) -> RawClient:
        """Send all of `data`. Returns the client."""
        with bounded(f"room to send {len(data)} bytes"):
            self.sock.sendall(data)
        return self

    def half_close(self) -> RawClient:
        """Send our end (FIN); reading goes on. Returns the client."""
        self.sock.shutdown(stdlib_socket.SHUT_WR)
        return self

    def close(self) -> None:
        """Close our side, politely if everything was read."""
        self.sock.close()

    def reset(self) -> None:
        """Close with a reset (RST)."""
        self.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def cut(self) -> None:
        """Close without the polite end that TLS has."""
        if isinstance(self.sock, TLSWire):
            self.sock.cut()
        else:
            self.sock.close()

    def _more(self, wanted: str) -> bool:
        with bounded(f"{wanted}, after {self.buffer[-200:]!r}"):
            data = self.sock.recv(256 * 1024)
        self.buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def read_until(self, mark: bytes) -> bytes:
        """The bytes up to `mark`, with it."""
        while mark not in self.buffer:
            assert self._more(f"{mark!r}"), f"the connection ended before {mark!r}: {self.buffer!r}"
        return self._take(self.buffer.index(mark) + len(mark))

    def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self.buffer) < size:
            assert self._more(f"{size} bytes"), f"the connection ended at {len(self.buffer)} of {size} bytes"
        return self._take(size)

    def read_all(self) -> bytes:
        """Everything until the server's end; a reset raises `ConnectionResetError`."""
        while self._more("the end of the connection"):
            pass
        return self._take(len(self.buffer))

    def read_head(self) -> Response:
        """The next answer's head only."""
        head = self.read_until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, message = (*first.split(" ", 2), "")[:3]
        return Response(version, int(status), message, fields(lines), head)

    def read_response(self, method: str = "GET") -> Response:
        """The next final answer with its body; interim ones come by `read_head`."""
        response = self.read_head()
        if method == "HEAD" or response.status < 200 or response.status in (204, 304):
            return response
        if (response["transfer-encoding"] or "").lower() == "chunked":
            self._read_chunks(response)
        elif response["content-length"] is not None:
            response.raw_body = response.body = self.read_exactly(int(response["content-length"]))
        else:
            response.raw_body = response.body = self.read_all()
        return response

    def read_chunk(self) -> bytes:
        """One chunk of a chunked body, without its framing; b'' for the last, whose trailers are still to be read."""
        size = int(self.read_until(b"\r\n")[:-2], 16)
        if not size:
            return b""
        chunk = self.read_exactly(size)
        assert self.read_exactly(2) == b"\r\n"
        return chunk

    def _read_chunks(self, response: Any) -> None:
        chunks = []
        while chunk := self.read_chunk():
            chunks.append(chunk)
            response.raw_body += b"%x\r\n%b\r\n" % (len(chunk), chunk)
        response.body = b"".join(chunks)
        lines = []
        while (line := self.read_until(b"\r\n")) != b"\r\n":
            lines.append(line[:-2].decode("latin-1"))
        response.trailers = fields(lines)
        response.raw_body += b"0\r\n" + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"

    def closed(self) -> bool:
        """Wait for the server's end, or a reset; whether it came before any other byte."""
        if self.buffer:
            return False
        try:
            return not self._more("the end of the connection")
        except ConnectionResetError:
            return True


def fields(lines: list[str]) -> list[tuple[str, str]]:
    """Header lines as pairs."""
    pairs = [line.partition(":") for line in lines]
    return [(name, value.strip(" \t")) for name, _, value in pairs]


def exchange(where: Any, data: bytes) -> bytes:
    """Send `data` on a connection of its own; everything that comes back until the server closes it."""
    with RawClient(where) as client:
        return client.send(data).read_all()


def get(path: str = "/", *, method: str = "GET", version: str = "1.1", headers: str = "", body: bytes = b"") -> bytes:
    """A request as bytes. `headers` are whole lines that end with CRLF; a body gets its `Content-Length`."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/{version}\r\nHost: a\r\n{length}{headers}\r\n".encode("latin-1") + body


# --- WSGI ---

OK = "200 OK"
TEXT = ("Content-Type", "text/plain")

App = Callable[[dict[str, Any], Callable[..., Any]], Any]


def body_app(*body: bytes, headers: tuple[tuple[str, str], ...] = (TEXT,), status: str = OK) -> App:
    """An application that returns a list."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return list(body)

    return app


def answer_of(where: Any, request: bytes = get(headers="Connection: close\r\n")) -> Response:
    """The answer to one request on a connection of its own."""
    with RawClient(where) as sender:
        return sender.send(request).read_response(request.split()[0].decode())
