"""Backpressure: nobody's memory grows because somebody else is slow."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from .support import Heard, bounded, eventually, get

MARK = 64 * 1024
PIECE = b"x" * 16_384
SMALL = 4096  # a receive buffer that fills fast


def crowd_out(serve, connect, **options):
    """A handler that writes for ever to a client that does not read."""
    heard = Heard()
    state = {"written": 0, "peak": 0}

    def handler(req, res):
        state["response"], state["greenlet"] = res, gevent.getcurrent()
        try:
            while not res.destroyed:
                res.write(PIECE)
                state["written"] += len(PIECE)
                state["peak"] = max(state["peak"], req.socket.queued)
        finally:
            heard.note("stopped")

    client = connect(serve(handler, **options), receive_buffer=SMALL).send(get())
    eventually(lambda: state["peak"] > MARK, "a queue above the mark")
    return client, state, heard


def test_write_blocks_above_the_mark_and_the_queue_stays_bounded(serve, connect):
    """Behaviour 2.28"""
    client, state, heard = crowd_out(serve, connect)
    socket = state["response"].socket
    written = state["written"]
    client.read_exactly(100)  # a round trip through the hub
    assert MARK < state["peak"] <= MARK + len(PIECE) + 64
    assert heard == []
    client.read_exactly(1_500_000)
    eventually(lambda: state["written"] > written + 500_000, "more writes")
    assert state["peak"] <= MARK + len(PIECE) + 64
    assert socket.queued <= MARK + len(PIECE) + 64
    client.reset()
    heard.wait_for("stopped")


def test_a_small_high_water_mark_is_heeded(serve, connect):
    """Behaviour 2.28"""
    heard = Heard()

    def handler(req, res):
        while res.write(b"x" * 1000):
            pass
        heard.note("queued", req.socket.queued)
        res.write(b"x" * 100_000)
        heard.note("over", req.socket.queued)
        res.write(b"y")
        heard.note("below", req.socket.queued)
        res.end()

    client = connect(serve(handler, high_water_mark=10_000), receive_buffer=SMALL).send(get())
    assert heard.wait_for("over")[0] > 10_000
    assert heard.names == ["queued", "over"]
    client.read_response()
    assert heard.wait_for("below")[0] <= 10_000 + 64


def test_a_slow_reader_gets_every_byte_in_order(serve, connect):
    count = 400
    pieces = [b"%06d" % number * 1000 for number in range(count)]

    def handler(req, res):
        for piece in pieces:
            res.write(piece)
        res.end()

    client = connect(serve(handler), receive_buffer=SMALL).send(get())
    assert client.read_response().body == b"".join(pieces)


def test_drain_comes_once_when_the_queue_has_emptied(serve, connect):
    """Behaviour 2.28"""
    heard = Heard()

    def handler(req, res):
        res.on("drain", lambda: heard.note("drain", req.socket.queued))
        res.write(b"a" * 4_000_000)
        heard.note("returned")
        heard.wait_for("drain")
        heard.note("small", res.write("b"))
        res.end()

    client = connect(serve(handler), receive_buffer=SMALL).send(get())
    heard.wait_for("returned")
    assert heard.names == ["returned"]
    assert len(client.read_response().body) == 4_000_001
    assert list(heard) == [("returned",), ("drain", 0), ("small", True)]


def test_no_drain_when_the_message_was_ended_or_nothing_was_queued(serve, connect):
    """Behaviour 2.28"""
    heard = Heard()

    def handler(req, res):
        heard.listen(res, "drain", "finish")
        res.write("small" if req.url == "/small" else b"x" * 4_000_000)
        res.end()

    client = connect(serve(handler), receive_buffer=SMALL)
    for count, path in enumerate(["/small", "/large"], 1):
        client.send(get(path)).read_response()
        heard.wait_for("finish", count)
    assert heard.names == ["finish", "finish"]


def test_write_returns_false_without_blocking_when_the_kernel_is_full(serve, connect):
    """Behaviour 2.28"""
    heard = Heard()

    def handler(req, res):
        res.flush_headers()
        with gevent.Timeout(0.5):
            heard.note("returned", res.write("x"), res.write(b"x" * 3_000_000))
        res.end()

    client = connect(serve(handler), receive_buffer=SMALL).send(get())
    assert heard.wait_for("returned") == (True, False)
    client.read_response()


def test_a_write_that_blocks_ends_when_the_client_goes(serve, connect):
    client, state, heard = crowd_out(serve, connect)
    client.reset()
    heard.wait_for("stopped")
    assert state["response"].destroyed


def test_a_killed_greenlet_stops_in_its_write_and_the_body_is_seen_to_be_cut(serve, connect):
    client, state, heard = crowd_out(serve, connect)
    with bounded("the kill"):
        state["greenlet"].kill()
    heard.wait_for("stopped")
    received = b""
    try:
        received = client.read_all()
    except ConnectionResetError:
        pass
    assert not received.endswith(b"0\r\n\r\n")
    assert state["response"].destroyed


def test_a_write_bounded_by_a_timeout_leaves_the_response_usable(serve, connect):
    heard = Heard()

    def handler(req, res):
        res.write(b"a" * 4_000_000)
        timeout = gevent.Timeout(0.02)
        with pytest.raises(gevent.Timeout), timeout:
            res.write(b"never sent")
        heard.note("timed out")
        res.end("z")

    client = connect(serve(handler), receive_buffer=SMALL).send(get())
    heard.wait_for("timed out")
    assert client.read_response().body == b"a" * 4_000_000 + b"z"


def test_a_response_that_is_not_in_front_blocks_its_writer_too(serve, connect):
    heard, go = Heard(), Event()
    sizes = []

    def handler(req, res):
        if req.url == "/front":
            go.wait()
            return res.end("front")
        for _ in range(20):
            res.write(PIECE)
            sizes.append(res._backlog.size if res._backlog else 0)
        res.end()

    client = connect(serve(handler)).send(get("/front") + get("/behind"))
    eventually(lambda: sizes and sizes[-1] > MARK, "held bytes above the mark")
    assert len(sizes) < 20
    go.set()
    assert client.read_response().body == b"front"
    assert client.read_response().body == PIECE * 20
    assert max(sizes) <= MARK + len(PIECE) + 64
    assert heard == []


# --- in ---


def test_an_upload_that_nobody_reads_is_held_by_flow_control(serve, connect):
    """Behaviour 3.18"""
    heard, go = Heard(), Event()
    requests = []

    def handler(req, res):
        requests.append(req)
        heard.listen(req, "end")
        heard.note("handling")
        go.wait()
        res.end(str(len(req.read())))

    size = 20_000_000
    client = connect(serve(handler))
    sender = gevent.spawn(client.send, get(method="POST", headers=f"Content-Length: {size}\r\n") + bytes(size))
    heard.wait_for("handling")
    eventually(lambda: not requests[0].socket.reading_on, "the server to stop reading")
    assert requests[0].socket.bytes_read <= 3 * MARK
    assert not sender.ready()
    assert heard.names == ["handling"]
    go.set()
    assert client.read_response().body == str(size).encode()
    sender.get(timeout=5)


def test_a_blocked_data_listener_holds_the_sender(serve, connect):
    """Behaviour 3.18"""
    heard, go = Heard(), Event()
    requests, received = [], []

    def handler(req, res):
        requests.append(req)

        def on_data(chunk):
            heard.note("data")
            go.wait()
            received.append(len(chunk))

        req.on("data", on_data)
        req.on("end", lambda: res.end(str(sum(received))))

    size = 10_000_000
    client = connect(serve(handler))
    sender = gevent.spawn(client.send, get(method="POST", headers=f"Content-Length: {size}\r\n") + bytes(size))
    heard.wait_for("data")
    eventually(lambda: not requests[0].socket.reading_on, "the server to stop reading")
    assert heard.names == ["data"]
    assert requests[0].socket.bytes_read <= 4 * MARK
    go.set()
    assert client.read_response().body == str(size).encode()
    sender.get(timeout=5)


def test_an_interrupted_read_takes_nothing(serve, connect):
    heard = Heard()

    def handler(req, res):
        timeout = gevent.Timeout(0.02)
        with pytest.raises(gevent.Timeout), timeout:
            req.read()
        heard.note("timed out")
        res.end(req.read())

    client = connect(serve(handler)).send(get(method="POST", headers="Content-Length: 8\r\n") + b"half")
    heard.wait_for("timed out")
    assert client.send(b"rest").read_response().body == b"halfrest"


def test_an_echo_of_more_than_both_buffers_hold_runs_in_bounded_memory(serve, connect):
    peak = []

    def handler(req, res):
        for chunk in req:
            res.write(chunk)
            peak.append(req.socket.queued)
        res.end()

    size = 10_000_000
    client = connect(serve(handler), receive_buffer=SMALL)
    sender = gevent.spawn(client.send, get(method="POST", headers=f"Content-Length: {size}\r\n") + bytes(size))
    eventually(lambda: peak and peak[-1] > MARK, "a full queue")
    assert not sender.ready()
    assert len(client.read_response().body) == size
    assert max(peak) <= 3 * MARK
    sender.get(timeout=5)


def test_a_held_answer_that_was_replaced_once_still_waits_without_spinning(serve, connect):
    first_may_end, went_on = Event(), Event()
    spun = []

    def handler(req, res):
        if req.url == "/1":
            first_may_end.wait()
            res.end("one")
            return
        res.write(b"x" * 200_000)
        waiter = gevent.spawn(res.write, b"more")  # blocks, as the mark is passed
        gevent.sleep(0)
        waiter.kill()
        assert res.drop_unsent()
        res.write(b"y" * 200_000)
        gevent.spawn_later(0.05, first_may_end.set)
        gevent.spawn_later(0.05, spun.append, True)
        res.write(b"z")  # over the mark: waits for its turn, and lets the others run
        res.end()
        went_on.set()

    client = connect(serve(handler)).send(get("/1") + get("/2"))

    assert client.read_response().body == b"one"
    assert client.read_response().body == b"y" * 200_000 + b"z"
    assert went_on.wait(5)
    assert spun
