"""Thousands of client connections that mostly do nothing: idle after an answer, or waiting for one."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from types import TracebackType

from .exchange import TIMEOUT, receive
from .results import VoidRunError

__all__ = ["BATCH", "Crowd"]

BATCH = 100  # connections at a time, well below the shortest backlog of the contenders (pywsgi's 256)
_PORTS = 20_000  # connections from one source address; Linux has 28,232 ephemeral ports for each
_IP_BIND_ADDRESS_NO_PORT = 24  # ip(7); the socket module names it from Python 3.12 on


class Crowd:
    """A context manager that closes all of its connections on leaving.

    Args:
        context: of our side, if the server speaks TLS.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._port, self._context = port, context
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._sockets:
            sock.close()

    def __len__(self) -> int:
        return len(self._sockets)

    def ask(self, path: str, count: int) -> None:
        """Open `count` more connections, each with a GET of `path` under way."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode()
        try:
            for _ in range(count):
                self._connect().sendall(request)
        except OSError as error:
            raise VoidRunError(f"connection {len(self)}: {error!r}") from error

    def receive(self, reply: bytes, count: int) -> None:
        """Read the answers that the newest `count` connections wait for; each must be `reply`."""
        for number, sock in enumerate(self._sockets[len(self) - count :], len(self) - count + 1):
            response = http.client.HTTPResponse(sock)
            try:
                response.begin()
                receive(response, reply)
            except (OSError, http.client.HTTPException) as error:
                raise VoidRunError(f"answer on connection {number}: {error!r}") from error
            finally:
                response.close()

    def must_be_silent(self) -> None:
        """Raises VoidRunError if a connection was closed, or answered unasked."""
        poll = select.poll()
        for sock in self._sockets:
            poll.register(sock, select.POLLIN)
        if ready := poll.poll(0):
            raise VoidRunError(f"{len(ready)} of {len(self)} waiting connections were closed or answered")

    def _connect(self) -> socket.socket:
        number = len(self)
        sock = socket.socket()
        self._sockets.append(sock)
        sock.settimeout(TIMEOUT)
        # Without this option bind() takes a port from all destinations, TIME_WAIT of earlier runs included.
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{1 + len(self) // _PORTS}", 0))
        sock.connect(("127.0.0.1", self._port))
        if self._context is not None:
            sock = self._sockets[number] = self._context.wrap_socket(sock, server_hostname="127.0.0.1")
        return sock
