"""What a server refuses, and how: the bytes of the answer, its place after those still due, the gentle close."""

from __future__ import annotations

import pytest
from gevent.event import Event

from .support import Heard, bounded, exchange, get


def refusal(status: int, phrase: str) -> bytes:
    return f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\n\r\n".encode()


BAD_REQUEST = refusal(400, "Bad Request")
TOO_LARGE = refusal(413, "Payload Too Large")
URI_TOO_LONG = refusal(414, "URI Too Long")
HEADERS_TOO_LARGE = refusal(431, "Request Header Fields Too Large")
VERSION = refusal(505, "HTTP Version Not Supported")
HOST = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("case", "raw", "answer"),
    [
        ("9.2 header block", HOST + b"X: " + b"x" * 17000 + b"\r\n\r\n", HEADERS_TOO_LARGE),
        ("9.2 header block without its end", HOST + b"X: " + b"x" * 17000, HEADERS_TOO_LARGE),
        ("9.2 trailers", CHUNKED + b"0\r\nX: " + b"x" * 20000, HEADERS_TOO_LARGE),
        ("5 target", b"GET /" + b"x" * 17000, URI_TOO_LONG),
        ("9.1 lines", HOST + b"X: 1\r\n" * 1000 + b"\r\n", HEADERS_TOO_LARGE),
        ("9.3 garbage", b"BAD! / HTTP/1.1\r\n\r\n", BAD_REQUEST),
        ("9.3 TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", BAD_REQUEST),
        ("9.4 bare LF", HOST + b"Dummy: x\nContent-Length: 23\r\n\r\n", BAD_REQUEST),
        ("9.4 bare LF, smuggling", HOST + b"x:x\nTransfer-Encoding: chunked\r\n\r\n", BAD_REQUEST),
        ("9.4 bare LF, empty", HOST + b"x:\nTransfer-Encoding: chunked\r\n\r\n", BAD_REQUEST),
        ("9.4 bare CR", HOST + b"Dummy: Header\rContent-Length: 1\r\n\r\n", BAD_REQUEST),
        ("9.5 both framings", HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BAD_REQUEST),
        ("9.6 two lengths", HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", BAD_REQUEST),
        ("9.7 no Host", b"GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
        ("9.7 two Hosts", HOST + b"Host: a\r\n\r\n", BAD_REQUEST),
        ("3.6 continuation line", HOST + b"X: a\r\n b\r\n\r\n", BAD_REQUEST),
        ("5 blank before the colon", HOST + b"X : a\r\n\r\n", BAD_REQUEST),
        ("5 chunked not last", HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", BAD_REQUEST),
        ("5 version 2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", VERSION),
        ("5 version 0.9", b"GET /\r\n\r\n", BAD_REQUEST),
    ],
)
def test_a_bad_head_is_refused_with_exactly_these_bytes(serve, case, raw, answer):
    """Behaviour 9.1, Behaviour 9.2, Behaviour 9.3, Behaviour 9.4, Behaviour 9.5, Behaviour 9.6, Behaviour 9.7"""
    called = []

    def handler(req, res):
        called.append(req.url)

    server = serve(handler)
    assert exchange(server, raw) == answer
    assert called == ([] if "trailers" not in case else ["/"])


def test_no_limit_on_header_lines_then_all_arrive(serve):
    """Behaviour 9.1"""
    seen = []
    server = serve(
        lambda req, res: (seen.append(len(req.headers)), res.end()), max_headers_count=0, max_header_size=65536
    )
    lines = "".join(f"X-{number}: 1\r\n" for number in range(2000))
    exchange(server, get(headers=lines + "Connection: close\r\n"))
    assert seen == [2002]


@pytest.mark.parametrize("piece", [100_000, 1000])
def test_too_many_chunk_extensions_in_one_chunk_get_413(serve, connect, logged, piece):
    """Behaviour 9.8"""
    server = serve(lambda req, res: req.read())
    client = connect(server)
    raw = CHUNKED + b"2;" + b"x" * 17000
    for begin in range(0, len(raw), piece):
        client.send(raw[begin : begin + piece])
    assert client.read_all() == TOO_LARGE
    logged.claim("too many chunk extensions")  # raised by the handler's `read()`


def test_chunk_extensions_below_the_limit_are_ignored_and_counted_anew_for_each_chunk(serve, connect):
    """Behaviour 9.8"""
    client = connect(serve(lambda req, res: res.end(req.read())))
    client.send(CHUNKED + (b"2;" + b"x" * 10000 + b"\r\nAB\r\n") * 3 + b"0\r\n\r\n")
    assert client.read_response().body == b"ABABAB"


def test_http_1_0_may_lack_a_host(serve):
    """Behaviour 9.7"""
    assert exchange(serve(lambda req, res: res.end()), b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_host_not_required_then_it_may_be_missing_but_not_doubled(serve):
    server = serve(lambda req, res: res.end(), require_host_header=False)
    assert exchange(server, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert exchange(server, HOST + b"Host: a\r\n\r\n") == BAD_REQUEST


def test_the_refusal_comes_after_the_answers_still_due(serve, connect):
    go, urls = Event(), []

    def handler(req, res):
        urls.append(req.url)
        go.wait()
        res.end(req.url)

    client = connect(serve(handler))
    client.send(get("/1") + get("/2") + b"BAD!\r\n\r\n" + get("/3"))
    go.set()
    assert [client.read_response().body, client.read_response().body] == [b"/1", b"/2"]
    assert client.read_all() == BAD_REQUEST
    assert urls == ["/1", "/2"]


def test_a_bad_body_after_the_answer_has_begun_ends_the_connection_without_another_answer(serve, connect):
    """Behaviour 9.3"""
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "aborted", "close")
        res.write("begun")

    client = connect(serve(handler))
    client.send(CHUNKED)
    client.read_until(b"5\r\nbegun\r\n")
    client.send(b"zz\r\n")
    assert client.read_all() == b""
    heard.wait_for("close")
    assert heard.names == ["aborted", "close"]


def test_a_bad_body_before_the_answer_has_begun_gets_the_refusal_and_the_reader_the_error(serve, connect):
    heard = Heard()

    def handler(req, res):
        try:
            req.read()
        except ConnectionError as error:
            heard.note("error", type(error).__name__)

    client = connect(serve(handler))
    client.send(CHUNKED + b"2\r\nab\r\nzz\r\n")
    assert client.read_all() == BAD_REQUEST
    assert heard.wait_for("error") == ("RemoteProtocolError",)


def test_client_error_with_a_listener_then_the_server_writes_nothing_itself(serve, connect):
    """Behaviour 9.3"""
    heard = Heard()
    server = serve(lambda req, res: res.end())
    server.on(
        "client_error",
        lambda error, socket: (heard.note("client_error", error), socket.end("HTTP/1.1 418 Mine\r\n\r\n")),
    )
    client = connect(server)
    client.send(b"BAD!\r\n\r\n")
    assert client.read_all() == b"HTTP/1.1 418 Mine\r\n\r\n"
    (error,) = heard.wait_for("client_error")
    assert str(error).startswith("Parse Error")
    assert error.code.startswith("HPE_")


def test_given_a_listener_of_refused_then_the_server_answers_by_itself_and_tells(serve, connect):
    heard = Heard()
    server = serve()
    heard.listen(server, "refused")

    assert connect(server).send(b"GET / HTTP/1.1\r\n\r\n").read_all() == BAD_REQUEST

    error, socket = heard.wait_for("refused")
    assert (error.status_hint, error.code) == (400, "HPE_INVALID_HOST")
    assert socket.remote_address == "127.0.0.1"


def test_given_a_listener_of_client_error_too_then_refused_is_not_told(serve, connect):
    heard = Heard()
    server = serve()
    heard.listen(server, "refused", "client_error")
    server.on("client_error", lambda error, socket: socket.end("HTTP/1.1 418 Mine\r\n\r\n"))

    assert connect(server).send(b"GET / HTTP/1.1\r\n\r\n").read_all() == b"HTTP/1.1 418 Mine\r\n\r\n"

    assert heard.names == ["client_error"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (HOST + b"X: " + b"x" * 17000, "HPE_HEADER_OVERFLOW"),
        (HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", "HPE_UNEXPECTED_CONTENT_LENGTH"),
        (CHUNKED + b"2;" + b"x" * 17000, "HPE_CHUNK_EXTENSIONS_OVERFLOW"),
    ],
)
def test_client_error_carries_nodes_code(serve, connect, raw, code):
    """Behaviour 9.2, Behaviour 9.6"""
    heard = Heard()
    server = serve(lambda req, res: None)
    server.on("client_error", lambda error, socket: (heard.note("client_error", error.code), socket.destroy()))
    client = connect(server).send(raw)
    assert heard.wait_for("client_error") == (code,)
    assert client.closed()


def test_a_client_error_listener_that_raises_is_logged_and_the_socket_destroyed(serve, connect, logged):
    server = serve(lambda req, res: res.end())

    def listener(error, socket):
        raise LookupError("by the listener")

    server.on("client_error", listener)
    assert connect(server).send(b"BAD!\r\n\r\n").closed()
    logged.claim("by the listener")


def test_a_head_cut_by_the_clients_end_is_refused(serve, connect):
    client = connect(serve(lambda req, res: res.end()))
    client.send(b"GET / HTTP/1.1\r\nHo").half_close()
    assert client.read_all() == BAD_REQUEST


def test_a_refusal_has_no_effect_on_other_connections(serve, connect):
    server = serve(lambda req, res: res.end(req.read()))
    other = connect(server).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
    assert exchange(server, b"BAD!\r\n\r\n") == BAD_REQUEST
    assert other.send(b"cd").read_response().body == b"abcd"


def test_the_close_lingers_so_that_a_client_still_sending_reads_the_answer(serve, connect):
    client = connect(serve(lambda req, res: res.end()))
    client.send(b"BAD!\r\n\r\n")
    for _ in range(20):
        client.send(b"x" * 16384)
    assert client.read_all() == BAD_REQUEST


def test_bytes_after_a_request_with_connection_close_are_ignored(serve, connect):
    urls = []
    client = connect(serve(lambda req, res: (urls.append(req.url), res.end("last"))))
    client.send(get("/1", headers="Connection: close\r\n") + get("/2") + b"BAD!\r\n\r\n")
    assert client.read_response().body == b"last"
    assert client.read_all() == b""
    assert urls == ["/1"]


def test_an_unread_body_of_64_kib_is_drained_and_the_connection_kept(serve, connect):
    """Behaviour 3.17"""
    client = connect(serve(lambda req, res: res.end(req.url)))
    client.send(get("/1", method="POST", body=b"x" * 65536) + get("/2"))
    assert [client.read_response().body, client.read_response().body] == [b"/1", b"/2"]


def test_a_larger_unread_body_closes_the_connection_after_the_answer(serve, connect):
    """Behaviour 3.17"""
    urls = []
    client = connect(serve(lambda req, res: (urls.append(req.url), res.end(req.url))))
    client.send(get("/1", method="POST", body=b"x" * 200_000) + get("/2"))
    assert client.read_response().body == b"/1"
    with bounded("the end"):
        assert client.read_all() == b""
    assert urls == ["/1"]


def test_a_fault_in_a_body_that_is_drained_brings_no_second_answer(serve, connect):
    client = connect(serve(lambda req, res: res.end("done")))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_response().body == b"done"
    client.send(b"not a size\r\n")

    assert client.read_all() == b""


def test_a_body_that_the_handler_has_read_in_part_is_drained_too(serve, connect):
    def handler(req, res):
        res.end(req.read(1))

    client = connect(serve(handler))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
    assert client.read_response().body == b"a"
    client.send(b"cdef" + get("/2", method="POST", body=b"xy"))

    assert client.read_response().body == b"x"


def test_a_large_body_that_the_handler_has_read_in_part_closes_the_connection(serve, connect):
    def handler(req, res):
        res.end(req.read(1))

    client = connect(serve(handler))
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 200_000)
    assert client.read_response().body == b"a"

    assert client.read_all() == b""
