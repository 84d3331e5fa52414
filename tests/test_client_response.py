"""The client's response: its head, its body in both reading styles, how it ends or is cut (behaviours, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import greenhttp
from greenhttp import Agent, ConnectionLostError, IncomingMessage, RemoteProtocolError, request

from .origin import Origin, ok, then_close
from .support import Heard, bounded, eventually

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"one\ntwo\n\nlast"


def chunks(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """A chunked response of `pieces`."""
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


def until_close(body: bytes) -> bytes:
    """A response that ends with the connection."""
    return OK + b"\r\n" + body


@pytest.fixture
def agent(nothing_left: None) -> Iterator[Agent]:
    """An agent that keeps its connections until the test is over."""
    made = Agent(keep_alive=True)
    yield made
    made.destroy()


@pytest.fixture
def ask(origin: Origin) -> Callable[..., Any]:
    """`ask(look, raw)`: what `look(res)` returns of the response `raw`, after which the connection is closed."""

    def ask(look: Callable[[IncomingMessage], Any], raw: bytes, **options: Any) -> Any:
        origin.script(then_close(raw))
        begun = request(origin.url(), **options)
        begun.end()
        with bounded("a look at the response"):
            return look(begun.get_response())

    return ask


def refusal(origin: Origin, raw: bytes, **options: Any) -> RemoteProtocolError:
    """The error of a request that `raw` answers; it has come in either style, and nothing else has."""
    origin.script(raw)
    heard = Heard()
    begun = greenhttp.get(origin.url(), **options)
    heard.listen(begun, "response", "error", "close")
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    with pytest.raises(RemoteProtocolError) as caught:
        greenhttp.get(origin.url(), **options).get_response(5)
    assert type(heard[0][1]) is type(caught.value)
    assert (str(heard[0][1]), heard[0][1].code) == (str(caught.value), caught.value.code)
    for peer in origin.peers:
        assert peer.sock.closed or peer.closed()
    return caught.value


# --- the head ---


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_http_version_follows_the_status_line(ask, version):
    """Behaviour 3.1"""
    seen = ask(
        lambda res: (res.http_version, res.http_version_major, res.http_version_minor), ok(b"x", version=version)
    )
    assert seen == (version, 1, int(version[2]))


def test_raw_headers_keep_order_spelling_and_duplicates_and_trim_values(ask):
    """Behaviour 3.2"""
    raw = OK + b"X-Filler:   42 \t\r\nx-FILLER:\t43\r\nX-Empty:\r\nX-Latin: caf\xe9\r\nContent-Length: 0\r\n\r\n"
    assert ask(lambda res: res.raw_headers, raw) == [
        *("X-Filler", "42", "x-FILLER", "43", "X-Empty", "", "X-Latin", "caf\u00e9", "Content-Length", "0")
    ]


@pytest.mark.parametrize(
    "name",
    "x-any Unknown accept accept-charset accept-encoding accept-language dav link pragma proxy-authenticate "
    "sec-websocket-extensions sec-websocket-protocol via www-authenticate x-forwarded-for".split(),
)
def test_repeated_headers_are_joined_with_a_comma(ask, name):
    """Behaviour 3.3"""
    headers = ask(lambda res: res.headers, ok(headers=f"{name}: foo\r\n{name.upper()}: bar\r\n"))
    assert headers[name.lower()] == "foo, bar"


@pytest.mark.parametrize(
    "name",
    "content-type user-agent referer authorization proxy-authorization if-modified-since if-unmodified-since from "
    "location max-forwards age etag expires last-modified retry-after server".split(),
)
def test_of_single_valued_headers_the_first_line_wins(ask, name):
    """Behaviour 3.4"""
    headers, raw = ask(lambda res: (res.headers, res.raw_headers), ok(headers=f"{name}: foo\r\n{name}: bar\r\n"))
    assert headers[name] == "foo"
    assert raw[2:] == [name, "foo", name, "bar"]


@pytest.mark.parametrize(
    ("lines", "cookies"), [("Set-Cookie: a=1\r\nset-cookie: b=2\r\n", ["a=1", "b=2"]), ("Set-Cookie: a=1\r\n", ["a=1"])]
)
def test_set_cookie_is_always_a_list(ask, lines, cookies):
    """Behaviour 3.5"""
    assert ask(lambda res: res.headers, ok(headers=lines))["set-cookie"] == cookies


@pytest.mark.parametrize(
    ("line", "status", "phrase"),
    [
        (b"HTTP/1.1 302 Moved Temporarily", 302, "Moved Temporarily"),
        (b"HTTP/1.1 200 ", 200, ""),
        (b"HTTP/1.1 200", 200, ""),
        (b"HTTP/1.1 299 caf\xe9", 299, "caf\u00e9"),
        (b"HTTP/1.1 999 x", 999, "x"),
    ],
)
def test_status_and_phrase_are_as_sent(ask, line, status, phrase):
    """Behaviour 3.13, 2.11"""
    seen = ask(lambda res: (res.status_code, res.status_message), line + b"\r\nContent-Length: 0\r\n\r\n")
    assert seen == (status, phrase)


def test_what_only_a_request_has_is_empty(ask):
    assert ask(lambda res: (res.method, res.url, res.closing), ok()) == ("", "", False)


# --- the body ---


@pytest.mark.parametrize(
    "raw",
    [ok(BODY), chunks(BODY), chunks(b"one\nt", b"wo\n\nla", b"st"), until_close(BODY)],
    ids=["length", "chunk", "chunks", "close"],
)
class TestReadingStyles:
    """Behaviour 3.8, and the note on the blocking style: every style sees the same bytes and the same end."""

    def test_read_gives_all_and_then_nothing(self, ask, raw):
        assert ask(lambda res: (res.read(), res.read(), res.complete), raw) == (BODY, b"", True)

    @pytest.mark.parametrize("size", [1, 4, 5, 1000])
    def test_read_of_a_size_gives_exactly_that_much_until_the_end(self, ask, raw, size):
        def look(res):
            pieces = []
            while piece := res.read(size):
                pieces.append(piece)
            return pieces

        assert ask(look, raw) == [BODY[start : start + size] for start in range(0, len(BODY), size)]

    def test_read_of_nothing_takes_nothing(self, ask, raw):
        assert ask(lambda res: (res.read(0), res.read(None)), raw) == (b"", BODY)

    def test_read1_gives_at_most_its_size(self, ask, raw):
        def look(res):
            pieces = []
            while piece := res.read1(3):
                pieces.append(piece)
            return pieces

        pieces = ask(look, raw)
        assert b"".join(pieces) == BODY
        assert max(map(len, pieces)) <= 3

    def test_readline_gives_lines(self, ask, raw):
        assert ask(lambda res: [res.readline() for _ in range(5)], raw) == [b"one\n", b"two\n", b"\n", b"last", b""]

    def test_readinto_fills_a_buffer(self, ask, raw):
        def look(res):
            buffer, body = bytearray(4), b""
            while count := res.readinto(buffer):
                body += buffer[:count]
            return body

        assert ask(look, raw) == BODY

    def test_iteration_gives_the_chunks_and_ends(self, ask, raw):
        pieces = ask(lambda res: [*res, *res], raw)
        assert b"".join(pieces) == BODY
        assert b"" not in pieces

    @pytest.mark.parametrize("late", [False, True], ids=["listener", "get_response"])
    def test_data_and_end_events_give_the_same_and_close_follows_once(self, origin, raw, late):
        heard = Heard()
        origin.script(then_close(raw))
        if late:
            heard.listen(greenhttp.get(origin.url()).get_response(), "data", "end", "close", "aborted", "error")
        else:
            listened = ("data", "end", "close", "aborted", "error")
            greenhttp.get(origin.url(), lambda res: heard.listen(res, *listened))
        heard.wait_for("close")
        assert b"".join(entry[1] for entry in heard if entry[0] == "data") == BODY
        assert heard.names[-2:] == ["end", "close"]
        assert set(heard.names[:-2]) == {"data"}

    def test_set_encoding_gives_text(self, ask, raw):
        assert ask(lambda res: res.set_encoding("utf-8").read(), raw) == BODY.decode()

    def test_pause_before_the_first_read_keeps_everything(self, origin, raw):
        """Behaviour 3.16"""
        heard, paused = Heard(), []

        def on_response(res):
            paused.append(res.pause())
            heard.listen(res, "data", "end")

        origin.script(then_close(raw), ok(b"meanwhile"))
        greenhttp.get(origin.url(), on_response)
        assert greenhttp.get(origin.url()).get_response().read() == b"meanwhile"
        eventually(lambda: paused)
        assert list(heard) == []
        paused[0].resume()
        heard.wait_for("end")
        assert b"".join(entry[1] for entry in heard[:-1]) == BODY

    def test_a_response_that_only_its_listeners_know_is_delivered(self, origin, raw):
        """Behaviour 4.14"""
        heard = Heard()
        origin.script(then_close(raw))
        greenhttp.get(origin.url()).get_response().on("data", lambda chunk: heard.note("data", chunk)).on(
            "end", lambda: heard.note("end")
        )
        heard.wait_for("end")
        assert b"".join(entry[1] for entry in heard[:-1]) == BODY


def test_pause_in_a_data_listener_holds_the_next_chunk(origin):
    """Behaviour 3.16"""
    heard, responses = Heard(), []

    def on_response(res):
        responses.append(res)
        res.on("data", lambda chunk: (res.pause(), heard.note("data", chunk)))
        heard.listen(res, "end")

    greenhttp.get(origin.url(), on_response)
    peer = origin.accept()
    peer.answer(OK + b"Content-Length: 6\r\n\r\none")
    assert heard.wait_for("data") == (b"one",)
    peer.send(b"two")
    eventually(lambda: responses[0].complete, "the whole body")
    assert heard.names == ["data"]
    responses[0].resume()
    assert heard.wait_for("data", 2) == (b"two",)
    responses[0].resume()
    heard.wait_for("end")


@pytest.mark.parametrize("look", [lambda res: res.read(), "".join], ids=["read", "iteration"])
def test_a_character_is_never_broken(ask, look):
    """Behaviour 3.8"""
    text = ask(lambda res: look(res.set_encoding("utf8")), chunks(b"a\xe2\x82", b"\xac", b"\xc3", b"\xa5!"))
    assert text == "a\u20ac\u00e5!"


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [b"a\r\n", b"A\r\n", b"0a;x=y\r\n"])
def test_chunks_decode_however_the_input_is_cut(origin, step, size):
    """Behaviour 3.9"""
    raw = CHUNKED + size + b"0123456789\r\n" + size + b"abcdefghij\r\n0\r\nX-T: 1\r\n\r\n"
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.read_request()
    for start in range(0, len(raw), step):
        peer.send(raw[start : start + step])
        gevent.idle()
    response = begun.get_response()
    assert (response.read(), response.trailers) == (b"0123456789abcdefghij", {"x-t": "1"})


def test_trailers_come_at_the_end_and_never_among_the_headers(origin):
    """Behaviour 3.10"""
    seen, heard = [], Heard()

    def on_response(res):
        def look(*_):
            seen.append((res.trailers, res.raw_trailers, "x-t" in res.headers))

        look()
        res.on("data", look)
        res.on("end", look)
        heard.listen(res, "data", "end")

    greenhttp.get(origin.url(), on_response)
    peer = origin.accept()
    peer.answer(CHUNKED + b"1\r\nx\r\n")
    heard.wait_for("data")
    peer.send(b"0\r\nX-T: 1\r\nx-t: 2\r\n\r\n")
    heard.wait_for("end")
    assert seen == [({}, [], False), ({}, [], False), ({"x-t": "1, 2"}, ["X-T", "1", "x-t", "2"], False)]


def test_trailers_are_there_after_a_blocking_read(ask):
    """Behaviour 3.10"""
    seen = ask(lambda res: (res.trailers, res.read(), res.trailers), chunks(b"x", trailers=b"X-T: 1\r\n"))
    assert seen == ({}, b"x", {"x-t": "1"})


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.0 200 OK\r\n\r\nI AM THE WALRUS",
        b"HTTP/0.9 200 OK\r\n\r\nI AM THE WALRUS",
        b"HTTP/1.1 200 OK\r\n\r\nI AM THE WALRUS",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nI AM THE WALRUS",
    ],
)
def test_a_body_without_a_length_ends_with_the_connection(origin, agent, raw):
    """Behaviour 3.14"""
    heard = Heard()
    greenhttp.get(origin.url(), lambda res: heard.listen(res, "data", "end", "close"), agent=agent)
    peer = origin.accept()
    peer.read_request()
    for part in (raw[:-4], raw[-4:]):
        peer.send(part)
        gevent.idle()
    eventually(lambda: heard, "some of the body")
    assert "end" not in heard.names
    peer.half_close()
    heard.wait_for("close")
    assert b"".join(entry[1] for entry in heard if entry[0] == "data") == b"I AM THE WALRUS"
    assert heard.names[-2:] == ["end", "close"]
    eventually(lambda: (agent.sockets, agent.free_sockets) == ({}, {}))


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_an_empty_body_may_end_with_the_connection(ask, raw):
    """Behaviour 3.14"""
    assert ask(lambda res: (res.read(), res.complete, res.headers), raw) == (b"", True, {})


def test_five_mib_come_intact_and_in_order(ask):
    """Behaviour 3.9, 3.18"""
    body = b"".join(b"%07d\n" % number for number in range(5242880 // 8))
    assert ask(lambda res: b"".join(res), ok(body)) == body


def test_a_body_that_nobody_reads_stops_the_sender_and_is_there_later(origin):
    """Behaviour 3.18"""
    body, heard = b"0123456789abcdef" * (1024 * 1024), Heard()
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.read_request()
    sender = gevent.spawn(lambda: (peer.sock.sendall(ok(body)), heard.note("all sent")))
    response = begun.get_response()
    origin.script(ok(b"meanwhile"))
    for _ in range(10):
        assert greenhttp.get(origin.url()).get_response().read() == b"meanwhile"
    assert response.socket.bytes_read <= 2 * 64 * 1024
    assert heard.names == []
    with bounded("the body"):
        assert response.read() == body
    sender.join()
    assert heard.names == ["all sent"]


def test_a_blocked_data_listener_stops_the_sender(origin):
    """Behaviour 3.18, and the house's rule that a blocked listener is backpressure"""
    heard, size = Heard(), 16 * 1024 * 1024
    go = gevent.event.Event()
    responses = []

    def on_response(res):
        responses.append(res)
        res.on("data", lambda chunk: (heard.note("data", len(chunk)), go.wait()))
        heard.listen(res, "end")

    greenhttp.get(origin.url(), on_response)
    peer = origin.accept()
    peer.read_request()
    gevent.spawn(peer.sock.sendall, ok(b"x" * size))
    heard.wait_for("data")
    origin.script(ok(b"meanwhile"))
    for _ in range(10):
        assert greenhttp.get(origin.url()).get_response().read() == b"meanwhile"
    assert responses[0].socket.bytes_read <= 3 * 64 * 1024
    assert heard.names == ["data"]
    go.set()
    heard.wait_for("end")
    assert sum(entry[1] for entry in heard if entry[0] == "data") == size


def test_bytes_behind_a_response_that_is_still_being_read_stay_with_the_sender(origin, agent):
    """Behaviour 3.18, 4.18"""
    heard, responses = Heard(), []

    def on_response(res):
        responses.append(res.pause())
        heard.listen(res, "data", "end")

    greenhttp.get(origin.url(), on_response, agent=agent)
    peer = origin.accept()
    peer.answer(ok(b"first"))
    eventually(lambda: responses)

    def send() -> None:
        try:
            peer.sock.sendall(ok(b"x" * (16 * 1024 * 1024)))
        except OSError:
            heard.note("dropped")

    gevent.spawn(send)
    origin.script(ok(b"meanwhile"))
    for _ in range(10):
        assert greenhttp.get(origin.url()).get_response().read() == b"meanwhile"
    assert responses[0].socket.bytes_read <= 3 * 64 * 1024
    responses[0].resume()
    heard.wait_for("dropped")
    assert list(heard) == [("data", b"first"), ("end",), ("dropped",)]
    assert (agent.sockets, agent.free_sockets) == ({}, {})


def test_pipe_writes_the_body_and_ends(origin, serve):
    """Behaviour 1.17"""
    heard = Heard()

    class Sink:
        def write(self, chunk: bytes) -> None:
            heard.note("write", chunk)

        def end(self) -> None:
            heard.note("end")

    origin.script(chunks(b"one", b"two"))
    greenhttp.get(origin.url()).get_response().pipe(Sink())
    heard.wait_for("end")
    assert b"".join(entry[1] for entry in heard[:-1]) == b"onetwo"


# --- no body, whatever the head says ---


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        *[("HEAD", "200 OK", fields) for fields in ("Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n", "")],
        *[("GET", "304 Not Modified", fields) for fields in ("Content-Length: 1000\r\n", "")],
        ("GET", "304 Not Modified", "Transfer-Encoding: chunked\r\n"),
        ("DELETE", "204 No Content", ""),
        ("GET", "204 No Content", "Content-Length: 7\r\n"),
    ],
)
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "events"])
def test_a_response_without_a_body_ends_at_once_and_the_connection_serves_on(
    origin, agent, method, status, fields, blocking
):
    """Behaviour 2.9, 2.10"""
    heard = Heard()
    origin.script(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode(), ok(b"next"))
    begun = request(origin.url(), method=method, agent=agent)
    if not blocking:
        begun.on("response", lambda res: heard.listen(res, "data", "end"))
    begun.end()
    if blocking:
        response = begun.get_response()
        assert (response.read(), response.complete, list(response)) == (b"", True, [])
    else:
        heard.wait_for("end")
        assert heard.names == ["end"]
    eventually(lambda: agent.free_sockets, "a free connection")
    assert greenhttp.get(origin.url(), agent=agent).get_response().read() == b"next"
    assert len(origin.peers) == 1


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints", "199 x"])
def test_an_interim_answer_has_no_body_and_is_not_the_response(ask, status):
    """Behaviour 2.9, 4.13"""
    interim = f"HTTP/1.1 {status}\r\nX-A: interim\r\n\r\n".encode()
    seen = ask(lambda res: (res.status_code, res.headers.get("x-a"), res.read()), interim * 3 + ok(b"final"))
    assert seen == (200, None, b"final")


def test_an_interim_answer_and_the_end_is_an_error(origin):
    """Behaviour 4.13, 3.19"""
    origin.script(then_close(b"HTTP/1.1 103 Early Hints\r\n\r\n"))
    with pytest.raises(ConnectionLostError, match="socket hang up"):
        greenhttp.get(origin.url()).get_response(5)


# --- cut off ---

CUT = {
    "length": OK + b"Content-Length: 10\r\n\r\nhalf",
    "no body yet": OK + b"Content-Length: 10\r\n\r\n",
    "in a chunk": CHUNKED + b"8\r\nhalf",
    "after a chunk": CHUNKED + b"4\r\nhalf",
    "between chunks": CHUNKED + b"4\r\nhalf\r\n",
    "in a size": CHUNKED + b"4\r\nhalf\r\n5",
    "before the last line": CHUNKED + b"4\r\nhalf\r\n0\r\n",
    "in a trailer": CHUNKED + b"4\r\nhalf\r\n0\r\nX-T: 1",
    "after a trailer": CHUNKED + b"4\r\nhalf\r\n0\r\nX-T: 1\r\n",
}

READ = {
    "read": lambda res: res.read(),
    "iteration": list,
    "readline": lambda res: [res.readline(), res.readline()],
    "read(10)": lambda res: res.read(10),
    "read1": lambda res: [res.read1(), res.read1()],
    "readinto": lambda res: [res.readinto(bytearray(4)), res.readinto(bytearray(4))],
    "text": lambda res: res.set_encoding("utf-8").read(),
}


@pytest.mark.parametrize("raw", CUT.values(), ids=list(CUT))
@pytest.mark.parametrize("read", READ.values(), ids=list(READ))
def test_a_cut_body_is_an_error_and_never_a_shorter_body(origin, agent, raw, read):
    """Behaviour 3.19"""
    origin.script(then_close(raw))
    response = greenhttp.get(origin.url(), agent=agent).get_response()
    for _ in range(2):  # and again, for whoever caught it the first time
        with bounded("an error"), pytest.raises(ConnectionLostError, match="aborted") as caught:
            read(response)
        assert caught.value.code == "ECONNRESET"
    assert (response.aborted, response.complete, response.trailers) == (True, False, {})
    assert (agent.sockets, agent.free_sockets) == ({}, {})


@pytest.mark.parametrize(
    ("raw", "leave"),
    [*[(raw, leave) for raw in CUT.values() for leave in ("close", "reset")], (until_close(b"half"), "reset")],
)
def test_a_cut_body_gives_aborted_error_close_and_no_end(origin, raw, leave):
    """Behaviour 3.19"""
    heard, responses = Heard(), []

    def on_response(res):
        responses.append(res)
        heard.listen(res, "data", "aborted", "end", "error", "close")

    begun = greenhttp.get(origin.url(), on_response)
    heard.listen(begun, "response")
    heard_of_request = Heard().listen(begun, "error", "close")
    peer = origin.accept()
    peer.answer(raw)
    heard.wait_for("response" if raw == CUT["no body yet"] else "data")
    getattr(peer, leave)()
    heard.wait_for("close")
    assert [name for name in heard.names if name not in ("data", "response")] == ["aborted", "error", "close"]
    error = heard.wait_for("error")[0]
    assert isinstance(error, ConnectionResetError)
    assert leave == "reset" or (error.code, str(error)) == ("ECONNRESET", "aborted")
    assert (responses[0].aborted, responses[0].complete) == (True, False)
    heard_of_request.wait_for("close")
    assert heard_of_request.names == ["close"]


def test_a_reset_of_a_body_that_ends_with_the_connection_raises(origin):
    """Behaviour 3.19"""
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.answer(until_close(b"half"))
    response = begun.get_response()
    assert response.read(4) == b"half"
    peer.reset()
    with bounded("an error"), pytest.raises(ConnectionResetError):
        response.read()
    assert (response.aborted, response.complete) == (True, False)


def test_without_an_error_listener_an_abort_is_no_crash(origin):
    """Behaviour 3.19"""
    heard = Heard()
    origin.script(then_close(CUT["length"]))
    greenhttp.get(origin.url(), lambda res: heard.listen(res, "data", "aborted", "close"))
    heard.wait_for("close")
    assert heard.names in (["data", "aborted", "close"], ["aborted", "close"])


def test_a_cut_body_does_not_end_what_it_is_piped_to(origin):
    """Behaviour 3.19"""
    heard = Heard()

    class Sink:
        def write(self, chunk: bytes) -> None:
            heard.note("write", chunk)

        def end(self) -> None:
            heard.note("end")

    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.answer(CUT["between chunks"])
    response = begun.get_response()
    heard.listen(response, "close")
    response.pipe(Sink())
    heard.wait_for("write")
    peer.close()
    heard.wait_for("close")
    assert heard.names == ["write", "close"]


def test_broken_chunks_are_an_error_and_never_a_shorter_body(origin):
    """Behaviour 3.19, 4.17"""
    for bad in (b"4\r\nhalfmore\r\n", b"xyz\r\n", b"4\r\nhalf\r\n-1\r\n\r\n", b"4\r\nhalf\r\n0\r\nbad trailer\r\n\r\n"):
        origin.script(CHUNKED + bad)
        response = greenhttp.get(origin.url()).get_response()
        with bounded("an error"), pytest.raises(RemoteProtocolError) as caught:
            response.read()
        assert caught.value.code.startswith("HPE_")
        assert not response.complete


@pytest.mark.parametrize("how", ["destroy", "close", "with"])
def test_giving_a_response_up_destroys_its_socket(origin, agent, how):
    """Behaviour 3.21"""
    begun = greenhttp.get(origin.url(), agent=agent)
    peer = origin.accept()
    peer.answer(CUT["length"])
    response = begun.get_response()
    if how == "with":
        with response as same:
            assert same.read(4) == b"half"
    else:
        getattr(response, how)()
    assert response.destroyed
    assert peer.closed()
    with pytest.raises(ConnectionLostError):
        response.read()
    assert (agent.sockets, agent.free_sockets) == ({}, {})


@pytest.mark.parametrize("give_up", ["abort", "destroy"])
def test_giving_the_request_up_ends_a_blocking_read(origin, give_up):
    """Behaviour 4.19, 4.21, blocking style"""
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.answer(CUT["length"])
    response = begun.get_response()
    gevent.spawn_later(0, getattr(begun, give_up))
    with bounded("an error"), pytest.raises(ConnectionLostError):
        response.read()
    assert peer.closed()
    assert (response.aborted, response.complete) == (True, False)


def test_16_clients_that_give_up_after_the_first_bytes_are_seen_by_the_server(serve):
    """Behaviour 3.20"""
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "aborted", "close")
        res.write("x" * 1000)

    port = serve(handler).address()[1]
    for _ in range(16):
        response = greenhttp.get(f"http://127.0.0.1:{port}/").get_response()
        assert response.read(1) == b"x"
        response.destroy()
    heard.wait_for("close", 16)
    assert heard.names.count("aborted") == heard.names.count("close") == 16


def test_destroying_a_response_whose_exchange_is_over_harms_nobody(origin, agent):
    """Behaviour 3.21"""
    origin.script(ok(b"first"), ok(b"second"))
    first = greenhttp.get(origin.url(), agent=agent).get_response()
    assert first.read() == b"first"
    first.destroy()
    first.set_timeout(0.001)
    assert agent.free_sockets[f"127.0.0.1:{origin.port}:"][0].timeout == 0
    first.close()
    assert greenhttp.get(origin.url(), agent=agent).get_response().read() == b"second"
    assert len(origin.peers) == 1


def test_a_read_that_is_given_up_destroys_the_connection(origin):
    """The rule of the house on what is interrupted half-way"""
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.answer(CUT["length"])
    response = begun.get_response()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        response.read()
    assert peer.closed()
    with pytest.raises(ConnectionLostError):
        response.read()


def test_a_data_listener_that_raises_destroys_the_connection_and_is_logged(origin, logged):
    """Behaviour 1.12"""
    heard = Heard()

    def on_response(res):
        def on_data(chunk):
            raise RuntimeError("of the user")

        res.on("data", on_data)
        heard.listen(res, "end", "close")

    greenhttp.get(origin.url(), on_response)
    peer = origin.accept()
    peer.answer(CUT["length"])
    logged.claim("of the user")
    assert peer.closed()
    heard.wait_for("close")
    assert heard.names == ["close"]


def test_timeout_of_a_response(origin):
    """Behaviour 8.10, on the response"""
    heard = Heard()
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.answer(CUT["length"])
    response = begun.get_response()
    response.set_timeout(0.05, lambda sock: heard.note("timeout", sock))
    assert heard.wait_for("timeout") == (response.socket,)
    peer.send(b"-whole")
    assert response.read() == b"half-whole"


# --- limits, and what is no HTTP ---


def lines(count: int) -> str:
    return "".join(f"X-{number}: 1\r\n" for number in range(count))


def test_up_to_1000_header_lines_are_all_there_and_more_are_an_error(origin):
    """Behaviour 9.1"""
    origin.script(ok(headers=lines(999)))
    assert len(greenhttp.get(origin.url()).get_response().raw_headers) == 2000
    assert refusal(origin, ok(headers=lines(1000))).code == "HPE_HEADER_OVERFLOW"


@pytest.mark.parametrize(("limit", "count"), [(0, 1500), (1500, 1500)])
def test_max_headers_count_may_be_more_or_no_limit(origin, limit, count):
    """Behaviour 9.1, 4.28"""
    origin.script(ok(headers="".join(f"{number}:\r\n" for number in range(count - 1))))
    response = greenhttp.get(origin.url(), max_headers_count=limit).get_response()
    assert len(response.headers) == count


@pytest.mark.parametrize("as_option", [True, False])
def test_max_headers_count_of_the_request_limits_the_response(origin, as_option):
    """Behaviour 4.28"""
    origin.script(ok(headers=lines(4)))
    for count, fits in ((5, True), (4, False)):
        begun = request(origin.url(), **({"max_headers_count": count} if as_option else {}))
        if not as_option:
            begun.max_headers_count = count
        assert begun.max_headers_count == count
        begun.end()
        if fits:
            assert len(begun.get_response().headers) == 5
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                begun.get_response()
            assert caught.value.code == "HPE_HEADER_OVERFLOW"


def test_a_head_of_more_than_16_kib_is_an_error(origin):
    """Behaviour 9.2 for a response"""
    assert refusal(origin, ok(headers="X-A: " + "a" * 16384 + "\r\n")).code == "HPE_HEADER_OVERFLOW"


def test_a_head_without_an_end_is_an_error_before_it_fills_the_memory(origin):
    """Behaviour 9.2 for a response"""
    assert refusal(origin, OK + b"X-A: " + b"a" * 17000).code == "HPE_HEADER_OVERFLOW"


def test_the_agent_says_how_large_a_head_may_be(origin):
    """Behaviour 9.2 for a response"""
    agent = Agent(max_header_size=40_000)
    origin.script(ok(b"fine", headers="X-A: " + "a" * 30_000 + "\r\n"))
    assert greenhttp.get(origin.url(), agent=agent).get_response().read() == b"fine"


@pytest.mark.parametrize(
    "rest", [b"0\r\nX-A: " + b"a" * 17000 + b"\r\n\r\n", b"1;" + b"x" * 18000 + b"\r\na\r\n0\r\n\r\n"]
)
def test_large_trailers_and_chunk_extensions_are_an_error(origin, rest):
    """Behaviour 9.2, 9.8 for a response"""
    origin.script(CHUNKED + rest)
    response = greenhttp.get(origin.url()).get_response()
    with bounded("an error"), pytest.raises(RemoteProtocolError):
        response.read()


@pytest.mark.parametrize("second", ["5", "6"])
def test_more_than_one_content_length_is_an_error(origin, second):
    """Behaviour 9.6"""
    raw = OK + f"Content-Length: 5\r\nContent-Length: {second}\r\n\r\nhello".encode()
    error = refusal(origin, raw)
    assert error.code == "HPE_UNEXPECTED_CONTENT_LENGTH"
    assert str(error).startswith("Parse Error")


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"X-A: one\r\n two\r\n\r\n",
        OK + b"X-A: one\r\n\ttwo\r\n\r\n",
        OK + b"X-A: one\nX-B: two\r\n\r\n",
        OK + b"X-A: one\rX-B: two\r\n\r\n",
        OK + b"X-A : one\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 5x\r\n\r\n",
        OK + b"X-A: a\x00b\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_head_that_breaks_the_rules_is_an_error_and_no_response(origin, raw):
    """Behaviour 3.6, 9.4, 9.5 for a response, 4.17"""
    error = refusal(origin, raw)
    assert str(error).startswith("Parse Error")
    assert error.code.startswith("HPE_")
