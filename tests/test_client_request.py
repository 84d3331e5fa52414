"""The client's request: what is sent and when, its events, its errors (behaviours, sections 4 and 11, and 2 for it)."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

import greenhttp
from greenhttp import (
    Agent,
    ClientRequest,
    ConnectionLostError,
    HostNotFoundError,
    MessageStateError,
    PeerTimeoutError,
    RemoteProtocolError,
    create_client,
    request,
)

from .origin import Origin, Request, ok, then_close
from .support import Heard, bounded, eventually

ENDINGS = ("response", "error", "abort", "close")


@pytest.fixture
def agent(nothing_left: None) -> Iterator[Agent]:
    """An agent that keeps its connections until the test is over."""
    made = Agent(keep_alive=True)
    yield made
    made.destroy()


def fetch(where: Any, **options: Any) -> bytes:
    """The body that a GET brings, in the blocking style."""
    with bounded("the whole response"):
        body: bytes = greenhttp.get(where, **options).get_response().read()
    return body


def sent(origin: Origin, send: Callable[[ClientRequest], object] = ClientRequest.end, **options: Any) -> Request:
    """What the origin reads when `send(req)` has sent a request with `options`."""
    origin.script(ok())
    begun = request(origin.url(), **options)
    send(begun)
    with bounded("the response"):
        begun.get_response().read()
    assert len(origin.requests) == 1
    return origin.requests[0]


def refused_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        return int(unheard.getsockname()[1])


def connect_to(origin: Origin, seen: list[Any] | None = None) -> Callable[[Any], socket.socket]:
    """A `create_connection` that goes to `origin`, whatever it is asked for; it notes the options in `seen`."""

    def create(options: Any) -> socket.socket:
        if seen is not None:
            seen.append(options)
        return socket.create_connection(("127.0.0.1", origin.port))

    return create


# --- what it is asked for ---


def test_without_options_it_is_get_slash_of_localhost_port_80(origin):
    """Behaviour 4.1"""
    seen = []
    origin.script(ok())
    greenhttp.get(create_connection=connect_to(origin, seen)).get_response()
    assert (seen[0]["host"], seen[0]["port"]) == ("localhost", 80)
    assert origin.requests[0].head.startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n")


@pytest.mark.parametrize("port", [None, ""])
def test_a_port_not_given_is_the_default_port_of_the_agent(origin, port):
    """Behaviour 4.1, 4.3, 11.3"""

    class Other(Agent):
        default_port = origin.port

    origin.script(ok(b"found"))
    assert fetch({"host": "127.0.0.1", "port": port}, agent=Other()) == b"found"
    assert origin.requests[0]["host"] == "127.0.0.1"


def test_the_method_is_sent_in_upper_case(origin):
    """Behaviour 4.1"""
    assert sent(origin, method="pAtch").method == "PATCH"


def test_an_invalid_method_raises():
    """Behaviour 4.1"""
    for method in ("GET /evil HTTP/1.1\r\nX:", "", "G\u00c4T"):
        with pytest.raises(ValueError, match="token") if method else pytest.raises(TypeError):
            request(method=method or 5)


def test_a_url_gives_host_port_path_and_query(origin):
    """Behaviour 11.1, 11.2"""
    origin.script(ok())
    seen = greenhttp.get(origin.url("/foo?bar#never-sent"))
    seen.get_response()
    assert origin.requests[0].head.startswith(f"GET /foo?bar HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n".encode())
    assert seen.agent is greenhttp.global_agent


@pytest.mark.parametrize(
    ("tail", "path"), [("", "/"), ("?q=1", "/?q=1"), ("/?a=1?b#x", "/?a=1?b"), ("/%7E;p", "/%7E;p")]
)
def test_the_path_of_a_url_has_the_query_and_no_fragment(origin, tail, path):
    """Behaviour 11.2"""
    origin.script(ok())
    fetch(f"http://127.0.0.1:{origin.port}{tail}")
    assert origin.requests[0].path == path


@pytest.mark.parametrize(
    ("written", "credentials"),
    [("user:pass%3A", "user:pass:"), ("us%40er:", "us@er:"), ("user", "user:"), ("u:%C3%A9", "u:\u00e9")],
)
def test_the_user_in_a_url_is_percent_decoded(origin, written, credentials):
    """Behaviour 11.1"""
    origin.script(ok())
    fetch(f"http://{written}@127.0.0.1:{origin.port}/")
    assert origin.requests[0]["authorization"] == "Basic " + base64.b64encode(credentials.encode()).decode()
    assert origin.requests[0]["host"] == f"127.0.0.1:{origin.port}"


def test_options_win_over_the_url_and_hostname_over_host(origin):
    """Behaviour 11.3"""
    origin.script(ok())
    fetch("http://nowhere.invalid:1/a", host="nowhere.invalid", hostname="127.0.0.1", port=origin.port, path="/b")
    assert (origin.requests[0].path, origin.requests[0]["host"]) == ("/b", f"127.0.0.1:{origin.port}")


def test_a_url_of_an_ipv6_address(serve):
    """Behaviour 11.1"""
    server = greenhttp.create_server(lambda req, res: res.end(req.headers["host"]))
    server.listen(0, "::1")
    try:
        port = server.address()[1]
        assert fetch(f"http://[::1]:{port}/") == f"[::1]:{port}".encode()
    finally:
        server.close()


@pytest.mark.parametrize("where", ["https://127.0.0.1/", {"host": "127.0.0.1", "protocol": "ftp:"}])
def test_a_protocol_that_is_not_the_agents_raises(agent, where):
    """Behaviour 11.4"""
    with pytest.raises(ValueError, match="protocol") as caught:
        request(where, agent=agent)
    assert caught.value.code == "ERR_INVALID_PROTOCOL"


def test_local_address_is_where_the_connection_comes_from(serve):
    """Behaviour 11.5"""
    server = serve(lambda req, res: res.end(req.socket.remote_address))
    port = server.address()[1]
    assert fetch(f"http://127.0.0.1:{port}/", local_address="127.0.0.9") == b"127.0.0.9"


@pytest.mark.parametrize("path", ["bad path", "/a\r\nX: y", "/\x00", "/\x7f", "/\u0100", "/\u010d\u010a", "/\u560d"])
@pytest.mark.parametrize("begin", [request, greenhttp.get])
def test_a_path_with_unescaped_characters_raises_at_once(origin, begin, path):
    """Behaviour 4.8"""
    with pytest.raises(ValueError, match="unescaped characters"):
        begin({"host": "127.0.0.1", "port": origin.port, "path": path})
    origin.script(ok())
    fetch(origin.url("/next"))
    assert len(origin.peers) == 1  # of the second request


@pytest.mark.parametrize("bad", [" ", "\n", "\t", "\r\n", "\x00", "\x1f", "\x7f"])
def test_a_url_with_blanks_or_control_characters_raises_and_is_not_mended(bad):
    """Behaviour 4.8"""
    for url in (f"http://127.0.0.1/a{bad}b", f"http://127.0.0.1/a{bad}", f"http://127.0.0{bad}.1/"):
        with pytest.raises(ValueError, match=r"unescaped characters|not a URL"):
            request(url)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "/path", "", "http://", "http:///x", "http://a:99999/", "http://a:b/"])
def test_what_is_no_url_raises(url):
    """Behaviour 11.1"""
    with pytest.raises(ValueError, match=r".+"):
        request(url)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pth": "/"}, TypeError),
        ({"agent": "none"}, TypeError),
        ({"port": -1}, ValueError),
        ({"port": 65536}, ValueError),
        ({"port": "8o"}, ValueError),
        ({"port": True}, ValueError),
        ({"path": b"/"}, TypeError),
        ({"headers": 5}, TypeError),
    ],
)
def test_an_option_that_is_unknown_or_invalid_raises(options, error):
    """Behaviour 4.1"""
    with pytest.raises(error):
        request(options)


# --- the head ---


@pytest.mark.parametrize(
    ("method", "framing"),
    [
        *[(method, []) for method in ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE")],
        *[(method, [("Content-Length", "0")]) for method in ("POST", "PUT", "PATCH")],
    ],
)
def test_the_automatic_headers_are_host_connection_and_framing_where_a_body_is_usual(origin, method, framing):
    """Behaviour 4.2, 2.4"""
    expected = [("Host", f"127.0.0.1:{origin.port}"), ("Connection", "keep-alive"), *framing]
    assert sent(origin, method=method).headers == expected


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_body_written_in_pieces_is_chunked(origin, method):
    """Behaviour 4.2, 2.4, 2.5"""

    def send(req):
        req.write("Hello, ")
        req.write("world!")
        req.end()

    seen = sent(origin, send, method=method)
    assert [name for name, _ in seen.headers] == ["Host", "Connection", "Transfer-Encoding"]
    assert seen.raw_body == b"7\r\nHello, \r\n6\r\nworld!\r\n0\r\n\r\n"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_host_has_the_port_unless_it_is_the_default(origin, method):
    """Behaviour 4.3"""
    origin.script(ok())
    for port in (origin.port, 80):
        request(method=method, port=port, create_connection=connect_to(origin)).end()
        origin.wait_for_request(len(origin.requests) + 1)
    assert [seen["host"] for seen in origin.requests] == [f"localhost:{origin.port}", "localhost"]


def test_set_host_false_adds_no_host(origin):
    """Behaviour 4.3"""
    assert sent(origin, set_host=False).all("host") == []


@pytest.mark.parametrize("name", ["Host", "hOST"])
def test_the_users_host_is_the_only_one(origin, name):
    """Behaviour 4.3"""
    seen = sent(origin, headers={name: "example.test"})
    assert [pair for pair in seen.headers if pair[0].lower() == "host"] == [(name, "example.test")]


def test_connection_is_keep_alive_with_an_agent_and_close_without(origin, agent):
    """Behaviour 4.4"""
    origin.script(ok())
    cases = [{}, {"agent": agent}, {"agent": False}, {"create_connection": connect_to(origin)}]
    cases.append({"create_connection": connect_to(origin), "agent": agent, "host": "other.test"})
    for options in cases:
        greenhttp.get({"host": "127.0.0.1", "port": origin.port, **options}).get_response().read()
    assert [seen["connection"] for seen in origin.requests] == [
        "keep-alive",
        "keep-alive",
        "close",
        "close",
        "keep-alive",
    ]


def test_a_list_of_headers_is_sent_verbatim_and_without_a_host(origin):
    """Behaviour 4.5"""
    headers = [("X-A", "1"), ("foo", "bar"), ("x-a", "2"), ("Cookie", "c=1"), ("FOO", "baz"), ("Connection", "close")]
    assert sent(origin, headers=headers).headers == headers


def test_a_list_of_headers_that_is_changed_later_is_as_set_header(origin):
    """Behaviour 4.5"""

    def send(req):
        assert req.get_header("x-A") == ["1", "2"]
        req.set_header("X-B", "new")
        req.remove_header("gone")
        req.end()

    headers = [("X-A", "1"), ("X-B", "old"), ("Gone", "1"), ("x-a", "2"), ("GONE", "2")]
    seen = sent(origin, send, headers=headers, auth="a:b")
    assert (seen.all("x-a"), seen.all("x-b"), seen.all("gone"), seen.all("host")) == (["1", "2"], ["new"], [], [])
    assert seen.all("authorization") == ["Basic YTpi"]


@pytest.mark.parametrize("bad", [[("X-A", "1"), ("X-B",)], ["X-A"], [5], "X-A: 1"])
def test_a_list_that_is_no_list_of_headers_raises(bad):
    """Behaviour 4.5"""
    with pytest.raises((TypeError, ValueError)):
        request(headers=bad)


def test_a_mapping_of_headers_is_as_set_header(origin):
    """Behaviour 4.6, 2.18"""
    seen = sent(origin, headers={"X-List": ["a", "b"], "X-Number": 5, "x-latin": "caf\u00e9\t!"})
    assert seen.all("x-list") == ["a", "b"]
    assert b"\r\nx-latin: caf\xe9\t!\r\n" in seen.head
    assert seen["x-number"] == "5"


BAD_NAMES = ["", ":", "@@", "caf\u00e9", "(a)", "a[", "{", "a:b", "a,b", 'a"b', "a b", "a\rb", "a\nb", "a\x00", "\x7f"]
BAD_VALUES = ["a\rb", "a\nb", "a\r\nX: y", "\x00", "\x01", "\x7f", "\u0100", "\u010d", "\u010a", "\u0d0a", "\u280a"]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [(name, "x", "ERR_INVALID_HTTP_TOKEN") for name in BAD_NAMES]
    + [("X-A", value, "ERR_INVALID_CHAR") for value in BAD_VALUES],
)
def test_an_invalid_header_raises_before_anything_is_sent_and_is_never_sent(origin, name, value, code):
    """Behaviour 4.6, 9.9, 9.10, 9.11"""
    for headers in ({name: value}, [(name, value)], {name: ["fine", value]}):
        with pytest.raises(ValueError, match="invalid") as caught:
            request(origin.url(), headers=headers)
        assert caught.value.code == code

    def send(req):
        for call in (req.set_header, lambda name, value: req.add_trailers({name: value})):
            with pytest.raises(ValueError, match="invalid") as caught:
                call(name, value)
            assert caught.value.code == code
        req.end()

    seen = sent(origin, send)
    assert len(origin.peers) == 1
    assert [name for name, _ in seen.headers] == ["Host", "Connection"]


@pytest.mark.parametrize(
    "name", ["TCN", "Set_Cookie", "foo`bar^", "~foobar", "$et-Cookie", "%%Test%%", "It's_fun", "2*3", "0"]
)
def test_every_token_is_a_header_name(origin, name):
    """Behaviour 9.9"""
    assert sent(origin, headers={name: "1"})[name] == "1"


@pytest.mark.parametrize("value", [None, b"bytes"])
def test_a_header_without_a_text_raises(value):
    """Behaviour 4.6, 2.19"""
    with pytest.raises((TypeError, ValueError)):
        request(headers={"X-A": value})


@pytest.mark.parametrize("host", ["a\r\nX: y", "a b\x00", "\u010d\u010a"])
def test_a_host_cannot_smuggle_a_line(host):
    """Behaviour 4.6, 9.11"""
    with pytest.raises(ValueError, match="invalid character"):
        request(host=host)


@pytest.mark.parametrize("begin", [request, greenhttp.get])
def test_headers_that_cannot_frame_a_body_raise_and_leave_no_connection(origin, agent, begin):
    """Behaviour 4.6"""
    for length in ({"Content-Length": "5x"}, {"Transfer-Encoding": "gzip"}):
        with pytest.raises(ValueError, match=r"Content-Length|Transfer-Encoding"):
            begin(
                origin.url(),
                agent=agent,
                headers={**length, **({"Expect": "100-continue"} if begin is request else {})},
            )
    origin.script(ok(b"next"))
    assert fetch(origin.url(), agent=agent) == b"next"
    assert agent.sockets == {}
    assert len(origin.requests) == 1


def test_auth_makes_an_authorization(origin):
    """Behaviour 4.7"""
    assert sent(origin, auth="user:pass:")["authorization"] == "Basic " + base64.b64encode(b"user:pass:").decode()


def test_the_users_authorization_wins_over_auth(origin):
    """Behaviour 4.7"""
    assert sent(origin, auth="user:pass", headers={"authorization": "Bearer x"}).all("authorization") == ["Bearer x"]


def test_a_request_has_headers_like_a_response(origin):
    """Behaviour 2.6, 2.16, 2.17, 2.18, 2.19 for a request"""

    def send(req):
        req.set_header("X-One", 1)
        req.set_header("x-gone", "1")
        req.remove_header("X-GONE")
        req.set_header("X-List", ["a", "b"])
        for call in (req.set_header, req.get_header, req.remove_header):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(TypeError):
            req.set_header(5, "x")
        with pytest.raises(ValueError, match="None"):
            req.set_header("X-One", None)
        req.end()
        assert (req.get_header("x-ONE"), req.get_header("x-list"), req.get_header("other")) == (1, ["a", "b"], None)

    seen = sent(origin, send)
    assert (seen.all("x-one"), seen.all("x-list"), seen.all("x-gone")) == (["1"], ["a", "b"], [])


@pytest.mark.parametrize("fix", ["write", "flush_headers", "end"])
def test_once_the_head_is_fixed_headers_raise(origin, fix):
    """Behaviour 2.20"""

    def send(req):
        assert not req.headers_sent
        if fix == "write":
            req.write("x")
        else:
            getattr(req, fix)()
        assert req.headers_sent
        for call in (lambda: req.set_header("X-Late", "1"), lambda: req.remove_header("host")):
            with pytest.raises(RuntimeError) as caught:
                call()
            assert caught.value.code == "ERR_HTTP_HEADERS_SENT"
        req.end()

    seen = sent(origin, send, method="POST")
    assert (seen["x-late"], len(seen.all("host"))) == (None, 1)


def test_flush_headers_sends_the_head_without_a_body(origin):
    """Behaviour 2.20"""
    begun = request(origin.url(), method="POST")
    begun.flush_headers()
    peer = origin.accept()
    assert peer.read_request_head()["transfer-encoding"] == "chunked"
    begun.end("x")
    assert peer.read_chunk() == b"x"
    peer.send(ok())
    assert begun.get_response().status_code == 200


def test_a_request_has_no_date(origin):
    """Behaviour 2.3"""
    assert sent(origin, method="POST").all("date") == []


# --- the body ---


@pytest.mark.parametrize("data", ["gr\u00fc\u00df", "gr\u00fc\u00df".encode(), bytearray(b"abc"), memoryview(b"abc")])
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "DELETE", "OPTIONS"])
def test_end_with_data_sends_it_with_its_length_in_bytes(origin, data, method):
    """Behaviour 4.10, 4.11, 2.4, 2.8"""
    seen = sent(origin, lambda req: req.end(data), method=method)
    expected = data.encode() if isinstance(data, str) else bytes(data)
    assert (seen.body, seen.all("content-length"), seen.all("transfer-encoding")) == (
        expected,
        [str(len(expected))],
        [],
    )


def test_text_is_encoded_as_named(origin):
    """Behaviour 2.8"""
    assert sent(origin, lambda req: req.end("gr\u00fc\u00df", "latin-1"), method="POST").body == b"gr\xfc\xdf"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST"])
def test_write_frames_the_body_on_every_method(origin, method):
    """Behaviour 4.11"""

    def send(req):
        req.write("GET /smuggled HTTP/1.1\r\n\r\n")
        req.end()

    seen = sent(origin, send, method=method)
    assert (seen["transfer-encoding"], seen.body) == ("chunked", b"GET /smuggled HTTP/1.1\r\n\r\n")


def test_a_content_length_of_the_user_switches_chunking_off(origin):
    """Behaviour 4.11, 2.21"""

    def send(req):
        req.set_header("content-length", 6)
        req.write("abc")
        req.end("def")

    seen = sent(origin, send, method="POST")
    assert (seen.all("content-length"), seen.all("transfer-encoding"), seen.body) == (["6"], [], b"abcdef")


def test_a_transfer_encoding_of_the_user_chunks_a_single_end(origin):
    """Behaviour 2.21"""
    seen = sent(origin, lambda req: req.end("abc"), method="POST", headers={"transfer-encoding": "chunked"})
    assert (seen.all("content-length"), seen.raw_body) == ([], b"3\r\nabc\r\n0\r\n\r\n")


@pytest.mark.parametrize(("method", "headers"), [("CONNECT", {}), ("GET", {"Connection": "Upgrade", "Upgrade": "raw"})])
def test_connect_and_upgrade_send_what_is_written_bare_behind_the_head(origin, method, headers):
    """Behaviour 4.11"""
    begun = request(origin.url(), method=method, headers=headers, path="a:1")
    begun.write("raw bytes")
    peer = origin.accept()
    head = peer.read_request_head()
    assert peer.read_exactly(9) == b"raw bytes"
    assert (head.all("content-length"), head.all("transfer-encoding")) == ([], [])
    begun.on("error", lambda error: None).destroy()


def test_an_empty_write_sends_no_chunk(origin):
    """Behaviour 2.6"""

    def send(req):
        for piece in ("1\n", "", "2\n", b""):
            req.write(piece)
        req.end("3\n")

    assert sent(origin, send, method="POST").raw_body == b"2\r\n1\n\r\n2\r\n2\n\r\n2\r\n3\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("bad", [["a", "list"], 5, {"a": 1}])
def test_a_body_of_the_wrong_type_raises_and_the_request_stays_usable(origin, bad):
    """Behaviour 2.8"""

    def send(req):
        for call in (req.write, req.end):
            with pytest.raises(TypeError):
                call(bad)
        assert not req.headers_sent
        req.end("fine")

    assert sent(origin, send, method="POST").body == b"fine"


@pytest.mark.parametrize("send", ["write", "end"])
def test_a_body_longer_than_its_length_raises_and_the_surplus_is_not_sent(origin, send):
    """Behaviour 2.23"""

    def too_much(req):
        with pytest.raises(ValueError, match="longer"):
            getattr(req, send)("abcdef")
        req.end()

    assert sent(origin, too_much, method="POST", headers={"Content-Length": 4}).body == b"abcd"
    assert origin.peers[0].buffer == b""


def test_a_body_shorter_than_its_length_closes_the_connection_and_is_an_error(origin):
    """Behaviour 2.23"""
    begun = request(origin.url(), method="POST", headers={"Content-Length": 4})
    begun.end("abc")
    with pytest.raises(ConnectionLostError, match="shorter"):
        begun.get_response(5)
    peer = origin.accept()
    assert peer.read_all().endswith(b"\r\n\r\nabc")


def test_trailers_follow_a_chunked_body(origin):
    """Behaviour 2.24"""

    def send(req):
        req.add_trailers([("X-Foo", "bar"), ("x-foo", "baz")])
        req.end("x")

    seen = sent(origin, send, method="POST")
    assert seen.raw_body == b"1\r\nx\r\n0\r\nX-Foo: bar\r\nx-foo: baz\r\n\r\n"


def test_trailers_of_a_body_with_a_length_are_dropped(origin):
    """Behaviour 2.24"""

    def send(req):
        req.add_trailers({"x-foo": "bar"})
        req.end("x")

    assert sent(origin, send, method="POST", headers={"content-length": 1}).raw_body == b"x"


def test_write_callbacks_run_in_order_and_without_an_error(origin):
    """Behaviour 2.27; before there is a connection, too"""
    heard = Heard()

    def send(req):
        req.write("a", None, lambda *args: heard.note("a", *args))
        req.write("b", None, lambda *args: heard.note("b", *args))
        req.end("c", None, lambda *args: heard.note("end", *args))
        req.on("finish", lambda: heard.note("finish", req.writable_finished))

    sent(origin, send, method="POST")
    heard.wait_for("finish")
    assert list(heard) == [("a",), ("b",), ("end",), ("finish", True)]


def test_write_callbacks_get_the_error(origin):
    """Behaviour 2.27, 2.30"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "finish", "close", "error")
    begun.write("a", None, lambda *args: heard.note("a", *args))
    begun.end("b", None, lambda *args: heard.note("end", *args))
    begun.destroy()
    heard.wait_for("close")
    assert heard.names == ["a", "end", "error", "close"]
    assert isinstance(heard[0][1], ConnectionLostError)
    assert isinstance(heard[1][1], ConnectionLostError)
    assert (begun.writable_finished, begun.destroyed) == (False, True)


def test_a_connection_that_fails_while_bytes_are_queued_tells_their_callbacks(origin):
    """Behaviour 2.27, 2.30"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "socket", "finish", "drain", "error", "close")
    heard.wait_for("socket")
    peer = origin.accept()
    while begun.write(b"x" * 32768):
        pass
    begun.write(b"y", None, lambda error: heard.note("write", type(error)))
    begun.end(b"z", None, lambda error: heard.note("end", type(error)))
    assert (begun.writable_ended, begun.writable_finished) == (True, False)
    peer.reset()
    heard.wait_for("close")
    heard.wait_for("end")
    assert sorted(heard.names) == ["close", "end", "error", "socket", "write"]
    for name in ("write", "end"):
        assert issubclass(heard.wait_for(name)[0], ConnectionError)
    assert (begun.writable_finished, begun.destroyed) == (False, True)
    assert begun.write("harmless") is False
    assert not begun.end()


def test_a_write_before_there_is_a_connection_returns_false_and_drain_follows(origin):
    """Behaviour 2.28"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "drain")
    assert begun.write("early") is False
    peer = origin.accept()
    heard.wait_for("drain")
    begun.end()
    assert peer.answer(ok()).body == b"early"
    assert begun.get_response().status_code == 200
    assert heard.names == ["drain"]


def test_write_returns_true_on_an_open_connection(origin):
    """Behaviour 2.28"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "socket", "drain")
    heard.wait_for("socket")
    assert begun.write("now") is True
    begun.end()
    origin.accept().answer(ok())
    assert begun.get_response().status_code == 200
    assert heard.names == ["socket"]


def test_write_blocks_over_the_high_water_mark_and_drain_and_finish_come_when_all_has_gone(origin):
    """Behaviour 2.28, 2.29, 2.30, 2.33"""
    heard, block, blocks = Heard(), b"x" * 65536, 256
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "socket", "drain")
    heard.wait_for("socket")
    written = []

    def write_all():
        for _ in range(blocks):
            written.append(begun.write(block))
        heard.note("written")

    writer = gevent.spawn(write_all)
    peer = origin.accept()
    peer.read_request_head()
    eventually(lambda: written and written[-1] is False, "a full queue")
    gevent.idle()
    assert not writer.ready()
    assert begun.socket.queued <= 65536 + len(block) + 20
    assert "drain" not in heard.names
    reader = gevent.spawn(lambda: b"".join(iter(peer.read_chunk, b"")))
    heard.wait_for("written")
    heard.wait_for("drain")

    def on_finish():
        heard.note("finish", begun.writable_finished, begun.socket.bytes_written > 0, begun.socket.queued)

    begun.on("finish", on_finish)
    begun.end(block, None, lambda: heard.note("end callback", begun.writable_finished))
    assert begun.writable_ended
    heard.wait_for("finish")
    assert heard.names[-2:] == ["end callback", "finish"]
    assert heard[-1][1:] == (True, True, 0)
    with bounded("the body"):
        assert len(reader.get()) == (blocks + 1) * len(block)
    peer.read_until(b"\r\n")
    peer.send(ok())
    assert begun.get_response().status_code == 200


def test_a_write_that_is_interrupted_destroys_the_request(origin):
    """Behaviour 2.28, and the rule of the house on what is interrupted half-way"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "socket", "error", "close")
    heard.wait_for("socket")

    def write_for_ever():
        with gevent.Timeout(0.05, False):
            while True:
                begun.write(b"x" * 65536)
        heard.note("interrupted")

    gevent.spawn(write_for_ever)
    heard.wait_for("interrupted")
    heard.wait_for("close")
    assert heard.names.count("error") == 1
    assert begun.destroyed


def test_finish_comes_after_the_request_has_gone_and_once(origin):
    """Behaviour 2.29, 2.30, 2.33"""
    heard = Heard()

    def send(req):
        req.on("finish", lambda: heard.note("finish", req.writable_finished, req.socket.bytes_written > 0))
        assert (req.writable_ended, req.writable_finished) == (False, False)
        req.end("x", None, lambda: heard.note("end"))
        assert (req.writable_ended, req.writable_finished) == (True, False)

    sent(origin, send, method="POST")
    heard.wait_for("finish")
    assert list(heard) == [("end",), ("finish", True, True)]


def test_a_second_end_changes_nothing(origin):
    """Behaviour 2.31, 4.9"""
    heard, ends = Heard(), []

    def send(req):
        heard.listen(req, "error")
        ends.append(req.end("x"))
        ends.append(req.end())
        ends.append(req.end(None, None, lambda error: heard.note("late", error.code)))

    seen = sent(origin, send, method="POST")
    heard.wait_for("late")
    assert ends == [True, False, False]
    assert list(heard) == [("late", "ERR_STREAM_WRITE_AFTER_END")]
    assert seen.body == b"x"


@pytest.mark.parametrize("call", ["write", "end"])
def test_data_after_end_is_an_error_and_is_not_sent(origin, call):
    """Behaviour 2.31"""
    heard = Heard()
    origin.script(ok())
    begun = request(origin.url(), method="POST")
    heard.listen(begun, "error", "response")
    begun.end("x")
    assert not getattr(begun, call)("late")
    assert heard.wait_for("error")[0].code == "ERR_STREAM_WRITE_AFTER_END"
    assert heard.wait_for("response")[0].read() == b""
    assert origin.requests[0].body == b"x"
    assert heard.names.count("error") == 1


def test_get_has_ended_and_a_further_end_is_harmless(origin):
    """Behaviour 4.9"""
    origin.script(ok(b"hi"))
    begun = greenhttp.get(origin.url())
    assert not begun.end()
    assert begun.get_response().read() == b"hi"
    assert not begun.end()
    assert len(origin.requests) == 1


def test_a_server_echoes_what_is_piped_into_a_request(serve):
    """Behaviour 4.10"""
    port = serve(lambda req, res: req.pipe(res)).address()[1]
    begun = request(f"http://127.0.0.1:{port}/", method="POST")
    begun.write("one ")
    begun.end("two")
    assert begun.get_response().read() == b"one two"


# --- Expect ---


def test_an_expect_header_sends_the_head_at_once_and_continue_comes_before_response(origin):
    """Behaviour 4.12"""
    heard = Heard()
    begun = request(origin.url(), method="POST", headers={"Expect": "100-continue"})
    heard.listen(begun, "continue", "response")
    peer = origin.accept()
    assert peer.read_request_head()["expect"] == "100-continue"
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    heard.wait_for("continue")
    assert heard.names == ["continue"]
    begun.end("body")
    assert peer.read_chunk() == b"body"
    peer.send(ok(b"done"))
    assert heard.wait_for("response")[0].read() == b"done"
    assert heard.names == ["continue", "response"]


def test_an_expect_header_goes_out_at_once_over_a_kept_connection_too(origin, agent):
    """Behaviour 4.12"""
    origin.script(ok(b"first"))
    assert fetch(origin.url(), agent=agent) == b"first"
    heard = Heard()
    origin.script(lambda peer: None)
    begun = request(origin.url("/second"), agent=agent, headers={"Expect": "100-continue"})
    heard.listen(begun, "continue", "response")
    assert origin.wait_for_request(2)["expect"] == "100-continue"
    origin.peers[0].send(b"HTTP/1.1 100 Continue\r\n\r\n")
    heard.wait_for("continue")
    begun.end()
    origin.peers[0].send(ok(b"second"))
    assert heard.wait_for("response")[0].read() == b"second"
    assert len(origin.peers) == 1


def test_our_own_server_sends_100_to_a_request_that_expects_it(serve):
    """Behaviour 4.12, 1.15"""
    heard = Heard()
    server = serve(lambda req, res: res.end(req.read()))
    begun = request(port=server.address()[1], host="127.0.0.1", method="PUT", headers={"expect": "100-continue"})
    begun.on("continue", lambda: begun.end("the body"))
    heard.listen(begun, "continue", "response")
    assert heard.wait_for("response")[0].read() == b"the body"
    assert heard.names == ["continue", "response"]


# --- the events of a request ---


def test_socket_is_emitted_once_for_whoever_listens_after_the_call(origin, agent):
    """Behaviour 4.15"""
    origin.script(ok())
    for turn in range(2):  # on a fresh connection, and on one that is there already
        heard = Heard()
        begun = greenhttp.get(origin.url(), agent=agent)
        assert heard.names == []
        heard.listen(begun, "socket", "response")
        heard.wait_for("response")[0].read()
        assert heard.names == ["socket", "response"], turn
        assert heard[0][1] is begun.socket
        eventually(lambda: agent.free_sockets)


def test_socket_is_not_emitted_again_for_a_later_listener(origin):
    """Behaviour 4.15"""
    heard, later = Heard(), Heard()
    begun = greenhttp.get(origin.url())
    heard.listen(begun, "socket", "response")
    heard.wait_for("socket")
    later.listen(begun, "socket")
    origin.accept().answer(ok())
    heard.wait_for("response")[0].read()
    assert (heard.names, later.names) == (["socket", "response"], [])


def test_response_is_emitted_in_the_turn_of_the_head_so_that_no_data_is_missed(origin):
    """Behaviour 4.14"""
    heard = Heard()
    origin.script(ok(b"all of it"))
    greenhttp.get(origin.url(), lambda res: heard.listen(res, "data", "end", "close"))
    heard.wait_for("close")
    assert list(heard) == [("data", b"all of it"), ("end",), ("close",)]


def test_the_callback_is_a_listener_of_the_one_response(origin):
    """Behaviour 4.14"""
    heard = Heard()
    origin.script(ok())
    begun = greenhttp.get(origin.url(), lambda res: heard.note("callback", res.status_code))
    heard.listen(begun, "response", "close")
    heard.wait_for("close")
    assert heard.names == ["callback", "response", "close"]


@pytest.mark.parametrize("framing", ["Content-Length: 200000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_response_that_nobody_wants_is_read_and_frees_its_connection(origin, framing):
    """Behaviour 4.14"""
    agent = Agent(keep_alive=True, max_sockets=1)
    body = b"x" * 200_000
    raw = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if "chunked" in framing else body
    origin.script(f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode() + raw, ok(b"next"))
    greenhttp.get(origin.url("/unwanted"), agent=agent)
    assert fetch(origin.url("/wanted"), agent=agent) == b"next"
    assert [seen.path for seen in origin.requests] == ["/unwanted", "/wanted"]
    assert len(origin.peers) == 1
    agent.destroy()


def test_a_late_get_response_misses_nothing(origin):
    """Behaviour 4.14, and the design's fire and forget"""
    begun = greenhttp.get(origin.url())
    peer = origin.accept()
    peer.answer(ok(b"waiting"))
    assert peer.closed()  # the exchange is over: the agent keeps no connection
    response = begun.get_response()
    assert response is begun.get_response()
    assert response.read() == b"waiting"


def test_information_comes_for_every_interim_answer_and_the_final_response_once(origin):
    """Behaviour 4.13"""
    heard = Heard()
    interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    origin.script(interim + b"HTTP/1.1 100 Continue\r\n\r\n" + interim + ok(b"final"))
    begun = greenhttp.get(origin.url())
    begun.on("information", lambda message: heard.note(message.status_code, message.headers.get("link")))
    heard.listen(begun, "continue", "response")
    assert heard.wait_for("response")[0].read() == b"final"
    assert heard.names == [102, 103, 100, "continue", 102, 103, "response"]
    assert heard[1] == (103, "</a>")


def test_interim_answers_do_not_disturb_the_blocking_style(origin):
    """Behaviour 4.13"""
    origin.script(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" * 50 + ok(b"final"))
    assert fetch(origin.url()) == b"final"


def test_close_comes_once_after_the_end_of_the_response(origin):
    """Behaviour 4.20 and the endings of an exchange"""
    heard = Heard()
    origin.script(ok(b"x"))
    begun = greenhttp.get(origin.url(), lambda res: heard.listen(res, "data", "end"))
    heard.listen(begun, "close", "error", "finish")
    heard.wait_for("close")
    eventually(lambda: len(heard) >= 4)
    assert sorted(heard.names) == ["close", "data", "end", "finish"]


# --- errors ---


def test_an_unknown_host_is_an_error_for_whoever_listens_after_the_call():
    """Behaviour 4.15, 4.16"""
    heard = Heard()
    heard.listen(greenhttp.get("http://nowhere.invalid/"), *ENDINGS)
    error = heard.wait_for("error")[0]
    heard.wait_for("close")
    assert isinstance(error, HostNotFoundError)
    assert error.code in ("ENOTFOUND", "EAI_AGAIN")  # the second where there is no network
    assert heard.names == ["error", "close"]


def test_a_host_name_that_cannot_be_one_is_an_error():
    """Behaviour 4.16"""
    for host in ("x" * 300, "a..b", "\u00ff" * 70):
        begun = greenhttp.get(host=host)
        with pytest.raises(HostNotFoundError) as caught:
            begun.get_response(5)
        assert caught.value.code == "ENOTFOUND"


def test_a_refused_connection_is_an_error_in_either_style():
    """Behaviour 4.15, 4.16"""
    heard, port = Heard(), refused_port()
    heard.listen(greenhttp.get(f"http://127.0.0.1:{port}/"), *ENDINGS)
    error = heard.wait_for("error")[0]
    heard.wait_for("close")
    assert (error.code, heard.names) == ("ECONNREFUSED", ["error", "close"])
    assert isinstance(error, ConnectionRefusedError)
    begun = greenhttp.get(f"http://127.0.0.1:{port}/")
    for _ in range(2):  # every time that it is asked
        with pytest.raises(ConnectionRefusedError, match=str(port)) as caught:
            begun.get_response()
        assert caught.value.code == "ECONNREFUSED"


def test_an_error_that_nobody_was_told_is_logged(logged):
    """Behaviour 4.15, and the house's rule for errors without a listener"""
    port = refused_port()
    greenhttp.get(f"http://127.0.0.1:{port}/")
    assert str(port) in logged.claim("nobody was told").getMessage()


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_server_that_leaves_before_it_answers_is_an_error(origin, leave):
    """Behaviour 4.16"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, *ENDINGS)
    begun.end("x")
    peer = origin.accept()
    peer.read_request()
    getattr(peer, leave)()
    error = heard.wait_for("error")[0]
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    assert isinstance(error, ConnectionResetError)
    assert getattr(error, "code", None) == "ECONNRESET" or leave == "reset"
    with pytest.raises(ConnectionResetError):
        begun.get_response()


def test_half_a_head_and_the_end_is_an_error(origin):
    """Behaviour 4.16"""
    origin.script(then_close(b"HTTP/1.1 200 OK\r\nContent-Le"))
    with pytest.raises(ConnectionLostError, match="socket hang up"):
        greenhttp.get(origin.url()).get_response(5)


@pytest.mark.parametrize("garbage", [b"bad http - should trigger parse error\r\n", b"\x00\xff" * 50 + b"\r\n\r\n"])
def test_garbage_instead_of_a_status_line_is_a_parse_error(origin, garbage):
    """Behaviour 4.17"""
    heard = Heard()
    begun = greenhttp.get(origin.url())
    heard.listen(begun, *ENDINGS)
    peer = origin.accept()
    peer.answer(garbage)
    error = heard.wait_for("error")[0]
    heard.wait_for("close")
    assert isinstance(error, RemoteProtocolError)
    assert (str(error)[:11], error.code) == ("Parse Error", "HPE_INVALID_CONSTANT")
    assert heard.names == ["error", "close"]
    assert begun.destroyed
    assert peer.closed()


def test_garbage_behind_a_complete_response_is_a_parse_error_after_it(origin, agent):
    """Behaviour 4.17"""
    heard = Heard()
    begun = greenhttp.get(origin.url(), lambda res: heard.listen(res, "data", "end"), agent=agent)
    heard.listen(begun, *ENDINGS)
    peer = origin.accept()
    peer.answer(ok() + b"more than asked for")
    error = heard.wait_for("error")[0]
    assert (str(error)[:11], error.code) == ("Parse Error", "HPE_INVALID_CONSTANT")
    heard.wait_for("close")
    assert heard.names == ["response", "end", "error", "close"]
    assert peer.closed()
    assert (agent.sockets, agent.free_sockets) == ({}, {})


def test_garbage_behind_a_complete_response_does_not_cost_the_response_in_the_blocking_style(origin, agent):
    """Behaviour 4.17"""
    begun = greenhttp.get(origin.url(), agent=agent)
    waiting = gevent.spawn(begun.get_response)
    peer = origin.accept()
    peer.answer(ok(b"whole") + b"more than asked for")
    with bounded("the response"):
        assert waiting.get().read() == b"whole"
    assert peer.closed()
    assert (agent.sockets, agent.free_sockets) == ({}, {})


@pytest.mark.parametrize("blocking", [True, False])
def test_a_second_response_is_never_emitted_and_its_connection_not_reused(origin, agent, blocking):
    """Behaviour 4.18"""
    heard = Heard()
    begun = greenhttp.get(origin.url(), agent=agent)
    if not blocking:
        heard.listen(begun, *ENDINGS)
    peer = origin.accept()
    peer.answer(ok(b"first") + ok(b"second"))
    response = begun.get_response() if blocking else heard.wait_for("response")[0]
    assert response.read() == b"first"
    assert peer.closed()
    eventually(lambda: (agent.sockets, agent.free_sockets) == ({}, {}), "an agent that forgot the socket")
    if not blocking:
        heard.wait_for("close")
        assert heard.names == ["response", "close"]


def test_bytes_on_a_connection_at_rest_end_it(origin, agent):
    """Behaviour 4.18"""
    begun = greenhttp.get(origin.url(), agent=agent)
    peer = origin.accept()
    peer.answer(ok(b"first"))
    assert begun.get_response().read() == b"first"
    peer.send(ok(b"unasked"))
    assert peer.closed()
    origin.script(ok(b"asked"))
    assert fetch(origin.url(), agent=agent) == b"asked"


def test_writing_to_a_server_that_has_gone_is_exactly_one_error(origin):
    """Behaviour 4.22"""
    heard = Heard()
    begun = request(origin.url(), method="POST")
    heard.listen(begun, *ENDINGS)
    begun.write("begun")
    peer = origin.accept()
    peer.read_request_head()
    peer.reset()
    with bounded("an end of the writes"):
        while not begun.destroyed:
            begun.write("x" * 1000)
            gevent.sleep(0)
    for _ in range(10):
        begun.write("x" * 1000)
    begun.end()
    error = heard.wait_for("error")[0]
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    assert error.errno in (104, 32) or error.code in ("ECONNRESET", "EPIPE")
    assert begun.socket.queued == 0


# --- giving up ---


def test_abort_directly_after_the_call_sends_nothing(origin):
    """Behaviour 4.19, 4.20"""
    heard = Heard()
    begun = request(origin.url("/aborted"))
    heard.listen(begun, *ENDINGS)
    begun.abort()
    assert begun.aborted
    begun.abort()
    begun.end()
    heard.wait_for("close")
    assert heard.names.count("abort") == 1
    assert sorted(heard.names) == ["abort", "close", "error"]
    error = heard.wait_for("error")[0]
    assert (error.code, str(error)) == ("ECONNRESET", "socket hang up")
    origin.script(ok())
    fetch(origin.url("/next"))
    assert [seen.path for seen in origin.requests] == ["/next"]


def test_abort_after_the_exchange_is_told_once_and_changes_nothing(origin):
    """Behaviour 4.19"""
    heard = Heard()
    origin.script(ok(b"x"))
    begun = greenhttp.get(origin.url())
    heard.listen(begun, "abort", "error", "close")
    assert begun.get_response().read() == b"x"
    heard.wait_for("close")
    begun.abort()
    begun.abort()
    heard.wait_for("abort")
    assert heard.names == ["close", "abort"]


@pytest.mark.parametrize("give_up", ["abort", "destroy"])
def test_giving_up_inside_a_data_listener_is_no_error_of_the_request(origin, give_up):
    """Behaviour 4.19, 4.21"""
    heard = Heard()

    def on_response(res):
        res.on("data", lambda chunk: (heard.note("data"), getattr(begun, give_up)()))
        heard.listen(res, "aborted", "end")

    begun = greenhttp.get(origin.url(), on_response)
    heard.listen(begun, "error", "close", "abort")
    peer = origin.accept()
    peer.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4\r\nmore\r\n")
    heard.wait_for("close")
    assert peer.closed()
    heard.wait_for("aborted")
    assert [name for name in heard.names if name in ("data", "end", "error")] == ["data"]
    assert heard.names.count("close") == 1
    assert (begun.destroyed, begun.aborted) == (True, give_up == "abort")
    assert ("abort" in heard.names) == (give_up == "abort")


@pytest.mark.parametrize("awaited", [True, False])
def test_destroy_before_the_response_is_an_error_and_then_close(origin, awaited):
    """Behaviour 4.21"""
    heard = Heard()
    begun = greenhttp.get(origin.url())
    heard.listen(begun, *ENDINGS)
    peer = origin.accept()
    peer.read_request()
    if awaited:
        gevent.spawn_later(0, begun.destroy)
        with pytest.raises(ConnectionLostError, match="socket hang up"):
            begun.get_response(5)
    else:
        assert begun.destroy() is begun
    error = heard.wait_for("error")[0]
    heard.wait_for("close")
    assert (error.code, str(error), heard.names) == ("ECONNRESET", "socket hang up", ["error", "close"])
    assert (begun.destroyed, begun.aborted) == (True, False)
    assert peer.closed()


def test_destroy_with_an_error_emits_that_one(origin):
    """Behaviour 4.21"""
    heard, mine = Heard(), RuntimeError("mine")
    begun = request(origin.url())
    heard.listen(begun, *ENDINGS)
    begun.destroy(mine)
    begun.destroy(RuntimeError("another"))
    heard.wait_for("close")
    assert list(heard) == [("error", mine), ("close",)]


def test_a_request_left_as_a_context_manager_is_destroyed_unless_it_is_over(origin):
    """Behaviour 4.21"""
    with greenhttp.get(origin.url()) as begun:
        peer = origin.accept()
        peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        assert begun.get_response().read(4) == b"half"
    assert begun.destroyed
    assert peer.closed()
    origin.script(ok(b"whole"))
    with greenhttp.get(origin.url()) as begun:
        assert begun.get_response().read() == b"whole"
    assert not begun.destroyed


def test_get_response_in_time_or_not_at_all(origin):
    """Behaviour 4.21, and the blocking style of `timeout`"""
    begun = greenhttp.get(origin.url())
    with pytest.raises(PeerTimeoutError, match=r"0\.05 s") as caught:
        begun.get_response(timeout=0.05)
    assert caught.value.code == "ETIMEDOUT"
    assert begun.destroyed
    peer = origin.accept()
    peer.read_request()
    assert peer.closed()


def test_get_response_interrupted_by_a_timeout_of_the_caller_destroys_the_request(origin):
    """The rule of the house on what is interrupted half-way"""
    begun = greenhttp.get(origin.url())
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        begun.get_response()
    peer = origin.accept()
    peer.read_request()
    assert peer.closed()


def test_get_response_before_end_raises_and_the_request_goes_on(origin):
    begun = request(origin.url(), method="POST")
    with pytest.raises(MessageStateError, match=re.escape("call end() first")):
        begun.get_response()
    origin.script(ok(b"fine"))
    begun.end()
    assert begun.get_response().read() == b"fine"


def test_only_one_greenlet_waits_for_a_response(origin):
    begun = greenhttp.get(origin.url())
    first = gevent.spawn(begun.get_response)
    peer = origin.accept()
    peer.read_request()
    with pytest.raises(MessageStateError, match="another greenlet"):
        begun.get_response()
    peer.send(ok(b"x"))
    with bounded("the response"):
        assert first.get().read() == b"x"


# --- the connection ---


def test_a_response_before_the_end_of_the_request_does_not_free_the_socket(origin):
    """Behaviour 4.23"""
    heard, agent = Heard(), Agent(keep_alive=True, max_sockets=1)
    first = request(origin.url("/first"), method="POST", agent=agent)
    first.write("one")
    peer = origin.accept()
    peer.read_request_head()
    assert peer.read_chunk() == b"one"
    peer.send(ok(b"early"))
    assert first.get_response().read() == b"early"
    second = greenhttp.get(origin.url("/second"), agent=agent)
    heard.listen(second, "socket")
    first.write("two")
    assert peer.read_chunk() == b"two"
    assert heard.names == []
    first.end()
    assert peer.read_until(b"\r\n\r\n") == b"0\r\n\r\n"
    assert peer.answer(ok(b"late")).path == "/second"
    assert second.get_response().read() == b"late"
    assert len(origin.peers) == 1
    agent.destroy()


def test_create_connection_is_called_once_and_what_it_returns_is_used(origin):
    """Behaviour 4.24"""
    seen = []
    origin.script(ok(b"used"))
    assert fetch("http://nowhere.invalid:99/x", create_connection=connect_to(origin, seen)) == b"used"
    assert [(options["host"], options["port"], options["path"]) for options in seen] == [("nowhere.invalid", 99, "/x")]
    assert origin.requests[0]["host"] == "nowhere.invalid:99"


@pytest.mark.parametrize("error", [OSError("no way"), RuntimeError("mine")])
def test_what_create_connection_raises_is_the_error(error):
    """Behaviour 4.24, 4.16"""

    def create(options):
        raise error

    with pytest.raises(type(error)) as caught:
        greenhttp.get(create_connection=create).get_response(5)
    assert caught.value is error


def test_socket_options_may_be_set_before_there_is_a_socket(origin):
    """Behaviour 4.25"""
    origin.script(ok())
    begun = request(origin.url())
    begun.set_no_delay(False)
    begun.set_socket_keep_alive(True, 7)
    begun.set_timeout(30)
    assert begun.socket is None
    seen = []

    def look(sock):
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            seen.append(same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            seen.append(same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            seen.append(same.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        seen.append(sock.timeout)

    begun.on("socket", look)
    begun.flush_headers()
    eventually(lambda: len(seen) == 4)
    assert seen == [0, 1, 7, 30]
    begun.set_no_delay(True)
    look(begun.socket)
    assert seen[4] != 0
    begun.end()
    begun.get_response()


def test_create_client_warns_and_works(serve):
    """Behaviour 4.26"""
    server = serve(
        lambda req, res: res.end(f"{req.method} {req.url} {req.headers.get('x-a')} {req.socket.remote_port}")
    )
    port = server.address()[1]
    with pytest.warns(DeprecationWarning, match="create_client"):
        one = create_client(port, "127.0.0.1")
    with pytest.warns(DeprecationWarning, match="use request"):
        two = create_client(port, "127.0.0.1")
    begun = [
        one.request("/plain"),
        one.request("put", "/named", {"X-A": "1"}),
        one.request("/with", {"x-a": "2"}),
        two.request("GET", "/two"),
    ]
    for each in begun:
        each.end()
    with bounded("all responses"):
        bodies = [each.get_response().read().decode() for each in begun]
    assert [body.rsplit(" ", 1)[0] for body in bodies] == [
        "GET /plain None",
        "PUT /named 1",
        "GET /with 2",
        "GET /two None",
    ]
    ports = [body.rsplit(" ", 1)[1] for body in bodies]
    assert len(set(ports[:3])) == 1  # one connection at a time, and it served those that waited
    assert ports[3] != ports[0]


def test_the_next_request_from_the_end_listener(serve):
    """Behaviour 4.27, 2.10"""
    heard = Heard()

    def handler(req, res):
        res.status_code = 204
        res.end("dropped")

    where = {"host": "127.0.0.1", "port": serve(handler).address()[1], "method": "DELETE"}
    agent = Agent(keep_alive=True, max_sockets=1)

    def delete(left: int) -> None:
        def on_response(res):
            heard.listen(res, "data")
            res.on("end", lambda: (heard.note("end", res.status_code), left > 1 and delete(left - 1)))

        request(where, on_response, agent=agent).end()

    delete(5)
    heard.wait_for("end", 5)
    assert list(heard) == [("end", 204)] * 5
    agent.destroy()


def test_ten_end_listeners_that_raise_are_logged_and_leave_nothing_behind(serve, logged):
    """Behaviour 1.12"""
    server = serve(lambda req, res: res.end("x"))
    agent, heard = Agent(keep_alive=True), Heard()

    def on_response(res):
        def on_end():
            heard.note("end")
            raise RuntimeError("of the user")

        res.on("data", lambda chunk: None)
        res.on("end", on_end)

    for _ in range(10):
        greenhttp.get({"host": "127.0.0.1", "port": server.address()[1]}, on_response, agent=agent)
    heard.wait_for("end", 10)
    for _ in range(10):
        logged.claim("of the user")
    eventually(lambda: not agent.sockets, "sockets that nobody uses")
    agent.destroy()
    server.close()
    with bounded("the end of the server", 1):
        server.join()


def test_a_response_listener_that_raises_is_logged_and_leaves_no_connection(origin, agent, logged):
    """Behaviour 1.12"""

    def on_response(res):
        raise RuntimeError("of the user")

    begun = greenhttp.get(origin.url(), on_response, agent=agent)
    peer = origin.accept()
    peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    logged.claim("of the user")
    assert peer.closed()
    assert begun.destroyed or not agent.sockets


def test_a_proxy_passes_status_headers_and_body_on(serve, origin):
    """Behaviour 1.17"""
    fields = "Set-Cookie: a=1\r\nX-Two: 1\r\nset-cookie: b=2\r\nX-Two: 2\r\nContent-Type: text/x\r\n"
    origin.script(ok(b"the body", status="404 Nothing", headers=fields))

    def handler(req, res):
        up = greenhttp.get(origin.url(req.url)).get_response()
        res.write_head(up.status_code, up.headers)
        up.pipe(res)

    got = greenhttp.get({"host": "127.0.0.1", "port": serve(handler).address()[1], "path": "/up"}).get_response()
    assert (got.status_code, got.read()) == (404, b"the body")
    assert got.headers["set-cookie"] == ["a=1", "b=2"]
    assert (got.headers["x-two"], got.headers["content-type"]) == ("1, 2", "text/x")
    assert [origin.requests[0].path, got.headers["content-length"]] == ["/up", "8"]


# --- timeouts ---


def test_set_timeout_emits_timeout_and_nothing_else(origin):
    """Behaviour 8.9"""
    heard = Heard()
    begun = greenhttp.get(origin.url())
    begun.set_timeout(0.05, lambda: heard.note("callback"))
    heard.listen(begun, "timeout", *ENDINGS)
    peer = origin.accept()
    peer.read_request()
    heard.wait_for("timeout")
    assert heard.names == ["callback", "timeout"]
    assert not begun.destroyed
    peer.send(ok(b"in the end"))
    assert heard.wait_for("response")[0].read() == b"in the end"
    assert begun.timeout == 0.05


@pytest.mark.parametrize("how", ["option", "method"])
def test_a_timeout_that_destroys_gives_error_and_close(origin, how):
    """Behaviour 8.9"""
    heard = Heard()
    begun = greenhttp.get(origin.url(), **({"timeout": 0.05} if how == "option" else {}))
    if how == "option":
        begun.on("timeout", begun.destroy)
    else:
        begun.set_timeout(0.05, begun.destroy)
    heard.listen(begun, "timeout", *ENDINGS)
    peer = origin.accept()
    peer.read_request()
    heard.wait_for("close")
    assert [name for name in heard.names if name != "timeout"] == ["error", "close"]
    assert heard.wait_for("error")[0].code == "ECONNRESET"
    assert peer.closed()


def test_who_waits_for_a_response_without_a_listener_gets_the_timeout(origin):
    """Behaviour 8.9, blocking style"""
    begun = greenhttp.get(origin.url(), timeout=0.05)
    with pytest.raises(PeerTimeoutError) as caught:
        begun.get_response()
    assert caught.value.code == "ETIMEDOUT"


@pytest.mark.parametrize("late", [True, False], ids=["late", "awaited"])
def test_who_reads_a_body_that_stalls_gets_the_timeout(origin, late):
    """Behaviour 8.9, blocking style"""
    begun = greenhttp.get(origin.url(), timeout=0.1)
    peer = origin.accept()
    if late:
        peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        eventually(lambda: begun.socket.bytes_read)
        response = begun.get_response()
    else:
        waiting = gevent.spawn(begun.get_response)
        peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        response = waiting.get()
    with pytest.raises(PeerTimeoutError) as caught:
        response.read()
    assert caught.value.code == "ETIMEDOUT"
    assert peer.closed()


def test_timeout_listeners_are_told_of_a_body_that_stalls_in_the_blocking_style(origin):
    """Behaviour 8.9, blocking style"""
    heard = Heard()
    begun = greenhttp.get(origin.url())
    begun.set_timeout(0.05, lambda: heard.note("timeout"))
    peer = origin.accept()
    peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    reading = gevent.spawn(lambda: begun.get_response().read())
    heard.wait_for("timeout")
    peer.send(b"half")
    with bounded("the body"):
        assert reading.get() == b"halfhalf"


def test_a_timeout_set_in_the_response_listener_comes_once_and_nothing_is_lost(origin):
    """Behaviour 8.10"""
    heard = Heard()

    def on_response(res):
        begun.set_timeout(0.05, lambda: heard.note("timeout"))
        begun.on("timeout", lambda: heard.note("each"))
        heard.listen(res, "data", "end")

    begun = greenhttp.get(origin.url(), on_response)
    peer = origin.accept()
    peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n*")
    heard.wait_for("timeout")
    clock = greenhttp.get(origin.url())  # its limit is several of the other's
    with pytest.raises(PeerTimeoutError):
        clock.get_response(0.25)
    peer.send(b"*")
    heard.wait_for("end")
    assert list(heard) == [("data", b"*"), ("timeout",), ("each",), ("data", b"*"), ("end",)]


@pytest.mark.parametrize("seconds", [2**32 / 1000, 2**40, 1e300, float("inf")])
def test_a_huge_timeout_neither_fires_nor_raises(origin, seconds):
    """Behaviour 8.11"""
    heard = Heard()
    origin.script(ok(b"x"))
    begun = request(origin.url(), timeout=seconds)
    heard.listen(begun, "timeout", "close")
    begun.set_timeout(seconds)
    begun.end()
    assert begun.get_response().read() == b"x"
    heard.wait_for("close")
    assert heard.names == ["close"]


@pytest.mark.parametrize("cancel", [lambda req: req.clear_timeout(), lambda req: req.set_timeout(0)])
@pytest.mark.parametrize("connected", [True, False])
def test_a_timeout_that_was_cancelled_does_not_fire(origin, cancel, connected):
    """Behaviour 8.11"""
    heard = Heard()
    begun = greenhttp.get(origin.url(), timeout=0.05)
    heard.listen(begun, "timeout", "response")
    if connected:
        peer = origin.accept()
        eventually(lambda: begun.socket is not None)
        cancel(begun)
    else:
        cancel(begun)
        peer = origin.accept()
    peer.read_request()
    clock = greenhttp.get(origin.url())
    with pytest.raises(PeerTimeoutError):
        clock.get_response(0.15)
    peer.send(ok(b"x"))
    assert heard.wait_for("response")[0].read() == b"x"
    assert heard.names == ["response"]
    assert begun.timeout == 0


@pytest.mark.parametrize("seconds", [-1, -0.001])
def test_a_negative_timeout_raises(origin, seconds):
    """Behaviour 8.11"""
    begun = request(origin.url())
    with pytest.raises(ValueError, match="0 for none"):
        begun.set_timeout(seconds)
    begun.on("error", lambda error: None).destroy()
