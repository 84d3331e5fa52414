"""`Server`: listening, connections, closing, and the greenlets that run handlers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import os
import socket as stdlib_socket
import stat
import time

import gevent
import gevent.local
import greenlet
import pytest
from gevent.event import AsyncResult, Event
from gevent.pool import Pool

import greenhttp
from greenhttp.sockets import SMALL_READ_SIZE, TINY_READ_SIZE

from .peer import Peer, hello, serving, wait_for
from .support import eventually

# --- names ---


def test_methods_are_sorted_and_hold_the_common_ones():
    """Behaviour 1.1"""
    assert list(greenhttp.METHODS) == sorted(greenhttp.METHODS)
    assert all(method == method.upper() for method in greenhttp.METHODS)
    assert set("GET HEAD POST PUT DELETE OPTIONS CONNECT PATCH TRACE".split()) <= set(greenhttp.METHODS)


@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        (200, "OK"),
        (302, "Found"),
        (408, "Request Timeout"),
        (413, "Payload Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (504, "Gateway Timeout"),
    ],
)
def test_status_codes_have_todays_phrases(code, phrase):
    """Behaviour 1.2"""
    assert greenhttp.STATUS_CODES[code] == phrase


# --- listening ---


def test_listen_on_port_0_binds_before_it_returns_and_tells_soon():
    """Behaviour 1.4"""
    told = []
    done = Event()
    server = greenhttp.create_server(hello)
    server.on("listening", lambda: told.append("event"))
    assert server.address() is None
    assert not server.listening
    server.listen(0, "127.0.0.1", callback=lambda: (told.append("callback"), done.set()))
    try:
        assert server.address()[1] > 0
        assert server.listening
        assert told == []
        wait_for(done)
        assert told == ["event", "callback"]
        with Peer(server) as peer:
            assert peer.ask().status == 200
    finally:
        server.close()
        assert server.join(5)


def test_a_port_in_use_raises_and_leaves_the_first_server_alone():
    """Behaviour 1.5"""
    called = []
    with serving(hello) as first:
        second = greenhttp.create_server(hello)
        with pytest.raises(OSError, match="port") as caught:
            second.listen(first.address()[1], "127.0.0.1", callback=lambda: called.append(1))
        assert caught.value.errno == errno.EADDRINUSE
        assert not second.listening
        with Peer(first) as peer:
            assert peer.ask().body == b"hello /"
        assert called == []


def test_without_a_host_both_ipv6_and_ipv4_are_served():
    with serving(hello, host=None) as server:
        port = server.address()[1]
        families = [("127.0.0.1", stdlib_socket.AF_INET)]
        if server.address()[0] == "::":
            families.append(("::1", stdlib_socket.AF_INET6))
        for host, family in families:
            with gevent.socket.socket(family) as sock:
                sock.settimeout(5)
                sock.connect((host, port))
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_listening_twice_is_refused():
    with serving(hello) as server, pytest.raises((ValueError, RuntimeError), match="already"):
        server.listen(0, "127.0.0.1")


@pytest.mark.parametrize("where", [None, 1.5, [80]])
def test_listening_on_something_else_is_a_type_error(where):
    with pytest.raises(TypeError, match="cannot listen"):
        greenhttp.create_server(hello).listen(where)


def test_a_unix_path_is_served_with_its_mode_and_removed_by_close(tmp_path):
    path = str(tmp_path / "http.sock")
    seen = []

    def handler(req, res):
        seen.append((req.socket.remote_address, req.socket.remote_port))
        res.end("unix")

    server = greenhttp.create_server(handler).listen(path, mode=0o620)
    try:
        assert server.address() == path
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o620
        with Peer(server) as peer:
            assert peer.ask().body == b"unix"
    finally:
        server.close()
        assert server.join(5)
    assert seen == [(None, None)]
    assert not os.path.exists(path)


def test_a_stale_unix_path_is_replaced_and_a_live_one_is_not(tmp_path):
    path = str(tmp_path / "http.sock")
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as crashed:
        crashed.bind(path)
    with serving(hello, where=path, host=None) as server:
        with pytest.raises(OSError, match="in use") as caught:
            greenhttp.create_server(hello).listen(path)
        assert caught.value.errno == errno.EADDRINUSE
        with Peer(server) as peer:
            assert peer.ask().status == 200


def test_a_path_that_is_no_socket_is_not_removed(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="in use"):
        greenhttp.create_server(hello).listen(str(path))
    assert path.read_text() == "data"


def test_a_descriptor_is_taken_over():
    bound = stdlib_socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    with serving(hello, where={"fd": bound.detach()}, host=None) as server:
        assert server.address() == address
        with Peer(server) as peer:
            assert peer.ask().status == 200


def test_a_bound_socket_and_another_server_are_shared():
    with (
        stdlib_socket.create_server(("127.0.0.1", 0)) as bound,
        serving(hello, where=bound, host=None) as first,
    ):
        with serving(hello, where=first, host=None) as second:
            assert first.address() == second.address() == bound.getsockname()
            with Peer(second) as peer:
                assert peer.ask().status == 200
        with Peer(first) as peer:  # the second's end is not the end of the first
            assert peer.ask().status == 200


def test_reuse_port_lets_two_servers_share_a_port():
    first = greenhttp.create_server(hello).listen(0, "127.0.0.1", reuse_port=True)
    second = greenhttp.create_server(hello)
    try:
        second.listen(first.address()[1], "127.0.0.1", reuse_port=True)
        assert second.address() == first.address()
    finally:
        for server in (first, second):
            server.close()
            assert server.join(5)


# --- connections and requests ---


def test_every_request_listener_runs_in_order():
    """Behaviour 1.3"""
    order = []
    with serving(lambda req, res: order.append("first")) as server:
        server.on("request", lambda req, res: (order.append("second"), res.end()))
        with Peer(server) as peer:
            assert peer.ask().status == 200
    assert order == ["first", "second"]


def test_connection_comes_once_before_the_first_request_with_the_same_socket():
    """Behaviour 1.6"""
    seen = []

    def handler(req, res):
        seen.append(("request", req.socket))
        assert req.connection is req.socket
        res.end()

    with serving(handler) as server:
        server.on("connection", lambda socket: seen.append(("connection", socket)))
        with Peer(server) as peer:
            peer.ask()
            peer.ask()
            assert seen[0][1].remote_port == peer.sock.getsockname()[1]
    assert [name for name, _ in seen] == ["connection", "request", "request"]
    assert len({id(socket) for _, socket in seen}) == 1


def test_the_url_is_the_target_as_sent():
    """Behaviour 1.7"""
    target = "/hello?hello=world&foo=b==ar%20%2F"
    with serving(hello) as server, Peer(server) as peer:
        assert peer.ask(target).body == f"hello {target}".encode()


def test_half_open_allowed_when_client_ends_then_all_answers_come_in_order():
    """Behaviour 1.8"""
    ready = Event()

    def handler(req, res):
        wait_for(ready)
        res.end(req.url)

    with serving(handler, http_allow_half_open=True) as server, Peer(server) as peer:
        peer.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        peer.end()
        gevent.spawn_later(0.02, ready.set)
        assert [peer.answer().body, peer.answer().body] == [b"/1", b"/2"]
        assert peer.rest() == b""


def test_half_open_not_allowed_when_client_ends_then_server_ends_after_the_handler_began():
    """Behaviour 1.8"""
    began, closed = Event(), Event()

    def handler(req, res):
        req.on("close", closed.set)
        began.set()

    with serving(handler) as server, Peer(server) as peer:
        peer.get()
        peer.end()
        assert peer.rest() == b""
        assert began.is_set()
        wait_for(closed)


@pytest.mark.parametrize("sizes", [[TINY_READ_SIZE], [SMALL_READ_SIZE - 1, SMALL_READ_SIZE]], ids=["first", "later"])
def test_a_request_that_fills_a_read_is_answered_though_its_client_ends_in_the_same_moment(sizes):
    """The end is not looked at before the handler has begun, as after any other request."""
    with serving(hello) as server, Peer(server) as peer:
        for size in sizes:
            padding = size - len(b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n")
            peer.get("/", "X: " + "x" * padding)
            if size == sizes[-1]:
                peer.end()
            assert peer.answer().status == 200
        assert peer.rest() == b""


def test_a_request_that_is_cut_before_its_turn_is_not_handled():
    """Its handler could wait for the 'close' that has been."""
    handled = []
    sockets = []
    before_the_turn = gevent.get_hub().loop.check(priority=-1)  # after what has come was read

    with serving(lambda req, res: handled.append(req.url)) as server, Peer(server) as peer:
        server.on("connection", sockets.append)
        before_the_turn.start(lambda: sockets and sockets[0].bytes_read and sockets[0].destroy())
        try:
            peer.get()
            assert peer.rest() == b""
        finally:
            before_the_turn.close()
        assert sockets[0].destroyed
        assert handled == []


def test_a_thousand_connections_of_http_1_0_each_get_the_whole_body():
    """Behaviour 1.18"""

    def handler(req, res):
        res.set_header("Content-Length", 12345)
        res.end(b"x" * 12345)

    with serving(handler) as server:
        for _ in range(1000):
            with Peer(server) as peer:
                peer.get(version="1.0")
                assert peer.answer().body == b"x" * 12345
                assert peer.rest() == b""


def test_a_hundred_clients_at_once_each_get_the_whole_body():
    """Behaviour 1.19"""
    content = bytes(range(256)) * 400

    def handler(req, res):
        gevent.sleep(0.001)
        res.set_header("Content-Length", len(content))
        res.end(content)

    def fetch(server):
        with Peer(server) as peer:
            answer = peer.ask("/", "Connection: close")
            assert peer.rest() == b""
            return answer.body

    with serving(handler) as server:
        jobs = [gevent.spawn(fetch, server) for _ in range(100)]
        gevent.joinall(jobs, timeout=10, raise_error=True)
        assert [job.value == content for job in jobs] == [True] * 100


# --- Expect ---

EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n"


def test_100_continue_goes_out_when_the_handler_asks_for_the_body():
    """Behaviour 1.15"""
    asked = Event()

    def handler(req, res):
        wait_for(asked)
        res.end(req.read())

    with serving(handler) as server, Peer(server) as peer:
        peer.send(EXPECT)
        peer.sock.settimeout(0.02)
        with pytest.raises(TimeoutError):
            peer.until(b"\r\n")
        peer.sock.settimeout(5)
        asked.set()
        assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"body")
        assert peer.answer().body == b"body"


def test_100_continue_is_not_sent_if_the_handler_does_not_read_and_the_connection_closes():
    """Behaviour 1.15"""
    with serving(hello) as server, Peer(server) as peer:
        peer.send(EXPECT)
        answer = peer.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        assert peer.rest() == b""


def test_another_expectation_gets_417():
    """Behaviour 1.15"""
    with serving(hello) as server, Peer(server) as peer:
        peer.get("/", "Expect: miracles")
        assert peer.rest() == b"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\n\r\n"


def test_check_continue_replaces_request_and_write_continue_lets_the_body_come():
    """Behaviour 1.16"""
    written = Event()

    def check(req, res):
        res.write_continue(written.set)
        res.end(req.read())

    with serving(lambda req, res: res.end("request")) as server, Peer(server) as peer:
        server.on("check_continue", check)
        peer.send(EXPECT)
        assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wait_for(written)
        peer.send(b"body")
        answer = peer.answer()
        assert (answer.body, answer.fields["connection"]) == (b"body", "keep-alive")


def test_check_continue_answered_at_once_closes():
    """Behaviour 1.16"""

    def check(req, res):
        res.status_code = 403
        res.end()

    with serving(hello) as server, Peer(server) as peer:
        server.on("check_continue", check)
        peer.send(EXPECT)
        answer = peer.answer()
        assert (answer.status, answer.fields["connection"]) == (403, "close")
        assert peer.rest() == b""


# --- closing ---


def test_close_lets_the_busy_finish_and_closes_the_idle_at_once():
    """Behaviour 1.9"""
    go, busy, closing, closed = Event(), AsyncResult(), AsyncResult(), Event()

    def handler(req, res):
        if req.url == "/slow":
            res.write("first ")
            assert not req.closing
            busy.set(True)
            wait_for(go)
            closing.set(req.closing)
            res.end("second")
        else:
            res.end()

    with serving(handler) as server, Peer(server) as idle, Peer(server) as fresh, Peer(server) as slow:
        events, address = [], server.address()
        server.on("closing", lambda: events.append("closing"))
        server.on("close", lambda: events.append("close"))
        idle.ask()
        slow.get("/slow")
        wait_for(busy)
        server.close(closed.set)
        assert idle.rest() == fresh.rest() == b""
        assert not server.listening
        assert server.address() is None
        with pytest.raises(ConnectionRefusedError):
            gevent.socket.create_connection(address, timeout=1)
        assert events == ["closing"]
        go.set()
        assert slow.answer().body == b"first second"
        assert slow.rest() == b""
        slow.sock.close()
        wait_for(closed)
        assert closing.get() is True
        assert events == ["closing", "close"]


def test_responses_after_close_carry_connection_close():
    """Behaviour 1.9"""
    go, busy = Event(), Event()

    def handler(req, res):
        busy.set()
        wait_for(go)
        res.end()

    with serving(handler) as server, Peer(server) as peer:
        peer.get()
        wait_for(busy)
        server.close()
        go.set()
        assert peer.answer().fields["connection"] == "close"
        assert peer.rest() == b""


def test_close_with_pipelined_requests_under_way_delivers_them_all():
    """Behaviour 1.9"""
    go, busy = Event(), Event()

    def handler(req, res):
        if req.url == "/2":
            busy.set()
        wait_for(go)
        res.end(req.url)

    with serving(handler) as server, Peer(server) as peer:
        peer.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(busy)
        server.close()
        go.set()
        assert peer.answer().body == b"/1"
        last = peer.answer()
        assert (last.body, last.fields["connection"]) == (b"/2", "close")
        assert peer.rest() == b""


def test_close_inside_a_handler_is_over_in_well_under_a_second():
    """Behaviour 1.10"""
    closed = Event()
    server = greenhttp.create_server()

    def handler(req, res):
        server.close(closed.set)
        res.end(req.read())

    server.on("request", handler).listen(0, "127.0.0.1")
    with gevent.Timeout(1), Peer(server) as peer:
        peer.send(b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
        assert peer.answer().body == b"hi"
        assert peer.rest() == b""
        peer.sock.close()
        closed.wait()
    assert server.join(1)


def test_close_all_connections_cuts_one_mid_line_and_one_idle():
    """Behaviour 1.11"""
    with serving(hello) as server, Peer(server) as half, Peer(server) as idle:
        half.send(b"GET / HT")
        idle.ask()
        server.close_all_connections()
        closed = Event()
        server.close(closed.set)
        wait_for(closed)
        for peer in (half, idle):
            assert peer.sock.recv(10) == b""


def test_close_with_a_timeout_cuts_the_rest_and_says_what(caplog):
    busy, closed = Event(), Event()

    def handler(req, res):
        req.on("close", closed.set)
        busy.set()

    with serving(handler) as server, Peer(server) as peer:
        peer.get("/endless")
        wait_for(busy)
        server.close(timeout=0.05)
        assert not server.join(0.01)
        assert server.join(5)
        wait_for(closed)
        assert peer.rest() == b""
    assert "GET /endless" in caplog.text


def test_a_closed_server_listens_again():
    server = greenhttp.create_server(hello)
    for _ in range(2):
        server.listen(0, "127.0.0.1")
        with Peer(server) as peer:
            assert peer.ask().fields["connection"] == "keep-alive"
        server.close()
        assert server.join(5)


def test_max_connections_holds_the_surplus_in_the_backlog_until_there_is_room():
    with serving(hello, max_connections=1) as server, Peer(server) as first:
        first.ask()
        with Peer(server) as second:
            second.get("/second")
            second.sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                second.answer()
            second.sock.settimeout(5)
            first.sock.close()
            assert second.answer().body == b"hello /second"


# --- greenlets ---


def test_pool_full_when_requests_come_then_they_wait_in_order():
    order, go = [], Event()

    def handler(req, res):
        order.append(req.url)
        wait_for(go)
        res.end()

    with serving(handler, pool=1) as server, Peer(server) as a, Peer(server) as b, Peer(server) as c:
        a.get("/a")
        eventually(lambda: order)
        b.get("/b")
        eventually(lambda: len(server._pool_waiting) == 1)
        c.get("/c")
        eventually(lambda: len(server._pool_waiting) == 2)
        assert order == ["/a"]
        go.set()
        assert [peer.answer().status for peer in (a, b, c)] == [200, 200, 200]
    assert order == ["/a", "/b", "/c"]


def test_many_requests_that_wait_for_a_pool_are_handled_in_order():
    seen = []

    def handler(req, res):
        seen.append(req.url)
        gevent.sleep(0.002)
        res.end()

    with serving(handler, pool=1) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server)) for _ in range(12)]
        for number, peer in enumerate(peers):
            peer.get(f"/{number}")
            eventually(lambda number=number: len(seen) + len(server._pool_waiting) > number, "its place in the line")
        for peer in peers:
            assert peer.answer().status == 200
    assert seen == [f"/{number}" for number in range(12)]


def test_a_pool_that_others_use_too_is_shared_with_them():
    pool = Pool(2)
    go_on = Event()

    def handler(req, res):
        go_on.wait()
        res.end("done")

    with (
        serving(handler, pool=pool) as server,
        serving(hello, pool=pool) as other,
        Peer(server) as first,
        Peer(other) as second,
        Peer(other) as third,
    ):
        first.get()
        eventually(lambda: pool.free_count() == 1, "the handler")
        user = pool.spawn(go_on.wait)
        second.get()
        third.get()
        eventually(lambda: len(other._pool_waiting) == 2, "requests that wait")
        user.kill()  # not a server's
        assert [second.answer().status, third.answer().status] == [200, 200]
        go_on.set()
        assert first.answer().body == b"done"
    assert pool._semaphore.linkcount() == 0


def test_each_request_has_a_fresh_context():
    mark = contextvars.ContextVar("mark", default="unset")
    seen = []

    def handler(req, res):
        seen.append(mark.get())
        mark.set(req.url)
        gevent.sleep(0)
        assert mark.get() == req.url
        res.end()

    with serving(handler) as server, Peer(server) as peer:
        for path in ("/1", "/2", "/3"):
            peer.ask(path)
    assert seen == ["unset"] * 3


def test_a_handler_runs_in_a_gevent_greenlet_and_not_in_the_hub():
    seen = []

    def handler(req, res):
        seen.append(gevent.getcurrent())
        res.end()

    with serving(handler) as server, Peer(server) as peer:
        peer.ask()
    assert isinstance(seen[0], gevent.Greenlet)


def test_an_idle_connection_has_no_greenlet():
    def living():
        gc.collect()
        return sum(isinstance(item, greenlet.greenlet) and not item.dead for item in gc.get_objects())

    with serving(hello) as server:
        peers = [Peer(server)]
        peers[0].ask()
        before = living()
        try:
            for _ in range(20):
                peers.append(Peer(server))
                peers[-1].ask()
            assert living() == before
        finally:
            for peer in peers:
                peer.sock.close()


def test_a_handler_that_is_killed_gets_the_client_a_500_and_the_server_goes_on():
    handlers = AsyncResult()

    def handler(req, res):
        if req.url == "/victim":
            handlers.set(gevent.getcurrent())
            gevent.sleep(60)
        res.end()

    with serving(handler) as server, Peer(server) as peer, Peer(server) as other:
        peer.get("/victim")
        gevent.kill(wait_for(handlers))
        assert peer.answer().status == 500
        assert peer.rest() == b""
        assert other.ask().status == 200


def test_gevent_timeout_bounds_a_blocking_read_and_the_handler_may_answer():
    def handler(req, res):
        try:
            with gevent.Timeout(0.02):
                req.read()
        except gevent.Timeout:
            res.status_code = 504
            res.end("too slow")

    with serving(handler) as server, Peer(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        answer = peer.answer()
        assert (answer.status, answer.body) == (504, b"too slow")


class Panic(BaseException):
    """As extensions in other languages raise it."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Panic])
def test_what_a_handler_raises_is_a_500_though_it_is_no_exception(caplog, error):
    def handler(req, res):
        if req.url == "/":
            raise error("by the handler")
        res.end()

    with serving(handler) as server, Peer(server) as peer, Peer(server) as other:
        assert peer.ask().status == 500
        assert peer.rest() == b""
        assert other.ask("/other").status == 200
    assert error.__name__ in caplog.text


def test_what_is_local_to_a_greenlet_is_not_there_for_the_next_request():
    local = gevent.local.local()
    seen = []

    def handler(req, res):
        seen.append(getattr(local, "user", None))
        local.user = req.url
        gevent.sleep(0)
        seen.append(local.user)
        res.end()

    with serving(handler) as server, Peer(server) as peer, Peer(server) as other:
        peer.get("/1")
        other.get("/2")
        peer.answer(), other.answer()
        peer.ask("/3")
    assert seen.count(None) == 3
    assert sorted(user for user in seen if user is not None) == ["/1", "/2", "/3"]


def test_a_request_does_not_wait_behind_all_greenlets_that_are_ready():
    """gevent looks at the network between two of them now and then, and what came is worked on at once."""
    ran = []
    done = Event()

    def busy(number):
        while not done.is_set():
            ran.append(number)
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            gevent.sleep(0)

    crowd = [gevent.spawn(busy, number) for number in range(200)]

    def handler(req, res):
        res.end(str(len(ran)))

    with serving(handler) as server, Peer(server) as peer:
        peer.ask()
        waited = []
        for _ in range(5):
            before = len(ran)
            waited.append(int(peer.ask().body) - before)
        peer.get()
        peer.end()  # at once: it is answered all the same
        last = peer.answer()
        done.set()
        gevent.joinall(crowd, timeout=5)
    assert min(waited) < len(crowd) / 2
    assert last.status == 200


def test_gevent_timeout_that_escapes_the_handler_is_a_500(caplog):
    def handler(req, res):
        with gevent.Timeout(0.01):
            gevent.sleep(60)

    with serving(handler) as server, Peer(server) as peer:
        assert peer.ask().status == 500
        assert peer.rest() == b""
    assert "GET /" in caplog.text


@pytest.mark.parametrize("step", ["nothing", "set_header", "write_head"])
def test_a_handler_that_raises_before_anything_was_sent_gives_500_without_its_headers(caplog, step):
    """Behaviour 1.13"""

    def handler(req, res):
        if step == "set_header":
            res.set_header("X-Mine", "1")
        elif step == "write_head":
            res.write_head(201, {"X-Mine": "1"})
        raise LookupError("by the handler")

    with serving(handler) as server, Peer(server) as peer:
        answer = peer.ask()
        assert (answer.status, answer.fields["connection"]) == (500, "close")
        assert "x-mine" not in answer.fields
        assert peer.rest() == b""
    assert [record.name for record in caplog.records] == ["greenhttp"]
    assert "LookupError: by the handler" in caplog.text


def test_a_handler_that_raises_after_the_head_was_sent_aborts_the_connection(caplog):
    """Behaviour 1.13"""

    def handler(req, res):
        if req.url == "/bad":
            res.write("part")
            raise LookupError("by the handler")
        res.end()

    with serving(handler) as server:
        with Peer(server) as peer:
            peer.get("/bad")
            assert peer.rest().endswith(b"\r\n\r\n4\r\npart\r\n")  # and no last chunk
        with Peer(server) as peer:
            assert peer.ask("/good").status == 200
    assert "LookupError: by the handler" in caplog.text


@pytest.mark.parametrize("event", ["data", "end"])
def test_a_body_listener_that_raises_concerns_its_own_exchange_only(caplog, event):
    """Behaviour 1.12"""

    def handler(req, res):
        def fail(*_):
            raise LookupError(req.url)

        req.on("data", fail if event == "data" else len)
        req.on("end", fail if event == "end" else list)

    with serving(handler) as server:
        for number in range(10):
            with Peer(server) as peer:
                peer.send(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" % number)
                assert peer.answer().status == 500
                assert peer.rest() == b""
        with gevent.Timeout(1):
            server.close()
            assert server.join()
    assert caplog.text.count("LookupError: /") == 10


def test_a_handler_may_return_before_it_answers():
    open_responses = AsyncResult()
    with serving(lambda req, res: open_responses.set(res)) as server, Peer(server) as peer:
        peer.get()
        wait_for(open_responses).end("later")
        assert peer.answer().body == b"later"


def test_close_comes_only_when_a_slow_reader_has_the_whole_answer():
    """Behaviour 1.9: the response that the handler produces is delivered whole."""
    size = 20_000_000
    server = greenhttp.create_server(lambda req, res: res.end(b"x" * size)).listen(0, "127.0.0.1")
    client = gevent.socket.create_connection(server.address(), timeout=5)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    first = client.recv(1)

    server.close()

    assert not server.join(0.05)
    received = len(first)
    while piece := client.recv(1_000_000):
        received += len(piece)
    client.close()
    assert received > size
    assert server.join(5)
