"""The pool of connections: which request gets which socket, which are kept, and when one is never used again."""

from __future__ import annotations

import gc
import inspect
import math
import socket as stdlib_socket
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

import greenhttp
from greenhttp import Agent

from .origin import Origin, Peer, ok, then_close
from .support import Heard, bounded, eventually, get

GET = b"GET / HTTP/1.1\r\n"


@pytest.fixture
def pool() -> Any:
    """`pool(**options)`: an agent, destroyed after the test."""
    agents: list[Agent] = []

    def make(kind: type[Agent] = Agent, **options: Any) -> Agent:
        agents.append(kind(**options))
        return agents[-1]

    yield make
    for agent in agents:
        agent.destroy()
        eventually(lambda agent=agent: not agent.pool, "the end of the agent's greenlets")


def begin(origin: Any, path: str = "/", **options: Any) -> greenhttp.ClientRequest:
    """A GET that is on its way to an `Origin` or a server."""
    port = origin.port if isinstance(origin, Origin) else origin.address()[1]
    return greenhttp.get(f"http://127.0.0.1:{port}{path}", **options)


def fetch(origin: Any, path: str = "/", **options: Any) -> bytes:
    """The body of a GET, waited for and read."""
    with bounded(f"the answer to {path}"):
        body: bytes = begin(origin, path, **options).get_response().read()
    return body


def gone(peer: Peer) -> None:
    """Wait until a scripted peer has seen the client's end."""
    eventually(lambda: peer.sock.closed, "the client's end")


@pytest.mark.parametrize("how", ["half_close", "reset"])
@pytest.mark.parametrize("first", ["end", "request"])
def test_a_handler_is_not_given_a_connection_whose_end_has_come_with_its_request(
    serve, connect, origin, pool, how, first
):
    """Both come in one turn of the loop; a POST that gets the old connection could not be sent again."""
    origin.script(ok())
    agent = pool(keep_alive=True)

    def handler(req, res):
        request = greenhttp.request(origin.url(), method="POST", agent=agent)
        request.end(b"body")
        res.end(request.get_response().read())

    client = connect(serve(handler))
    for _ in range(3):
        assert client.send(get()).read_response().status == 200
        eventually(lambda: agent.free_sockets, "a free connection")
        (peer,) = [peer for peer in origin.peers if not peer.sock.closed]
        steps = [getattr(peer, how), lambda: client.send(get())]
        for step in steps if first == "end" else reversed(steps):
            step()  # without a turn of the loop in between
        assert client.read_response().status == 200


# --- names and mappings ---


def test_without_an_agent_the_global_one_serves(origin: Origin):
    """Behaviour 5.1"""
    origin.script(ok())
    for options in ({}, {"agent": None}):
        request = begin(origin, **options)
        assert request.agent is greenhttp.global_agent
        request.get_response()
    assert not greenhttp.global_agent.sockets


def test_agent_false_makes_a_fresh_agent_for_one_request(origin: Origin):
    """Behaviour 5.1"""
    origin.script(then_close(ok(headers="Connection: close\r\n")))
    requests = [begin(origin, agent=False) for _ in range(2)]
    for request in requests:
        request.get_response()
    assert requests[0].agent is not requests[1].agent
    assert greenhttp.global_agent not in [request.agent for request in requests]
    assert [request["connection"] for request in origin.requests] == ["close", "close"]


def test_agent_false_takes_a_port_of_none():
    """Behaviour 5.1"""
    request = greenhttp.request(host="127.0.0.1", port=None, agent=False)
    assert request.options["port"] == 80
    request.destroy()


def test_an_agent_without_a_protocol_takes_the_usual_one(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.1"""

    class AnyProtocol(Agent):
        protocol = None

    origin.script(ok(b"any"))
    assert fetch(origin, agent=pool(AnyProtocol)) == b"any"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"host": "h", "port": 8, "local_address": "a"}, "h:8:a"),
        ({"port": 8080}, "localhost:8080:"),
        ({"host": "h"}, "h::"),
        ({}, "localhost::"),
    ],
)
def test_the_name_of_an_origin(options: dict[str, Any], name: str):
    """Behaviour 5.2"""
    assert Agent().get_name(options) == name


@pytest.mark.parametrize("option", [{"local_address": "127.0.0.1"}, {"family": 4}])
def test_options_of_the_connection_tell_origins_apart(origin: Origin, pool: Callable[..., Agent], option: Any):
    """Behaviour 5.2"""
    origin.script(ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    fetch(origin, agent=agent, **option)
    assert len(agent.free_sockets) == 2


def test_max_sockets_1_shows_in_sockets_and_requests(origin: Origin, pool: Callable[..., Agent]):
    """Behaviours 5.3, 5.4"""
    origin.script(ok())
    agent, seen, done = pool(max_sockets=1), [], Event()
    name = f"127.0.0.1:{origin.port}:"

    def listener(response: Any) -> None:
        seen.append((len(agent.sockets[name]), len(agent.requests.get(name, ())), name in agent.requests))
        response.on("end", lambda: done.set() if len(seen) == 3 else None)
        response.resume()

    requests = [begin(origin, callback=listener, agent=agent) for _ in range(3)]
    assert len(agent.requests[name]) == 2
    assert done.wait(5)
    assert seen == [(1, 2, True), (1, 1, True), (1, 0, False)]
    eventually(lambda: not agent.sockets, "the last socket to be closed")
    assert agent.free_sockets == agent.requests == {}
    assert len(origin.peers) == 1
    assert [request.reused_socket for request in requests] == [False, True, True]


# --- keeping ---


def test_without_keep_alive_a_free_socket_serves_who_waits_else_it_is_closed(origin: Origin, pool: Any):
    """Behaviour 5.5"""
    origin.script(ok())
    agent = pool(max_sockets=1)
    first, second = begin(origin, "/1", agent=agent), begin(origin, "/2", agent=agent)
    first.get_response()
    second.get_response()
    assert agent.free_sockets == {}
    gone(origin.peers[0])
    fetch(origin, "/3", agent=agent)
    assert len(origin.peers) == 2


def test_ten_requests_in_turn_use_one_socket(serve: Any, pool: Callable[..., Agent]):
    """Behaviour 5.6"""
    theirs, ours = set(), set()
    server = serve(lambda req, res: (theirs.add(req.socket), res.end("x")))
    agent = pool(keep_alive=True)
    for _ in range(10):
        request = begin(server, agent=agent)
        assert request.get_response().read() == b"x"
        ours.add(request.socket)
    assert (len(theirs), len(ours)) == (1, 1)
    agent.destroy()


def test_max_sockets_and_max_free_sockets(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.7"""
    origin.script(ok())
    agent = pool(keep_alive=True, max_sockets=5, max_free_sockets=2)
    for connections in (5, 8):
        for request in [begin(origin, agent=agent) for _ in range(10)]:
            request.get_response()
        eventually(lambda: not agent.sockets, "all to be free")
        assert sum(map(len, agent.free_sockets.values())) == 2
        assert len(origin.peers) == connections


def test_a_socket_is_offered_only_after_the_end_listeners(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.8"""
    origin.script(ok(b"x"))
    agent, heard = pool(keep_alive=True), Heard()

    def at_end() -> None:
        heard.note("end", len(agent.sockets), len(agent.free_sockets))
        gevent.sleep(0)
        heard.note("later", len(agent.sockets), len(agent.free_sockets))

    begin(origin, agent=agent, callback=lambda response: response.on("end", at_end).resume())
    assert heard.wait_for("end") == (1, 0)
    assert heard.wait_for("later") == (1, 0)
    eventually(lambda: agent.free_sockets, "the socket to be free")
    assert agent.sockets == {}


def test_a_socket_destroyed_in_an_end_listener_is_not_handed_out(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.9"""
    origin.script(ok(b"x"))
    agent = pool(keep_alive=True, max_sockets=1)

    def listener(response: Any) -> None:
        response.on("end", response.socket.destroy)
        response.resume()

    first = begin(origin, "/1", agent=agent, callback=listener)
    second = begin(origin, "/2", agent=agent)
    assert agent.requests
    with bounded("the second answer"):
        second.get_response().read()
    assert agent.requests == {}
    assert first.socket.destroyed
    assert second.socket is not first.socket
    assert not second.reused_socket
    assert len(origin.peers) == 2


def test_a_request_aborted_in_the_queue_is_never_sent(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.10"""
    agent, heard = pool(max_sockets=1), Heard()
    first, aborted, last = (begin(origin, f"/{number}", agent=agent) for number in range(3))
    heard.listen(aborted, "error", "close")
    peer = origin.accept()
    aborted.abort()
    (error,) = heard.wait_for("error")
    assert (type(error), error.code) == (greenhttp.ConnectionLostError, "ECONNRESET")
    assert peer.answer(ok()).path == "/0"
    assert peer.answer(ok()).path == "/2"
    first.get_response()
    last.get_response()
    eventually(lambda: not agent.sockets)
    assert agent.requests == {}
    assert peer.closed()


def test_when_all_who_wait_have_gone_nothing_is_left(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.10"""
    agent = pool(max_sockets=1)
    first, second = begin(origin, agent=agent), begin(origin, agent=agent)
    peer = origin.accept()
    second.abort()
    peer.answer(ok())
    first.get_response()
    eventually(lambda: not agent.sockets)
    assert agent.requests == {}
    assert peer.closed()


@pytest.mark.parametrize(("scheduling", "used"), [("lifo", 2), ("fifo", 0)])
def test_scheduling(origin: Origin, pool: Callable[..., Agent], scheduling: str, used: int):
    """Behaviour 5.11"""
    agent = pool(keep_alive=True, scheduling=scheduling)
    requests = [begin(origin, agent=agent) for _ in range(3)]
    peers = [origin.accept() for _ in requests]
    for peer in peers:
        peer.answer(ok())
        eventually(lambda peer=peer: origin.peers.index(peer) + 1 == len(next(iter(agent.free_sockets.values()), ())))
    request = begin(origin, "/next", agent=agent)
    assert peers[used].answer(ok()).path == "/next"
    assert request.get_response().status_code == 200


def test_newest_first_is_the_default():
    """Behaviour 5.11"""
    assert Agent().scheduling == "lifo"


def test_another_scheduling_is_refused():
    """Behaviour 5.11"""
    with pytest.raises(ValueError, match="scheduling") as caught:
        Agent(scheduling="random")
    assert caught.value.code == "ERR_INVALID_ARG_VALUE"


@pytest.mark.parametrize("how", ["end", "reset", "talk"])
def test_an_idle_socket_that_the_server_gives_up_leaves_the_pool_at_once(origin: Origin, pool: Any, how: str):
    """Behaviours 5.12, 6.7"""
    origin.script(ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    assert agent.free_sockets
    peer = origin.peers[0]
    {"end": peer.close, "reset": peer.reset, "talk": lambda: peer.send(b"HTTP/1.1 408 Late\r\n\r\n")}[how]()
    eventually(lambda: not agent.free_sockets, "the socket to leave the pool")
    fetch(origin, agent=agent)
    assert len(origin.peers) == 2


def test_an_error_on_an_idle_socket_is_no_crash(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.12"""
    origin.script(ok())
    agent, heard = pool(keep_alive=True), Heard()
    fetch(origin, agent=agent)
    ((socket,),) = agent.free_sockets.values()
    heard.listen(socket, "error", "close")
    socket.destroy(OSError("broken"))
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    assert agent.free_sockets == {}
    assert fetch(origin, agent=agent) == b""
    assert len(origin.peers) == 2


def test_the_agents_timeout_ends_a_socket_at_rest(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.13"""
    origin.script(ok())
    agent = pool(keep_alive=True, timeout=0.05)
    began = time.monotonic()
    fetch(origin, agent=agent)
    ((socket,),) = agent.free_sockets.values()
    gone(origin.peers[0])
    assert 0.04 < time.monotonic() - began < 2
    eventually(lambda: not agent.free_sockets)
    assert socket.destroyed
    fetch(origin, agent=agent)
    assert len(origin.peers) == 2


def test_the_agents_timeout_does_not_disturb_a_request(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.13"""
    agent = pool(keep_alive=True, timeout=0.05)
    requests = [begin(origin, "/1", agent=agent)]
    peer = origin.accept()
    for path in ("/1", "/2"):
        assert peer.read_request().path == path
        gevent.sleep(0.1)  # longer than the limit
        peer.send(ok(path.encode()))
        assert requests[-1].get_response().read() == path.encode()
        if path == "/1":
            requests.append(begin(origin, "/2", agent=agent))
    assert requests[1].reused_socket


def test_a_destroyed_free_socket_is_not_reused(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.13"""
    origin.script(ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    ((socket,),) = agent.free_sockets.values()
    socket.destroy()
    assert agent.free_sockets == {}
    fetch(origin, agent=agent)
    assert len(origin.peers) == 2


def test_agent_remove_takes_the_socket_out_and_the_request_goes_on(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.14"""
    agent = pool(keep_alive=True)
    request = begin(origin, agent=agent)
    peer = origin.accept()
    peer.read_request()
    request.socket.emit("agent_remove")
    assert agent.sockets == {}
    peer.send(ok(b"on"))
    assert request.get_response().read() == b"on"
    assert agent.free_sockets == {}
    second = begin(origin, agent=agent)
    assert origin.accept().answer(ok()).path == "/"
    assert not second.reused_socket
    second.get_response()
    request.socket.destroy()


def test_agent_remove_on_a_socket_at_rest(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.14"""
    origin.script(ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    ((socket,),) = agent.free_sockets.values()
    socket.emit("agent_remove")
    assert agent.free_sockets == {}
    assert not socket.destroyed
    fetch(origin, agent=agent)
    assert len(origin.peers) == 2
    socket.destroy()


def test_agent_remove_makes_room_for_who_waits(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.14"""
    agent = pool(max_sockets=1)
    first, second = begin(origin, "/1", agent=agent), begin(origin, "/2", agent=agent)
    peer = origin.accept()
    peer.read_request()
    first.socket.emit("agent_remove")
    assert origin.accept().answer(ok()).path == "/2"
    second.get_response()
    peer.send(ok())
    first.get_response()


def test_destroy_ends_sockets_in_use_at_rest_and_being_opened(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.15"""
    opening = Event()

    class Slow(Agent):
        def create_connection(self, options: Any) -> Any:
            if options["path"] == "/slow":
                opening.set()
                Event().wait()
            return super().create_connection(options)

    agent = pool(Slow, keep_alive=True)
    resting, busy = begin(origin, agent=agent), begin(origin, agent=agent)
    peers = [origin.accept(), origin.accept()]
    peers[0].answer(ok())
    peers[1].read_request()
    resting.get_response()
    slow = begin(origin, "/slow", agent=agent, family=4)  # another name
    assert opening.wait(5)
    agent.destroy()
    for request in (busy, slow):
        with pytest.raises(ConnectionResetError, match="socket hang up"), bounded("the error"):
            request.get_response()
    assert agent.sockets == agent.free_sockets == agent.requests == {}
    assert [peer.closed() for peer in peers] == [True, True]
    eventually(lambda: not agent.pool, "the end of the greenlets that open connections")


def test_destroy_does_not_send_a_request_again(origin: Origin, pool: Callable[..., Agent]):
    """Behaviours 5.15, 6.8"""
    origin.script(ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    origin.script(lambda peer: None)
    request = begin(origin, "/2", agent=agent)
    assert request.reused_socket
    agent.destroy()
    with pytest.raises(ConnectionResetError):
        request.get_response()
    assert len(origin.peers) == 1


@pytest.mark.parametrize(
    ("version", "headers", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
        ("1.0", "Connection: keep-alive, close\r\n", False),
    ],
)
def test_the_response_decides_whether_the_socket_is_kept(
    origin: Origin, pool: Callable[..., Agent], version: str, headers: str, kept: bool
):
    """Behaviour 5.16"""
    origin.script(ok(b"x", version=version, headers=headers))
    agent, heard = pool(keep_alive=True), Heard()
    request = begin(origin, agent=agent)
    request.on("response", lambda response: (heard.note("keeps", request.should_keep_alive), response.resume()))
    heard.listen(request, "close")
    assert heard.wait_for("keeps") == (kept,)
    heard.wait_for("close")
    assert bool(agent.free_sockets) is kept
    fetch(origin, agent=agent)
    assert len(origin.peers) == (1 if kept else 2)


def test_what_create_connection_returns_may_hold_the_answer_already(pool: Callable[..., Agent]):
    """Behaviour 5.17"""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"

    class Prepared(Agent):
        def create_connection(self, options: Any) -> Any:
            ours, theirs = stdlib_socket.socketpair()
            theirs.sendall(answer)
            theirs.shutdown(stdlib_socket.SHUT_WR)
            peers.append(theirs)
            return ours

    peers: list[stdlib_socket.socket] = []
    heard = Heard()
    greenhttp.get(
        "http://nowhere.test/",
        agent=pool(Prepared),
        callback=lambda response: heard.listen(response, "data", "end", "close"),
    )
    heard.wait_for("close")
    assert heard == [("data", b"hello world"), ("end",), ("close",)]
    peers[0].close()


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(("size", "first"), [(5, 20), (5, 60), (300_000, 20), (300_000, 60), (300_000, 300_000)])
def test_an_agent_through_a_connect_tunnel_with_data_already_there(
    origin: Origin, pool: Callable[..., Agent], size: int, first: int, detached: bool
):
    """Behaviours 5.17, 7.9"""
    body = b"x" * size
    answer = ok(body)
    said_first = Event()

    class Tunnels(Agent):
        def create_connection(self, options: Any) -> Any:
            connect = greenhttp.request(
                host="127.0.0.1", port=origin.port, method="CONNECT", path=f"{options['host']}:80", agent=proxies
            )
            connect.end()
            socket = connect.get_response().socket
            assert said_first.wait(5)
            eventually(lambda: socket.inflow is not None and socket.inflow.size >= min(first, len(answer), 60_000))
            return socket.detach() if detached else socket

    proxies, agent = pool(), pool(Tunnels, keep_alive=True)
    request = greenhttp.get("http://behind.test/1", agent=agent)
    peer = origin.accept()
    assert peer.read_request_head().path == "behind.test:80"
    begins = gevent.spawn(peer.send, b"HTTP/1.1 200 Connected\r\n\r\n" + answer[:first])
    said_first.set()
    assert peer.read_request().path == "/1"
    begins.get(timeout=5)
    ends = gevent.spawn(peer.send, answer[first:])
    with bounded("the answer in the tunnel"):
        assert request.get_response().read() == body
    ends.get(timeout=5)
    second = greenhttp.get("http://behind.test/2", agent=agent)
    assert peer.answer(ok(b"2")).path == "/2"
    assert second.get_response().read() == b"2"
    assert second.reused_socket
    assert proxies.sockets == {}
    agent.destroy()
    assert peer.closed()


def test_a_tunnel_that_ended_already_delivers_what_came(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 5.17: end and all."""

    class Tunnels(Agent):
        def create_connection(self, options: Any) -> Any:
            connect = greenhttp.request(
                host="127.0.0.1", port=origin.port, method="CONNECT", path="behind.test:80", agent=proxies
            )
            connect.end()
            socket = connect.get_response().socket
            eventually(lambda: socket.inflow is not None and socket.inflow.progress > 0, "the end of the tunnel")
            return socket

    proxies = pool()
    request = greenhttp.get("http://behind.test/", agent=pool(Tunnels, keep_alive=True))
    peer = origin.accept()
    peer.read_request_head()
    peer.send(b"HTTP/1.1 200 Connected\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil the end").half_close()
    with bounded("the answer"):
        assert request.get_response().read() == b"until the end"
    assert peer.read_request().path == "/"
    assert peer.closed()


def test_create_connection_is_called_once_for_each_request(origin: Origin):
    """Behaviour 4.24"""
    origin.script(ok(b"x"))
    calls: list[Any] = []

    def create(options: Any) -> Any:
        calls.append(options["path"])
        return gevent.socket.create_connection(("127.0.0.1", origin.port))

    for path in ("/1", "/2"):
        assert fetch(origin, path, create_connection=create) == b"x"
    assert calls == ["/1", "/2"]
    assert [request["connection"] for request in origin.requests] == ["close", "close"]


def test_create_connection_without_an_agent_takes_no_socket_of_the_global_one(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
):
    """Behaviour 4.24"""
    monkeypatch.setattr(greenhttp.global_agent, "keep_alive", True)
    origin.script(ok(b"x"))
    fetch(origin)
    assert greenhttp.global_agent.free_sockets
    calls: list[Any] = []

    def create(options: Any) -> Any:
        calls.append(options)
        return gevent.socket.create_connection(("127.0.0.1", origin.port))

    assert fetch(origin, create_connection=create) == b"x"
    assert len(calls) == 1
    greenhttp.global_agent.destroy()


def test_create_connection_may_fail_in_any_way(origin: Origin, pool: Callable[..., Agent]):
    agent = pool(max_sockets=1)

    def fails(options: Any) -> Any:
        raise ZeroDivisionError("mine")

    requests = [
        begin(origin, agent=agent, create_connection=fails),
        begin(origin, agent=agent, create_connection=lambda options: "no socket"),
        begin(origin, "/3", agent=agent),
    ]
    with pytest.raises(ZeroDivisionError, match="mine"):
        requests[0].get_response()
    with pytest.raises(TypeError, match="create_connection must return a connected socket"):
        requests[1].get_response()
    assert origin.accept().answer(ok()).path == "/3"
    assert requests[2].get_response().status_code == 200


# --- order and limits over several origins ---


def test_requests_of_an_origin_are_served_in_their_order(origin: Origin, pool: Callable[..., Agent]):
    origin.script(ok())
    agent = pool(max_sockets=1)
    requests = [begin(origin, f"/{number}", agent=agent) for number in range(20)]
    for request in requests:
        request.get_response()
    assert [request.path for request in origin.requests] == [f"/{number}" for number in range(20)]
    assert len(origin.peers) == 1


def test_a_full_origin_does_not_hold_another(origin: Origin, serve: Any, pool: Callable[..., Agent]):
    agent = pool(max_sockets=1)
    server = serve(lambda req, res: res.end("other"))
    stuck = [begin(origin, agent=agent) for _ in range(2)]
    assert fetch(server, agent=agent) == b"other"
    for request in stuck:
        request.destroy()


@pytest.mark.parametrize("keep_alive", [False, True])
@pytest.mark.parametrize("most", [1, 3])
def test_max_total_sockets_counts_all_origins_together(serve: Any, pool: Any, most: int, keep_alive: bool):
    agent = pool(max_total_sockets=most, keep_alive=keep_alive)
    open_now, highest = 0, 0

    def counted(server: Any) -> Any:
        def connected(socket: Any) -> None:
            nonlocal open_now, highest
            open_now += 1
            highest = max(highest, open_now)
            socket.on("close", closed)

        def closed() -> None:
            nonlocal open_now
            open_now -= 1

        return server.on("connection", connected)

    def handler(req: Any, res: Any) -> None:
        gevent.sleep(0.001)
        res.end(req.url)

    servers = [counted(serve(handler)) for _ in range(4)]
    used = 0

    def ask(number: int) -> None:
        nonlocal used
        assert fetch(servers[number % 4], f"/{number}", agent=agent) == f"/{number}".encode()
        used = max(used, agent._total())

    with bounded("all answers"):
        gevent.joinall([gevent.spawn(ask, number) for number in range(40)], raise_error=True)
    assert used <= most
    assert agent.requests == {}
    assert not agent._dialing
    agent.destroy()


def test_a_free_socket_of_another_origin_makes_room(origin: Origin, serve: Any, pool: Callable[..., Agent]):
    origin.script(ok())
    agent = pool(max_total_sockets=1, keep_alive=True)
    fetch(origin, agent=agent)
    assert agent.free_sockets
    server = serve(lambda req, res: res.end("other"))
    assert fetch(server, agent=agent) == b"other"
    gone(origin.peers[0])
    agent.destroy()


def test_one_connection_for_all_survives_failing_dials(origin: Origin, pool: Callable[..., Agent]):
    """A dial that fails frees its place while it still runs."""
    agent = pool(max_total_sockets=1)
    origin.script(ok(b"x"))

    def fails(options: Any) -> Any:
        raise OSError("mine")

    failing = [begin(origin, agent=agent, create_connection=fails) for _ in range(5)]
    good = begin(origin, agent=agent)
    for request in failing:
        with pytest.raises(OSError, match="mine"), bounded("the failure"):
            request.get_response()
    with bounded("the answer"):
        assert good.get_response().read() == b"x"


# --- the server's hint, the race, the retry ---


def test_the_servers_hint_ends_reuse_a_second_early(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.7"""
    origin.script(ok(headers="Keep-Alive: timeout=2\r\n"))
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    fetch(origin, agent=agent)
    assert len(origin.peers) == 1
    began = time.monotonic()
    gone(origin.peers[0])
    assert 0.8 < time.monotonic() - began < 1.6
    fetch(origin, agent=agent)
    assert len(origin.peers) == 2


def test_a_hint_of_one_second_is_no_reuse(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.7"""
    origin.script(ok(headers="Keep-Alive: timeout=1, max=5\r\n"))
    agent = pool(keep_alive=True)
    for connections in (1, 2):
        fetch(origin, agent=agent)
        assert len(origin.peers) == connections


def test_after_the_process_was_blocked_for_the_idle_time_the_next_request_succeeds(serve: Any, pool: Any):
    """Behaviour 6.7"""
    server = serve(lambda req, res: res.end("x"), keep_alive_timeout=1)
    agent = pool(keep_alive=True)
    fetch(server, agent=agent)
    assert agent.free_sockets
    time.sleep(2.1)  # blocks the hub: neither the server nor the agent sees that time is over
    request = greenhttp.request(f"http://127.0.0.1:{server.address()[1]}/", method="POST", agent=agent)
    request.end("not to be sent twice")
    with bounded("the answer"):
        assert request.get_response().read() == b"x"
    agent.destroy()


def test_a_socket_closed_unseen_is_looked_at_before_it_is_used(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.7"""
    origin.script(ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    origin.peers[0].sock.shutdown(stdlib_socket.SHUT_RDWR)
    time.sleep(1.1)  # the hub does not run
    request = greenhttp.request(origin.url(), method="POST", agent=agent)
    request.end("once")
    assert request.get_response().status_code == 200
    assert not request.reused_socket


def drop(peer: Peer) -> None:
    peer.close()


def reset(peer: Peer) -> None:
    peer.reset()


@pytest.mark.parametrize("how", [drop, reset])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_an_idempotent_request_on_a_reused_socket_that_dies_is_sent_once_more(
    origin: Origin, pool: Any, method: str, how: Any
):
    """Behaviour 6.8"""
    origin.script(ok(), how, ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    request = greenhttp.request(origin.url("/again"), method=method, agent=agent)
    body = b"body" if method == "PUT" else None
    request.end(body)
    assert request.reused_socket
    with bounded("the second try"):
        assert request.get_response().status_code == 200
    assert not request.reused_socket
    assert [(each.method, each.path) for each in origin.requests[1:]] == [(method, "/again")] * 2
    assert [each.body for each in origin.requests[1:]] == [body or b""] * 2
    assert len(origin.peers) == 2


@pytest.mark.parametrize("how", [drop, reset])
@pytest.mark.parametrize("case", ["POST", "PATCH", "streamed PUT", "streamed GET"])
def test_what_cannot_be_sent_again_fails(origin: Origin, pool: Any, case: str, how: Any):
    """Behaviour 6.8"""
    origin.script(ok(), how, ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    request = greenhttp.request(origin.url(), method=case.split()[-1], agent=agent)
    if "streamed" in case:
        request.write(b"a piece")
    request.end(b"the end")
    with pytest.raises(ConnectionResetError) as caught, bounded("the error"):
        request.get_response()
    assert getattr(caught.value, "code", None) == "ECONNRESET"
    assert request.reused_socket
    assert len(origin.peers) == 1


def test_an_error_event_tells_that_the_socket_was_reused(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.8"""
    origin.script(ok(), drop, ok())
    agent, heard = pool(keep_alive=True), Heard()
    fetch(origin, agent=agent)
    request = greenhttp.request(origin.url(), method="POST", agent=agent)
    heard.listen(request, "error", "close")
    request.end(b"x")
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    assert heard[0][1].code == "ECONNRESET"
    assert request.reused_socket


def test_a_fresh_socket_that_dies_is_no_reason_to_try_again(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.8"""
    origin.script(drop, ok())
    with pytest.raises(ConnectionResetError), bounded("the error"):
        begin(origin, agent=pool(keep_alive=True)).get_response()
    assert len(origin.peers) == 1


def test_never_more_than_once_again(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.8"""
    origin.script(ok(), drop, drop, ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    request = begin(origin, agent=agent)
    with pytest.raises(ConnectionResetError), bounded("the error"):
        request.get_response()
    assert len(origin.peers) == 2


def test_a_byte_of_the_answer_forbids_another_try(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.8"""
    origin.script(ok(), then_close(b"H"), ok())
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    with pytest.raises(ConnectionResetError), bounded("the error"):
        begin(origin, agent=agent).get_response()
    assert len(origin.peers) == 1


def test_a_second_try_keeps_max_sockets_and_the_queue(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.8"""
    origin.script(ok(), drop, ok())
    agent = pool(keep_alive=True, max_sockets=1)
    fetch(origin, "/0", agent=agent)
    requests = [begin(origin, f"/{number}", agent=agent) for number in (1, 2, 3)]
    for request in requests:
        with bounded("the answer"):
            request.get_response().read()
    assert [request.path for request in origin.requests] == ["/0", "/1", "/1", "/2", "/3"]
    assert len(origin.peers) == 2


def test_our_own_timeout_on_a_reused_socket_is_not_tried_again(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 6.8"""
    origin.script(ok(), lambda peer: None)
    agent = pool(keep_alive=True)
    fetch(origin, agent=agent)
    request = begin(origin, agent=agent, timeout=0.05)
    assert request.reused_socket
    with pytest.raises(greenhttp.PeerTimeoutError), bounded("the timeout"):
        request.get_response()
    assert len(origin.requests) == 2
    assert len(origin.peers) == 1


# --- never used again ---


def destroyed(request: greenhttp.ClientRequest) -> None:
    request.get_response().destroy()


def aborted(request: greenhttp.ClientRequest) -> None:
    request.get_response()
    request.abort()


def closed_unread(request: greenhttp.ClientRequest) -> None:
    with request.get_response() as response:
        response.read(2)


def timed_out(request: greenhttp.ClientRequest) -> None:
    response = request.get_response()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        response.read()


def killed(request: greenhttp.ClientRequest) -> None:
    response = request.get_response()
    reader = gevent.spawn(response.read)
    gevent.sleep(0)
    reader.kill()


@pytest.mark.parametrize("how", [destroyed, aborted, closed_unread, timed_out, killed])
def test_a_socket_with_a_body_half_read_is_never_used_again(origin: Origin, pool: Callable[..., Agent], how: Any):
    agent = pool(keep_alive=True)
    request = begin(origin, agent=agent)
    peer = origin.accept()
    peer.answer(ok(b"x" * 10)[:-5])
    with bounded("the interruption"):
        how(request)
    assert agent.sockets == agent.free_sockets == {}
    assert peer.closed()


@pytest.mark.parametrize("garbage", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_a_socket_whose_server_broke_http_is_never_used_again(origin: Origin, pool: Any, garbage: bytes):
    agent = pool(keep_alive=True)
    request = begin(origin, agent=agent)
    peer = origin.accept()
    peer.answer(garbage)
    with pytest.raises(greenhttp.RemoteProtocolError):
        request.get_response()
    assert agent.sockets == agent.free_sockets == {}
    assert peer.closed()


@pytest.mark.parametrize("body", [b"", b"first"])
def test_a_second_response_that_nobody_asked_for_drops_the_socket(origin: Origin, pool: Any, body: bytes):
    """Behaviour 4.18"""
    agent, heard = pool(keep_alive=True), Heard()
    request = begin(origin, agent=agent)
    request.on("response", lambda response: heard.note("response") or heard.listen(response, "data", "end"))
    heard.listen(request, "close", "error")
    peer = origin.accept()
    peer.answer(ok(body) + ok(b"second"))
    heard.wait_for("close")
    assert heard.names == ["response", *(["data"] if body else []), "end", "close"]
    assert agent.sockets == agent.free_sockets == {}
    assert peer.closed()


def test_a_second_response_that_comes_while_the_first_is_read(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 4.18"""
    agent, heard, go = pool(keep_alive=True), Heard(), Event()

    def listener(response: Any) -> None:
        response.on("data", lambda data: (heard.note("data", data), go.wait()))
        heard.listen(response, "end")

    request = begin(origin, agent=agent, callback=listener)
    peer = origin.accept()
    peer.answer(ok(b"first"))
    heard.wait_for("data")
    socket = request.socket
    peer.send(ok(b"second"))
    flood = gevent.spawn(peer.sock.sendall, b"x" * 50_000_000)
    flood.join(0.2)  # that it does not end has no event
    assert not flood.dead
    assert socket.bytes_read < 1_000_000, "a flood that nobody asked for is held"
    go.set()
    heard.wait_for("end")
    assert heard == [("data", b"first"), ("end",)]
    eventually(lambda: not agent.sockets)
    assert agent.free_sockets == {}
    flood.kill()


def test_the_socket_is_free_only_when_the_request_was_sent(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 4.23"""
    agent = pool(keep_alive=True, max_sockets=1)
    first = greenhttp.request(origin.url("/1"), method="POST", agent=agent)
    first.write(b"begun")
    peer = origin.accept()
    second = begin(origin, "/2", agent=agent)
    assert peer.read_request_head().path == "/1"
    assert peer.read_chunk() == b"begun"
    peer.send(ok(b"early"))
    assert first.get_response().read() == b"early"
    assert agent.free_sockets == {}
    assert len(agent.requests) == 1
    first.end(b"over")
    assert peer.read_chunk() == b"over"
    assert peer.read_until(b"\r\n\r\n") == b"0\r\n\r\n"
    assert peer.answer(ok()).path == "/2"
    second.get_response()
    assert second.socket is first.socket


def test_a_body_that_waits_in_the_socket_holds_it(origin: Origin, pool: Callable[..., Agent]):
    """Behaviour 4.23"""
    agent = pool(keep_alive=True, max_sockets=1)
    body = b"x" * 10_000_000
    first = greenhttp.request(origin.url("/1"), method="POST", agent=agent)
    first.end(body)
    peer = origin.accept()
    second = begin(origin, "/2", agent=agent)
    assert peer.read_request_head().path == "/1"
    peer.send(ok())
    first.get_response()
    assert not first.writable_finished
    assert len(agent.requests) == 1
    assert peer.read_exactly(len(body)) == body
    assert peer.answer(ok()).path == "/2"
    second.get_response()


# --- events, threads, other things ---


def test_free_is_told_on_the_agent_and_on_the_socket(origin: Origin, pool: Callable[..., Agent]):
    origin.script(ok())
    agent, heard = pool(keep_alive=True), Heard()
    agent.on("free", lambda socket, options: heard.note("agent", socket, options["name"]))
    request = begin(origin, agent=agent)
    request.on("socket", lambda socket: socket.on("free", lambda: heard.note("socket")))
    request.get_response()
    name = f"127.0.0.1:{origin.port}:"
    assert heard.wait_for("agent") == (request.socket, name)
    heard.wait_for("socket")
    fetch(origin, agent=agent)
    heard.wait_for("agent", 2)
    assert sorted(heard.names) == ["agent", "agent", "socket", "socket"]


def test_a_kept_socket_is_probed_by_the_operating_system(origin: Origin, pool: Callable[..., Agent]):
    origin.script(ok())
    agent = pool(keep_alive=True, keep_alive_delay=7)
    fetch(origin, agent=agent)
    ((socket,),) = agent.free_sockets.values()
    assert socket._sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE) == 1
    assert socket._sock.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_KEEPIDLE) == 7


@pytest.mark.parametrize("state", ["free", "busy"])
def test_use_from_another_thread_is_refused(origin: Origin, pool: Callable[..., Agent], state: str):
    origin.script(ok(b"x") if state == "free" else lambda peer: None)
    agent = pool(keep_alive=True)
    request = begin(origin, agent=agent)
    if state == "free":
        request.get_response().read()
    caught: list[BaseException] = []

    def other() -> None:
        try:
            greenhttp.get(origin.url(), agent=agent)
        except BaseException as error:
            caught.append(error)
        gevent.get_hub().destroy()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [greenhttp.MessageStateError]
    assert "one for each thread" in str(caught[0])
    request.destroy()


def test_an_agent_at_rest_may_move_to_another_thread(origin: Origin, pool: Callable[..., Agent]):
    origin.script(ok(b"x"))
    agent = pool()
    assert fetch(origin, agent=agent) == b"x"
    bodies: list[bytes] = []

    def other() -> None:
        bodies.append(greenhttp.get(origin.url(), agent=agent).get_response().read())
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=other)
    thread.start()
    eventually(lambda: not thread.is_alive(), "the end of the thread")
    assert bodies == [b"x"]


def test_defaults():
    agent = Agent()
    assert (agent.keep_alive, agent.keep_alive_delay, agent.timeout) == (False, 1.0, 0)
    assert (agent.max_sockets, agent.max_free_sockets, agent.max_total_sockets) == (math.inf, 256, math.inf)


def test_the_repr_counts_sockets(origin: Origin, pool: Callable[..., Agent]):
    origin.script(ok())
    agent = pool(keep_alive=True)
    assert repr(agent) == "<Agent sockets=0 free=0>"
    fetch(origin, agent=agent)
    assert repr(agent) == "<Agent sockets=0 free=1>"


def test_a_closed_agent_is_collected(origin: Origin):
    """Nothing of the library keeps an agent, its sockets or its requests."""
    origin.script(ok())
    agent = Agent(keep_alive=True)
    for _ in range(3):
        fetch(origin, agent=agent)
    agent.destroy()
    eventually(lambda openers=agent.pool: not openers)
    gevent.sleep(0)
    gc.collect()
    kept = [type(found).__name__ for found in gc.get_referrers(agent) if not inspect.isframe(found)]
    assert kept == []
