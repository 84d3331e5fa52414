"""Upgrade and CONNECT on the server: to whom the socket belongs, and that no byte is lost or seen twice."""

from __future__ import annotations

import pytest
from gevent.event import AsyncResult, Event

from .support import Heard, exchange, get

UPGRADE = get("/chat", headers="Connection: Upgrade\r\nUpgrade: WebSocket\r\n")
CONNECT = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"


def test_the_listener_gets_request_socket_and_the_bytes_after_the_head(serve, connect):
    """Behaviour 7.1"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))

    def upgraded(req, socket, head):
        heard.note("upgrade", req.url, req.headers["upgrade"], head, req.socket is socket)
        socket.end("raw bytes")

    server.on("upgrade", upgraded)
    client = connect(server).send(UPGRADE + b"WjN}|M(6")
    assert client.read_all() == b"raw bytes"
    assert heard == [("upgrade", "/chat", "WebSocket", b"WjN}|M(6", True)]


def test_no_bytes_after_the_head_then_head_is_empty(serve, connect):
    """Behaviour 7.1"""
    heads = AsyncResult()
    server = serve()
    server.on("upgrade", lambda req, socket, head: (heads.set(head), socket.end()))
    assert connect(server).send(UPGRADE).read_all() == b""
    assert heads.get(timeout=5) == b""


@pytest.mark.parametrize("request_bytes", [UPGRADE, CONNECT])
def test_without_a_listener_the_connection_is_closed_and_others_are_served(serve, connect, request_bytes):
    """Behaviour 7.2, Behaviour 7.7"""
    server = serve(lambda req, res: res.end(req.url))
    other = connect(server)
    assert exchange(server, request_bytes) == b""
    assert other.send(get("/other")).read_response().body == b"/other"


def test_later_bytes_are_read_by_the_listener_only_and_none_is_lost(serve, connect):
    """Behaviour 7.3"""
    server = serve()

    def upgraded(req, socket, head):
        socket.write(b"ready")
        got = head + socket.read(6)
        socket.write(got)
        rest = socket.read()
        socket.end(b"<" + rest + b">")

    server.on("upgrade", upgraded)
    client = connect(server).send(UPGRADE + b"ab")
    assert client.read_exactly(5) == b"ready"
    client.send(b"cdef")
    client.send(b"gh")
    assert client.read_exactly(8) == b"abcdefgh"
    client.send(get("/not/http")).half_close()
    assert client.read_all() == b"<" + get("/not/http") + b">"


def test_the_socket_as_a_stream_of_events_pipes_back(serve, connect):
    """Behaviour 7.3"""
    server = serve()
    server.on("upgrade", lambda req, socket, head: (socket.write(head), socket.pipe(socket)))
    client = connect(server).send(UPGRADE)
    client.send(b"x" * 100_000).half_close()
    assert client.read_all() == b"x" * 100_000


def test_connect_gets_host_and_port_and_a_raw_socket(serve, connect):
    """Behaviour 7.7"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))

    def connected(req, socket, head):
        heard.note("connect", req.method, req.url, head)
        socket.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        socket.end(head[::-1])

    server.on("connect", connected)
    client = connect(server).send(CONNECT + b"abc")
    assert client.read_all() == b"HTTP/1.1 200 Connection established\r\n\r\ncba"
    assert heard == [("connect", "CONNECT", "example.com:443", b"abc")]


def test_the_answers_before_an_upgrade_go_out_first(serve, connect):
    go = Event()
    server = serve(lambda req, res: (go.wait(), res.end(req.url)))
    server.on("upgrade", lambda req, socket, head: socket.end(b"raw" + head))
    client = connect(server).send(get("/1") + UPGRADE + b"tail")
    go.set()
    assert client.read_response().body == b"/1"
    assert client.read_all() == b"rawtail"


@pytest.mark.parametrize(("event", "raw"), [("upgrade", UPGRADE), ("connect", CONNECT)])
def test_a_listener_that_raises_is_logged_and_the_socket_not_left_locked(serve, connect, logged, event, raw):
    """Behaviour 1.14"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))

    def listener(req, socket, head):
        raise LookupError("by the listener")

    server.on(event, listener)
    assert connect(server).send(raw).closed()
    logged.claim("by the listener")
    assert heard == []


def test_detach_gives_a_plain_gevent_socket_that_first_returns_the_unread_bytes(serve, connect):
    server = serve()
    detached = AsyncResult()

    def upgraded(req, socket, head):
        socket.write(b"ready")
        first = socket.read(2)
        plain = socket.detach()
        assert socket.destroyed
        detached.set((first, plain))

    server.on("upgrade", upgraded)
    client = connect(server).send(UPGRADE)
    assert client.read_exactly(5) == b"ready"
    client.send(b"abcdef")
    first, plain = detached.get(timeout=5)
    with plain:
        plain.settimeout(5)
        assert first == b"ab"
        assert plain.recv(1) + plain.recv(100) == b"cdef"
        plain.sendall(b"answer")
        client.send(b"more")
        buffer = bytearray(4)
        assert plain.recv_into(buffer) == 4
        assert buffer == b"more"
    assert client.read_all() == b"answer"


def test_close_does_not_wait_for_a_socket_that_was_given_away(serve, connect):
    sockets = AsyncResult()
    server = serve()
    server.on("upgrade", lambda req, socket, head: sockets.set(socket))
    client = connect(server).send(UPGRADE)
    socket = sockets.get(timeout=5)
    server.close()
    assert server.join(5)
    socket.end("still here")
    assert client.read_all() == b"still here"


@pytest.mark.parametrize(
    ("framing", "body"),
    [("Content-Length: 4\r\n", b"body"), ("Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\n\r\n"), ("", b"")],
)
def test_ignore_upgrade_answers_as_if_there_were_none_and_frames_the_body(serve, connect, framing, body):
    urls = []

    def handler(req, res):
        urls.append(req.url)
        res.end(req.read())

    client = connect(serve(handler, ignore_upgrade=True))
    lines = framing + "Connection: Upgrade\r\nUpgrade: WebSocket\r\n"
    client.send(get("/1", method="POST", headers=lines) + body + get("/2"))
    assert client.read_response().body == (b"body" if body else b"")
    assert client.read_response().body == b""
    assert urls == ["/1", "/2"]


def test_ignore_upgrade_with_the_body_byte_by_byte(serve, connect):
    client = connect(serve(lambda req, res: res.end(req.read()), ignore_upgrade=True))
    raw = get("/", method="POST", headers="Connection: Upgrade\r\nUpgrade: x\r\n", body=b"body") + get("/2")
    for byte in raw:
        client.send(bytes([byte]))
    assert [client.read_response().body, client.read_response().body] == [b"body", b""]


def test_an_offer_of_h2c_is_answered_as_plain_http_1_1(serve, connect):
    client = connect(serve(lambda req, res: res.end(req.url + " " + req.http_version)))
    lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    client.send(get("/h2", headers=lines))
    assert client.read_response().body == b"/h2 1.1"
    assert client.send(get("/next")).read_response().body == b"/next 1.1"


def test_upgrade_without_the_connection_option_is_an_ordinary_request(serve, connect):
    client = connect(serve(lambda req, res: res.end(req.url)))
    assert client.send(get("/plain", headers="Upgrade: WebSocket\r\n")).read_response().body == b"/plain"
    assert client.send(get("/next")).read_response().body == b"/next"
