"""https with what nobody here wrote: curl, Node, requests and openssl, each where it is installed."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
from gevent import subprocess

import greenhttp
from greenhttp import https

from .support import LIMIT, Heard, bounded, eventually
from .test_peers import describe, in_thread, needs
from .tls import authority_pem, identity, server_context

MEBIBYTE = 1024 * 1024


@pytest.fixture
def transport() -> str:
    """All servers here speak TLS."""
    return "tls"


@pytest.fixture
def ca(tmp_path: Path) -> str:
    """The path of our authority's certificate."""
    path = tmp_path / "ca.pem"
    path.write_bytes(authority_pem())
    return str(path)


@pytest.fixture
def agent(serve: object) -> Iterator[https.Agent]:
    """It trusts our authority, and is destroyed after the test."""
    made = https.Agent(keep_alive=True, ca=authority_pem())
    yield made
    made.destroy()


def url(server: greenhttp.Server, path: str = "/") -> str:
    """Of a server that speaks TLS."""
    return f"https://127.0.0.1:{server.address()[1]}{path}"


def run(*command: str, data: bytes = b"") -> tuple[int, bytes, str]:
    """Exit status, output and complaints of a program."""
    with bounded(command, 20):
        done = subprocess.run(list(command), input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout, done.stderr.decode()


# --- curl ---


@needs("curl")
def test_curl_refuses_an_authority_that_it_does_not_know(serve: Any) -> None:
    """Behaviour 10.2"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))
    heard.listen(server, "tls_client_error")
    status, printed, complaint = run("curl", "-sS", url(server))
    assert (status, printed) == (60, b"")
    assert "certificate" in complaint
    heard.wait_for("tls_client_error")
    assert heard.names == ["tls_client_error"]


@needs("curl")
def test_curl_insecure_and_curl_with_the_authority_get_the_answer(serve: Any, ca: str) -> None:
    """Behaviour 10.2"""
    server = serve(describe)
    for option in (["--insecure"], ["--cacert", ca]):
        assert run("curl", "-sS", *option, url(server, "/a?b"))[:2] == (0, b"GET /a?b HTTP/1.1 0")


@needs("curl")
@pytest.mark.parametrize("version", ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3"])
def test_curl_uploads_and_downloads_in_each_version(serve: Any, ca: str, version: str) -> None:
    server = serve(lambda req, res: req.pipe(res))
    command = ("curl", "-sS", *version.split(), "--cacert", ca, "-T", "-", url(server))
    assert run(*command, data=b"xyz" * MEBIBYTE)[:2] == (0, b"xyz" * MEBIBYTE)


@needs("curl")
@pytest.mark.parametrize("version", ["1.1", "1.3"])
def test_curl_with_a_version_that_is_not_spoken_is_told(serve: Any, ca: str, version: str) -> None:
    context = server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = serve(describe) if version == "1.1" else serve(describe, context=context)
    heard = Heard().listen(server, "tls_client_error")
    options = ["--tlsv1.0", "--tls-max", "1.1"] if version == "1.1" else ["--tlsv1.3"]
    status, _, complaint = run("curl", "-sS", "--ciphers", "DEFAULT@SECLEVEL=0", *options, "--cacert", ca, url(server))
    assert status == 35
    assert complaint
    assert heard.wait_for("tls_client_error")[0].code == "ERR_SSL_UNSUPPORTED_PROTOCOL"


@needs("curl")
def test_curl_that_speaks_http_to_the_port_of_tls_reads_why(serve: Any) -> None:
    server = serve(describe)
    status, printed, _ = run("curl", "-sS", "-w", "%{http_code}", url(server).replace("https", "http"))
    assert (status, printed) == (0, b"This port speaks HTTPS, and you spoke HTTP.\n400")


@needs("curl")
def test_curl_gets_a_body_without_length(serve: Any, ca: str) -> None:
    server = serve(lambda req, res: (res.write("one "), res.end("two")))
    assert run("curl", "-sS", "--http1.0", "--cacert", ca, url(server))[:2] == (0, b"one two")


@needs("curl")
def test_curl_with_a_certificate_is_known(serve: Any, ca: str, tmp_path: Path) -> None:
    for name, pem in identity("somebody.test").items():
        (tmp_path / name).write_bytes(pem)
    server = serve(
        lambda req, res: res.end(req.socket.get_peer_certificate()["subjectAltName"][0][1]),
        **identity(),
        request_cert=True,
        ca=ca,
    )
    curl = ("curl", "-sS", "--cacert", ca)
    mine = ("--cert", f"{tmp_path}/cert", "--key", f"{tmp_path}/key")
    assert run(*curl, *mine, url(server))[:2] == (0, b"somebody.test")
    assert run(*curl, url(server))[0] != 0


# --- Node ---

NODE_CLIENT = """
const https = require('https'), fs = require('fs');
const agent = new https.Agent({keepAlive: true, maxSockets: 1, ca: fs.readFileSync(process.argv[1])});
function ask(path, body, next) {
  const options = {port: process.argv[2], host: '127.0.0.1', path, agent, method: body ? 'POST' : 'GET'};
  const req = https.request(options, res => {
    let text = '';
    res.setEncoding('utf8');
    res.on('data', piece => text += piece);
    res.on('end', () => { console.log(res.statusCode, text, req.socket.authorized); next(); });
  });
  req.on('error', error => console.log(error.code));
  if (body) { req.write(body); req.write(body); }
  req.end();
}
ask('/1', null, () => ask('/2', 'abc', () => { agent.destroy();
  https.get({port: process.argv[2], host: '127.0.0.1'}).on('error', error => console.log(error.code)); }));
"""


@needs("node")
def test_nodes_client_keeps_its_connection_and_refuses_who_it_does_not_know(serve: Any, ca: str) -> None:
    connections: list[Any] = []
    server = serve(describe)
    server.on("connection", connections.append)
    status, printed, complaint = run("node", "-e", NODE_CLIENT, ca, str(server.address()[1]))
    assert status == 0, complaint
    assert printed.decode().splitlines() == [
        "200 GET /1 HTTP/1.1 0 true",
        "200 POST /2 HTTP/1.1 6 true",
        "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    ]
    assert len(connections) == 2


NODE_SERVER = """
const https = require('https');
const {cert, key} = JSON.parse(process.argv[1]);
const server = https.createServer({cert, key}, (req, res) => {
  if (req.url == '/cut') { res.writeHead(200); res.write('half', () => req.socket.destroy()); return; }
  if (req.url == '/large') { res.end(Buffer.alloc(12 << 20, 'x')); return; }
  if (req.url == '/close') { res.removeHeader('transfer-encoding'); res.useChunkedEncodingByDefault = false;
    res.shouldKeepAlive = false; res.write('first '); setTimeout(() => res.end('second'), 20); return; }
  if (req.url == '/session') { res.end(String(req.socket.isSessionReused())); return; }
  let size = 0;
  req.on('data', piece => size += piece.length).on('end', () => res.end(`${req.method} ${size} ${req.headers.host}`));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit()).resume();
"""


@pytest.fixture
def node(serve: object) -> Iterator[int]:
    """The port of Node's https server."""
    pems = json.dumps({name: pem.decode() for name, pem in identity().items()})
    with subprocess.Popen(["node", "-e", NODE_SERVER, pems], stdin=-1, stdout=-1) as process:
        with bounded("node", 20):
            port = int(process.stdout.readline())
        yield port
        process.kill()


def response_of(port: int, path: str, **options: Any) -> greenhttp.IncomingMessage:
    """The response of Node's server."""
    req = https.request({"host": "127.0.0.1", "port": port, "path": path, **options})
    req.end(bytes(MEBIBYTE) if options.get("method") == "POST" else None)
    return req.get_response(LIMIT)


@needs("node")
def test_nodes_server_answers_over_one_connection(node: int, agent: https.Agent) -> None:
    res = response_of(node, "/count", method="POST", agent=agent)
    assert res.socket.authorized
    assert res.socket.get_protocol() == "TLSv1.3"
    assert res.read() == f"POST {MEBIBYTE} 127.0.0.1:{node}".encode()
    first = res.socket
    res = response_of(node, "/large", agent=agent)
    assert res.socket is first
    assert res.read() == b"x" * 12 * MEBIBYTE


@needs("node")
def test_nodes_server_ends_a_body_without_length_and_cuts_another(node: int, agent: https.Agent) -> None:
    assert response_of(node, "/close", agent=agent).read() == b"first second"
    with pytest.raises(ConnectionError):
        response_of(node, "/cut", agent=agent).read()


@needs("node")
def test_nodes_server_resumes_our_session(node: int, serve: object) -> None:
    agent = https.Agent(ca=authority_pem())
    answers = []
    for _ in range(2):
        answers.append(response_of(node, "/session", agent=agent).read())
        eventually(lambda: not agent.sockets, "the end of the connection")
    assert answers == [b"false", b"true"]


@needs("node")
def test_nodes_certificate_is_refused_without_its_authority(node: int, serve: object) -> None:
    agent = https.Agent(ca=authority_pem("others"))
    with pytest.raises(greenhttp.TLSError, match="not accepted"):
        response_of(node, "/", agent=agent)


# --- requests ---


def test_requests_streams_both_ways_and_verifies(serve: Any, ca: str) -> None:
    server = serve(lambda req, res: req.pipe(res))
    address = url(server)

    def ask() -> tuple[int, int]:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(address, data=(b"x" * 50_000 for _ in range(20)), timeout=10, verify=ca)
            return answer.status_code, len(answer.content)

    def distrust() -> str:
        with requests.Session() as session:
            session.trust_env = False
            try:
                return repr(session.get(address, timeout=10))
            except requests.exceptions.SSLError as error:
                return str(error)

    assert in_thread(ask) == (200, 1_000_000)
    assert "CERTIFICATE_VERIFY_FAILED" in in_thread(distrust)


# --- openssl ---


class Client:
    """`openssl s_client`, of which commands (`R`, `K`, `Q`) are lines by themselves."""

    def __init__(self, server: greenhttp.Server, ca: str, *options: str) -> None:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.address()[1]}", "-CAfile", ca, *options]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT)
        self.printed = b""
        self._reader = gevent.spawn(self._read)

    def _read(self) -> None:
        while data := self.process.stdout.read1(65536):
            self.printed += data

    def say(self, text: str) -> None:
        """A line of input, as it is."""
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, text: str) -> None:
        """Until it has printed `text`."""
        eventually(lambda: text.encode() in self.printed, f"{text!r} in {self.printed[-300:]!r}")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        with bounded("openssl"):
            self.process.wait()
            self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def s_client(serve: object, ca: str) -> Iterator[Any]:
    """`s_client(server, *options)`, closed after the test."""
    made: list[Client] = []

    def make(server: greenhttp.Server, *options: str) -> Client:
        made.append(Client(server, ca, *options))
        made[-1].wait_for("Verify return code: 0 (ok)")
        return made[-1]

    yield make
    for client in made:
        client.close()


REQUEST = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


@needs("openssl")
def test_openssl_may_not_renegotiate(serve: Any, s_client: Any) -> None:
    server = serve(describe)
    client = s_client(server, "-tls1_2", "-crlf")
    client.say("R\n")
    client.wait_for("no renegotiation")
    other = s_client(server, "-tls1_2")
    other.say(REQUEST)
    other.wait_for("GET /x HTTP/1.1 0")


@needs("openssl")
@pytest.mark.parametrize("command", ["k", "K"])
def test_openssl_may_ask_for_new_keys(serve: Any, s_client: Any, command: str) -> None:
    client = s_client(serve(describe), "-tls1_3")
    client.say(REQUEST)
    client.wait_for("GET /x HTTP/1.1 0")
    client.say(f"{command}\n")
    client.wait_for("KEYUPDATE")
    client.say(REQUEST.replace("/x", "/y"))
    client.wait_for("GET /y HTTP/1.1 0")


@needs("openssl")
def test_openssl_resumes_its_session(serve: Any, ca: str, tmp_path: Path) -> None:
    server = serve(describe)
    where = ("openssl", "s_client", "-connect", f"127.0.0.1:{server.address()[1]}", "-CAfile", ca, "-ign_eof")
    request = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode()
    for options, expected in (("-sess_out", b"New, TLSv1.3"), ("-sess_in", b"Reused, TLSv1.3")):
        status, printed, _ = run(*where, options, f"{tmp_path}/session", data=request)
        assert status == 0
        assert expected in printed
        assert b"GET /x HTTP/1.1 0" in printed
