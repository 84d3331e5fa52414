"""The blocking style: whatever ends a wait, the request ends with it, leaves nothing and disturbs nobody."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

import greenhttp
from greenhttp import Agent

from .blackhole import blackhole
from .origin import Origin, Peer, ok, then_close
from .support import Heard, bounded, eventually


@pytest.fixture
def agent() -> Iterator[Agent]:
    """An agent that keeps connections, destroyed after the test."""
    made = Agent(keep_alive=True)
    yield made
    made.destroy()
    eventually(lambda: not made.pool, "the end of the agent's greenlets")


def begin(origin: Origin, path: str = "/", **options: Any) -> greenhttp.ClientRequest:
    """A GET that is on its way."""
    return greenhttp.get(origin.url(path), **options)


def send(peer: Peer, size: int) -> None:
    """Send the head of a response of 10 bytes, and `size` of them."""
    peer.send(ok(b"x" * 10)[: size - 10 or None])


# --- get_response() ---


def test_the_response_and_its_body(origin: Origin, agent: Agent):
    origin.script(ok(b"body", status="201 Made", headers="X-Y: z\r\n"))
    response = begin(origin, agent=agent).get_response(5)
    assert (response.status_code, response.status_message, response.headers["x-y"]) == (201, "Made", "z")
    assert (response.read(), response.read()) == (b"body", b"")


def test_a_response_that_came_before_anybody_asked_is_not_missed(origin: Origin, agent: Agent):
    origin.script(ok(b"small"), ok(b"x" * 200_000))
    for body in (b"small", b"x" * 200_000):
        request = begin(origin, agent=agent)
        eventually(lambda request=request: request._response is not None, "the response")
        assert request.get_response().read() == body
        assert request.get_response() is request.get_response()


def test_get_response_before_the_request_was_sent_is_a_mistake(origin: Origin, agent: Agent):
    request = greenhttp.request(origin.url(), agent=agent)
    with pytest.raises(RuntimeError, match="end"):
        request.get_response()
    request.destroy()


def test_get_response_while_the_body_is_under_way(origin: Origin, agent: Agent):
    request = greenhttp.request(origin.url(), method="POST", agent=agent)
    request.write("begun")
    peer = origin.accept()
    assert peer.read_request_head().method == "POST"
    peer.send(ok(b"early"))
    assert request.get_response(5).read() == b"early"
    request.end()


def test_only_one_greenlet_may_wait(origin: Origin, agent: Agent):
    request = begin(origin, agent=agent)
    waits = gevent.spawn(request.get_response)
    peer = origin.accept()
    with pytest.raises(RuntimeError, match="another greenlet"):
        request.get_response()
    peer.answer(ok())
    assert waits.get(timeout=5).status_code == 200


def test_get_response_gives_up_in_time(origin: Origin, agent: Agent):
    request = begin(origin, agent=agent)
    peer = origin.accept()
    with pytest.raises(greenhttp.PeerTimeoutError, match=rf"127\.0\.0\.1:{origin.port} within 0\.05 s") as caught:
        request.get_response(0.05)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.code == "ETIMEDOUT"
    assert request.destroyed
    peer.read_request()
    assert peer.closed()
    with pytest.raises(greenhttp.PeerTimeoutError):
        request.get_response()


def test_a_limit_that_was_kept_does_not_strike_later(origin: Origin, agent: Agent):
    origin.script(ok(b"x" * 10), lambda peer: (gevent.sleep(0.1), peer.send(ok())))
    response = begin(origin, agent=agent).get_response(0.05)
    assert begin(origin, agent=agent).get_response().status_code == 200
    assert response.read() == b"x" * 10


def test_a_timeout_of_the_caller_passes_through_a_limit(origin: Origin, agent: Agent):
    request = begin(origin, agent=agent)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.02) as outer:
        request.get_response(5)
    assert caught.value is outer
    assert request.destroyed


# --- with ---


def test_leaving_the_block_destroys_a_request_under_way(origin: Origin, agent: Agent):
    with begin(origin, agent=agent) as request:
        peer = origin.accept()
        peer.read_request()
    assert request.destroyed
    assert peer.closed()
    assert agent.sockets == agent.free_sockets == {}


def test_leaving_the_block_keeps_the_socket_of_a_complete_exchange(origin: Origin, agent: Agent):
    origin.script(ok(b"x"))
    with begin(origin, agent=agent) as request, request.get_response() as response:
        assert response.read() == b"x"
    assert not request.destroyed
    assert agent.free_sockets


def test_an_exception_in_the_block_leaves_nothing_and_logs_nothing(origin: Origin, agent: Agent):
    request = begin(origin, agent=agent)
    peer = origin.accept()
    with pytest.raises(ZeroDivisionError), request:
        raise ZeroDivisionError
    del request
    assert agent.sockets == {}
    agent.destroy()  # the connection may have been there already, and be kept
    assert peer.read_all() == b""


def test_leaving_the_block_of_a_response_with_unread_bytes_closes_its_socket(origin: Origin, agent: Agent):
    request = begin(origin, agent=agent)
    peer = origin.accept()
    peer.read_request()
    send(peer, 5)
    with request.get_response() as response:
        assert response.read(3) == b"xxx"
    assert peer.closed()
    assert agent.sockets == agent.free_sockets == {}


# --- a timeout or a kill, wherever a greenlet waits ---


class Wait:
    """A greenlet that waits for something of the client, and how far it came."""

    def __init__(self, origin: Origin, agent: Agent) -> None:
        self.origin, self.agent = origin, agent
        self.waits = Event()
        self.request: Any = None
        self.peer: Any = None

    def response(self) -> None:
        self.request = begin(self.origin, agent=self.agent)
        self.peer = self.origin.accept()
        self.peer.read_request()
        self.waits.set()
        self.request.get_response()

    def body(self, read: Callable[[Any], object] = lambda response: response.read()) -> None:
        self.request = begin(self.origin, agent=self.agent)
        self.peer = self.origin.accept()
        self.peer.read_request()
        send(self.peer, 5)
        response = self.request.get_response()
        response.read(2)
        self.waits.set()
        read(response)

    def iteration(self) -> None:
        self.body(lambda response: list(response))

    def line(self) -> None:
        self.body(lambda response: response.readline())

    def room(self) -> None:
        self.request = greenhttp.request(self.origin.url(), method="POST", agent=self.agent)
        self.peer = self.origin.accept()
        while True:
            if not self.request.write(b"x" * 1_000_000):
                self.waits.set()

    def room_of_a_large_body(self) -> None:
        self.request = greenhttp.request(self.origin.url(), method="POST", agent=self.agent)
        self.peer = self.origin.accept()
        self.request.end(b"x" * 30_000_000)
        self.waits.set()
        self.request.get_response()

    def room_in_the_queue(self) -> None:
        self.agent.max_sockets = 1
        busy = begin(self.origin, agent=self.agent)
        self.peer = self.origin.accept()
        self.request = greenhttp.request(self.origin.url(), method="POST", agent=self.agent)
        try:
            while True:
                if not self.request.write(b"x" * 60_000):
                    self.waits.set()
        finally:
            busy.destroy()

    def queue(self) -> None:
        self.agent.max_sockets = 1
        busy = begin(self.origin, "/busy", agent=self.agent)
        self.peer = self.origin.accept()
        self.request = begin(self.origin, "/queued", agent=self.agent)
        self.waits.set()
        try:
            self.request.get_response()
        finally:
            busy.destroy()

    def connection(self) -> None:
        with blackhole() as port:
            self.request = greenhttp.get(f"http://127.0.0.1:{port}/", agent=self.agent)
            self.waits.set()
            self.request.get_response()


POINTS = [name for name in vars(Wait) if not name.startswith("_")]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_whatever_ends_a_wait_ends_the_request_and_nothing_else(
    origin: Origin, agent: Agent, serve: Any, point: str, how: str
):
    go = Event()
    server = serve(lambda req, res: (res.write("a"), go.wait(), res.end("b")))
    other = greenhttp.get(f"http://127.0.0.1:{server.address()[1]}/", agent=agent)
    beside = other.get_response()
    wait = Wait(origin, agent)
    caught: list[BaseException] = []

    def waits() -> None:
        try:
            with gevent.Timeout(0.1 if how == "timeout" else None):
                getattr(wait, point)()
        except gevent.Timeout as error:
            caught.append(error)

    greenlet = gevent.spawn(waits)
    with bounded("the wait"):
        wait.waits.wait()
        gevent.idle()
        if how == "kill":
            greenlet.kill()
        greenlet.join()
    assert [type(error) for error in caught] == ([gevent.Timeout] if how == "timeout" else [])
    assert wait.request.destroyed
    assert len(agent.sockets) == 1, "only the other request is left"
    assert agent.free_sockets == agent.requests == agent._dialing == {}
    eventually(lambda: not agent.pool, "the end of the greenlet that opened the connection")
    if wait.peer is not None:
        with bounded("the end of the connection"):
            try:
                wait.peer.read_all()
            except ConnectionResetError:
                pass
    go.set()
    assert beside.read() == b"ab"
    assert agent.free_sockets
    agent.destroy()


def test_a_wait_given_up_in_the_queue_lets_the_next_go_on(origin: Origin, agent: Agent):
    origin.script(lambda peer: (gevent.sleep(0.05), peer.send(ok(b"1"))), ok(b"3"))
    agent.max_sockets = 1
    requests = [begin(origin, f"/{number}", agent=agent) for number in (1, 2, 3)]
    with pytest.raises(greenhttp.PeerTimeoutError):
        requests[1].get_response(0.01)
    assert requests[0].get_response().read() == b"1"
    assert requests[2].get_response().read() == b"3"
    assert [request.path for request in origin.requests] == ["/1", "/3"]


def test_a_connection_that_somebody_else_waits_for_is_not_given_up(origin: Origin, agent: Agent):
    go, opened = Event(), []

    class Slow(Agent):
        def create_connection(self, options: Any) -> Any:
            go.wait()
            opened.append(options["path"])
            return super().create_connection(options)

    slow = Slow(max_sockets=1)
    first, second = begin(origin, "/1", agent=slow), begin(origin, "/2", agent=slow)
    gevent.idle()
    first.destroy()
    go.set()
    assert origin.accept().answer(ok(b"2")).path == "/2"
    assert second.get_response().read() == b"2"
    assert opened == ["/1"]


def test_when_all_who_wait_for_a_connection_have_gone_it_is_given_up(agent: Agent):
    agent.max_sockets = 1
    with blackhole() as port:
        requests = [greenhttp.get(f"http://127.0.0.1:{port}/", agent=agent) for _ in range(3)]
        gevent.idle()
        for request in requests:
            request.destroy()
        assert agent._dialing == {}
        eventually(lambda: not agent.pool, "the end of the dial")


def test_a_request_destroyed_before_its_dial_has_begun(origin: Origin, agent: Agent):
    """Behaviour 4.20"""
    agent.max_sockets = 1
    request = begin(origin, "/1", agent=agent)
    request.abort()
    assert agent._dialing == {}
    second = begin(origin, "/2", agent=agent)
    assert origin.accept().answer(ok()).path == "/2"
    assert second.get_response().status_code == 200


# --- nobody waits ---


@pytest.mark.parametrize("body", [b"", b"small", b"x" * 500_000])
def test_fire_and_forget(origin: Origin, agent: Agent, body: bytes):
    """Behaviour 4.14: nobody can claim the response, so the socket serves the next."""
    origin.script(ok(body))
    agent.max_sockets = 1
    for number in range(5):
        begin(origin, f"/{number}", agent=agent)
    with bounded("the last answer"):
        assert begin(origin, "/last", agent=agent).get_response().read() == body
    assert len(origin.requests) == 6
    assert len(origin.peers) == 1


def test_a_dropped_response_makes_way(origin: Origin, agent: Agent):
    origin.script(ok(b"x" * 500_000))
    agent.max_sockets = 1
    for _ in range(3):
        response = begin(origin, agent=agent).get_response()
        assert response.read(10) == b"x" * 10
        del response
    with bounded("the last answer"):
        assert len(begin(origin, agent=agent).get_response().read()) == 500_000
    assert len(origin.peers) == 1


def test_a_dropped_response_that_is_too_long_costs_its_socket(origin: Origin, agent: Agent):
    origin.script(lambda peer: peer.sock.sendall(ok(b"x" * 100_000_000)), ok(b"next"))
    agent.max_sockets = 1
    begin(origin, agent=agent).get_response()
    with bounded("the next answer"):
        assert begin(origin, agent=agent).get_response().read() == b"next"
    assert len(origin.peers) == 2


def test_a_request_whose_answer_began_before_its_body_was_sent_may_be_forgotten(origin: Origin, agent: Agent):
    agent.max_sockets = 1
    body = b"x" * 10_000_000
    request = greenhttp.request(origin.url(), method="POST", agent=agent)
    request.end(body)
    peer = origin.accept()
    peer.read_request_head()
    peer.send(ok(b"y" * 300_000)[:200_000])
    eventually(lambda request=request: request._response is not None)
    del request
    answers = gevent.spawn(lambda: (peer.read_exactly(len(body)), peer.send(ok(b"y" * 300_000)[200_000:])))
    second = begin(origin, agent=agent)
    answers.get(timeout=5)
    peer.answer(ok())
    with bounded("the second answer"):
        assert second.get_response().status_code == 200


def test_a_response_that_somebody_may_still_claim_is_kept(origin: Origin, agent: Agent):
    origin.script(ok(b"x" * 500_000))
    request = begin(origin, agent=agent)
    eventually(lambda: request._response is not None)
    gc.collect()
    gevent.idle()
    assert request.get_response().read() == b"x" * 500_000


def test_a_failure_that_nobody_was_told_is_logged_once(origin: Origin, agent: Agent, logged: Any):
    origin.script(then_close(b""))
    begin(origin, "/lost", agent=agent)
    assert "/lost" in logged.claim("socket hang up").getMessage()
    gc.collect()
    gevent.idle()
    assert logged.records == []


def test_a_failure_that_somebody_was_told_is_not_logged(origin: Origin, agent: Agent, logged: Any):
    origin.script(then_close(b""))
    heard = Heard()
    heard.listen(begin(origin, agent=agent), "error")
    heard.wait_for("error")
    with pytest.raises(ConnectionResetError):
        begin(origin, agent=agent).get_response()
    late = begin(origin, agent=agent)
    eventually(lambda late=late: late._failure is not None)
    with pytest.raises(ConnectionResetError):
        late.get_response()
    mine = begin(origin, agent=agent)
    mine.destroy()
    del late, mine
    heard.clear()
    gc.collect()
    gevent.idle()
    assert logged.records == []


# --- the timeout option ---


def test_silence_before_the_response_is_told_to_who_waits(origin: Origin, agent: Agent):
    """Behaviour 8.9, in the blocking style."""
    origin.script(lambda peer: None)
    request = begin(origin, agent=agent, timeout=0.05)
    with pytest.raises(greenhttp.PeerTimeoutError, match=r"nothing came .* for 0\.05 s") as caught, bounded("it"):
        request.get_response()
    assert caught.value.code == "ETIMEDOUT"
    assert agent.sockets == agent.free_sockets == {}


def test_silence_in_the_body_is_told_to_who_reads(origin: Origin, agent: Agent):
    """Behaviour 8.9, in the blocking style."""
    origin.script(lambda peer: send(peer, 5))
    response = begin(origin, agent=agent, timeout=0.05).get_response()
    with pytest.raises(greenhttp.PeerTimeoutError), bounded("the timeout"):
        response.read()
    assert agent.sockets == agent.free_sockets == {}


def test_silence_of_a_server_that_takes_no_more_is_told_to_who_writes(origin: Origin, agent: Agent):
    """Behaviour 8.9, in the blocking style."""
    request = greenhttp.request(origin.url(), method="POST", agent=agent, timeout=0.1)
    origin.accept()
    with bounded("the end of the writes"):
        while not request.destroyed:
            request.write(b"x" * 1_000_000)
        with pytest.raises(greenhttp.PeerTimeoutError):
            request.get_response()


def test_a_listener_decides_and_the_wait_goes_on(origin: Origin, agent: Agent):
    """Behaviour 8.9"""
    heard = Heard()
    request = begin(origin, agent=agent, timeout=0.03)
    heard.listen(request, "timeout")
    waits = gevent.spawn(request.get_response)
    peer = origin.accept()
    heard.wait_for("timeout")
    peer.answer(ok(b"late"))
    assert waits.get(timeout=5).read() == b"late"


def test_the_timeout_of_one_request_is_not_that_of_the_next(origin: Origin, agent: Agent):
    origin.script(ok(), lambda peer: (gevent.sleep(0.15), peer.send(ok(b"slow"))))
    begin(origin, agent=agent, timeout=0.05).get_response()
    second = begin(origin, agent=agent)
    assert second.reused_socket
    assert second.get_response().read() == b"slow"


# --- how bodies end ---


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxxxxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n0\r\n",
    ],
)
def test_a_body_that_is_cut_raises(origin: Origin, agent: Agent, answer: bytes):
    """Behaviour 3.19"""
    origin.script(then_close(answer))
    response = begin(origin, agent=agent).get_response()
    assert response.read(5) == b"xxxxx"
    with pytest.raises(greenhttp.ConnectionLostError) as caught, bounded("the error"):
        response.read()
    assert caught.value.code == "ECONNRESET"
    eventually(lambda: response.aborted)
    assert not response.complete
    assert agent.free_sockets == {}


def test_a_reset_in_the_body_raises_with_its_code(origin: Origin, agent: Agent):
    """Behaviour 3.19"""
    request = begin(origin, agent=agent)
    peer = origin.accept()
    peer.read_request()
    send(peer, 5)
    response = request.get_response()
    assert response.read(5) == b"xxxxx"
    peer.reset()
    with pytest.raises(greenhttp.ConnectionLostError) as caught, bounded("the error"):
        response.read()
    assert caught.value.code == "ECONNRESET"


def test_a_body_until_the_end_of_the_connection(origin: Origin, agent: Agent):
    """Behaviour 3.14"""
    origin.script(then_close(b"HTTP/1.0 200 OK\r\n\r\nI AM THE WALRUS"))
    response = begin(origin, agent=agent).get_response()
    assert response.read() == b"I AM THE WALRUS"
    eventually(lambda: not agent.sockets)
    assert agent.free_sockets == {}
