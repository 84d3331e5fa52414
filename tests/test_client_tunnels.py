"""Upgrade and CONNECT on the client: to whom the socket belongs, and that no byte is lost or seen twice."""

from __future__ import annotations

import socket as stdlib_socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import AsyncResult

import greenhttp

from .support import LIMIT, Heard, bounded, eventually

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
OFFER = {"Connection": "Upgrade", "Upgrade": "echo"}

Begin = Callable[..., greenhttp.ClientRequest]


@pytest.fixture
def agent(serve: object) -> Iterator[greenhttp.Agent]:
    """Destroyed before the server is closed."""
    made = greenhttp.Agent(keep_alive=True)
    yield made
    made.destroy()


@pytest.fixture
def begin(agent: greenhttp.Agent) -> Begin:
    """`begin(server, **options)`: a request through `agent`, not ended."""

    def make(server: greenhttp.Server, **options: Any) -> greenhttp.ClientRequest:
        host, port = server.address()
        return greenhttp.request(host=host, port=port, **{"agent": agent, **options})

    return make


@pytest.fixture
def upgrade(begin: Begin) -> Begin:
    """`upgrade(server, **options)`: as `begin`, and it asks for an upgrade."""
    return lambda server, **options: begin(server, headers=OFFER, **options)


@pytest.fixture
def connect_to(begin: Begin) -> Begin:
    """`connect_to(server, path="a:1", **options)`: as `begin`, with CONNECT."""
    return lambda server, path="a:1", **options: begin(server, method="CONNECT", path=path, **options)


def answering(data: bytes) -> Callable[..., None]:
    """An `'upgrade'` or `'connect'` listener that sends `data`, then everything back."""

    def listener(req: Any, socket: Any, head: bytes) -> None:
        socket.write(data + head)
        for chunk in socket:
            socket.write(chunk)
        socket.end()

    return listener


def until_the_end(data: bytes, gone: AsyncResult[bytes]) -> Callable[..., None]:
    """A listener that sends `data`, and tells `gone` what comes until the client closes the connection."""

    def listener(req: Any, socket: Any, head: bytes) -> None:
        socket.write(data)
        gone.set(head + socket.read())
        socket.destroy()

    return listener


def response_of(req: greenhttp.ClientRequest) -> greenhttp.IncomingMessage:
    """The response, in the blocking style; the request is ended."""
    req.end()
    return req.get_response(LIMIT)


# --- upgrade, with listeners ---


def test_a_101_comes_as_upgrade_with_the_bytes_after_its_head_then_close(serve, upgrade):
    """Behaviour 7.4"""
    heard = Heard()
    server = serve().on("upgrade", lambda req, socket, head: socket.end(SWITCH + b"WjN}|M(6"))
    req = upgrade(server)
    heard.listen(req, "response", "upgrade", "close", "error")
    req.end()
    heard.wait_for("close")
    assert heard.names == ["upgrade", "close"]
    res, socket, head = heard[0][1:]
    assert (res.status_code, res.headers["upgrade"], head, res.socket is socket) == (101, "echo", b"WjN}|M(6", True)
    assert socket.read() == b""
    socket.destroy()


def test_the_listener_reads_what_comes_later_and_may_write(serve, upgrade):
    """Behaviour 7.3, Behaviour 7.4"""
    got = AsyncResult()

    def upgraded(res, socket, head):
        socket.write("sent by the client")
        socket.end()
        got.set(head + socket.read())

    server = serve().on("upgrade", answering(SWITCH + b"first, "))
    req = upgrade(server).on("upgrade", upgraded)
    req.end()
    assert got.get(timeout=LIMIT) == b"first, sent by the client"


def test_an_interim_answer_before_the_101_is_information(serve, upgrade):
    """Behaviour 4.13, Behaviour 7.4"""
    heard = Heard()
    server = serve().on("upgrade", answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + SWITCH))
    req = upgrade(server)
    heard.listen(req, "information", "upgrade", "response", "close")
    req.end()
    heard.wait_for("close")
    assert heard.names == ["information", "upgrade", "close"]
    heard[1][2].destroy()


def test_a_101_that_nobody_listens_to_closes_the_connection(serve, upgrade, agent):
    """Behaviour 7.4"""
    heard, gone = Heard(), AsyncResult()

    server = serve().on("upgrade", until_the_end(SWITCH, gone))
    req = upgrade(server)
    heard.listen(req, "response", "close", "error")
    req.end()
    heard.wait_for("close")
    assert gone.get(timeout=LIMIT) == b""
    assert heard.names == ["close"]
    assert not agent.sockets


def test_a_listener_that_raises_is_logged_and_the_socket_closed(serve, upgrade, logged):
    """Behaviour 1.14"""
    gone = AsyncResult()

    def listener(res, socket, head):
        raise LookupError("by the listener")

    server = serve().on("upgrade", until_the_end(SWITCH, gone))
    upgrade(server).on("upgrade", listener).end()
    assert gone.get(timeout=LIMIT) == b""
    logged.claim("by the listener")


def test_a_200_to_an_offer_of_an_upgrade_is_an_ordinary_response(serve, upgrade, begin, agent):
    """Behaviour 7.6"""
    heard = Heard()
    server = serve(lambda req, res: res.end(req.url), ignore_upgrade=True)
    req = upgrade(server, path="/offer")
    heard.listen(req, "response", "upgrade", "close")
    req.end()
    (res,) = heard.wait_for("response")
    assert (res.status_code, res.read()) == (200, b"/offer")
    heard.wait_for("close")
    assert heard.names == ["response", "close"]
    assert response_of(begin(server, path="/next")).read() == b"/next"


# --- upgrade, blocking ---


def test_get_response_returns_the_101_and_its_socket_reads_the_bytes_after_the_head_first(serve, upgrade):
    server = serve().on("upgrade", answering(SWITCH + b"after the head, "))
    res = response_of(upgrade(server))
    assert (res.status_code, res.status_message, res.headers["upgrade"]) == (101, "Switching Protocols", "echo")
    with bounded("the echo"):
        assert res.socket.read(16) == b"after the head, "
        res.socket.write("ping")
        assert res.socket.read(4) == b"ping"
        res.socket.end("bye")
        assert res.socket.read() == b"bye"
    eventually(lambda: res.socket.destroyed)


def test_more_than_the_mark_after_the_head_is_read_whole(serve, upgrade):
    sent = bytes(range(256)) * 4096  # 1 MiB
    server = serve().on("upgrade", lambda req, socket, head: socket.end(SWITCH + sent))
    res = response_of(upgrade(server))
    with bounded("all of it"):
        assert res.socket.read() == sent
    res.socket.destroy()


def test_the_request_is_over_when_the_socket_is_ours(serve, upgrade, agent):
    server = serve().on("upgrade", answering(SWITCH))
    req = upgrade(server)
    res = response_of(req)
    assert not agent.sockets
    req.destroy()
    req.abort()
    agent.destroy()
    assert not res.socket.destroyed
    with bounded("the echo"):
        res.socket.end("still here")
        assert res.socket.read() == b"still here"


@pytest.mark.parametrize("event", ["response", "upgrade"])
def test_an_upgrade_that_was_not_asked_for_is_an_error_and_leaves_no_socket(serve, connect_to, begin, event):
    gone = AsyncResult()

    def through_tunnel(options):  # whose other end answers whatever it likes
        return response_of(connect_to(server)).socket

    server = serve().on("connect", until_the_end(ESTABLISHED + SWITCH, gone))
    heard = Heard()
    req = begin(server, create_connection=through_tunnel, agent=None)
    heard.listen(req, event)
    with pytest.raises(greenhttp.RemoteProtocolError, match="not asked for"):
        response_of(req)
    assert b"GET / HTTP/1.1" in gone.get(timeout=LIMIT)
    assert heard == []


def test_the_timeout_of_the_request_is_not_that_of_the_tunnel(serve, connect_to):
    server = serve().on("connect", answering(ESTABLISHED))
    socket = response_of(connect_to(server, timeout=LIMIT)).socket
    assert socket.timeout == 0
    socket.destroy()


def test_a_server_without_a_listener_makes_get_response_raise(serve, upgrade):
    """Behaviour 7.2"""
    with pytest.raises(ConnectionResetError, match="socket hang up"):
        response_of(upgrade(serve()))


# --- what is written on the request ---


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_what_is_written_goes_out_bare_right_after_the_head(serve, begin, method):
    """Behaviour 4.11, Behaviour 7.5"""
    got = AsyncResult()

    def listener(req, socket, head):
        rest = socket.read(11 - len(head))
        got.set((req.raw_headers[::2], head + rest))
        socket.end(SWITCH if method != "CONNECT" else ESTABLISHED)

    server = serve().on("upgrade", listener).on("connect", listener)
    tunnel = {"path": "a:1"} if method == "CONNECT" else {"headers": OFFER}
    req = begin(server, method=method, **tunnel)
    req.write("first ")
    req.write(b"later")
    res = response_of(req)
    names, body = got.get(timeout=LIMIT)
    assert body == b"first later"
    assert not {"Content-Length", "Transfer-Encoding"} & set(names)
    res.socket.destroy()


def test_a_single_end_with_data_is_bare_too(serve, upgrade):
    """Behaviour 7.5"""
    server = serve().on("upgrade", answering(SWITCH))
    req = upgrade(server)
    req.end("all of it")
    res = req.get_response(LIMIT)
    with bounded("the echo"):
        assert res.socket.read(9) == b"all of it"
    res.socket.destroy()


def test_a_body_with_a_length_stays_framed_if_the_upgrade_is_not_taken(serve, begin):
    server = serve(lambda req, res: res.end(req.read()), ignore_upgrade=True)
    req = begin(server, method="POST", headers={**OFFER, "Content-Length": 4})
    req.end("body")
    assert req.get_response(LIMIT).read() == b"body"


# --- CONNECT ---


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("status", [b"200 OK", b"299 Whatever", b"407 Proxy Authentication Required", b"500 Broken"])
def test_any_final_answer_to_connect_comes_as_connect_and_has_no_body(serve, connect_to, status, framing):
    """Behaviour 7.8"""
    heard = Heard()
    answer = b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\nbody"
    server = serve().on("connect", lambda req, socket, head: socket.end(answer))
    req = connect_to(server)
    heard.listen(req, "response", "connect", "close", "error")
    req.end()
    heard.wait_for("close")
    assert heard.names == ["connect", "close"]
    res, socket, head = heard[0][1:]
    assert (res.status_code, head, res.read()) == (int(status[:3]), b"body", b"")
    socket.destroy()


def test_the_server_sees_host_and_port_as_given(serve, connect_to):
    """Behaviour 7.7"""
    urls = []
    server = serve().on("connect", lambda req, socket, head: (urls.append(req.url), socket.end(ESTABLISHED)))
    response_of(connect_to(server, "example.com:443")).socket.destroy()
    assert urls == ["example.com:443"]


def test_a_connect_that_nobody_listens_to_closes_the_connection(serve, connect_to):
    """Behaviour 7.8"""
    gone = AsyncResult()

    server = serve().on("connect", until_the_end(ESTABLISHED, gone))
    connect_to(server).end()
    assert gone.get(timeout=LIMIT) == b""


def test_get_response_of_connect_returns_a_refusal_too(serve, connect_to):
    refusal = b"HTTP/1.1 403 Forbidden\r\n\r\nthat way is closed"
    server = serve().on("connect", lambda req, socket, head: socket.end(refusal))
    res = response_of(connect_to(server))
    with bounded("what follows the head"):
        assert (res.status_code, res.socket.read()) == (403, b"that way is closed")
    res.socket.destroy()


def test_an_answer_that_does_not_come_ends_the_wait_and_the_connection(serve, connect_to):
    gone = AsyncResult()
    server = serve().on("connect", until_the_end(b"", gone))
    req = connect_to(server)
    req.end()
    with pytest.raises(TimeoutError, match="no response"):
        req.get_response(0.05)
    assert gone.get(timeout=LIMIT) == b""


@pytest.mark.parametrize("cut", range(0, len(ESTABLISHED), 7))
def test_an_answer_in_two_pieces_is_one_answer(serve, connect_to, cut):
    def connected(req, socket, head):
        socket.write(ESTABLISHED[:cut])
        gevent.sleep(0)
        socket.end(ESTABLISHED[cut:] + b"head")

    res = response_of(connect_to(serve().on("connect", connected)))
    with bounded("the rest"):
        assert res.socket.read() == b"head"
    res.socket.destroy()


# --- the socket as a stream ---


def test_four_mebibytes_both_ways_at_once_arrive_as_they_were(serve, upgrade):
    sent = bytes(range(256)) * 16384
    server = serve().on("upgrade", lambda req, socket, head: (socket.write(SWITCH), socket.pipe(socket)))
    socket = response_of(upgrade(server)).socket

    def send() -> None:
        for start in range(0, len(sent), 50_000):
            socket.write(sent[start : start + 50_000])
        socket.end()

    sender = gevent.spawn(send)
    with bounded("the echo"):
        assert socket.read() == sent
        sender.get()
    eventually(lambda: socket.destroyed)


def test_the_socket_has_events_and_pipes(serve, connect_to):
    heard = Heard()
    server = serve().on("connect", answering(ESTABLISHED))
    req = connect_to(server)

    def connected(res, socket, head):
        heard.listen(socket, "data", "end", "close")
        socket.end("through the tunnel")

    req.on("connect", connected)
    req.end()
    heard.wait_for("close")
    assert b"".join(entry[1] for entry in heard if entry[0] == "data") == b"through the tunnel"
    assert heard.names[-2:] == ["end", "close"]


def test_two_tunnels_piped_into_each_other_carry_both_ways(serve, upgrade):
    """A client of one server is the bridge to another."""
    far = serve().on("upgrade", answering(SWITCH))

    def bridge(req, socket, head):
        other = response_of(upgrade(far)).socket
        socket.write(SWITCH)
        other.write(head)
        socket.pipe(other)
        other.pipe(socket)

    near = serve().on("upgrade", bridge)
    socket = response_of(upgrade(near)).socket
    with bounded("the echo"):
        socket.end(b"x" * 300_000)
        assert socket.read() == b"x" * 300_000
    eventually(lambda: socket.destroyed)


def test_detach_gives_a_plain_gevent_socket_that_first_returns_the_unread_bytes(serve, upgrade):
    server = serve().on("upgrade", answering(SWITCH + b"abcdef"))
    socket = response_of(upgrade(server)).socket
    assert socket.read(2) == b"ab"
    with socket.detach() as plain:
        assert socket.destroyed
        plain.settimeout(LIMIT)
        assert plain.recv(1) + plain.recv(100) == b"cdef"
        plain.sendall(b"more")
        assert plain.recv(100) == b"more"


def test_a_peer_that_resets_makes_the_reader_raise(serve, upgrade):
    def upgraded(req, socket, head):
        socket.write(SWITCH + b"half")
        socket.read(2)
        plain = socket.detach()
        plain.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        plain.close()

    socket = response_of(upgrade(serve().on("upgrade", upgraded))).socket
    with bounded("the reset"):
        assert socket.read(4) == b"half"
        socket.write("go")
        with pytest.raises(ConnectionResetError):
            socket.read()
    assert socket.destroyed


# --- tunnels and agents ---


def test_after_a_tunnel_the_agent_goes_on(serve, connect_to, begin, agent):
    """Behaviour 7.9"""
    server = serve(lambda req, res: res.end(req.url)).on("connect", answering(ESTABLISHED))
    socket = response_of(connect_to(server)).socket
    with bounded("the echo"):
        socket.end("tunnel")
        assert socket.read() == b"tunnel"
    assert [response_of(begin(server, path=path)).read() for path in ("/1", "/2")] == [b"/1", b"/2"]
    assert not agent.sockets
    assert [len(free) for free in agent.free_sockets.values()] == [1]


def test_a_socket_given_away_makes_room_for_a_request_that_waits(serve, connect_to, begin):
    agent = greenhttp.Agent(max_sockets=1)
    server = serve(lambda req, res: res.end(req.url)).on("connect", answering(ESTABLISHED))
    tunnel = connect_to(server, agent=agent)
    tunnel.end()
    waiting = begin(server, path="/waiting", agent=agent)
    waiting.end()
    assert agent.requests
    socket = tunnel.get_response(LIMIT).socket
    assert waiting.get_response(LIMIT).read() == b"/waiting"
    eventually(lambda: not agent.sockets)
    assert not socket.destroyed
    socket.destroy()


class TunnelAgent(greenhttp.Agent):
    """Its connections lead through `proxy`."""

    __slots__ = ("proxy", "tunnels")

    def __init__(self, proxy: Any) -> None:
        super().__init__(keep_alive=True)
        self.proxy = proxy
        self.tunnels: list[Any] = []

    def create_connection(self, options: Any) -> Any:
        host, port = self.proxy.address()
        target = f"{options['host']}:{options['port']}"
        opened = AsyncResult()
        req = greenhttp.request(host=host, port=port, method="CONNECT", path=target, agent=False)
        req.on("connect", lambda res, socket, head: (socket.unread(head), opened.set((res.status_code, socket))))
        req.on("error", opened.set_exception)
        req.end()
        status, socket = opened.get()
        if status != 200:
            socket.destroy()
            raise ConnectionError(f"the proxy answers {status}")
        self.tunnels.append(socket)
        return socket


@pytest.fixture
def through(serve: Any) -> Iterator[Callable[[Any], TunnelAgent]]:
    """`through(proxy)`: a `TunnelAgent`, destroyed before the servers are closed."""
    agents: list[TunnelAgent] = []

    def make(proxy: Any) -> TunnelAgent:
        agents.append(TunnelAgent(proxy))
        return agents[-1]

    yield make
    for agent in agents:
        agent.destroy()


def relay(req: Any, socket: Any, head: bytes) -> None:
    """A `'connect'` listener: to the server that was asked for, and back."""
    host, port = req.url.split(":")
    socket.unread(head)
    with gevent.socket.create_connection((host, int(port))) as origin, socket.detach() as client:
        client.sendall(ESTABLISHED)
        back = gevent.spawn(copy, origin, client)
        copy(client, origin)
        back.get()


def copy(source: Any, target: Any) -> None:
    """Until the end of `source`."""
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(stdlib_socket.SHUT_WR)


def test_requests_through_a_tunnel_share_it(serve, through, begin):
    origin = serve(lambda req, res: res.end(req.read() + req.url.encode()))
    agent = through(serve().on("connect", relay))
    answers = []
    for number in range(3):
        req = begin(origin, agent=agent, method="POST", path=f"/{number}")
        req.write("body ")
        answers.append(response_of(req).read())
    assert answers == [b"body /0", b"body /1", b"body /2"]
    assert len(agent.tunnels) == 1


def test_a_large_body_through_a_tunnel_is_whole_both_ways(serve, through, begin):
    origin = serve(lambda req, res: req.pipe(res))
    req = begin(origin, agent=through(serve().on("connect", relay)), method="POST")
    sent = bytes(range(256)) * 8192  # 2 MiB

    def send() -> None:
        for start in range(0, len(sent), 30_000):
            req.write(sent[start : start + 30_000])
        req.end()

    req.flush_headers()
    sender = gevent.spawn(send)
    with bounded("the echo"):
        assert req.get_response().read() == sent
        sender.get()


def test_a_tunnel_that_closed_while_at_rest_is_replaced(serve, through, begin):
    origin = serve(lambda req, res: res.end(req.url))
    agent = through(serve().on("connect", relay))
    assert response_of(begin(origin, agent=agent, path="/1")).read() == b"/1"
    origin.close_idle_connections()
    eventually(lambda: agent.tunnels[0].destroyed, "the end of the tunnel")
    assert response_of(begin(origin, agent=agent, path="/2")).read() == b"/2"
    assert len(agent.tunnels) == 2


def test_a_refusal_of_the_proxy_is_the_error_of_the_request(serve, through, begin):
    refusal = b"HTTP/1.1 403 Forbidden\r\n\r\n"
    proxy = serve().on("connect", lambda req, socket, head: socket.end(refusal))
    with pytest.raises(ConnectionError, match="the proxy answers 403"):
        response_of(begin(serve(), agent=through(proxy)))


def test_an_answer_that_came_with_the_head_of_the_tunnel_is_read(serve, through, begin):
    """What the socket read as a stream, before the agent had it, is not lost. Behaviour 5.17"""

    def connected(req, socket, head):
        # an origin that cannot wait for its request
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"
        socket.end(ESTABLISHED + answer)
        socket.read()

    agent = through(serve().on("connect", connected))
    with bounded("the answer"):
        assert response_of(begin(serve(), agent=agent)).read() == b"hello world"


def test_an_upgrade_through_a_tunnel_gives_the_same_socket_on(serve, through, upgrade):
    origin = serve().on("upgrade", answering(SWITCH + b"hi "))
    agent = through(serve().on("connect", relay))
    socket = response_of(upgrade(origin, agent=agent)).socket
    assert socket is agent.tunnels[0]
    with bounded("the echo"):
        socket.end("there")
        assert socket.read() == b"hi there"
