"""Every limit of time on the server: silence, slow heads, slow requests, idle connections, slow bodies."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent.event import Event

from greenhttp import rate
from greenhttp.streams import HIGH_WATER_MARK

from .support import Heard, bounded, eventually, get

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


def test_the_default_timeout_is_120_seconds(serve):
    """Behaviour 8.2"""
    assert serve().timeout == 120


def test_bytes_within_the_limit_keep_ten_uploads_alive(serve, connect):
    """Behaviour 8.1"""
    heard = Heard()
    server = serve(lambda req, res: res.end(req.read()), timeout=0.15)
    heard.listen(server, "timeout")
    clients = [connect(server).send(POST) for _ in range(10)]
    for _ in range(10):
        gevent.sleep(0.03)
        for client in clients:
            client.send(b"x")
    assert [client.read_response().body for client in clients] == [b"x" * 10] * 10
    assert heard == []


def test_nobody_listens_then_silence_destroys_the_socket(serve, connect):
    """Behaviour 8.3"""
    heard = Heard()
    server = serve(lambda req, res: heard.listen(res, "close"), timeout=0.05)
    assert connect(server).send(get()).closed()
    heard.wait_for("close")


def test_a_server_listener_gets_the_socket_and_decides(serve, connect):
    """Behaviour 8.4"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request", req.socket))
    server.set_timeout(0.05, lambda socket: heard.note("timeout", socket))
    client = connect(server).send(get())
    (socket,) = heard.wait_for("timeout")
    assert (socket,) == heard.wait_for("request")
    assert not socket.destroyed
    socket.destroy()
    assert client.closed()


def test_one_silence_is_told_once(serve, connect):
    struck = []
    server = serve(lambda req, res: None)
    server.set_timeout(0.02, lambda socket: struck.append(socket.remote_port))
    first, *others = [connect(server).send(get()) for _ in range(2)]
    eventually(lambda: len(struck) == 2, "both have been silent")
    for _ in range(3):  # in the time that three more silences take, the first two might have struck again
        others.append(connect(server).send(get()))
        eventually(lambda: len(set(struck)) == len(others) + 1, "one more has been silent")
    assert len(struck) == 5
    first.send(b"\r\n")
    eventually(lambda: len(struck) == 6, "a byte has ended the silence, and another began")


def test_the_time_between_requests_does_not_count_while_the_next_one_is_here(serve, connect):
    """It waits because the client has not taken the last answer yet, slowly as it is; that has a limit of its own."""
    server = serve(
        lambda req, res: res.end(b"x" * 12_000_000 if req.url == "/big" else b"next"), keep_alive_timeout=0.05
    )
    client = connect(server, receive_buffer=4096).send(get("/big") + get("/next"))
    head = client.read_head()
    for _ in range(30):
        client.read_exactly(200_000)
        gevent.sleep(0.05)
    client.read_exactly(6_000_000)
    assert head["connection"] == "keep-alive"
    assert client.read_response().body == b"next"


def test_timeout_0_never_strikes(serve, connect):
    """Behaviour 8.2"""
    go = Event()
    server = serve(lambda req, res: (go.wait(), res.end("late")), timeout=0)
    client = connect(server).send(get())
    gevent.spawn_later(0.1, go.set)
    assert client.read_response().body == b"late"


def test_req_set_timeout_strikes_while_the_body_is_unfinished(serve, connect):
    """Behaviour 8.5"""
    heard = Heard()

    def handler(req, res):
        req.set_timeout(0.05, lambda socket: heard.note("request", socket))
        res.on("timeout", lambda socket: heard.note("response"))

    client = connect(serve(handler)).send(POST)
    (socket,) = heard.wait_for("request")
    heard.wait_for("response")
    socket.destroy()
    assert client.closed()


def test_req_set_timeout_is_silent_for_a_complete_request(serve, connect):
    """Behaviour 8.5"""
    heard = Heard()

    def handler(req, res):
        req.set_timeout(0.05, lambda socket: heard.note("request"))
        res.on("timeout", lambda socket: (heard.note("response"), res.end()))

    connect(serve(handler)).send(get()).read_response()
    assert heard.names == ["response"]


def test_res_set_timeout_is_heard_by_the_response_in_front_only(serve, connect):
    """Behaviour 8.6"""
    heard, responses = Heard(), []

    def handler(req, res):
        responses.append(res)
        res.set_timeout(0.05, lambda socket: heard.note(req.url))
        if req.url == "/1":
            res.end()

    client = connect(serve(handler)).send(get("/1") + get("/2") + get("/3"))
    client.read_response()
    heard.wait_for("/2")
    for response in responses:
        response.end()
    client.read_response()
    client.read_response()
    assert heard.names[0] == "/2"
    assert "/1" not in heard.names


def test_an_idle_connection_tells_neither_the_old_request_nor_the_old_response(serve, connect):
    """Behaviour 8.7"""
    heard = Heard()

    def handler(req, res):
        req.on("timeout", lambda socket: heard.note("request"))
        res.on("timeout", lambda socket: heard.note("response"))
        res.end()

    server = serve(handler, timeout=0.05)
    server.on("timeout", lambda socket: (heard.note("server"), socket.destroy()))
    client = connect(server).send(get())
    client.read_response()
    assert client.closed()
    assert set(heard.names) == {"server"}


def test_a_timeout_on_the_socket_itself_needs_no_other_listener(serve, connect):
    """Behaviour 8.8"""
    heard = Heard()

    def handler(req, res):
        req.socket.set_timeout(0.05, lambda: (heard.note("socket"), res.end("after")))

    assert connect(serve(handler)).send(get()).read_response().body == b"after"
    assert heard.names == ["socket"]


def test_a_huge_timeout_does_not_strike_and_0_cancels(serve, connect):
    """Behaviour 8.11"""
    heard = Heard()
    go = Event()

    def handler(req, res):
        req.socket.set_timeout(2.0**40, lambda: heard.note("timeout"))
        res.set_timeout(0.02)
        res.set_timeout(0)
        go.wait()
        res.end()

    client = connect(serve(handler)).send(get())
    gevent.spawn_later(0.08, go.set)
    assert client.read_response().status == 200
    assert heard == []


def test_request_timeout_while_the_body_is_awaited_answers_408(serve, connect, logged):
    """Behaviour 8.12"""
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "aborted")
        req.resume()

    client = connect(serve(handler, request_timeout=0.1)).send(POST)
    for _ in range(3):
        gevent.sleep(0.01)
        client.send(b"x")
    assert client.read_all() == TIMED_OUT
    heard.wait_for("aborted")


def test_request_timeout_does_not_count_the_time_of_the_handler(serve, connect):
    server = serve(lambda req, res: (gevent.sleep(0.1), res.end("slow")), request_timeout=0.03)
    assert connect(server).send(get()).read_response().body == b"slow"


@pytest.mark.parametrize("begun", [b"", b"GET", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_first_head_that_takes_too_long_from_the_connect_gets_408(serve, connect, begun):
    """Behaviour 8.13"""
    heard = Heard()
    server = serve(headers_timeout=0.05)
    heard.listen(server, "timeout")
    assert connect(server).send(begun).read_all() == TIMED_OUT
    assert heard == []


def test_empty_lines_and_trickled_bytes_do_not_restart_the_headers_timeout(serve, connect):
    client = connect(serve(headers_timeout=0.1))
    began = time.monotonic()
    for part in [b"\r\n", b"\r\n", b"G", b"E", b"T"]:
        client.send(part)
        gevent.sleep(0.015)
    assert client.read_all() == TIMED_OUT
    assert time.monotonic() - began < 0.4


def test_headers_timeout_counts_anew_for_each_request_and_not_while_idle(serve, connect):
    """Behaviour 8.13"""
    client = connect(serve(lambda req, res: res.end("first"), headers_timeout=0.06))
    assert client.send(get()).read_response().body == b"first"
    gevent.sleep(0.1)  # the idle time is what is tested
    assert client.send(get()).read_response().body == b"first"
    assert client.send(b"GET / HT").read_all() == TIMED_OUT


def test_keep_alive_timeout_closes_silently_without_a_timeout_event(serve, connect):
    """Behaviour 6.6"""
    heard = Heard()
    server = serve(lambda req, res: res.end(), keep_alive_timeout=0.05)
    heard.listen(server, "timeout")
    client = connect(server)
    client.send(get()).read_response()
    with bounded("the close of the idle connection", 2):
        assert client.read_all() == b""
    assert heard == []


def test_a_body_slower_than_min_data_rate_gets_408(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.05)
    client = connect(serve(lambda req, res: req.resume(), min_data_rate=1000)).send(POST + b"x")
    assert client.read_all() == TIMED_OUT


def test_a_body_that_we_do_not_read_is_not_called_slow(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.02)
    body = b"x" * 300_000

    def handler(req, res):
        gevent.sleep(0.15)
        res.end(str(len(req.read())))

    client = connect(serve(handler, min_data_rate=1_000_000)).send(get(method="POST", body=body))
    assert client.read_response().body == b"300000"


def test_a_request_that_waits_for_the_pool_is_not_called_late(serve, connect):
    go, began = Event(), Event()

    def handler(req, res):
        began.set()
        go.wait()
        res.end(req.url)

    server = serve(handler, pool=1, headers_timeout=0.05, keep_alive_timeout=0.05)
    first = connect(server).send(get("/1"))
    assert began.wait(5)
    second = connect(server).send(get("/2"))
    gevent.spawn_later(0.2, go.set)
    assert first.read_response().body == b"/1"
    assert second.read_response().body == b"/2"


def test_a_response_read_slower_than_min_data_rate_is_cut_and_told_to_the_handler(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.05)
    cut = Event()

    def handler(req, res):
        res.on("close", cut.set)
        while not res.destroyed:
            res.write(b"x" * 1_000_000)

    client = connect(serve(handler, min_data_rate=1e12)).send(get())

    assert cut.wait(5)
    client.close()


def test_a_client_that_takes_nothing_before_a_tunnel_that_nobody_gives_is_cut(serve, connect, monkeypatch):
    """Given an answer that is not taken, when a CONNECT follows that has no listener, then the client is cut."""
    monkeypatch.setattr(rate, "GRACE", 0.05)
    given, ended = Event(), Event()

    def handler(req, res):
        req.socket.on("close", ended.set)
        while not req.socket.queued:
            res.write(b"x" * 10_000)
        res.end()
        given.set()

    server = serve(handler, timeout=0, min_data_rate=1e9)
    client = connect(server, receive_buffer=4096).send(get())
    with bounded("the answer"):
        given.wait()

    client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")

    with bounded("the cut"):
        ended.wait()


def test_the_rest_of_a_body_that_was_left_is_timed_though_we_were_behind_before(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.05)

    def handler(req, res):
        eventually(lambda: req.inflow.size >= HIGH_WATER_MARK)
        req.read(HIGH_WATER_MARK - 1000)
        res.end("enough")

    client = connect(serve(handler, timeout=0, min_data_rate=1e9))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000)

    assert client.read_response().body == b"enough"
    assert client.closed()


def test_a_response_read_faster_than_min_data_rate_is_not_cut(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.01)

    def handler(req, res):
        for _ in range(20):
            res.write(b"x" * 1_000_000)
        res.end()

    assert len(connect(serve(handler, min_data_rate=1000)).send(get()).read_response().body) == 20_000_000


def test_a_client_that_waits_for_100_continue_is_not_called_slow(serve, connect, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.02)

    def handler(req, res):
        gevent.sleep(0.15)
        res.end(req.read())

    client = connect(serve(handler, min_data_rate=1_000_000))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"ok")

    assert client.read_response().body == b"ok"
