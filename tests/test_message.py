"""The server's request: its head, its body in both reading styles, and how it ends (behaviours, section 3)."""

from __future__ import annotations

import pytest
from gevent.event import Event

from greenhttp import ConnectionLostError

from .support import Heard, eventually, get

CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.fixture
def ask(serve, connect):
    """`ask(look, request)`: what `look(req)` returns in the handler of `request`."""

    def ask(look, request):
        seen = []

        def handler(req, res):
            seen.append(look(req))
            res.end()

        connect(serve(handler)).send(request).read_response()
        assert len(seen) == 1
        return seen[0]

    return ask


def post(*pieces: bytes, headers: str = "") -> bytes:
    """A chunked POST of `pieces`."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return get(method="POST", headers=CHUNKED + headers) + chunks + b"0\r\n\r\n"


def test_requests_with_the_same_bytes_come_to_their_end_each_for_itself(serve, connect):
    """Heads that come again are one object: what one handler makes of it, the next must not see."""
    heard = Heard()

    def handler(req, res):
        count = heard.names.count("handled")
        heard.note("handled", req.complete)
        if count % 2:
            heard.note("read", req.read(), req.read(1))
        else:
            heard.listen(req, "data", "end")
        res.end()

    client = connect(serve(handler))
    for _ in range(6):
        client.send(get("/again")).read_response()
    heard.wait_for("end", 3)

    assert [entry for entry in heard if entry[0] == "handled"] == [("handled", True)] * 6
    assert [entry for entry in heard if entry[0] == "read"] == [("read", b"", b"")] * 3
    assert heard.names.count("end") == 3
    assert "data" not in heard.names


# --- the head ---


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_http_version_follows_the_request_line(ask, version):
    """Behaviour 3.1"""
    seen = ask(lambda req: (req.http_version, req.http_version_major, req.http_version_minor), get(version=version))
    assert seen == (version, 1, int(version[2]))


def test_raw_headers_keep_order_spelling_and_duplicates_and_trim_values(ask):
    """Behaviour 3.2"""
    seen = ask(lambda req: req.raw_headers, get(headers="X-Filler:   42 \t\r\nx-FILLER:\t43\r\nX-Empty:\r\n"))
    assert seen == ["Host", "a", "X-Filler", "42", "x-FILLER", "43", "X-Empty", ""]


@pytest.mark.parametrize(
    "name",
    "x-any Unknown accept accept-charset accept-encoding accept-language dav link pragma proxy-authenticate "
    "sec-websocket-extensions sec-websocket-protocol via www-authenticate x-forwarded-for".split(),
)
def test_repeated_headers_are_joined_with_a_comma(ask, name):
    """Behaviour 3.3"""
    headers = ask(lambda req: req.headers, get(headers=f"{name}: foo\r\n{name.upper()}: bar\r\n"))
    assert headers[name.lower()] == "foo, bar"


def test_repeated_connection_headers_are_joined_with_a_comma(ask):
    """Behaviour 3.3"""
    headers = ask(lambda req: req.headers, get(headers="Connection: keep-alive\r\nConnection: x-hop\r\n"))
    assert headers["connection"] == "keep-alive, x-hop"


@pytest.mark.parametrize(
    "name",
    "content-type user-agent referer authorization proxy-authorization if-modified-since if-unmodified-since from "
    "location max-forwards age etag expires last-modified retry-after server".split(),
)
def test_of_single_valued_headers_the_first_line_wins(ask, name):
    """Behaviour 3.4"""
    headers, raw = ask(lambda req: (req.headers, req.raw_headers), get(headers=f"{name}: foo\r\n{name}: bar\r\n"))
    assert headers[name] == "foo"
    assert raw[2:] == [name, "foo", name, "bar"]


def test_set_cookie_is_a_list_and_cookies_are_joined_with_a_semicolon(ask):
    """Behaviour 3.5"""
    lines = "Set-Cookie: a=1\r\nCookie: c=3\r\nset-cookie: b=2\r\ncookie: d=4\r\n"
    headers = ask(lambda req: req.headers, get(headers=lines))
    assert headers["set-cookie"] == ["a=1", "b=2"]
    assert headers["cookie"] == "c=3; d=4"


def test_a_single_set_cookie_is_a_list_too(ask):
    """Behaviour 3.5"""
    assert ask(lambda req: req.headers["set-cookie"], get(headers="Set-Cookie: a=1\r\n")) == ["a=1"]


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_a_continued_header_line_is_refused(serve, connect, blank):
    """Behaviour 3.6"""
    called = []
    server = serve(lambda req, res: called.append(req))
    response = connect(server).send(get(headers=f"X-A: one\r\n{blank}two\r\n")).read_response()
    assert response.status == 400
    assert called == []


def test_a_content_length_with_a_blank_behind_it_is_valid(ask):
    """Behaviour 3.7"""
    assert ask(lambda req: req.read(), get(method="POST", headers="Content-Length: 0 \r\n")) == b""


def test_256_equal_headers_are_all_in_raw_headers(ask):
    """Behaviour 3.11"""
    raw = ask(lambda req: req.raw_headers, get(headers="a: b\r\n" * 256))
    assert raw[2:] == ["a", "b"] * 256


@pytest.mark.parametrize("target", ["/foo/bar/baz?quux=42#1337", "/hello?hello=world&foo=b==ar", '/%7Ea|b^c`{}"<>\\'])
def test_the_target_comes_through_unchanged(ask, target):
    """Behaviour 3.12, 1.7"""
    assert ask(lambda req: req.url, get(target)) == target


# --- the body, blocking ---

BODY = b"one\ntwo\n\nlast"


@pytest.mark.parametrize(
    "request_bytes", [get(method="POST", body=BODY), post(BODY), post(b"one\nt", b"wo\n\nla", b"st")]
)
class TestReadingStyles:
    """Behaviour 3.8, and the note on the blocking style: every style sees the same bytes and the same end."""

    def test_read_gives_all_and_then_nothing(self, ask, request_bytes):
        assert ask(lambda req: (req.read(), req.read(), req.complete), request_bytes) == (BODY, b"", True)

    @pytest.mark.parametrize("size", [1, 4, 5, 1000])
    def test_read_of_a_size_gives_exactly_that_much_until_the_end(self, ask, request_bytes, size):
        def look(req):
            pieces = []
            while piece := req.read(size):
                pieces.append(piece)
            return pieces

        assert ask(look, request_bytes) == [BODY[start : start + size] for start in range(0, len(BODY), size)]

    def test_read_of_nothing_takes_nothing(self, ask, request_bytes):
        assert ask(lambda req: (req.read(0), req.read(None)), request_bytes) == (b"", BODY)

    def test_read1_gives_at_most_its_size(self, ask, request_bytes):
        def look(req):
            pieces = []
            while piece := req.read1(3):
                pieces.append(piece)
            return pieces

        pieces = ask(look, request_bytes)
        assert b"".join(pieces) == BODY
        assert max(map(len, pieces)) <= 3

    def test_readline_gives_lines(self, ask, request_bytes):
        seen = ask(lambda req: [req.readline() for _ in range(5)], request_bytes)
        assert seen == [b"one\n", b"two\n", b"\n", b"last", b""]

    def test_readline_stops_at_its_size(self, ask, request_bytes):
        assert ask(lambda req: [req.readline(3) for _ in range(3)], request_bytes) == [b"one", b"\n", b"two"]

    def test_readinto_fills_a_buffer(self, ask, request_bytes):
        def look(req):
            buffer, body = bytearray(4), b""
            while count := req.readinto(buffer):
                body += buffer[:count]
            return body

        assert ask(look, request_bytes) == BODY

    def test_iteration_gives_the_chunks_and_ends(self, ask, request_bytes):
        pieces = ask(lambda req: [*req, *req], request_bytes)
        assert b"".join(pieces) == BODY
        assert b"" not in pieces

    def test_data_and_end_events_give_the_same(self, serve, connect, request_bytes):
        heard = Heard()

        def handler(req, res):
            heard.listen(req, "data", "end", "close")
            req.on("end", res.end)

        connect(serve(handler)).send(request_bytes).read_response()
        heard.wait_for("close")
        assert b"".join(entry[1] for entry in heard if entry[0] == "data") == BODY
        assert heard.names[-2:] == ["end", "close"]
        assert heard.names.count("end") == heard.names.count("close") == 1


def test_a_request_without_a_body_ends_at_once_in_either_style(serve, connect):
    heard = Heard()

    def handler(req, res):
        if req.url == "/events":
            heard.listen(req, "data", "end")
            req.on("end", res.end)
        else:
            res.end(repr(list(req)))

    client = connect(serve(handler))
    assert client.send(get("/blocking")).read_response().body == b"[]"
    client.send(get("/events")).read_response()
    assert list(heard) == [("end",)]


def test_set_encoding_never_breaks_a_character_that_comes_in_two_packets(serve, connect):
    """Behaviour 3.8"""
    heard = Heard()

    def handler(req, res):
        req.set_encoding("utf8")
        heard.listen(req, "data")
        req.on("end", res.end)

    client = connect(serve(handler)).send(post(b"a\xe2\x82", b"\xac", b"\xc3", b"\xa5!"))
    client.read_response()
    texts = [entry[1] for entry in heard]
    assert "".join(texts) == "a€å!"
    assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("look", [lambda req: req.read(), lambda req: "".join(req)], ids=["read", "iteration"])
def test_set_encoding_holds_for_the_blocking_style(ask, look):
    """Behaviour 3.8"""

    def text(req):
        req.set_encoding("utf8")
        return look(req)

    assert ask(text, post(b"a\xe2\x82", b"\xac", b"\xc3", b"\xa5!")) == "a€å!"


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_chunks_decode_however_the_input_is_cut(serve, connect, step):
    """Behaviour 3.9"""
    client = connect(serve(lambda req, res: res.end(req.read())))
    request = get(method="POST", headers=CHUNKED) + b"A\r\n0123456789\r\na;x=y\r\nabcdefghij\r\n0\r\n\r\n"
    for start in range(0, len(request), step):
        client.send(request[start : start + step])
    assert client.read_response().body == b"0123456789abcdefghij"


def test_trailers_come_at_the_end_and_never_among_the_headers(serve, connect):
    """Behaviour 3.10"""
    seen, heard = [], Heard()

    def look(req):
        seen.append((req.trailers, req.raw_trailers, "x-t" in req.headers))

    def handler(req, res):
        look(req)
        req.on("data", lambda chunk: look(req))
        req.on("end", lambda: look(req))
        req.on("end", res.end)
        heard.note("handled")

    client = connect(serve(handler)).send(get(method="POST", headers=CHUNKED) + b"1\r\nx\r\n")
    heard.wait_for("handled")
    client.send(b"0\r\nX-T: 1\r\nx-t: 2\r\n\r\n").read_response()
    assert seen == [({}, [], False), ({}, [], False), ({"x-t": "1, 2"}, ["X-T", "1", "x-t", "2"], False)]


def test_trailers_are_there_after_a_blocking_read(ask):
    """Behaviour 3.10"""
    request = get(method="POST", headers=CHUNKED) + b"1\r\nx\r\n0\r\nX-T: 1\r\n\r\n"
    assert ask(lambda req: (req.read(), req.trailers), request) == (b"x", {"x-t": "1"})


def test_a_get_with_5_mib_delivers_them_intact_and_in_order(serve, connect):
    """Behaviour 3.15"""
    body = b"".join(b"%07d\n" % number for number in range(5242880 // 8))

    def handler(req, res):
        received = b"".join(req)
        res.end(str(received == body))

    assert connect(serve(handler)).send(get(body=body)).read_response().body == b"True"


def test_pause_in_the_handler_then_resume_loses_nothing(serve, connect):
    """Behaviour 3.16"""
    heard, paused = Heard(), []

    def handler(req, res):
        req.pause()
        paused.append(req)
        heard.listen(req, "data", "end")
        req.on("end", res.end)
        heard.note("paused")

    client = connect(serve(handler)).send(get(method="POST", body=b"first"))
    heard.wait_for("paused")
    other = connect(client.sock.getpeername()).send(b"GARBAGE\r\n\r\n")  # a whole exchange passes meanwhile
    assert other.read_response().status == 400
    assert heard.names == ["paused"]
    paused[0].resume()
    client.read_response()
    assert list(heard)[1:] == [("data", b"first"), ("end",)]


def test_pause_in_a_data_listener_holds_the_next_chunk(serve, connect):
    """Behaviour 3.16"""
    heard, requests = Heard(), []

    def handler(req, res):
        requests.append(req)

        def on_data(chunk):
            req.pause()
            heard.note("data", chunk)

        req.on("data", on_data)
        req.on("end", res.end)

    client = connect(serve(handler)).send(get(method="POST", headers="Content-Length: 6\r\n") + b"one")
    assert heard.wait_for("data") == (b"one",)
    client.send(b"two")
    eventually(lambda: requests[0].complete, "the whole body")
    assert len(heard) == 1
    requests[0].resume()
    assert heard.wait_for("data", 2) == (b"two",)
    requests[0].resume()
    assert client.read_response().status == 200


def test_pipe_writes_the_body_to_the_response_and_ends_it(serve, connect):
    client = connect(serve(lambda req, res: req.pipe(res)))
    assert client.send(post(b"echo ", b"me")).read_response().body == b"echo me"
    assert client.send(get(method="POST", body=b"again")).read_response().body == b"again"


def test_pipe_without_end_leaves_the_response_open(serve, connect):
    def handler(req, res):
        req.pipe(res, end=False)
        req.on("end", lambda: res.end(" tail"))

    assert connect(serve(handler)).send(post(b"body")).read_response().body == b"body tail"


def test_an_unread_body_up_to_64_kib_is_thrown_away_and_the_next_request_starts_right(serve, connect):
    """Behaviour 3.17"""
    client = connect(serve(lambda req, res: res.end(req.url)))
    unread = b"GET / HTTP/1.1\r\n\r\n" * 3000
    for path in ("/one", "/two"):
        assert client.send(get(path, method="POST", body=unread)).read_response().body == path.encode()


def test_a_larger_unread_body_closes_the_connection_after_the_answer(serve, connect):
    """Behaviour 3.17"""
    client = connect(serve(lambda req, res: res.end("enough")))
    client.send(get(method="POST", headers="Content-Length: 1000000\r\n") + b"x" * 200_000)
    assert client.read_response().body == b"enough"
    assert client.closed()


def end_alone(req, res):
    res.end("enough")


def fix_the_head_and_end(req, res):
    res.write_head(404, {"Content-Length": "6"})
    res.end("enough")


def read_some_and_end(req, res):
    req.read(1000)
    res.end("enough")


@pytest.mark.parametrize("handler", [end_alone, fix_the_head_and_end])
@pytest.mark.parametrize("framing", ["Content-Length: 300000", "Transfer-Encoding: chunked"])
def test_an_answer_to_a_body_too_large_to_be_thrown_away_says_that_the_connection_closes(
    serve, connect, handler, framing
):
    """RFC 9112 section 9.6: or a request that follows would fail."""
    chunk = b"%x\r\n%b\r\n" % (2000, bytes(2000))
    client = connect(serve(handler)).send(get(method="POST", headers=f"{framing}\r\n") + chunk)
    answer = client.read_response()
    assert (answer.body, answer["connection"]) == (b"enough", "close")
    assert client.closed()


def test_an_answer_to_a_body_that_is_thrown_away_keeps_the_connection(serve, connect):
    client = connect(serve(read_some_and_end))
    for _ in range(2):
        client.send(get(method="POST", headers="Content-Length: 60000\r\n") + bytes(2000))
        assert client.read_response()["connection"] == "keep-alive"
        client.send(bytes(58_000))


def test_a_body_that_is_listened_to_is_delivered_whole_though_the_answer_was_given_before(serve, connect):
    """And nothing of it is left, so the connection is kept."""
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "data", "end")
        res.end("enough")

    client = connect(serve(handler))
    for count in (1, 2):
        client.send(get(method="POST", headers="Content-Length: 300000\r\n") + bytes(2000))
        assert client.read_response()["connection"] == "keep-alive"
        client.send(bytes(298_000))
        heard.wait_for("end", count)
        assert sum(len(args[0]) for event, *args in heard if event == "data") == count * 300_000


# --- cut off ---


def listen_to_all(heard, req):
    heard.listen(req, "aborted", "end", "error", "close")


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_leaves_in_its_body_gives_aborted_error_close_and_no_end(serve, connect, leave):
    """Behaviour 3.19"""
    heard, requests = Heard(), []

    def handler(req, res):
        requests.append(req)
        listen_to_all(heard, req)
        heard.listen(req, "data")

    client = connect(serve(handler)).send(get(method="POST", headers="Content-Length: 10\r\n") + b"half")
    heard.wait_for("data")
    getattr(client, leave)()
    heard.wait_for("close")
    assert heard.names == ["data", "aborted", "error", "close"]
    error = heard.wait_for("error")[0]
    assert isinstance(error, ConnectionLostError)
    assert (error.code, str(error)) == ("ECONNRESET", "aborted")
    assert (requests[0].aborted, requests[0].complete) == (True, False)


def test_without_an_error_listener_an_abort_is_no_crash(serve, connect):
    """Behaviour 3.19"""
    heard = Heard()
    server = serve(lambda req, res: heard.listen(req, "data", "aborted", "close"))
    client = connect(server).send(get(method="POST", headers="Content-Length: 10\r\n") + b"half")
    heard.wait_for("data")
    client.close()
    heard.wait_for("close")
    assert heard.names == ["data", "aborted", "close"]


@pytest.mark.parametrize(
    "read",
    [lambda req: req.read(), lambda req: list(req), lambda req: req.readline(), lambda req: req.read(10)],
    ids=["read", "iteration", "readline", "read(10)"],
)
def test_a_blocking_read_of_a_cut_body_raises(serve, connect, read):
    """Behaviour 3.19"""
    heard = Heard()

    def handler(req, res):
        heard.note("reading")
        with pytest.raises(ConnectionLostError, match="aborted") as caught:
            read(req)
        heard.note("raised", caught.value.code, req.aborted, req.complete)

    client = connect(serve(handler)).send(get(method="POST", headers="Content-Length: 10\r\n") + b"half")
    heard.wait_for("reading")
    client.close()
    assert heard.wait_for("raised") == ("ECONNRESET", True, False)


def test_a_client_that_leaves_during_the_answer_aborts_a_complete_request(serve, connect):
    """Behaviour 3.20"""
    heard, requests = Heard(), []

    def handler(req, res):
        requests.append(req)
        listen_to_all(heard, req)
        res.on("close", lambda: heard.note("response close"))
        res.write("begun")

    client = connect(serve(handler)).send(get())
    client.read_head()
    client.close()
    heard.wait_for("close")
    heard.wait_for("response close")
    assert [name for name in heard.names if name != "response close"] == ["aborted", "close"]
    assert requests[0].aborted


def test_a_blocked_handler_does_not_hold_back_close(serve, connect):
    """Behaviour 3.20; the rule of the house that a long-poll learns at once that its client is gone"""
    heard, go = Heard(), Event()

    def handler(req, res):
        req.on("close", lambda: heard.note("close"))
        heard.note("waiting")
        go.wait()
        heard.note("returned")

    client = connect(serve(handler)).send(get())
    heard.wait_for("waiting")
    client.close()
    heard.wait_for("close")
    go.set()
    heard.wait_for("returned")
    assert heard.names == ["waiting", "close", "returned"]


def test_16_clients_that_leave_after_the_first_bytes_give_16_aborted_events(serve, connect):
    """Behaviour 3.20"""
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "aborted", "close")
        res.write("x" * 1000)

    server = serve(handler)
    clients = [connect(server).send(get()) for _ in range(16)]
    for client in clients:
        client.read_head()
        client.close()
    heard.wait_for("close", 16)
    assert heard.names.count("aborted") == heard.names.count("close") == 16


@pytest.mark.parametrize("of", ["req", "res"])
def test_destroy_destroys_the_socket(serve, connect, of):
    """Behaviour 3.21"""
    heard = Heard()

    def handler(req, res):
        (req if of == "req" else res).destroy()
        heard.note("destroyed", req.socket.destroyed, req.destroyed)

    client = connect(serve(handler)).send(get())
    assert client.closed()
    assert heard.wait_for("destroyed") == (True, True)


def test_close_comes_once_after_end_when_the_answer_is_given(serve, connect):
    """'close' fires once, also after 'end' (the design's reading of the reference)"""
    heard = Heard()

    def handler(req, res):
        listen_to_all(heard, req)
        req.read()
        res.end()

    client = connect(serve(handler)).send(get(method="POST", body=b"x"))
    client.read_response()
    heard.wait_for("close")
    client.half_close()
    assert client.closed()
    assert heard.names == ["end", "close"]
