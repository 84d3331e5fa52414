"""WSGI: the gateway and its environ. Source: PEP 3333; what pywsgi does, where that leaves a choice."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import re
import resource
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import gevent
import pytest
from gevent.event import Event
from gevent.lock import Semaphore

from greenhttp.wsgi import gateway
from greenhttp.wsgi_gateway import is_application

from .support import LIMIT, OK, TEXT, App, Heard, RawClient, Response, answer_of, body_app, bounded, eventually, get

MEBIBYTE = 1024 * 1024
LONG_POLL = 20.0  # seconds that no test waits for

Ask = Callable[..., Response]


@pytest.fixture
def errors() -> io.StringIO:
    """What was written to `wsgi.errors`."""
    return io.StringIO()


@pytest.fixture
def client(serve: Any, connect: Any, errors: io.StringIO) -> Callable[..., RawClient]:
    """`client(app, **options)`: a client that is connected to a server with `app`."""

    def make(app: App, environ: Any = None, **options: Any) -> RawClient:
        options = {"ignore_upgrade": True, **options}
        made: RawClient = connect(serve(gateway(app, environ=environ, errors=errors), **options))
        return made

    return make


@pytest.fixture
def ask_app(client: Any, errors: io.StringIO) -> Iterator[Ask]:
    """`ask_app(app, request)`: the answer to one request; what is left in `wsgi.errors` fails the test."""

    def ask(app: App, request: bytes = get()) -> Response:
        answer: Response = client(app).send(request).read_response(request.split()[0].decode())
        return answer

    yield ask
    assert errors.getvalue() == ""


def environ_of(ask_app: Ask, request: bytes) -> dict[str, Any]:
    """The environ that an application gets for `request`."""
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response(OK, [TEXT])
        return [b"ok"]

    assert ask_app(app, request).status == 200
    return seen[0]


class Body:
    """An iterable with `close`, as frameworks return it."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = iter(chunks)
        self.given = 0
        self.closed = 0

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        chunk = next(self.chunks)
        if isinstance(chunk, Exception):
            raise chunk
        self.given += 1
        return chunk

    def close(self) -> None:
        self.closed += 1


# --- requests that come again ---


def test_an_environ_is_the_requests_own_though_the_same_head_comes_again(client):
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(dict(environ))
        environ["PATH_INFO"] = "/changed"
        environ["wsgi.input"] = None
        environ["app.own"] = environ.pop("HTTP_HOST")
        start_response(OK, [TEXT])
        return [b"ok"]

    asking = client(app)
    for _ in range(5):
        assert asking.send(get("/a%20b?c")).read_response().body == b"ok"

    for environ in seen:
        assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]) == ("/a b", "c", "a")
        assert environ["REMOTE_PORT"] == str(asking.local_port)
        assert "app.own" not in environ
    assert len({id(environ["greenhttp.request"]) for environ in seen}) == 5
    assert len({id(environ["greenhttp.closed"]) for environ in seen}) == 5


def test_the_input_of_a_request_without_a_body_is_empty_whenever_it_is_asked(client):
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"]
        start_response(OK, [TEXT])
        read = [body.read(), body.read(5), body.readline(), body.readline(5), body.readlines(), body.readlines(5)]
        return [repr([*read, *body]).encode()]

    asking = client(app)
    for _ in range(5):
        assert asking.send(get()).read_response().body == b"[b'', b'', b'', b'', [], []]"


def test_a_client_that_has_reset_its_connection_has_its_address_all_the_same(client):
    seen = []
    begun = Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]))
        begun.set()
        start_response(OK, [TEXT])
        return [b"ok"]

    asking = client(app, environ={"REMOTE_ADDR": "10.0.0.1"})
    port = asking.local_port
    asking.send(get()).reset()
    with bounded("the request"):
        begun.wait()

    assert seen == [("127.0.0.1", str(port))]


@pytest.mark.parametrize("fields", ["Upgrade: x\r\n", "Connection: upgrade\r\nUpgrade: x\r\n"])
def test_the_connection_of_an_upgrade_is_the_requests_own_though_the_same_head_comes_again(client, connect, fields):
    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["gunicorn.socket"], environ["greenhttp.request"]))
        start_response(OK, [TEXT])
        return [b"ok"]

    first = client(app)
    for asking in (first, connect(first.sock.getpeername()), first, first):
        assert asking.send(get(headers=fields)).read_response().status == 200

    assert len({id(connection) for connection, _ in seen}) == 4
    assert [connection._request for connection, _ in seen] == [request for _, request in seen]


def test_two_clients_with_the_same_head_are_told_apart(client, connect):
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(OK, [TEXT])
        return [environ["REMOTE_PORT"].encode()]

    first = client(app)
    second = connect(first.sock.getpeername())
    for asking in (first, second, first, second):
        assert asking.send(get()).read_response().body == str(asking.local_port).encode()


def test_headers_that_are_set_before_the_application_is_called_are_sent(serve, connect):
    inner = gateway(body_app(b"ok"))

    def handler(req: Any, res: Any) -> None:
        res.set_header("X-Before", "1")
        inner(req, res)

    asking = connect(serve(handler))
    for method in ("GET", "HEAD"):
        assert asking.send(get(method=method)).read_response(method)["x-before"] == "1"


# --- wsgiref's validator ---

REQUESTS = {
    "GET": get("/a%20b?c=d%20e"),
    "HEAD": get("/", method="HEAD"),
    "POST": get("/", method="POST", body=b"one\ntwo\nthree"),
    "chunks": get("/", method="POST", headers="Transfer-Encoding: chunked\r\n")
    + b"4\r\none\n\r\n3\r\ntwo\r\n0\r\n\r\n",
    "1.0": get("/", version="1.0"),
    "OPTIONS": get("*", method="OPTIONS"),
    "absolute": get("http://other.test:81/x?y"),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("style", ["list", "generator", "write", "file", "parts"])
def test_the_validator_is_content(ask_app, capsys, name, style):
    """Given an application of each style, when wsgiref's validator stands between, then it finds no fault."""

    def app(environ, start_response):
        body = environ["wsgi.input"].readline() + environ["wsgi.input"].read(3) + b"".join(environ["wsgi.input"])
        environ["wsgi.errors"].flush()
        body = body or b"nothing"
        headers = [TEXT, ("Content-Length", str(len(body)))] if style == "list" else [TEXT]
        write = start_response(OK, headers)
        if style == "write":
            write(body)
            return []
        if style == "generator":
            return (part for part in (b"", body))
        if style == "file":
            return environ["wsgi.file_wrapper"](io.BytesIO(body), 2)
        return [body] if style == "list" else [body[:2], body[2:]]

    answer = ask_app(validator(app), REQUESTS[name])

    gc.collect()
    expected = {"POST": b"one\ntwo\nthree", "chunks": b"one\ntwo", "HEAD": b""}
    assert answer.status == 200
    assert answer.body == expected.get(name, b"nothing")
    assert capsys.readouterr().err == ""  # where it tells of an iterator that was not closed


# --- the environ ---


def test_environ_holds_what_cgi_names(ask_app):
    environ = environ_of(
        ask_app, get("/p?q=1&r=%20", method="POST", headers="X-Two-Words: v \r\nContent-Type: a/b\r\n", body=b"abc")
    )

    assert type(environ) is dict
    assert environ["REQUEST_METHOD"] == "POST"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("", "/p", "q=1&r=%20")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["CONTENT_TYPE"] == "a/b"
    assert environ["CONTENT_LENGTH"] == "3"
    assert environ["HTTP_X_TWO_WORDS"] == "v"
    assert environ["HTTP_HOST"] == "a"
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & environ.keys()
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert (environ["wsgi.multithread"], environ["wsgi.multiprocess"], environ["wsgi.run_once"]) == (True, False, False)
    assert re.match(r"gevent/\S+ greenhttp/\S+", environ["SERVER_SOFTWARE"])


def test_environ_tells_both_ends_of_the_connection(serve, connect, errors):
    seen = []

    def app(environ, start_response):
        seen.append(environ)
        start_response(OK, [])
        return []

    server = serve(gateway(app))
    client = connect(server)
    client.send(get()).read_response()

    assert (seen[0]["SERVER_NAME"], seen[0]["SERVER_PORT"]) == ("127.0.0.1", str(server.address()[1]))
    assert (seen[0]["REMOTE_ADDR"], seen[0]["REMOTE_PORT"]) == ("127.0.0.1", str(client.local_port))


def test_one_gateway_on_two_servers_tells_each_its_own_port(serve, connect):
    seen = []

    def app(environ, start_response):
        seen.append(int(environ["SERVER_PORT"]))
        start_response(OK, [])
        return []

    handler = gateway(app)
    servers = [serve(handler), serve(handler)]
    clients = [connect(server) for server in servers]
    for client in (*clients, *clients):
        client.send(get()).read_response()

    assert seen == [server.address()[1] for server in servers] * 2


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/caf%C3%A9%2F", "/caf\xc3\xa9/", ""),
        ("/%zz%", "/%zz%", ""),
        ("/%00%0a", "/\0\n", ""),
        ("/a?b?c%41", "/a", "b?c%41"),
        ("//double//", "//double//", ""),
        ("*", "", ""),
    ],
)
def test_the_path_is_percent_decoded_to_latin_1_and_the_query_stays(ask_app, target, path, query):
    environ = environ_of(ask_app, get(target, method="OPTIONS"))

    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, query)


@pytest.mark.parametrize(
    ("target", "path", "query"), [("/x?y", "/x", "y"), ("?y", "/", "y"), ("", "/", "")], ids=["path", "query", "bare"]
)
def test_the_host_of_an_absolute_target_wins(ask_app, target, path, query):
    """RFC 9112 section 3.2.2"""
    environ = environ_of(ask_app, get(f"http://u@other.test:81{target}"))

    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, query)
    assert environ["HTTP_HOST"] == "other.test:81"


def test_a_header_with_an_underscore_is_dropped(ask_app):
    environ = environ_of(ask_app, get(headers="X_Forwarded_User: root\r\nX-Real: 1\r\nContent_Length: 9\r\n"))

    assert "HTTP_X_FORWARDED_USER" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert environ["HTTP_X_REAL"] == "1"


@pytest.mark.parametrize("rest", ["", f"X-Long: {'a' * 300}\r\n", f"X-Long: {'a' * 3000}\r\n"])
def test_dropped_headers_and_repeated_ones_do_not_touch_others(ask_app, rest):
    """Whatever is remembered of such a head."""
    lines = "X_A: 1\r\nX_B: 2\r\nContent-Type: a/b\r\nContent-Type: c/d\r\nX-C: 3\r\nX-C: 4\r\n"

    environ = environ_of(ask_app, get(method="POST", headers=lines + rest, body=b"12345"))

    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"], environ["HTTP_X_C"]) == ("a/b", "5", "3,4")
    ours = {key for key in environ if key.startswith("HTTP_")}
    assert ours - {"HTTP_X_LONG"} == {"HTTP_HOST", "HTTP_X_C"}
    assert "" not in environ


def test_the_header_proxy_does_not_become_the_variable_http_proxy(ask_app):
    environ = environ_of(ask_app, get(headers="Proxy: http://evil.test\r\nProxy-Other: kept\r\n"))

    assert "HTTP_PROXY" not in environ
    assert environ["HTTP_PROXY_OTHER"] == "kept"


def test_repeated_headers_are_joined_and_cookies_with_a_semicolon(ask_app):
    environ = environ_of(ask_app, get(headers="Cookie: a=1\r\nX-A: 1\r\nCookie: b=2\r\nX-A: 2\r\nCookie: c=3\r\n"))
    older = environ_of(ask_app, get(headers="Cookie2: a\r\nCookie2: b\r\n"))

    assert environ["HTTP_COOKIE"] == "a=1; b=2; c=3"
    assert older["HTTP_COOKIE2"] == "a; b"
    assert environ["HTTP_X_A"] == "1,2"


def test_header_values_are_latin_1(ask_app):
    assert environ_of(ask_app, get(headers="X-A: \xe9\xff\r\n"))["HTTP_X_A"] == "\xe9\xff"


@pytest.mark.parametrize("line", ["GET  /a HTTP/1.1", "GET /a  HTTP/1.1", "\r\nGET /a HTTP/1.1"])
def test_blanks_in_the_request_line_change_nothing(ask_app, line):
    environ = environ_of(ask_app, f"{line}\r\nHost: test\r\nX-A: b c\r\n\r\n".encode())

    assert (environ["SERVER_PROTOCOL"], environ["PATH_INFO"], environ["HTTP_X_A"]) == ("HTTP/1.1", "/a", "b c")


@pytest.mark.parametrize("size", [300, 3000])
def test_fields_too_long_to_be_remembered_are_those_of_their_own_request(client, size):
    seen = []

    def app(environ, start_response):
        seen.append(environ["HTTP_X_A"])
        start_response(OK, [])
        return []

    sender = client(app)
    for letter in "aab":
        sender.send(get(headers=f"X-A: {letter * size}\r\n")).read_response()

    assert seen == ["a" * size, "a" * size, "b" * size]


def test_equal_requests_do_not_share_an_environ(client):
    """What an application puts into its environ is not in the next one, though the fields were the same."""
    seen = []

    def app(environ, start_response):
        seen.append("HTTP_X_MINE" in environ)
        environ["HTTP_X_MINE"] = environ["wsgi.version"] = "changed"
        start_response(OK, [])
        return []

    sender = client(app)
    for _ in range(3):
        sender.send(get()).read_response()

    assert seen == [False] * 3


def test_entries_of_the_user_win(client):
    seen = []

    def app(environ, start_response):
        seen.append((environ["SERVER_NAME"], environ["my.key"]))
        start_response(OK, [])
        return []

    client(app, environ={"SERVER_NAME": "front.test", "my.key": 1}).send(get()).read_response()

    assert seen == [("front.test", 1)]


# --- wsgi.input ---


@pytest.mark.parametrize("read", [0, 1000])
def test_an_upload_that_the_application_has_not_read_ends_the_connection_and_the_answer_says_so(client, read):
    """RFC 9112 section 9.6: or the next request on the connection would fail."""

    def app(environ, start_response):
        environ["wsgi.input"].read(read)
        start_response("413 Too Large", [("Content-Length", "2")])
        return [b"no"]

    sender = client(app).send(get(method="POST", headers="Content-Length: 300000\r\n") + bytes(2000))
    answer = sender.read_response()

    assert (answer.body, answer["connection"]) == (b"no", "close")
    assert sender.closed()


def test_an_application_may_read_on_after_it_has_written_its_answer(client, errors):
    seen = []

    def app(environ, start_response):
        environ["wsgi.input"].read(1000)
        start_response(OK, [("Content-Length", "2")])(b"ok")
        seen.append(len(environ["wsgi.input"].read()))
        return []

    sender = client(app)
    for _ in range(2):
        sender.send(get(method="POST", headers="Content-Length: 300000\r\n") + bytes(2000))
        assert sender.read_response()["connection"] == "keep-alive"
        sender.send(bytes(298_000))
    eventually(lambda: seen == [299_000] * 2)
    assert errors.getvalue() == ""


def reading(read: Callable[[Any], Any]) -> App:
    """An application that answers with the `repr` of what `read` makes of `wsgi.input`."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(OK, [TEXT])
        return [repr(read(environ["wsgi.input"])).encode()]

    return app


LENGTH = get("/", method="POST", body=b"one\ntwo\nthree")
CHUNKS = (
    get("/", method="POST", headers="Transfer-Encoding: chunked\r\n")
    + b"2\r\non\r\n5\r\ne\ntwo\r\n6\r\n\nthree\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("request_bytes", [LENGTH, CHUNKS], ids=["length", "chunks"])
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda body: body.read(), b"one\ntwo\nthree"),
        (lambda body: body.read(None), b"one\ntwo\nthree"),
        (lambda body: [body.read(5), body.read(0), body.read(100), body.read(1)], [b"one\nt", b"", b"wo\nthree", b""]),
        (lambda body: [body.readline(), body.readline(2), body.read(3)], [b"one\n", b"tw", b"o\nt"]),
        (lambda body: [body.read(1), body.readlines(), body.readline()], [b"o", [b"ne\n", b"two\n", b"three"], b""]),
        (lambda body: body.readlines(2), [b"one\n"]),
        (list, [b"one\n", b"two\n", b"three"]),
    ],
    ids=["all", "none", "sizes", "mixed", "lines", "hint", "iteration"],
)
def test_the_input_reads_as_a_file(ask_app, request_bytes, read, expected):
    assert ask_app(reading(read), request_bytes).body == repr(expected).encode()


def test_the_input_streams(client):
    """Given half of a body, when the application reads a line, then it gets it before the rest is sent."""

    def app(environ, start_response):
        write = start_response(OK, [TEXT])
        for line in environ["wsgi.input"]:
            write(line)
        return []

    sender = client(app)
    sender.send(get("/", method="POST", headers="Transfer-Encoding: chunked\r\n"))
    assert sender.send(b"4\r\none\n\r\n").read_head().status == 200
    assert sender.read_chunk() == b"one\n"
    sender.send(b"4\r\ntwo\n\r\n")
    assert sender.read_chunk() == b"two\n"
    sender.send(b"0\r\n\r\n")
    assert sender.read_chunk() == b""


def test_100_continue_goes_out_at_the_first_read(client):
    asked = Event()

    def app(environ, start_response):
        asked.wait()
        body = environ["wsgi.input"].read()
        start_response(OK, [TEXT])
        return [body]

    sender = client(app).send(get("/", method="POST", headers="Expect: 100-continue\r\nContent-Length: 3\r\n"))
    asked.set()
    assert sender.read_head().status == 100
    assert sender.send(b"abc").read_response().body == b"abc"


def test_no_100_continue_if_the_body_is_not_read(client):
    sender = client(body_app(b"no", status="403 Forbidden"))
    sender.send(get("/", method="POST", headers="Expect: 100-continue\r\nContent-Length: 3\r\n"))

    assert sender.read_response().status == 403
    assert sender.closed()


@pytest.mark.parametrize("start", [b"abc", b""], ids=["some", "none"])
def test_a_body_that_is_cut_raises_an_os_error(client, errors, start):
    heard = Heard()

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            heard.note("error", error)
            raise
        return []

    client(app).send(get("/", method="POST", headers="Content-Length: 10\r\n") + start).close()

    heard.wait_for("error")
    assert errors.getvalue() == ""  # the client's doing, and nobody to tell


def test_a_bad_body_is_answered_with_400(client, errors):
    def app(environ, start_response):
        environ["wsgi.input"].read()
        raise AssertionError("it must not come to this")

    sender = client(app).send(get("/", method="POST", headers="Transfer-Encoding: chunked\r\n") + b"zz\r\n")

    assert sender.read_response().status == 400
    assert errors.getvalue() == ""


# --- start_response ---


def test_status_and_headers_are_sent_as_given(ask_app):
    headers = (("X-A", "1"), TEXT, ("Set-Cookie", "a=1"), ("x-b", "\xe9"), ("Set-Cookie", "b=2"))

    answer = ask_app(body_app(b"ok", headers=headers, status="299 Very Well"))

    assert (answer.status, answer.message) == (299, "Very Well")
    assert answer.all("set-cookie") == ["a=1", "b=2"]
    assert [name for name, _ in answer.headers][:2] == ["X-A", "Content-Type"]
    assert answer["x-b"] == "\xe9"
    assert answer["date"] is not None


def test_pairs_of_headers_may_be_lists(ask_app):
    """PEP 3333 says tuples; every server takes lists too."""
    answer = ask_app(body_app(b"ok", headers=(["X-A", "1"], ["Content-Length", "2"])))

    assert (answer["x-a"], answer["content-length"], answer.body) == ("1", "2", b"ok")


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH"])
def test_a_content_length_may_be_spelled_as_one_likes(client, name):
    answer = client(body_app(b"ok", b"!", headers=((name, "2"),))).send(get()).read_response()

    assert (answer.all("content-length"), answer.body) == (["2"], b"ok")


def test_answers_that_begin_alike_share_nothing(client):
    """Given an answer whose head was given before, when it is replaced, then the next one of that head is whole."""

    def app(environ, start_response):
        start_response("202 Accepted", [("X-A", "1"), ("Content-Length", "2")])
        if environ["PATH_INFO"] == "/replaced":
            try:
                raise ValueError
            except ValueError:
                start_response("203 Other", [("X-B", "2")], sys.exc_info())
        return [b"ok"]

    sender = client(app)
    answers = [sender.send(get(path)).read_response() for path in ("/", "/replaced", "/")]

    assert [(a.status, a["x-a"], a["x-b"], a.body) for a in answers] == [
        (202, "1", None, b"ok"),
        (203, None, "2", b"ok"),
        (202, "1", None, b"ok"),
    ]


def test_the_list_of_headers_is_not_changed(ask_app):
    headers = [TEXT, ("Content-Length", "2"), ("X-A", "1"), ("X-A", "2")]
    before = list(headers)

    def app(environ, start_response):
        start_response(OK, headers)
        return [b"ok"]

    assert ask_app(app).body == b"ok"
    assert headers == before


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK\r\nX: 1", []),
        ("20 OK", []),
        ("OK", []),
        ("101 Switching Protocols", []),
        (200, []),
        (b"200 OK", []),
        (OK, [("X", "1\r\nY: 2")]),
        (OK, [("X Y", "1")]),
        (OK, [("X", 1)]),
        (OK, [("X", b"1")]),
        (OK, [("X", "\u20ac")]),
        (OK, [("Content-Length", "x")]),
        (OK, [("Content-Length", "1"), ("Content-Length", "2")]),
        (OK, [("Content-Length", "1"), ("content-length", "1")]),
        (OK, [("Transfer-Encoding", "chunked")]),
        (OK, [("Keep-Alive", "timeout=5")]),
    ],
)
def test_what_cannot_be_sent_is_refused_while_the_application_runs(client, errors, status, headers):
    raised = []

    def app(environ, start_response):
        try:
            start_response(status, headers)
        except (TypeError, ValueError) as error:
            raised.append(error)
            raise
        return [b"never"]

    answer = client(app).send(get()).read_response()

    assert len(raised) == 1
    assert answer.status == 500
    assert b"never" not in answer.body
    assert "Traceback" in errors.getvalue()


def test_a_second_start_response_needs_exc_info(client, errors):
    def app(environ, start_response):
        start_response(OK, [])
        start_response(OK, [])
        return []

    assert client(app).send(get()).read_response().status == 500
    assert "exc_info" in errors.getvalue()


def test_with_exc_info_an_answer_that_was_not_sent_is_replaced(ask_app):
    def app(environ, start_response):
        start_response(OK, [("X-Old", "1"), ("Content-Length", "100")])
        try:
            raise KeyError("oops")
        except KeyError:
            start_response("503 Sorry", [("X-New", "1")], sys.exc_info())
        return [b"sorry"]

    answer = ask_app(app)

    assert (answer.status, answer.message, answer.body) == (503, "Sorry", b"sorry")
    assert (answer["x-old"], answer["x-new"]) == (None, "1")


def test_with_exc_info_after_the_head_the_error_is_raised_again(client, errors):
    def app(environ, start_response):
        start_response(OK, [TEXT])(b"begun")
        try:
            raise KeyError("oops")
        except KeyError:
            start_response("503 Sorry", [], sys.exc_info())
        return [b"never"]

    sender = client(app).send(get())

    assert sender.read_head().status == 200
    assert sender.read_chunk() == b"begun"
    assert sender.closed()  # without the last chunk
    assert "KeyError: 'oops'" in errors.getvalue()


def test_an_application_may_close_the_connection(client):
    sender = client(body_app(b"ok", headers=(("Connection", "close"),))).send(get())

    assert sender.read_response().all("connection") == ["close"]
    assert sender.closed()


# --- the body ---


def packets(client: RawClient) -> list[bytes]:
    """One `recv` of what has come."""
    with bounded("an answer"):
        return [client.sock.recv(65536)]


@pytest.mark.parametrize(
    "app",
    [
        body_app(b"Hello"),
        body_app(b"Hello", headers=(("Content-Length", "5"),)),
        body_app(b"He", b"", b"llo"),
        body_app(bytearray(b"Hello")),
        lambda environ, start: (start(OK, []), (b"He", b"llo"))[1],
        lambda environ, start: (start(OK, [("Content-Length", "5")]), iter([b"", b"Hello"]))[1],
        lambda environ, start: (start(OK, [("Content-Length", "5")])(b"Hello"), [])[1],
    ],
    ids=["list", "length", "parts", "bytearray", "tuple", "iterator", "write"],
)
def test_a_small_answer_is_one_packet_with_its_length(client, app):
    sender = client(app).send(get())

    (packet,) = packets(sender)

    assert packet.endswith(b"\r\n\r\nHello")
    assert packet.lower().count(b"content-length: 5\r\n") == 1


def test_chunks_leave_at_once(client):
    """Given a generator that waits between its chunks, then each is here before the next is made."""
    more = Semaphore(0)

    def app(environ, start_response):
        start_response(OK, [TEXT])
        for chunk in (b"one", b"", b"two"):
            yield chunk
            more.acquire()

    sender = client(app).send(get())
    assert sender.read_head()["transfer-encoding"] == "chunked"
    assert sender.read_chunk() == b"one"
    more.release()
    more.release()  # the empty one
    assert sender.read_chunk() == b"two"
    more.release()
    assert sender.read_chunk() == b""


def test_a_chunk_of_known_length_leaves_at_once(client):
    more = Event()

    def app(environ, start_response):
        start_response(OK, [("Content-Length", "6")])
        yield b"one"
        more.wait()
        yield b"two"

    sender = client(app).send(get())
    assert sender.read_head()["content-length"] == "6"
    assert sender.read_exactly(3) == b"one"
    more.set()
    assert sender.read_exactly(3) == b"two"
    assert sender.send(get()).read_head().status == 200  # the connection is kept


def test_start_response_may_be_called_by_the_first_step_of_a_generator(ask_app):
    def app(environ, start_response):
        start_response(OK, [TEXT])
        yield b"late"

    assert ask_app(app).body == b"late"


def test_write_and_the_iterable_may_be_mixed(ask_app):
    def app(environ, start_response):
        write = start_response(OK, [TEXT])
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c"]

    assert ask_app(app).body == b"abc"


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(ask_app):
    answer = ask_app(lambda environ, start: (start(OK, []), iter([b"a", b"b"]))[1], get(version="1.0"))

    assert answer.body == b"ab"
    assert answer["transfer-encoding"] is None


def written_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """An application that announces a length, and writes two pieces."""
    write = start_response(OK, [("Content-Length", "2")])
    write(b"o")
    write(b"k")
    return []


OLD = get(version="1.0", headers="Connection: keep-alive\r\n")


@pytest.mark.parametrize(
    ("app", "method"),
    [
        (body_app(b"ok"), "GET"),
        (body_app(b"o", b"k"), "GET"),
        (body_app(b"ok", headers=(("Content-Length", "2"),)), "GET"),
        (body_app(b"ok", headers=(("Content-Length", "2"),)), "HEAD"),
        (body_app(status="304 Not Modified"), "GET"),
        (written_app, "GET"),
    ],
    ids=["list", "parts", "length", "HEAD", "304", "write"],
)
def test_http_1_0_may_ask_for_a_connection_that_is_kept(client, app, method):
    """Given an HTTP/1.0 client that asks for keep-alive, when it can know where the body ends, then it gets it."""
    sender = client(app)

    for _ in range(2):
        answer = sender.send(OLD.replace(b"GET", method.encode())).read_response(method)
        assert answer["connection"] == "keep-alive"
        assert answer.body in (b"ok", b"")


@pytest.mark.parametrize(
    ("app", "request_bytes"),
    [
        (body_app(b"ok"), get(version="1.0")),
        (body_app(b"ok", headers=(("Connection", "close"),)), OLD),
        (lambda environ, start: (start(OK, []), iter([b"ok"]))[1], OLD),
    ],
    ids=["not asked for", "refused", "stream"],
)
def test_an_http_1_0_connection_ends_otherwise(client, app, request_bytes):
    sender = client(app)

    answer = sender.send(request_bytes).read_response()

    assert (answer.body, answer["connection"]) == (b"ok", "close")
    assert sender.closed()


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        ("200 OK\r\nX: 1", [], "carriage return or newline in status"),
        (OK, [("X\n", "1")], "carriage return or newline in header name"),
        (OK, [("X", "1\r\nY: 2")], "carriage return or newline in header value"),
        (OK, [("X", "\u20ac")], "latin-1"),
        (OK, [("X", "\0")], "invalid character"),
    ],
)
def test_what_splits_an_answer_is_a_value_error(ask_app, status, headers, message):
    """Given a status or field that must not reach the wire, when `start_response` is called, then it says why."""

    def app(environ, start_response):
        with pytest.raises(ValueError, match=message):
            start_response(status, headers)
        start_response(OK, [], (ValueError, ValueError(), None))
        return [b"refused"]

    assert ask_app(app).body == b"refused"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("headers", [(), (("Content-Length", "0"),)], ids=["bare", "length"])
def test_bodiless_answers_leave_the_connection_usable(client, status, headers):
    sender = client(body_app(status=status, headers=headers))

    for _ in range(2):
        answer = sender.send(get()).read_response()
        assert answer.status == int(status[:3])
        assert answer["content-length"] is None
        assert answer["transfer-encoding"] is None


@pytest.mark.parametrize(
    ("app", "length"),
    [
        (body_app(b"Hello"), "5"),
        (body_app(b"Hello", headers=(("Content-Length", "5"),)), "5"),
        (body_app(headers=(("Content-Length", "5"),)), "5"),
        (body_app(b"", headers=(("Content-Length", "0"),)), "0"),
        (lambda environ, start: (start(OK, []), iter([b"a"]))[1], None),
    ],
    ids=["list", "length", "empty", "zero", "stream"],
)
def test_head_gets_the_head_alone(client, app, length):
    sender = client(app)

    for _ in range(2):
        answer = sender.send(get(method="HEAD")).read_response("HEAD")
        assert answer["content-length"] == length
    assert sender.buffer == b""


def test_head_of_an_endless_stream_ends(ask_app):
    body = Body(*[b"x" * 1000] * 10_000)

    ask_app(lambda environ, start: (start(OK, []), body)[1], get(method="HEAD"))

    assert body.given == 1
    assert body.closed == 1


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("announced", [True, False])
def test_the_file_wrapper_sends_a_file(ask_app, tmp_path, size, announced):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    opened = []

    def app(environ, start_response):
        start_response(OK, [("Content-Length", str(size))] if announced else [])
        opened.append(open(path, "rb"))  # noqa: SIM115  # the gateway closes it
        return environ["wsgi.file_wrapper"](opened[0], 1024)

    assert ask_app(app).body == path.read_bytes()
    assert opened[0].closed


def test_a_large_list_is_sent_whole(ask_app):
    parts = [os.urandom(50_000) for _ in range(20)]

    answer = ask_app(body_app(*parts))

    assert answer.body == b"".join(parts)
    assert answer["content-length"] == "1000000"


def test_close_is_always_called(client, errors):
    """Given bodies that end, raise, are refused and are cut, then `close` is called once."""
    bodies = {
        "/ends": Body(b"a", b"b"),
        "/raises": Body(ValueError("oops")),
        "/raises-late": Body(b"a", ValueError("oops")),
        "/not-bytes": Body("text"),  # type: ignore[arg-type]
        "/surplus": Body(b"abc", b"def"),
    }

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        start_response(OK, [("Content-Length", "3")] if path == "/surplus" else [])
        return bodies[path]

    for path, body in bodies.items():
        client(app).send(get(path, headers="Connection: close\r\n")).read_all()
        assert body.closed == 1, path
    assert errors.getvalue().count("Traceback") == 4


def test_close_is_called_when_the_client_goes_away(client, errors):
    """Given an endless body, when the client closes, then it ends, and nobody is told of an error."""
    done = Event()

    class Endless(Body):
        def close(self) -> None:
            super().close()
            done.set()

    body = Endless(*[b"x" * 65536] * 5000)
    sender = client(lambda environ, start: (start(OK, []), body)[1]).send(get())
    sender.read_head()
    sender.close()

    with bounded("the end of the body"):
        done.wait()
    assert body.given < 5000
    assert errors.getvalue() == ""


def test_write_raises_when_the_client_has_gone(client, errors):
    heard = Heard()

    def app(environ, start_response):
        write = start_response(OK, [])
        try:
            while True:
                write(b"x" * 65536)
        except ConnectionError as error:
            heard.note("gone", error)
            raise

    client(app).send(get()).close()

    heard.wait_for("gone")
    assert errors.getvalue() == ""


# --- bodies that do not keep their word, applications that raise ---


@pytest.mark.parametrize(
    "app",
    [
        body_app(b"abcdef", headers=(("Content-Length", "3"),)),
        body_app(b"abc", b"def", headers=(("Content-Length", "3"),)),
        lambda environ, start: (start(OK, [("Content-Length", "3")]), iter([b"abc", b"def"]))[1],
        lambda environ, start: (start(OK, [("Content-Length", "3")]), iter([b"ab", b"cdef"]))[1],
        lambda environ, start: (start(OK, [("Content-Length", "3")])(b"ab"), [b"cdef"])[1],
    ],
    ids=["list", "parts", "iterator", "pieces", "write"],
)
def test_a_body_beyond_its_length_is_not_sent(client, errors, app):
    sender = client(app)

    for _ in range(2):
        assert sender.send(get()).read_response().body == b"abc"
    assert sender.buffer == b""
    assert "longer than its Content-Length" in errors.getvalue()


def test_a_body_short_of_its_length_ends_the_connection(client):
    sender = client(body_app(b"ab", headers=(("Content-Length", "3"),))).send(get())

    assert sender.read_head()["content-length"] == "3"
    assert sender.read_all() == b"ab"


def failing(environ: dict[str, Any], start_response: Any) -> Any:
    raise ValueError("oops")


def failing_after_start(environ: dict[str, Any], start_response: Any) -> Any:
    start_response(OK, [("X-Mine", "1")])
    raise ValueError("oops")


def failing_generator(environ: dict[str, Any], start_response: Any) -> Any:
    start_response(OK, [("X-Mine", "1")])
    raise ValueError("oops")
    yield b""


def timing_out(environ: dict[str, Any], start_response: Any) -> Any:
    raise gevent.Timeout(1)


def cancelled(environ: dict[str, Any], start_response: Any) -> Any:
    raise asyncio.CancelledError  # no Exception either


def starting_nothing(environ: dict[str, Any], start_response: Any) -> Any:
    return [b"oops"]


def giving_text(environ: dict[str, Any], start_response: Any) -> Any:
    start_response(OK, [])
    return ["oops"]


def giving_nothing(environ: dict[str, Any], start_response: Any) -> Any:
    start_response(OK, [])


@pytest.mark.parametrize(
    "app",
    [
        failing,
        failing_after_start,
        failing_generator,
        timing_out,
        cancelled,
        starting_nothing,
        giving_text,
        giving_nothing,
    ],
)
def test_an_error_before_the_head_is_a_500_and_a_traceback(client, errors, app):
    answer = client(app).send(get("/path")).read_response()

    assert answer.status == 500
    assert answer["x-mine"] is None
    assert "GET /path" in errors.getvalue()
    assert "Traceback" in errors.getvalue()


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_an_error_after_the_head_aborts_the_connection(client, errors, error):
    def app(environ, start_response):
        start_response(OK, [])
        yield b"begun"
        raise error("oops")

    sender = client(app).send(get())

    assert sender.read_head().status == 200
    assert sender.read_chunk() == b"begun"
    assert sender.closed()
    assert f"{error.__name__}: oops" in errors.getvalue()


def test_errors_of_wsgi_errors_go_where_the_server_says(client, errors):
    def app(environ, start_response):
        environ["wsgi.errors"].write("a word\n")
        start_response(OK, [])
        return []

    client(app).send(get()).read_response()

    assert errors.getvalue() == "a word\n"


def test_pipelined_requests_are_answered_in_order(client):
    first = Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/0":
            first.wait()
        else:
            first.set()
        start_response(OK, [TEXT])
        return [environ["PATH_INFO"].encode()]

    sender = client(app).send(b"".join(get(f"/{number}") for number in range(10)))

    assert [sender.read_response().body for _ in range(10)] == [b"/%d" % number for number in range(10)]


# --- the client that goes away ---


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, RawClient.half_close])
def test_a_blocked_application_sees_that_its_client_has_gone(client, leave):
    heard = Heard()

    def app(environ, start_response):
        heard.note("begun", environ["greenhttp.request"].url, environ["greenhttp.closed"].is_set())
        heard.note("gone", environ["greenhttp.closed"].wait(LONG_POLL))
        start_response(OK, [])
        return []

    sender = client(app).send(get("/poll"))
    assert heard.wait_for("begun") == ("/poll", False)
    leave(sender)

    assert heard.wait_for("gone") == (True,)


def test_the_closed_event_works_with_gevent_wait_and_when_it_is_asked_late(client):
    heard = Heard()
    gone = Event()

    def app(environ, start_response):
        request = environ["greenhttp.request"].on("close", gone.set)
        heard.note("begun")
        gone.wait()
        ready = gevent.wait([environ["greenhttp.closed"]], timeout=LIMIT)
        heard.note("waited", len(ready), environ["greenhttp.closed"].is_set(), request.aborted)
        return []

    sender = client(app).send(get())
    heard.wait_for("begun")
    sender.close()

    assert heard.wait_for("waited") == (1, True, True)


def test_who_does_not_ask_for_the_closed_event_has_no_listeners(ask_app):
    environ = environ_of(ask_app, get())

    assert environ["greenhttp.request"]._listeners is None


def test_an_upgrade_that_nobody_takes_is_an_ordinary_request(ask_app):
    request = get("/", method="POST", headers="Connection: upgrade\r\nUpgrade: websocket\r\n", body=b"abc")

    assert ask_app(reading(lambda body: body.read()), request).body == b"b'abc'"


UPGRADE = "Connection: upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize("end", [[], [b"late"], StopIteration], ids=["empty", "body", "stop"])
def test_the_application_may_take_the_connection_of_an_upgrade(client, errors, end):
    """Given `gunicorn.socket`, when it is used, then it is the connection, and nothing else is sent on it."""

    def app(environ, start_response):
        sock = environ["gunicorn.socket"]
        sock.sendall(b"HTTP/1.1 101 Other\r\n\r\n")
        sock.sendall(sock.recv(100).upper())
        sock.close()
        if end is StopIteration:
            raise StopIteration
        return end

    sender = client(app).send(get(headers=UPGRADE))
    assert sender.read_head().status == 101
    assert sender.send(b"abc").read_all() == b"ABC"
    assert errors.getvalue() == ""


def test_only_an_upgrade_request_has_the_connection_and_looking_at_it_takes_nothing(ask_app):
    assert "gunicorn.socket" not in environ_of(ask_app, get())

    def app(environ, start_response):
        assert repr(environ)
        assert not hasattr(environ["gunicorn.socket"], "__deepcopy__")
        start_response(OK, [])
        return [b"still here"]

    assert ask_app(app, get(headers=UPGRADE)).body == b"still here"


def test_simple_websocket_works(client, errors):
    simple_websocket = pytest.importorskip("simple_websocket")
    ended = Heard()

    class Thread:
        """As `threading.Thread` is after `monkey.patch_all()`."""

        def __init__(self, target: Callable[[], object]) -> None:
            self.target = target
            self.name = ""

        def start(self) -> None:
            gevent.spawn(self.target).link(lambda _: ended.note("end"))

    def app(environ, start_response):
        socket = simple_websocket.Server.accept(environ, thread_class=Thread, event_class=Event)
        try:
            while True:
                socket.send(socket.receive().upper())
        except simple_websocket.ConnectionClosed:
            return []

    handshake = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    sender = client(app).send(get(headers=UPGRADE + handshake))
    assert sender.read_head().status == 101
    sender.send(b"\x81\x82\0\0\0\0hi")  # a text of two bytes, masked with zeros
    assert sender.read_exactly(4) == b"\x81\x02HI"
    sender.send(b"\x88\x82\0\0\0\0\x03\xe8")  # the end, 1000
    assert sender.read_all() == b"\x88\x02\x03\xe8"
    ended.wait_for("end")
    assert errors.getvalue() == ""


# --- large bodies ---


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_an_upload_does_not_stay_in_memory(client):
    """Given 200 MB (50 in CI), when they are read in pieces, then the process grows by no more than a few MB."""
    size = (50 if os.environ.get("CI") else 200) * MEBIBYTE
    piece = bytes(MEBIBYTE)
    held = []

    def app(environ, start_response):
        total = 0
        while data := environ["wsgi.input"].read(65536):
            total += len(data)
            if total % MEBIBYTE < len(data):
                held.append(resident())
        start_response(OK, [])
        return [str(total).encode()]

    sender = client(app).send(get("/", method="POST", headers=f"Content-Length: {size}\r\n"))
    for _ in range(size // MEBIBYTE):
        sender.send(piece)

    assert sender.read_response().body == str(size).encode()
    assert max(held) - held[0] < 16 * MEBIBYTE


def test_a_download_does_not_stay_in_memory(client):
    """Given an endless body, when the client reads slowly, then what waits is bounded."""
    given = []

    def app(environ, start_response):
        start_response(OK, [])
        for _ in range(1000):
            given.append(1)
            yield bytes(65536)

    sender = client(app).send(get())
    sender.read_exactly(MEBIBYTE)
    gevent.idle()

    assert len(given) < 500  # the rest of what was given is in the buffers of the kernel


# --- frameworks ---

FORM = {"headers": "Content-Type: application/x-www-form-urlencoded\r\n", "body": b"a=1&b=%C3%A9"}


def check_framework(client: Any, app: App) -> None:
    """What each of the applications below does: a path and a query, a form, a stream, cookies, HEAD."""
    sender = client(app)
    hello = sender.send(get("/hello/w%C3%B6rld?q=%C3%A9")).read_response()
    assert (hello.status, hello.body.decode()) == (200, "w\u00f6rld \u00e9")
    form = sender.send(get("/form", method="POST", **FORM)).read_response()
    assert (form.status, form.body.decode()) == (200, "1 \u00e9")
    assert sender.send(get("/stream")).read_response().body == b"0\n1\n2\n"
    assert len(sender.send(get("/cookies")).read_response().all("set-cookie")) == 2
    assert sender.send(get("/hello/a?q=b", method="HEAD")).read_response("HEAD")["content-length"] == "3"
    assert sender.send(get("/nowhere")).read_response().status == 404
    assert sender.buffer == b""


def test_flask(client, errors):
    flask = pytest.importorskip("flask")
    app = flask.Flask("minimal")

    @app.get("/hello/<name>")
    def hello(name: str) -> str:
        return f"{name} {flask.request.args['q']}"

    @app.post("/form")
    def form() -> str:
        return f"{flask.request.form['a']} {flask.request.form['b']}"

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(f"{number}\n" for number in range(3))

    @app.get("/cookies")
    def cookies() -> Any:
        response = flask.Response("ok")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    @app.post("/size")
    def size() -> str:
        return str(len(flask.request.stream.read()))

    check_framework(client, app)
    chunked = get("/size", method="POST", headers="Transfer-Encoding: chunked\r\n") + b"3\r\nabc\r\n0\r\n\r\n"
    assert client(app).send(chunked).read_response().body == b"3"
    assert errors.getvalue() == ""


def test_django(client, errors, tmp_path):
    django = pytest.importorskip("django")
    from django import http
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    (tmp_path / "file").write_bytes(b"x" * 100_000)

    def cookies(request: Any) -> Any:
        response = http.HttpResponse("ok")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    urls = types.ModuleType("minimal_urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("hello/<name>", lambda request, name: http.HttpResponse(f"{name} {request.GET['q']}")),
        path("form", lambda request: http.HttpResponse(f"{request.POST['a']} {request.POST['b']}")),
        path("stream", lambda request: http.StreamingHttpResponse(f"{number}\n" for number in range(3))),
        path("cookies", cookies),
        path("file", lambda request: http.FileResponse(open(tmp_path / "file", "rb"))),  # noqa: SIM115
    ]
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            LOGGING_CONFIG=None,
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
            ROOT_URLCONF=urls,
            SECRET_KEY="minimal",
        )
    assert django.VERSION
    app = get_wsgi_application()
    logging.getLogger("django.request").setLevel(logging.CRITICAL)

    check_framework(client, app)
    assert client(app).send(get("/file")).read_response().body == b"x" * 100_000
    assert errors.getvalue() == ""


def test_falcon(client, errors):
    falcon = pytest.importorskip("falcon")

    class Resource:
        def on_get(self, req: Any, resp: Any, name: str) -> None:
            resp.text = f"{name} {req.get_param('q')}"

        def on_get_stream(self, req: Any, resp: Any) -> None:
            resp.stream = (f"{number}\n".encode() for number in range(3))

        def on_get_cookies(self, req: Any, resp: Any) -> None:
            resp.set_cookie("a", "1")
            resp.set_cookie("b", "2")

        def on_post_form(self, req: Any, resp: Any) -> None:
            form = req.get_media()
            resp.text = f"{form['a']} {form['b']}"

        def on_head(self, req: Any, resp: Any, name: str) -> None:
            self.on_get(req, resp, name)

    app = falcon.App()
    app.add_route("/hello/{name}", Resource())
    for suffix in ("stream", "cookies", "form"):
        app.add_route(f"/{suffix}", Resource(), suffix=suffix)

    check_framework(client, app)
    assert errors.getvalue() == ""


def test_bottle(client, errors):
    bottle = pytest.importorskip("bottle")
    app = bottle.Bottle()

    @app.get("/hello/<name>")
    def hello(name: str) -> str:
        return f"{name} {bottle.request.query.q}"

    @app.post("/form")
    def form() -> str:
        return f"{bottle.request.forms.a} {bottle.request.forms.b}"

    @app.get("/stream")
    def stream() -> Any:
        for number in range(3):
            yield f"{number}\n"

    @app.get("/cookies")
    def cookies() -> str:
        bottle.response.set_cookie("a", "1")
        bottle.response.set_cookie("b", "2")
        return "ok"

    check_framework(client, app)
    assert errors.getvalue() == ""


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("flask", lambda flask: flask.Flask("minimal")),
        ("django.core.handlers.wsgi", lambda wsgi: wsgi.WSGIHandler.__new__(wsgi.WSGIHandler)),
        ("falcon", lambda falcon: falcon.App()),
        ("bottle", lambda bottle: bottle.Bottle()),
    ],
)
def test_applications_of_frameworks_are_known_as_such(name, make):
    assert is_application(make(pytest.importorskip(name)))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (failing, True),
        (lambda env, start_response: [], True),
        (lambda a, start_response: [], True),
        (lambda req, res: None, False),
        (lambda environ: None, False),
        (lambda environ, b, c: None, False),
        (print, False),
        (max, False),
    ],
)
def test_an_application_is_told_from_a_handler_by_its_parameters(found, expected):
    assert is_application(found) is expected


def test_the_flask_example_streams_and_sees_the_client_go(tmp_path):
    pytest.importorskip("flask_sock")
    example = Path(__file__).parent.parent / "examples" / "wsgi_flask.py"
    command = [sys.executable, "-u", str(example), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with gevent.Timeout(15):
                told = re.search(r":(\d+)/", gevent.get_hub().threadpool.apply(process.stdout.readline))
            assert told is not None
            address = ("127.0.0.1", int(told[1]))
            assert b"Hello" in answer_of(address).body
            with RawClient(address) as sender:
                sender.send(get("/news"))
                assert sender.read_head().status == 200
                assert sender.read_chunk() == b"\n"
                answer_of(address, get("/news", method="POST", headers="Connection: close\r\n", body=b"fresh"))
                assert sender.read_chunk() == b"fresh\n"
            gone = gevent.get_hub().threadpool.apply(process.stdout.readline)
            assert "a reader has gone" in gone
        finally:
            process.kill()
