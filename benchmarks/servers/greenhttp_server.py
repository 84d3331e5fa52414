"""The contender greenhttp, over TLS if it gets a certificate. The other servers do what this one does, path by path."""

from __future__ import annotations

import argparse
import platform
import ssl

import gevent

import greenhttp
from greenhttp import IncomingMessage, ServerResponse

from ..payloads import CHUNK, DOWNLOAD, HELLO
from .gate import Gate

gate = Gate()


def answer(res: ServerResponse, body: bytes) -> None:
    res.set_header("Content-Type", "text/plain")
    res.end(body)


def hello(req: IncomingMessage, res: ServerResponse) -> None:
    answer(res, HELLO)


def echo(req: IncomingMessage, res: ServerResponse) -> None:
    answer(res, req.read())


def download(req: IncomingMessage, res: ServerResponse) -> None:
    answer(res, DOWNLOAD)


def stream(req: IncomingMessage, res: ServerResponse) -> None:
    """`?bytes=N`, a multiple of the chunk's size; `write()` blocks while the client is slower than we are."""
    res.set_header("Content-Type", "text/plain")
    for _ in range(int(req.url.partition("?bytes=")[2]) // len(CHUNK)):
        res.write(CHUNK)
    res.end()


def upload(req: IncomingMessage, res: ServerResponse) -> None:
    answer(res, b"%d" % sum(len(chunk) for chunk in req))


def parked(req: IncomingMessage, res: ServerResponse) -> None:
    gate.wait()
    answer(res, HELLO)


def waiting(req: IncomingMessage, res: ServerResponse) -> None:
    answer(res, b"%d" % gate.waiting)


def release(req: IncomingMessage, res: ServerResponse) -> None:
    gate.open()
    answer(res, HELLO)


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


def handle(req: IncomingMessage, res: ServerResponse) -> None:
    ROUTES[req.url.partition("?")[0]](req, res)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cert")
    parser.add_argument("--key")
    identity = parser.parse_args()
    if identity.cert is None:
        server, tls = greenhttp.create_server(handle), ""
    else:
        server = greenhttp.https.create_server(handle, cert=identity.cert, key=identity.key)
        tls = f", {ssl.OPENSSL_VERSION}"
    server.listen(0, "127.0.0.1")
    print(server.address()[1])
    versions = f"gevent {gevent.__version__}, Python {platform.python_version()}"
    print(f"greenhttp {greenhttp.__version__}, {versions}{tls}", flush=True)
    server.serve_forever()
