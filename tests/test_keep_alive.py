"""Which connections are kept, and pipelining: any order in, the order of the requests out."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from .support import Heard, eventually, get


def test_http_1_1_answers_say_keep_alive_and_for_how_long(serve, connect):
    """Behaviour 6.1"""
    client = connect(serve(lambda req, res: res.end(), keep_alive_timeout=7))
    answer = client.send(get()).read_response()
    assert (answer["connection"], answer["keep-alive"]) == ("keep-alive", "timeout=7")
    assert client.send(get()).read_response().status == 200


def test_no_limit_on_idle_time_then_no_hint(serve, connect):
    """Behaviour 6.1"""
    answer = connect(serve(lambda req, res: res.end(), timeout=0)).send(get()).read_response()
    assert (answer["connection"], answer["keep-alive"]) == ("keep-alive", None)


def test_a_request_with_connection_close_gets_close_and_the_end(serve, connect):
    """Behaviour 6.1"""
    client = connect(serve(lambda req, res: res.end()))
    answer = client.send(get(headers="Connection: close\r\n")).read_response()
    assert (answer["connection"], answer["keep-alive"]) == ("close", None)
    assert client.read_all() == b""


def test_a_connection_header_of_the_user_is_sent_as_it_is(serve, connect):
    """Behaviour 6.1"""

    def handler(req, res):
        res.set_header("Connection", "Keep-Alive" if req.url == "/keep" else "Close")
        res.end()

    client = connect(serve(handler))
    answer = client.send(get("/keep")).read_response()
    assert (answer.all("connection"), answer["keep-alive"]) == (["Keep-Alive"], None)
    assert client.send(get("/close")).read_response().all("connection") == ["Close"]
    assert client.read_all() == b""


def test_pipelined_handlers_finish_in_any_order_and_answers_leave_in_the_order_of_the_requests(serve, connect):
    """Behaviour 6.2"""
    responses, all_here = {}, Event()

    def handler(req, res):
        responses[req.url] = res
        if len(responses) == 3:
            all_here.set()

    client = connect(serve(handler)).send(get("/1") + get("/2") + get("/3"))
    assert all_here.wait(5)
    responses["/3"].end("3")
    responses["/2"].write("2a")
    assert responses["/3"].writable_ended
    assert not responses["/3"].writable_finished
    responses["/1"].end("1")
    assert client.read_response().body == b"1"
    responses["/2"].end("2b")
    assert [client.read_response().body, client.read_response().body] == [b"2a2b", b"3"]


@pytest.mark.parametrize(("first", "second"), [("POST", "GET"), ("GET", "POST"), ("PUT", "DELETE")])
def test_a_pipelined_request_with_effects_runs_alone(serve, connect, first, second):
    """RFC 9112 section 9.3.2: only safe methods may run side by side."""
    heard, go_on = Heard(), Event()

    def handler(req, res):
        heard.note(f"{req.url} begins")
        if req.url == "/1":
            go_on.wait()
        heard.note(f"{req.url} ends")
        res.end(req.url)

    server = serve(handler)
    client = connect(server).send(get("/1", method=first) + get("/2", method=second))
    heard.wait_for("/1 begins")
    connect(server).send(get("/other")).read_response()
    go_on.set()

    assert [client.read_response().body, client.read_response().body] == [b"/1", b"/2"]
    assert heard.names == ["/1 begins", "/other begins", "/other ends", "/1 ends", "/2 begins", "/2 ends"]


@pytest.mark.parametrize("lines", [1, 6, 20])
def test_empty_lines_between_requests_with_effects_change_nothing(serve, connect, lines):
    heard = Heard()

    def handler(req, res):
        heard.note(f"{req.url} begins")
        gevent.sleep(0)
        heard.note(f"{req.url} ends")
        res.end()

    client = connect(serve(handler)).send(get("/1", method="POST") + b"\r\n" * lines + get("/2", method="POST"))
    client.read_response(), client.read_response()
    assert heard.names == ["/1 begins", "/1 ends", "/2 begins", "/2 ends"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_end_of_a_client_is_seen_while_its_next_request_has_to_wait(serve, connect, how):
    heard = Heard()

    def handler(req, res):
        heard.note("begins", req.url)
        heard.listen(req, "close")

    server = serve(handler)
    client = connect(server).send(get("/1", method="POST") + get("/2"))
    heard.wait_for("begins")
    getattr(client, how)()
    heard.wait_for("close")
    connect(server).send(get("/other"))
    heard.wait_for("begins", 2)

    assert [entry for entry in heard if entry[0] == "begins"] == [("begins", "/1"), ("begins", "/other")]


def test_requests_that_wait_are_held_up_to_the_mark(serve, connect):
    go_on = Event()

    def handler(req, res):
        if req.url == "/1":
            go_on.wait()
        res.end(req.url)

    following = [get(f"/{number}", headers=f"X: {'x' * 10_000}\r\n") for number in range(2, 400)]
    server = serve(handler)
    sockets = []
    server.on("connection", sockets.append)
    client = connect(server).send(get("/1", method="POST"))
    sending = gevent.spawn(client.send, b"".join(following))
    eventually(lambda: sockets and not sockets[0].reading_on, "a pause")
    assert sockets[0].bytes_read < 4 * 64 * 1024
    go_on.set()
    sending.join()
    assert [client.read_response().body for _ in range(400 - 1)] == [b"/%d" % number for number in range(1, 400)]


def test_empty_lines_behind_a_request_with_effects_do_not_hide_the_end_of_its_client(serve, connect):
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "close")

    client = connect(serve(handler)).send(get(method="POST") + b"\r\n\r\n")
    client.close()
    heard.wait_for("close")


def test_a_thousand_pipelined_requests_are_all_answered_in_order(serve, connect):
    """Behaviour 6.2"""

    def handler(req, res):
        if req.url.endswith("7"):
            gevent.sleep(0)
        res.end(req.url)

    client = connect(serve(handler)).send(b"".join(get(f"/{number}") for number in range(1000)))
    assert [client.read_response().body for _ in range(1000)] == [b"/%d" % number for number in range(1000)]


@pytest.mark.parametrize(
    ("case", "kept"), [("length", True), ("chunked", True), ("no connection header", False), ("no length", False)]
)
def test_http_1_0_with_keep_alive_is_kept_only_as_the_handler_says_with_a_known_end(serve, connect, case, kept):
    """Behaviour 6.3"""

    def handler(req, res):
        if case != "no connection header":
            res.set_header("Connection", "keep-alive")
        if case == "chunked":
            res.set_header("Transfer-Encoding", "chunked")
        elif case != "no length":
            res.set_header("Content-Length", 2)
        res.write("o")
        res.end("k")

    client = connect(serve(handler))
    request = get(version="1.0", headers="Connection: keep-alive\r\n")
    assert client.send(request).read_response().body == b"ok"
    if kept:
        assert client.send(request).read_response().body == b"ok"
    else:
        assert client.closed()


def test_http_1_0_with_te_chunked_may_be_chunked_and_kept(serve, connect):
    """Behaviour 6.3"""

    def handler(req, res):
        res.set_header("Connection", "keep-alive")
        res.write("o")
        res.end("k")

    client = connect(serve(handler))
    request = get(version="1.0", headers="Connection: keep-alive\r\nTE: chunked\r\n")
    for _ in range(2):
        assert client.send(request).read_response().raw_body == b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"


def test_a_flood_that_never_reads_is_no_longer_read_and_times_out(serve, connect):
    """Behaviour 6.4"""
    heard, served = Heard(), []
    body = b"x" * 10240
    server = serve(lambda req, res: (served.append(1), res.end(body)), timeout=0.2)
    server.on("timeout", lambda socket: heard.note("timeout", socket))
    client = connect(server, receive_buffer=65536)
    flood = gevent.spawn(client.sock.sendall, get() * 10240)
    (socket,) = heard.wait_for("timeout")
    assert 100 < len(served) < 10240
    assert socket.queued < 4 * 65536
    count = len(served)
    socket.destroy()
    flood.kill()
    assert len(served) == count


def test_max_requests_per_socket_counts_down_to_close_and_hands_over_no_more(serve, connect):
    """Behaviour 6.5"""
    urls = []

    def handler(req, res):
        urls.append(req.url)
        res.end()

    server = serve(handler, max_requests_per_socket=3, keep_alive_timeout=5)
    for _ in range(2):  # counts are per connection
        client = connect(server).send(get("/1") + get("/2") + get("/3") + get("/4"))
        answers = [client.read_response() for _ in range(3)]
        assert [answer["connection"] for answer in answers] == ["keep-alive", "keep-alive", "close"]
        assert [answer["keep-alive"] for answer in answers] == ["timeout=5, max=3"] * 2 + [None]
        assert b" 200 " not in client.read_all()
    assert urls == ["/1", "/2", "/3"] * 2


def test_max_requests_per_socket_holds_for_slow_pipelined_handlers_too(serve, connect):
    """Behaviour 6.5"""
    urls, go = [], Event()

    def handler(req, res):
        urls.append(req.url)
        go.wait()
        res.end()

    client = connect(serve(handler, max_requests_per_socket=2)).send(get("/1") + get("/2") + get("/3"))
    gevent.spawn_later(0.02, go.set)
    assert [client.read_response()["connection"] for _ in range(2)] == ["keep-alive", "close"]
    assert b" 200 " not in client.read_all()
    assert urls == ["/1", "/2"]


def test_the_first_byte_of_the_next_request_ends_the_idle_time(serve, connect):
    """Behaviour 6.6"""
    client = connect(serve(lambda req, res: res.end(req.url), keep_alive_timeout=0.05))
    client.send(get()).read_response()
    client.send(b"GET /2 HT")
    gevent.sleep(1.2)  # longer than the idle time with its grace of a second
    assert client.send(b"TP/1.1\r\nHost: a\r\n\r\n").read_response().body == b"/2"


def test_the_server_waits_longer_than_it_announced(serve, connect):
    """Behaviour 6.7"""
    client = connect(serve(lambda req, res: res.end(req.url), keep_alive_timeout=0.05))
    client.send(get()).read_response()
    gevent.sleep(0.1)  # more than was announced
    assert client.send(get("/2")).read_response().body == b"/2"


def test_all_of_many_pipelined_requests_are_answered_though_the_client_has_ended_its_side(serve, connect):
    """Behaviour 1.8, beyond the requests that are under way at a time."""
    client = connect(serve(lambda req, res: res.end(req.url), http_allow_half_open=True))
    client.send(b"".join(get(f"/{number}") for number in range(300))).half_close()

    assert client.read_all().count(b"HTTP/1.1 200 OK") == 300


def test_no_request_is_handled_behind_a_response_whose_head_said_close(serve, connect):
    began, go = Event(), Event()
    handled = []

    def handler(req, res):
        handled.append(req.url)
        res.write_head(200, {"Connection": "close", "Content-Length": 4})
        res.write("ab")
        began.set()
        go.wait()
        res.end("cd")

    client = connect(serve(handler)).send(get("/1"))
    assert began.wait(5)
    client.send(get("/2"))
    gevent.sleep(0.02)  # that nothing happens has no event
    go.set()

    assert client.read_all().endswith(b"abcd")
    assert handled == ["/1"]
