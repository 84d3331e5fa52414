"""`Server.close()`: who is closed at once, whose next request is still answered, and when it is over."""

from __future__ import annotations

import socket as stdlib_socket
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event

import greenhttp
from greenhttp import rate, server

from .peer import hello
from .support import LIMIT, RawClient, bounded, eventually, get
from .visitors import descriptors

QUICK = 3.0  # seconds for an end that waits for nobody; it takes some tenths
HOUR = 3600.0


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long nothing moves, a request may be on its way."""
    monkeypatch.setattr(server, "IDLE_AFTER", HOUR)


@pytest.fixture
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is idle as soon as nothing is under way."""
    monkeypatch.setattr(server, "IDLE_AFTER", 0.0)


def in_kernel(address: Any, *pieces: bytes) -> stdlib_socket.socket:
    """A client that has connected, and sent `pieces`, before the server's hub had a turn."""
    client = stdlib_socket.create_connection(address, LIMIT)
    for piece in pieces:
        client.sendall(piece)
    return client


def all_of(client: stdlib_socket.socket) -> bytes:
    """What comes until the server's end, while the hub runs."""
    with bounded("the server's end"):
        gevent.socket.wait_read(client.fileno())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
            gevent.socket.wait_read(client.fileno())
    client.close()
    return answer


# --- idle connections ---


def test_given_connections_that_rest_when_the_server_closes_then_they_close_at_once(serve, connect, soon_idle):
    server = serve(hello)
    clients = [connect(server) for _ in range(3)]
    clients[0].send(get()).read_response()
    eventually(lambda: "connections=3" in repr(server), "the connections")

    server.close()

    assert "connections=0" in repr(server)  # before anybody else had a turn
    assert all(client.closed() for client in clients)


def test_given_connections_that_were_just_used_when_the_server_closes_then_they_close_a_moment_later(serve, connect):
    server = serve(hello)
    new, used = connect(server), connect(server)
    used.send(get()).read_response()

    server.close()

    with bounded("the end", QUICK):
        assert new.closed()
        assert used.closed()
        assert server.join()


@pytest.mark.parametrize("requests", [0, 2])
def test_given_a_next_request_on_its_way_when_the_server_closes_then_it_is_answered(
    serve, connect, never_idle, requests
):
    server = serve(hello)
    client = connect(server)
    for _ in range(requests):
        assert client.send(get()).read_response()["connection"] == "keep-alive"
    eventually(lambda: "connections=1" in repr(server), "the connection")

    server.close()
    assert not server.join(0.01)
    answer = client.send(get("/last")).read_response()

    assert (answer.status, answer["connection"]) == (200, "close")
    assert client.closed()
    assert server.join(LIMIT)


def test_given_a_request_that_nobody_has_read_when_the_server_closes_then_it_is_answered(serve, connect, soon_idle):
    server = serve(hello)
    client = in_kernel(server.address())
    eventually(lambda: "connections=1" in repr(server), "the connection")
    client.sendall(get("/unread"))

    server.close()

    answer = all_of(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer


def test_given_only_an_empty_line_that_nobody_has_read_when_the_server_closes_then_it_closes(serve, soon_idle):
    server = serve(hello)
    client = in_kernel(server.address())
    eventually(lambda: "connections=1" in repr(server), "the connection")
    client.sendall(b"\r\n")

    server.close()

    assert all_of(client) == b""


def test_given_a_request_that_waits_for_the_pool_when_the_server_closes_then_it_is_answered(serve, connect, soon_idle):
    go, began = Event(), Event()

    def handler(req: Any, res: Any) -> None:
        began.set()
        go.wait()
        res.end(req.url)

    server = serve(handler, pool=1)
    first = connect(server).send(get("/1"))
    assert began.wait(LIMIT)
    second = connect(server).send(get("/2"))
    eventually(lambda: server._pool_waiting, "the second request")

    server.close()
    go.set()

    assert first.read_response().body == b"/1"
    assert second.read_response().body == b"/2"


def test_given_an_answer_begun_as_kept_when_the_server_closes_then_the_request_after_it_is_answered(
    serve, connect, never_idle
):
    go = Event()

    def handler(req: Any, res: Any) -> None:
        if req.url == "/stream":
            res.write("first ")
            go.wait()
        res.end("last")

    server = serve(handler)
    client = connect(server).send(get("/stream"))
    head = client.read_head()
    assert head["connection"] == "keep-alive"

    server.close()
    go.set()
    while client.read_chunk():
        pass
    assert client.read_exactly(2) == b"\r\n"
    answer = client.send(get()).read_response()

    assert (answer.body, answer["connection"]) == (b"last", "close")
    assert server.join(LIMIT)


def test_given_an_answer_begun_as_kept_and_no_more_when_the_server_closes_then_it_waits_a_moment(serve, connect):
    go = Event()

    def handler(req: Any, res: Any) -> None:
        res.write("first ")
        go.wait()
        res.end()

    server = serve(handler)
    client = connect(server).send(get())
    client.read_head()

    server.close()
    go.set()

    with bounded("the end", QUICK):
        assert server.join()


def test_close_idle_connections_spares_nobody_for_having_just_been_used(serve, connect, never_idle):
    server = serve(hello)
    new, used = connect(server), connect(server)
    used.send(get()).read_response()
    eventually(lambda: "connections=2" in repr(server), "the connections")

    server.close_idle_connections()

    assert "connections=0" in repr(server)
    assert new.closed()
    assert used.closed()
    assert connect(server).send(get()).read_response().status == 200  # it still listens


# --- connections that wait to be accepted ---


@pytest.mark.parametrize("path", [False, True])
def test_given_connections_that_wait_when_the_server_closes_then_their_requests_are_answered(
    tmp_path: Any, nothing_left: None, path: bool
) -> None:
    server = greenhttp.create_server(hello)
    server.listen(*((f"{tmp_path}/s",) if path else (0, "127.0.0.1")))
    clients = []
    for _ in range(20):
        client = stdlib_socket.socket(stdlib_socket.AF_UNIX if path else stdlib_socket.AF_INET)
        client.connect(server.address())
        client.sendall(get())
        clients.append(client)
    address = server.address()

    server.close()

    with stdlib_socket.socket(clients[0].family) as late, pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        late.connect(address)
    for client in clients:
        assert all_of(client).startswith(b"HTTP/1.1 200 ")
    assert server.join(LIMIT)


def test_given_more_that_wait_than_may_be_accepted_when_the_server_closes_then_the_limit_holds(serve):
    server = serve(hello, max_connections=2)
    clients = [in_kernel(server.address(), get()) for _ in range(3)]

    server.close()

    assert "connections=2" in repr(server)
    assert [all_of(client)[:13] for client in clients[:2]] == [b"HTTP/1.1 200 "] * 2
    clients[2].close()


def test_given_a_connection_listener_when_close_accepts_then_it_is_told(serve):
    told = []
    server = serve(hello)
    server.on("connection", told.append)
    client = in_kernel(server.address(), get())

    server.close()

    assert all_of(client).startswith(b"HTTP/1.1 200 ")
    assert len(told) == 1


# --- the end ---


def test_given_no_connection_when_the_server_closes_then_it_waits_for_nothing(serve, never_idle, monkeypatch):
    monkeypatch.setattr(server, "LOOK_AGAIN", HOUR)
    closing = serve(hello)

    closing.close()

    assert closing.join(LIMIT)


def test_given_one_idle_connection_when_the_server_closes_then_close_comes_once(serve, connect, soon_idle):
    events: list[str] = []
    server = serve(hello)
    server.on("close", lambda: events.append("close"))
    client = connect(server)
    client.send(get()).read_response()

    server.close()

    assert server.join(LIMIT)
    gevent.sleep(0)
    assert events == ["close"]


def test_given_a_server_that_listens_again_when_its_close_looks_once_more_then_nobody_is_closed(
    serve, connect, soon_idle, monkeypatch
):
    monkeypatch.setattr(server, "LOOK_AGAIN", 0.02)
    twice = serve(hello)
    with RawClient(twice) as first:
        eventually(lambda: "connections=1" in repr(twice), "the connection")
        first.send(b"GET / HT")
        eventually(lambda: "head" in repr(twice._connections), "the head")
        twice.close()
    assert twice.join(LIMIT)

    twice.listen(0, "127.0.0.1")
    client = connect(twice)
    asked_until = time.monotonic() + 0.1
    while time.monotonic() < asked_until:
        assert client.send(get()).read_response()["connection"] == "keep-alive"
        gevent.sleep(0.002)


@descriptors(2500)  # both ends of 1,000 connections, and some more
def test_given_a_thousand_idle_connections_when_the_server_closes_then_it_is_soon_over(serve, connect):
    server = serve(hello)
    clients = [connect(server) for _ in range(1000)]
    for client in clients:
        assert client.send(get()).read_response()["connection"] == "keep-alive"
    begin = time.monotonic()

    server.close()

    assert server.join(LIMIT)
    assert time.monotonic() - begin < QUICK
    assert all(client.closed() for client in clients)


# --- a client that does not take its last answer ---


@pytest.mark.parametrize("half_closed", [False, True])
def test_given_a_client_that_stops_reading_its_last_answer_then_it_is_cut_without_a_timeout(
    serve, connect, monkeypatch, half_closed
):
    monkeypatch.setattr(rate, "GRACE", 0.05)
    server = serve(
        lambda req, res: res.end(b"x" * 20_000_000), timeout=0, min_data_rate=1e12, http_allow_half_open=True
    )
    client = connect(server).send(get(headers="Connection: close\r\n"))
    if half_closed:
        client.half_close()
    client.read_exactly(1)

    server.close()

    assert server.join(LIMIT)


def test_given_a_client_that_takes_its_last_answer_slowly_enough_then_it_gets_all(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.01)
    server = serve(lambda req, res: res.end(b"x" * 20_000_000), timeout=0, min_data_rate=1000)
    client = connect(server).send(get(headers="Connection: close\r\n"))

    assert len(client.read_response().body) == 20_000_000


def test_given_no_least_data_rate_then_nobody_is_cut_for_it(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.01)
    server = serve(lambda req, res: res.end(b"x" * 20_000_000), timeout=0, min_data_rate=0)
    client: RawClient = connect(server).send(get(headers="Connection: close\r\n"))
    client.read_exactly(1)
    gevent.sleep(0.1)

    assert len(client.read_all()) > 20_000_000 - 1
