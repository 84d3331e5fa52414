"""Clients that nobody here wrote: curl, Node, http.client, requests, ab and wrk, each where it is installed."""

from __future__ import annotations

import http.client
import os
import shutil
from typing import Any

import gevent
import pytest
import requests
from gevent import subprocess

import greenhttp

from .support import bounded


def needs(program: str) -> pytest.MarkDecorator:
    """Skip loudly where `program` is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} IS NOT INSTALLED")


def run(*command: str, data: bytes | None = None) -> bytes:
    """What a program prints. It must exit with 0 within the time limit of tests."""
    with bounded(command, 20):
        done = subprocess.run(
            list(command), input=data if data is not None else b"", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def in_thread(task: Any) -> Any:
    """Run a blocking client beside the hub."""
    with bounded(task, 20):
        return gevent.get_hub().threadpool.apply(task)


def describe(req: Any, res: Any) -> None:
    """Say what came."""
    body = req.read()
    res.set_header("Content-Type", "text/plain")
    res.end(f"{req.method} {req.url} HTTP/{req.http_version} {len(body)}".encode())


def url(server: greenhttp.Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.address()[1]}{path}"


@needs("curl")
@pytest.mark.parametrize(("option", "version"), [("--http1.0", "1.0"), ("--http1.1", "1.1"), ("--http2", "1.1")])
def test_curl_in_each_version_gets_the_answer(serve: Any, option: str, version: str) -> None:
    assert run("curl", "-sS", option, url(serve(describe), "/a?b=c")) == f"GET /a?b=c HTTP/{version} 0".encode()


@needs("curl")
def test_curl_that_waits_for_100_continue_uploads_its_body(serve: Any) -> None:
    upload = ("-H", "Expect: 100-continue", "--expect100-timeout", "15", "--data-binary", "@-")
    printed = run("curl", "-sSv", *upload, url(serve(describe)), data=b"x" * 300_000)

    assert printed == b"POST / HTTP/1.1 300000"


@needs("curl")
def test_curl_uploading_in_chunks_is_read_whole(serve: Any) -> None:
    printed = run("curl", "-sS", "-T", "-", url(serve(describe), "/up"), data=b"y" * 500_000)

    assert printed == b"PUT /up HTTP/1.1 500000"


@needs("curl")
def test_curl_over_a_unix_socket_gets_the_answer(tmp_path: Any, nothing_left: None) -> None:
    path = str(tmp_path / "s")
    server = greenhttp.create_server(describe).listen(path)
    try:
        assert run("curl", "-sS", "--unix-socket", path, "http://a/u") == b"GET /u HTTP/1.1 0"
    finally:
        server.close()
        assert server.join(5)
    assert not os.path.exists(path)


@needs("curl")
def test_curl_reuses_the_connection_for_a_second_url(serve: Any) -> None:
    connections = []
    server = serve(describe)
    server.on("connection", connections.append)

    assert run("curl", "-sS", url(server, "/1"), url(server, "/2")) == b"GET /1 HTTP/1.1 0GET /2 HTTP/1.1 0"
    assert len(connections) == 1


NODE = """
const http = require('http');
const agent = new http.Agent({keepAlive: true, maxSockets: 1});
function ask(path, body, next) {
  const options = {port: PORT, host: '127.0.0.1', path, agent, method: body ? 'POST' : 'GET'};
  const req = http.request(options, res => {
    let text = '';
    res.setEncoding('utf8');
    res.on('data', piece => text += piece);
    res.on('end', () => { console.log(res.statusCode, text, JSON.stringify(res.trailers)); next(); });
  });
  if (body) { req.write(body); req.write(body); }
  req.end();
}
ask('/1', null, () => ask('/2', 'abc', () => ask('/trailers', null, () => agent.destroy())));
"""


@needs("node")
def test_node_keeps_its_connection_posts_chunks_and_sees_trailers(serve: Any) -> None:
    def handle(req: Any, res: Any) -> None:
        if req.url != "/trailers":
            describe(req, res)
            return
        res.write_head(200, {"Trailer": "X-Sum"})
        res.write("body")
        res.add_trailers({"X-Sum": "42"})
        res.end()

    connections: list[Any] = []
    server = serve(handle)
    server.on("connection", connections.append)
    printed = run("node", "-e", NODE.replace("PORT", str(server.address()[1])))

    assert printed.decode().splitlines() == [
        "200 GET /1 HTTP/1.1 0 {}",
        "200 POST /2 HTTP/1.1 6 {}",
        '200 body {"x-sum":"42"}',
    ]
    assert len(connections) == 1


def test_http_client_sends_several_requests_over_one_connection(serve: Any) -> None:
    port = serve(describe).address()[1]

    def ask() -> list[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        answers = []
        for number in range(3):
            connection.request("PUT", f"/{number}", body=b"z" * number)
            answers.append(connection.getresponse().read())
        connection.close()
        return answers

    assert in_thread(ask) == [b"PUT /0 HTTP/1.1 0", b"PUT /1 HTTP/1.1 1", b"PUT /2 HTTP/1.1 2"]


def test_requests_streams_an_upload_and_a_download(serve: Any) -> None:
    def handle(req: Any, res: Any) -> None:
        for chunk in req:
            res.write(chunk)
        res.end()

    address = url(serve(handle))

    def ask() -> tuple[int, int]:
        with requests.Session() as session:
            answer = session.post(address, data=(b"x" * 50_000 for _ in range(20)), timeout=10)
            return answer.status_code, len(answer.content)

    assert in_thread(ask) == (200, 1_000_000)


@needs("ab")
@pytest.mark.parametrize("keep_alive", [(), ("-k",)], ids=["close", "keep-alive"])
def test_ab_completes_without_a_failed_request(serve: Any, keep_alive: tuple[str, ...]) -> None:
    printed = run("ab", "-q", *keep_alive, "-n", "500", "-c", "20", url(serve(describe))).decode()

    assert "Complete requests:      500" in printed
    assert "Failed requests:        0" in printed


@needs("wrk")
def test_wrk_runs_without_an_error(serve: Any) -> None:
    printed = run("wrk", "-t1", "-c32", "-d1", url(serve(describe))).decode()

    assert "Requests/sec" in printed
    assert "Socket errors" not in printed
    assert "Non-2xx" not in printed
