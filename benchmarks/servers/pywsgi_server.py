"""The contenders on gevent.pywsgi: as it comes, and with --nodelay TCP_NODELAY on the accepted sockets."""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
from gevent.pywsgi import WSGIServer

from ..payloads import CHUNK, DOWNLOAD, HELLO
from .gate import Gate

PIECE = 64 * 1024  # bytes of an upload read at a time, what one recv brings the other servers

StartResponse = Callable[[str, list[tuple[str, str]]], object]

gate = Gate()


def answer(start_response: StartResponse, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def hello(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, HELLO)


def echo(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, environ["wsgi.input"].read())


def download(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, DOWNLOAD)


def stream(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(int(environ["QUERY_STRING"].partition("bytes=")[2]) // len(CHUNK)):
        yield CHUNK


def upload(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"]
    return answer(start_response, b"%d" % sum(len(piece) for piece in iter(lambda: body.read(PIECE), b"")))


def parked(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    gate.wait()
    return answer(start_response, HELLO)


def waiting(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, b"%d" % gate.waiting)


def release(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    gate.open()
    return answer(start_response, HELLO)


ROUTES = {
    "/hello": hello,
    "/echo": echo,
    "/download": download,
    "/stream": stream,
    "/upload": upload,
    "/parked": parked,
    "/waiting": waiting,
    "/release": release,
}


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return ROUTES[environ["PATH_INFO"]](environ, start_response)


if __name__ == "__main__":
    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    if "--nodelay" in sys.argv:
        # On Linux, accepted sockets inherit it.
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(server.server_port)
    print(f"gevent.pywsgi {gevent.__version__}, Python {platform.python_version()}", flush=True)
    server.serve_forever()
