"""The other end of a live test: a client that says the bytes it is told, and servers that live for one block."""

from __future__ import annotations

import socket as stdlib_socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gevent
import gevent.socket

import greenhttp

PATIENCE = 5.0  # seconds after which a test that waits has failed


class Answer(NamedTuple):
    """One response as it came: `fields` are its header lines by lower-case name, `raw` is its head."""

    status: int
    fields: dict[str, str]
    body: bytes
    raw: bytes


class Peer:
    """A raw client of `server`."""

    def __init__(self, server: Any) -> None:
        address = server.address()
        if isinstance(address, tuple):
            host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(address[0], address[0])
            self.sock = gevent.socket.create_connection((host, address[1]), timeout=PATIENCE)
        else:
            self.sock = gevent.socket.socket(stdlib_socket.AF_UNIX)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(address)
        self.unread = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, path: str = "/", *lines: str, version: str = "1.1") -> None:
        """Send a request without a body."""
        head = "\r\n".join([f"GET {path} HTTP/{version}", "Host: a", *lines])
        self.send(f"{head}\r\n\r\n".encode())

    def ask(self, path: str = "/", *lines: str, version: str = "1.1") -> Answer:
        """Send a request without a body, and read the answer."""
        self.get(path, *lines, version=version)
        return self.answer()

    def end(self) -> None:
        """No more will be sent."""
        self.sock.shutdown(stdlib_socket.SHUT_WR)

    def reset(self) -> None:
        """Close so that the server gets an error instead of an end."""
        self.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def until(self, marker: bytes) -> bytes:
        """All up to `marker`, which must come."""
        while marker not in self.unread:
            self._more()
        found = self.unread.index(marker) + len(marker)
        data, self.unread = self.unread[:found], self.unread[found:]
        return data

    def exactly(self, size: int) -> bytes:
        while len(self.unread) < size:
            self._more()
        data, self.unread = self.unread[:size], self.unread[size:]
        return data

    def rest(self) -> bytes:
        """All until the server ends the connection, which it must do in an orderly way."""
        while data := self.sock.recv(65536):
            self.unread += data
        data, self.unread = self.unread, b""
        return data

    def answer(self) -> Answer:
        """One response. Interim answers count as one."""
        raw = self.until(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        body = b""
        if "content-length" in fields:
            body = self.exactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                self.exactly(2)
            self.until(b"\r\n")
        elif status >= 200 and status not in (204, 304):
            body = self.rest()
        return Answer(status, fields, body, raw)

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the server ended the connection after {self.unread!r}")
        self.unread += data


@contextmanager
def serving(handler: Any = None, *, where: Any = 0, host: str | None = "127.0.0.1", **options: Any) -> Iterator[Any]:
    """A server that listens within the block; afterwards it must be able to close at once."""
    server = greenhttp.create_server(handler, **options).listen(where, host)
    try:
        yield server
    finally:
        server.close()
        server.close_all_connections()
        assert server.join(PATIENCE), "the server did not close"


def wait_for(event: Any) -> Any:
    """What a `gevent.event.Event` or `AsyncResult` brings; it must come."""
    if hasattr(event, "get"):
        return event.get(timeout=PATIENCE)
    assert event.wait(PATIENCE), "the event did not come"
    return None


def hello(req: Any, res: Any) -> None:
    """Answers with the request's target."""
    res.end(f"hello {req.url}")
