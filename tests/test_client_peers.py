"""Servers that nobody here wrote: Node's, nginx and Python's http.server, asked by our client."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import greenhttp

from .support import Heard, bounded, eventually

PEERS = Path(__file__).parent / "peers"
LIMIT = 15.0  # seconds for anything
MEBIBYTE = 1024 * 1024

Ask = Callable[..., greenhttp.ClientRequest]


def needs(program: str) -> pytest.MarkDecorator:
    """Skip loudly where `program` is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} IS NOT INSTALLED")


def running(*command: str) -> Iterator[int]:
    """Run a server that prints its port and ends when its standard input does; yields the port."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


@pytest.fixture(scope="module")
def node() -> Iterator[int]:
    """The port of Node's server."""
    yield from running("node", str(PEERS / "node_server.js"))


@pytest.fixture(scope="module")
def python() -> Iterator[int]:
    """The port of the standard library's server."""
    yield from running(sys.executable, str(PEERS / "python_server.py"))


# One process is the worker itself: it runs as our user, so it may read our directory, and has no child to outlive it.
NGINX = """
daemon off;
master_process off;
error_log stderr emerg;
pid nginx.pid;
events {{ }}
http {{
    access_log off;
    default_type text/plain;
    sendfile on;
    client_body_temp_path body; proxy_temp_path a; fastcgi_temp_path b; uwsgi_temp_path c; scgi_temp_path d;
    server {{
        listen 127.0.0.1:{port};
        root files;
        client_max_body_size 0;
        location = /connection {{ return 200 "$connection_requests $connection"; }}
        location = /nothing {{ return 204; }}
        location = /three {{ keepalive_requests 3; return 200 "$connection_requests"; }}
        location = /hint {{ keepalive_timeout 60s 2s; return 200 "$connection_requests"; }}
        location = /small {{ client_max_body_size 1k; dav_methods PUT; }}
        location = /put {{ dav_methods PUT; }}
        location = /chunked {{ alias files/large; ssi on; ssi_types text/plain; add_trailer X-Sum 42; }}
        location = /slow {{ alias files/page; limit_rate 80k; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nginx; `/large` are 32 MiB, `/page` 100,000 bytes."""
    directory = tmp_path_factory.mktemp("nginx")
    files = directory / "files"
    files.mkdir()
    (files / "large").write_bytes(pattern(32 * MEBIBYTE))
    (files / "page").write_bytes(pattern(100_000))
    with socket.create_server(("127.0.0.1", 0)) as free:  # nginx cannot choose a port itself
        port: int = free.getsockname()[1]
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(port=port))
    command = ("nginx", "-e", "stderr", "-p", str(directory), "-c", str(configuration))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        eventually(lambda: process.poll() is not None or accepts(port), "nginx")
        yield port
        process.kill()


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def agent(nothing_left: None) -> Iterator[greenhttp.Agent]:
    """It keeps connections, and is destroyed after the test."""
    made = greenhttp.Agent(keep_alive=True)
    yield made
    made.destroy()


@pytest.fixture
def ask(agent: greenhttp.Agent) -> Ask:
    """`ask(port, path, method, **options)`: a request through `agent`, not ended."""

    def make(port: int, path: str = "/", method: str = "GET", **options: Any) -> greenhttp.ClientRequest:
        return greenhttp.request(host="127.0.0.1", port=port, path=path, method=method, **{"agent": agent, **options})

    return make


def pattern(size: int) -> bytes:
    """Bytes of which no stretch looks like another nearby."""
    block = hashlib.shake_256(b"greenhttp").digest(65_521)
    return (block * (size // len(block) + 1))[:size]


def response_of(req: greenhttp.ClientRequest, body: bytes | None = None) -> greenhttp.IncomingMessage:
    """The response; the request is ended."""
    req.end(body)
    return req.get_response(LIMIT)


def body_of(req: greenhttp.ClientRequest, body: bytes | None = None) -> bytes:
    """The whole body of the response; the request is ended."""
    with bounded(req, LIMIT):
        whole: bytes = response_of(req, body).read()
        return whole


def told(body: bytes, trailers: str = "{}") -> bytes:
    """What Node says of an upload."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()} {trailers}".encode()


# --- Node ---


@needs("node")
def test_node_serves_one_request_after_another_on_one_connection(node: int, ask: Ask) -> None:
    answers = {body_of(ask(node, "/connection")) for _ in range(20)}

    assert len(answers) == 1
    assert answers.pop().endswith(b" keep-alive")


@needs("node")
def test_node_serves_many_at_once_on_few_connections(node: int, ask: Ask) -> None:
    agent = greenhttp.Agent(keep_alive=True, max_sockets=4)
    asked = [gevent.spawn(body_of, ask(node, "/connection", agent=agent)) for _ in range(50)]
    gevent.joinall(asked, raise_error=True, timeout=LIMIT)
    agent.destroy()

    assert len({greenlet.get() for greenlet in asked}) == 4


@needs("node")
@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"headers": [("Host", "a")]}, {"method": "PUT"}])
def test_a_request_that_node_drops_on_a_used_connection_is_sent_again(
    node: int, ask: Ask, options: dict[str, Any]
) -> None:
    assert [body_of(ask(node, "/once", **options)) for _ in range(3)] == [b"ok"] * 3


@needs("node")
def test_a_post_that_node_drops_on_a_used_connection_is_an_error_that_says_so(node: int, ask: Ask) -> None:
    assert body_of(ask(node, "/once", "POST")) == b"ok"
    req = ask(node, "/once", "POST")
    with pytest.raises(ConnectionResetError):
        body_of(req)

    assert req.reused_socket


@needs("node")
def test_node_is_told_to_close_without_an_agent(node: int, ask: Ask) -> None:
    answers = {body_of(ask(node, "/connection", agent=False)) for _ in range(3)}

    assert len(answers) == 3
    assert all(answer.endswith(b" close") for answer in answers)


@needs("node")
def test_node_sees_the_lines_that_were_set_and_its_own_come_back(node: int, ask: Ask) -> None:
    headers = [("Host", "a"), ("X-One", "1"), ("x-one", "ä"), ("Accept", "*/*")]
    response = response_of(ask(node, "/lines", "DELETE", headers=headers))

    assert response.headers["set-cookie"] == ["a=1", "b=2"]
    assert response.read().decode() == (
        '["DELETE",["Host","a","X-One","1","x-one","ä","Accept","*/*","Connection","keep-alive"]]'
    )


@needs("node")
def test_chunks_of_node_are_put_together(node: int, ask: Ask) -> None:
    response = response_of(ask(node, "/chunks"))

    assert response.headers["transfer-encoding"] == "chunked"
    assert response.read() == b"".join(b"piece %d\n" % number for number in range(1000))


@needs("node")
def test_trailers_of_node_come_with_the_end(node: int, ask: Ask) -> None:
    response = response_of(ask(node, "/trailers"))

    assert response.trailers == {}
    assert response.read() == b"body"
    assert response.trailers == {"x-sum": "42"}


@needs("node")
def test_node_sees_our_chunks_and_trailers(node: int, ask: Ask) -> None:
    req = ask(node, "/count", "POST", headers={"Trailer": "X-Sum"})
    for piece in (b"first ", b"second"):
        req.write(piece)
    req.add_trailers({"X-Sum": "42"})

    assert body_of(req) == told(b"first second", '{"x-sum":"42"}')


@needs("node")
def test_interim_answers_of_node_come_before_the_answer(node: int, ask: Ask) -> None:
    req = ask(node, "/hints")
    heard = Heard().listen(req, "information", "response")
    req.end()
    (response,) = heard.wait_for("response")

    assert [(name, message.status_code) for name, message in heard] == [
        ("information", 102),
        ("information", 103),
        ("response", 200),
    ]
    assert heard[1][1].headers["link"] == "</style.css>; rel=preload"
    assert response.read() == b"after the hints"


@needs("node")
def test_the_body_is_sent_when_node_says_continue(node: int, ask: Ask) -> None:
    req = ask(node, "/count", "POST", headers={"Expect": "100-continue", "Content-Length": 300_000})
    heard = Heard().listen(req, "continue", "response")
    heard.wait_for("continue")
    assert heard.names == ["continue"]
    req.end(pattern(300_000))

    assert heard.wait_for("response")[0].read() == told(pattern(300_000))


@needs("node")
def test_node_may_answer_at_once_to_who_waits_for_continue(node: int, ask: Ask) -> None:
    req = ask(node, "/refuse", "POST", headers={"Expect": "100-continue", "Content-Length": 300_000})
    heard = Heard().listen(req, "continue", "response")
    (response,) = heard.wait_for("response")

    assert (heard.names, response.status_code) == (["response"], 417)
    req.destroy()
    assert body_of(ask(node, "/connection"))


@needs("node")
def test_an_upgrade_of_node_gives_the_socket_and_what_came_with_the_head(node: int, ask: Ask) -> None:
    response = response_of(ask(node, headers={"Connection": "Upgrade", "Upgrade": "echo"}))
    with bounded("the echo"):
        assert (response.status_code, response.socket.read(8)) == (101, b"welcome ")
        response.socket.write(pattern(MEBIBYTE))
        response.socket.end()
        assert response.socket.read() == pattern(MEBIBYTE)


@needs("node")
def test_a_tunnel_through_node_carries_requests(node: int, ask: Ask) -> None:
    def tunnel(options: Any) -> Any:
        return response_of(ask(node, f"127.0.0.1:{options['port']}", "CONNECT", agent=False)).socket

    assert body_of(ask(node, "/count", "POST", create_connection=tunnel, agent=None), pattern(MEBIBYTE)) == told(
        pattern(MEBIBYTE)
    )


@needs("node")
def test_a_tunnel_that_node_refuses_is_seen_with_what_follows(node: int, ask: Ask) -> None:
    response = response_of(ask(node, "127.0.0.1:1", "CONNECT"))
    with bounded("the text"):
        assert (response.status_code, response.socket.read()) == (403, b"no\n")
    response.socket.destroy()


@needs("node")
@pytest.mark.parametrize(("method", "path"), [("HEAD", "/lines"), ("GET", "/status/204"), ("GET", "/status/304")])
def test_an_answer_without_a_body_keeps_nodes_connection(node: int, ask: Ask, method: str, path: str) -> None:
    before = body_of(ask(node, "/connection"))
    response = response_of(ask(node, path, method))

    assert (response.read(), response.complete) == (b"", True)
    assert body_of(ask(node, "/connection")) == before


@needs("node")
@pytest.mark.parametrize("length", [{}, {"Content-Length": 16 * MEBIBYTE}], ids=["chunked", "length"])
def test_nodes_refusal_is_seen_by_who_still_uploads(node: int, ask: Ask, length: dict[str, int]) -> None:
    for _ in range(5):
        req = ask(node, "/refuse", "POST", headers=length)
        with bounded(req, LIMIT):
            for _ in range(256):
                req.write(bytes(64 * 1024))
            req.end()
            response = req.get_response()

            assert (response.status_code, response.read()) == (413, b"too large")


@needs("node")
def test_a_body_that_comes_slowly_is_seen_as_it_comes(node: int, ask: Ask) -> None:
    response = response_of(ask(node, "/slow", timeout=5))
    with bounded(response, LIMIT):
        pieces = list(response)

    assert b"".join(pieces) == b"." * 20
    assert len(pieces) > 1


@needs("node")
@pytest.mark.parametrize("path", ["/cut", "/cut-length", "/reset"])
def test_a_body_that_node_cuts_is_an_error_and_never_a_shorter_body(node: int, ask: Ask, path: str) -> None:
    with pytest.raises(ConnectionError):
        body_of(ask(node, path))
    assert body_of(ask(node, "/connection"))


@needs("node")
def test_a_reset_after_the_first_half_comes_as_aborted_and_error(node: int, ask: Ask) -> None:
    response = response_of(ask(node, "/reset-once-read"))
    heard = Heard().listen(response, "data", "end", "aborted", "error", "close")
    heard.wait_for("data")
    assert body_of(ask(node, "/reset-once-read")) == b"done"
    heard.wait_for("close")

    assert heard.names == ["data", "aborted", "error", "close"]
    assert isinstance(heard[2][1], ConnectionResetError)
    assert not response.complete


@needs("node")
def test_64_mebibytes_of_node_arrive_in_order_and_no_more_is_held_than_the_mark(node: int, ask: Ask) -> None:
    response = response_of(ask(node, "/large"))
    digest, expected, largest = hashlib.sha256(), hashlib.sha256(), 0
    with bounded(response, LIMIT):
        for piece in response:
            digest.update(piece)
            largest = max(largest, len(piece))
    for number in range(64, 0, -1):
        expected.update(bytes([number]) * MEBIBYTE)

    assert digest.digest() == expected.digest()
    assert largest <= 64 * 1024


@needs("node")
@pytest.mark.parametrize("length", [{}, {"Content-Length": 32 * MEBIBYTE}], ids=["chunked", "length"])
def test_32_mebibytes_reach_node_whole(node: int, ask: Ask, length: dict[str, int]) -> None:
    whole = pattern(32 * MEBIBYTE)
    req = ask(node, "/count", "POST", headers=length)
    with bounded(req, LIMIT):
        for start in range(0, len(whole), 100_000):
            req.write(whole[start : start + 100_000])

    assert body_of(req) == told(whole)


# --- nginx ---


@needs("nginx")
def test_nginx_serves_one_request_after_another_on_one_connection(nginx: int, ask: Ask) -> None:
    answers = [body_of(ask(nginx, "/connection")).split() for _ in range(3)]

    assert [number for number, _ in answers] == [b"1", b"2", b"3"]
    assert len({connection for _, connection in answers}) == 1


@needs("nginx")
def test_a_connection_that_nginx_ends_after_three_requests_is_replaced(nginx: int, ask: Ask) -> None:
    assert [body_of(ask(nginx, "/three")) for _ in range(7)] == [b"1", b"2", b"3", b"1", b"2", b"3", b"1"]


@needs("nginx")
def test_the_hint_of_nginx_keeps_the_connection_for_now(nginx: int, ask: Ask) -> None:
    response = response_of(ask(nginx, "/hint"))

    assert response.headers["keep-alive"] == "timeout=2"
    assert (response.read(), body_of(ask(nginx, "/hint"))) == (b"1", b"2")


@needs("nginx")
@pytest.mark.parametrize("path", ["/large", "/chunked"])
def test_32_mebibytes_of_nginx_arrive_whole(nginx: int, ask: Ask, path: str) -> None:
    response = response_of(ask(nginx, path))
    with bounded(response, LIMIT):
        assert response.read() == pattern(32 * MEBIBYTE)

    assert ("content-length" in response.headers) == (path == "/large")
    assert response.trailers == ({} if path == "/large" else {"x-sum": "42"})


@needs("nginx")
def test_a_part_of_a_file_of_nginx_is_that_part(nginx: int, ask: Ask) -> None:
    response = response_of(ask(nginx, "/page", headers={"Range": "bytes=100-199"}))

    assert (response.status_code, response.read()) == (206, pattern(200)[100:])


@needs("nginx")
def test_answers_of_nginx_without_a_body_keep_the_connection(nginx: int, ask: Ask) -> None:
    head = response_of(ask(nginx, "/page", "HEAD"))
    assert (head.headers["content-length"], head.read()) == ("100000", b"")
    unchanged = response_of(ask(nginx, "/page", headers={"If-None-Match": head.headers["etag"]}))
    assert (unchanged.status_code, unchanged.read()) == (304, b"")
    nothing = response_of(ask(nginx, "/nothing"))
    assert (nothing.status_code, nothing.read()) == (204, b"")

    assert body_of(ask(nginx, "/connection")).startswith(b"4 ")


@needs("nginx")
@pytest.mark.parametrize("length", [{}, {"Content-Length": 8 * MEBIBYTE}], ids=["chunked", "length"])
def test_the_refusal_of_nginx_is_seen_by_who_still_uploads(nginx: int, ask: Ask, length: dict[str, int]) -> None:
    for _ in range(5):
        req = ask(nginx, "/small", "PUT", headers=length)
        with bounded(req, LIMIT):
            for _ in range(128):
                req.write(bytes(64 * 1024))
            req.end()

            assert req.get_response().status_code == 413


@needs("nginx")
def test_what_was_put_to_nginx_after_its_continue_comes_back(nginx: int, ask: Ask) -> None:
    whole = pattern(16 * MEBIBYTE)
    req = ask(nginx, "/put", "PUT", headers={"Expect": "100-continue", "Content-Length": len(whole)})
    Heard().listen(req, "continue").wait_for("continue")

    assert response_of(req, whole).status_code in (201, 204)
    assert body_of(ask(nginx, "/put")) == whole


@needs("nginx")
def test_a_body_that_nginx_sends_slowly_is_whole(nginx: int, ask: Ask) -> None:
    assert body_of(ask(nginx, "/slow")) == pattern(100_000)


# --- Python ---


def test_http_server_serves_one_request_after_another_on_one_connection(python: int, ask: Ask) -> None:
    answers = [body_of(ask(python)).split() for _ in range(3)]

    assert [number for number, _ in answers] == [b"1", b"2", b"3"]
    assert len({port for _, port in answers}) == 1


def test_a_body_of_http_1_0_ends_with_the_connection(python: int, ask: Ask) -> None:
    response = response_of(ask(python, "/old"))

    assert (response.http_version, response.read()) == ("1.0", b"x" * 100_000)
    assert body_of(ask(python)).startswith(b"1 ")


def test_a_head_of_http_server_keeps_the_connection(python: int, ask: Ask) -> None:
    assert response_of(ask(python, method="HEAD")).headers["content-length"]

    assert body_of(ask(python)).startswith(b"2 ")


def test_a_length_that_http_server_does_not_keep_is_an_error(python: int, ask: Ask) -> None:
    with pytest.raises(ConnectionError):
        body_of(ask(python, "/short"))


@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}], ids=["at once", "after continue"])
def test_an_upload_reaches_http_server_whole(python: int, ask: Ask, expect: dict[str, str]) -> None:
    whole = pattern(4 * MEBIBYTE)
    req = ask(python, method="POST", headers={"Content-Length": len(whole), **expect})
    if expect:
        Heard().listen(req, "continue").wait_for("continue")

    assert body_of(req, whole) == f"{len(whole)} {hashlib.sha256(whole).hexdigest()}".encode()
