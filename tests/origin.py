"""A server made of bytes: what a client sends comes in as it was sent, and what a test wants goes out as it is."""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.pool import Group

from .support import Fields, RawClient, bounded, eventually, fields


@dataclass
class Request(Fields):
    """A request as the origin has read it."""

    method: str
    path: str
    version: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes = b""
    raw_body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)


class Peer(RawClient):
    """The origin's end of one connection; what it can do is what `RawClient` can."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def read_request_head(self) -> Request:
        """The next request's head only."""
        head = self.read_until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, path, version = first.split(" ")
        return Request(method, path, version, fields(lines), head)

    def read_request(self) -> Request:
        """The next request with its body."""
        request = self.read_request_head()
        if (request["transfer-encoding"] or "").lower() == "chunked":
            self._read_chunks(request)
        elif request["content-length"] is not None:
            request.raw_body = request.body = self.read_exactly(int(request["content-length"]))
        return request

    def answer(self, data: bytes) -> Request:
        """Read a request whole, then send `data`. Returns the request."""
        request = self.read_request()
        self.send(data)
        return request


#: Bytes to send when a request has come; or what to do with the connection then.
Answer = bytes | Callable[[Peer], object]


class Origin:
    """A listening socket on 127.0.0.1. Either the test accepts by hand, or `script()` answers by itself."""

    def __init__(self) -> None:
        self.listener = socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1000)
        #: What has connected, in order.
        self.peers: list[Peer] = []
        #: What came, in order; of the script only.
        self.requests: list[Request] = []
        self._answers: list[Answer] = []
        self._running = Group()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    def url(self, path: str = "/") -> str:
        """`path` here."""
        return f"http://127.0.0.1:{self.port}{path}"

    def accept(self) -> Peer:
        """The next connection, by hand."""
        with bounded("a connection to the origin"):
            sock, _ = self.listener.accept()
        peer = Peer(sock)
        self.peers.append(peer)
        return peer

    def script(self, *answers: Answer) -> Origin:
        """From now on: one answer to each request, on whatever connection; the last for all that follow. Returns the
        origin."""
        self._answers = list(answers)
        if not self._running:
            self._running.spawn(self._accept_all)
        return self

    def wait_for_request(self, count: int = 1) -> Request:
        """Block until the script has read `count` requests; the last of them."""
        eventually(lambda: len(self.requests) >= count, f"request {count}, after {self.requests}")
        return self.requests[count - 1]

    def close(self) -> None:
        """Close everything."""
        self._running.kill()
        self.listener.close()
        for peer in self.peers:
            peer.close()

    def _accept_all(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            peer = Peer(sock)
            self.peers.append(peer)
            self._running.spawn(self._serve, peer)

    def _serve(self, peer: Peer) -> None:
        try:
            while self._wait_for_bytes(peer):
                request = peer.read_request()
                self.requests.append(request)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if isinstance(answer, bytes):
                    peer.send(answer)
                else:
                    answer(peer)
        except OSError:  # the client has gone
            pass
        finally:
            peer.close()

    @staticmethod
    def _wait_for_bytes(peer: Peer) -> bool:
        if peer.buffer:
            return True
        peer.buffer = peer.sock.recv(64 * 1024) if not peer.sock.closed else b""
        return bool(peer.buffer)


def then_close(data: bytes) -> Callable[[Peer], None]:
    """An answer that sends `data` and closes the connection."""
    return lambda peer: peer.send(data).close()


def ok(body: bytes = b"", *, status: str = "200 OK", headers: str = "", version: str = "1.1") -> bytes:
    """A response with a `Content-Length` as bytes. `headers` are whole lines that end with CRLF."""
    head = f"HTTP/{version} {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode("latin-1") + body


@pytest.fixture
def origin(nothing_left: Any) -> Iterator[Origin]:
    """A server made of bytes, closed after the test."""
    made = Origin()
    yield made
    made.close()
    gevent.sleep(0)  # clients see the end
