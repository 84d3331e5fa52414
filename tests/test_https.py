"""https: the behaviours of TLS, its errors each on the right event, and what must be the same as without it."""

from __future__ import annotations

import datetime
import gc
import hashlib
import socket as stdlib_socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import greenlet
import pytest
from gevent import socket as gevent_socket
from gevent import ssl as gevent_ssl
from gevent.event import AsyncResult, Event
from gevent.queue import Queue

import greenhttp
from greenhttp import https

from .origin import Origin, Peer, ok
from .support import LIMIT, Heard, RawClient, bounded, eventually, get
from .tls import TLSWire, authority_pem, client_context, identity, server_context

MEBIBYTE = 1024 * 1024
UPGRADE = get("/chat", headers="Connection: Upgrade\r\nUpgrade: x\r\n")
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)

Pool = Callable[..., https.Agent]


@pytest.fixture
def transport() -> str:
    """All servers here speak TLS."""
    return "tls"


@pytest.fixture
def pool(serve: object) -> Iterator[Pool]:
    """`pool(**options)`: an agent that trusts our authority, destroyed after the test."""
    agents: list[https.Agent] = []

    def make(kind: type[https.Agent] = https.Agent, **options: Any) -> https.Agent:
        if not options.keys() & {"ca", "context"}:
            options["ca"] = authority_pem()
        agents.append(kind(**options))
        return agents[-1]

    yield make
    for agent in agents:
        agent.destroy()
        eventually(lambda agent=agent: not agent.pool, "the end of the agent's greenlets")


@pytest.fixture
def agent(pool: Pool) -> https.Agent:
    """It trusts our authority, and keeps connections."""
    return pool(keep_alive=True)


@pytest.fixture
def plain(nothing_left: None) -> Iterator[Callable[..., greenhttp.Server]]:
    """`plain(handler)`: a server without TLS, closed after the test."""
    servers: list[greenhttp.Server] = []

    def make(handler: Callable[..., object] | None = None) -> greenhttp.Server:
        servers.append(greenhttp.create_server(handler).listen(0, "127.0.0.1"))
        return servers[-1]

    yield make
    for server in servers:
        server.close(timeout=LIMIT / 2)
        assert server.join(LIMIT)


def port_of(where: Any) -> int:
    """Of a server or an `Origin`."""
    port: int = where.port if isinstance(where, Origin) else where.address()[1]
    return port


def begin(where: Any, path: str = "/", **options: Any) -> greenhttp.ClientRequest:
    """A request to a server or an `Origin`, not ended."""
    return https.request({"host": "127.0.0.1", "port": port_of(where), "path": path, **options})


def response_of(where: Any, path: str = "/", **options: Any) -> greenhttp.IncomingMessage:
    """The response to a GET."""
    req = begin(where, path, **options)
    req.end()
    return req.get_response(LIMIT)


def fetch(where: Any, path: str = "/", **options: Any) -> bytes:
    """The body of a GET."""
    with bounded(f"the answer to {path}"):
        body: bytes = response_of(where, path, **options).read()
    return body


def error_of(where: Any, **options: Any) -> Any:
    """The `'error'` of a GET that gets no response."""
    heard = Heard()
    req = begin(where, **options)
    heard.listen(req, "error", "close", "response")
    req.end()
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    return heard[0][1]


def wire(server: Any, context: ssl.SSLContext | None = None, **options: Any) -> RawClient:
    """A client whose TLS the test drives; the handshake is done."""
    client = RawClient(server.address())
    try:
        client.sock = TLSWire(client.sock, context, **options)
        with bounded("the handshake"):
            client.sock.handshake()
    except BaseException:
        client.sock.cut()
        raise
    return client


def accepted(origin: Origin) -> Peer:
    """The origin's end of the next connection, the handshake done."""
    peer = origin.accept()
    with bounded("the handshake"):
        peer.sock = TLSWire(peer.sock, server_context(), server_side=True).handshake()
    return peer


def hello(req: Any, res: Any) -> None:
    """Say who was asked."""
    res.end(f"hello {req.url}")


def pattern(size: int) -> bytes:
    """Bytes of which no stretch looks like another nearby."""
    block = hashlib.shake_256(b"greenhttp").digest(65_521)
    return (block * (size // len(block) + 1))[:size]


# --- whom the client trusts ---


def test_requests_over_http_and_https_at_once_get_their_answers(serve, plain, agent):
    """Behaviour 10.1"""
    secure, bare = serve(lambda req, res: res.end("secure")), plain(lambda req, res: res.end("bare"))
    answers = [gevent.spawn(fetch, secure, agent=agent) for _ in range(5)]
    others = [gevent.spawn(lambda: greenhttp.get(f"http://127.0.0.1:{port_of(bare)}/").get_response(LIMIT).read())] * 5
    gevent.joinall(answers + others, timeout=LIMIT)
    assert {answer.value for answer in answers} == {b"secure"}
    assert {other.value for other in others} == {b"bare"}


def test_the_agent_is_one_for_https_and_its_port_is_443():
    """Behaviour 10.1"""
    assert (https.Agent.protocol, https.Agent.default_port) == ("https:", 443)
    assert https.global_agent is not greenhttp.global_agent


def test_a_url_without_an_agent_goes_to_the_global_one_of_its_scheme(serve, monkeypatch):
    server = serve(hello)
    monkeypatch.setitem(https.global_agent._secure, "ca", authority_pem())
    req = greenhttp.get(f"https://127.0.0.1:{port_of(server)}/a")
    assert req.agent is https.global_agent
    assert req.get_response(LIMIT).read() == b"hello /a"
    fresh = greenhttp.get(f"https://127.0.0.1:{port_of(server)}/b", agent=False, ca=authority_pem())
    assert isinstance(fresh.agent, https.Agent)
    assert fresh.get_response(LIMIT).read() == b"hello /b"


def test_http_with_the_agent_of_https_is_refused_and_the_reverse(agent):
    for url, wrong in (("http://a/", agent), ("https://a/", greenhttp.global_agent)):
        with pytest.raises(ValueError, match=r"(?i)protocol"):
            greenhttp.request(url, agent=wrong)


def test_an_unknown_authority_is_an_error_and_the_handler_is_not_called(serve, pool):
    """Behaviour 10.2"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))
    heard.listen(server, "tls_client_error")
    error = error_of(server, agent=pool(ca=authority_pem("others")))
    assert error.code == "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"
    assert isinstance(error, (greenhttp.TLSError, ConnectionError))
    assert "certificate is not accepted" in str(error)
    assert heard.wait_for("tls_client_error")[0].code == "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA"
    assert heard.names == ["tls_client_error"]


def test_the_systems_authorities_do_not_know_ours(serve, pool):
    """Behaviour 10.2"""
    error = error_of(serve(hello), agent=pool(context=None))
    assert error.code in ("UNABLE_TO_GET_ISSUER_CERT_LOCALLY", "SELF_SIGNED_CERT_IN_CHAIN")


def test_reject_unauthorized_false_accepts_anybody_and_says_so(serve, pool):
    """Behaviour 10.2"""
    server = serve(hello, **identity("elsewhere.test", by="others"))
    res = response_of(server, agent=pool(keep_alive=True), reject_unauthorized=False)
    assert res.socket.encrypted
    assert not res.socket.authorized
    assert res.socket.get_peer_certificate(binary=True)
    assert res.read() == b"hello /"


def test_an_expired_certificate_is_an_error(serve, agent):
    server = serve(hello, **identity(not_before=PAST, not_after=PAST + datetime.timedelta(days=1)))
    error = error_of(server, agent=agent)
    assert error.code == "CERT_HAS_EXPIRED"
    assert "expired" in str(error)


@pytest.mark.parametrize("as_list", [True, False])
def test_an_authority_in_ca_is_trusted(serve, pool, as_list):
    """Behaviour 10.3"""
    res = response_of(
        serve(hello), agent=pool(ca=[authority_pem("others"), authority_pem()] if as_list else authority_pem())
    )
    assert res.socket.authorized
    assert res.socket.get_peer_certificate()["issuer"]
    assert res.read() == b"hello /"


def test_an_authority_in_a_file_is_trusted(serve, pool, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_bytes(authority_pem())
    for ca in (path, str(path)):
        assert fetch(serve(hello), agent=pool(ca=ca)) == b"hello /"


def test_a_wrong_host_is_an_error(serve, agent):
    """Behaviour 10.3"""
    error = error_of(serve(hello, **identity("elsewhere.test")), agent=agent)
    assert error.code == "ERR_TLS_CERT_ALTNAME_INVALID"
    assert "127.0.0.1" in str(error)


def test_check_server_identity_may_accept_another_host(serve, agent):
    """Behaviour 10.3"""
    asked: list[Any] = []
    server = serve(hello, **identity("elsewhere.test"))
    res = response_of(server, agent=agent, check_server_identity=lambda host, cert: asked.append((host, cert)))
    assert res.socket.authorized
    assert res.read() == b"hello /"
    [(host, cert)] = asked
    assert host == "127.0.0.1"
    assert cert["subjectAltName"] == (("DNS", "elsewhere.test"),)


def test_what_check_server_identity_raises_is_the_error(serve, agent):
    heard = Heard()

    def check(host, cert):
        gevent.sleep(0)
        raise PermissionError("not you")

    server = serve(lambda req, res: heard.note("request"))
    assert str(error_of(server, agent=agent, check_server_identity=check)) == "not you"
    assert heard == []


def test_check_server_identity_does_not_make_up_for_an_unknown_authority(serve, pool):
    asked: list[Any] = []
    error = error_of(serve(hello), agent=pool(ca=authority_pem("others")), check_server_identity=asked.append)
    assert error.code == "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"
    assert asked == []


def test_server_hostname_names_whom_the_client_wants(serve, agent):
    names: list[Any] = []
    server = serve(hello, **identity("elsewhere.test"), sni_callback=lambda ssl, name, context: names.append(name))
    assert fetch(server, agent=agent, server_hostname="elsewhere.test") == b"hello /"
    assert names == ["elsewhere.test"]


def test_sni_callback_chooses_the_certificate(serve, agent):
    other = https.Server(**identity("elsewhere.test"))._context

    def choose(ssl_object, name, context):
        if name == "elsewhere.test":
            ssl_object.context = other

    server = serve(hello, **identity(), sni_callback=choose)
    assert fetch(server, agent=agent) == b"hello /"
    res = response_of(server, agent=agent, server_hostname="elsewhere.test")
    assert res.socket.get_peer_certificate()["subjectAltName"] == (("DNS", "elsewhere.test"),)
    assert res.read() == b"hello /"


def test_a_server_hostname_that_cannot_be_one_is_an_error_of_the_request(serve, agent):
    assert isinstance(error_of(serve(hello), agent=agent, server_hostname=".x"), ValueError)


def test_a_url_string_works(serve, agent):
    """Behaviour 10.4"""
    url = f"https://127.0.0.1:{port_of(serve(hello))}/foo?bar"
    req = https.get(url, agent=agent)
    assert req.get_response(LIMIT).read() == b"hello /foo?bar"


def test_a_hundred_requests_in_bursts_all_succeed(serve, agent):
    """Behaviour 10.5"""
    server = serve(hello)
    for burst in range(10):
        asked = [gevent.spawn(fetch, server, f"/{burst}/{number}", agent=agent) for number in range(10)]
        gevent.joinall(asked, timeout=LIMIT)
        assert [one.value for one in asked] == [f"hello /{burst}/{number}".encode() for number in range(10)]


@pytest.mark.parametrize(
    ("port", "expected"), [(443, "127.0.0.1"), (80, "127.0.0.1:80"), (8443, "127.0.0.1:8443"), (None, "127.0.0.1")]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_host_lacks_the_port_if_it_is_443(serve, agent, port, expected, method):
    """Behaviour 10.13"""
    server = serve(lambda req, res: res.end(req.headers["host"]))
    req = https.request(
        host="127.0.0.1",
        port=port,
        method=method,
        agent=agent,
        create_connection=lambda options: stdlib_socket.create_connection(server.address()),
    )
    req.end()
    assert req.get_response(LIMIT).read() == expected.encode()


# --- the same as without TLS ---


def test_a_response_that_ends_with_the_connection_is_complete(origin, agent):
    """Behaviour 10.6"""
    heard = Heard()
    req = begin(origin, agent=agent)
    req.end()
    peer = accepted(origin)
    peer.answer(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
    heard.listen(req.get_response(LIMIT), "data", "end", "aborted", "error")
    heard.wait_for("data")
    gevent.sleep(0.1)
    peer.send(b"second").close()
    heard.wait_for("end")
    assert heard.names == ["data", "data", "end"]
    assert b"".join(entry[1] for entry in heard[:-1]) == b"first second"


@pytest.mark.parametrize("size", [12 * MEBIBYTE, 32769])
def test_a_reader_that_pauses_at_every_chunk_gets_every_byte(serve, agent, size):
    """Behaviour 10.7"""
    whole, chunks, heard = pattern(size), [], Heard()
    res = response_of(serve(lambda req, res: res.end(whole)), agent=agent)

    def chunk(data):
        chunks.append(data)
        res.pause()
        gevent.get_hub().loop.run_callback(res.resume)

    res.on("data", chunk)
    heard.listen(res, "end")
    heard.wait_for("end")
    assert len(chunks) > 1
    assert b"".join(chunks) == whole


@pytest.mark.parametrize("size", [12 * MEBIBYTE, 32769])
def test_a_handler_that_pauses_at_every_chunk_gets_every_byte(serve, agent, size):
    whole, chunks = pattern(size), []

    def handler(req, res):
        def chunk(data):
            chunks.append(data)
            req.pause()
            gevent.get_hub().loop.run_callback(req.resume)

        req.on("data", chunk)
        req.on("end", lambda: res.end("thanks"))

    req = begin(serve(handler), method="POST", agent=agent)
    req.end(whole)
    assert req.get_response(LIMIT).read() == b"thanks"
    assert len(chunks) > 1
    assert b"".join(chunks) == whole


def test_an_echo_that_nobody_reads_holds_the_writer_and_then_comes_back_whole(serve, agent):
    """Behaviour 10.8"""
    server = serve(lambda req, res: req.pipe(res))
    req = begin(server, method="POST", agent=agent)
    block, written, held, heard = pattern(MEBIBYTE), [], Event(), Heard()

    def write():
        for _ in range(100):
            written.append(len(block))
            if not req.write(block):
                held.set()
                break
        req.end()

    req.on("response", lambda res: (res.pause(), heard.note("response", res)))
    writer = gevent.spawn(write)
    assert held.wait(LIMIT)
    assert sum(written) < 100 * MEBIBYTE
    [res] = heard.wait_for("response")
    heard.listen(res, "data", "end")
    res.resume()
    heard.wait_for("end")
    writer.get(timeout=LIMIT)
    assert b"".join(entry[1] for entry in heard if entry[0] == "data") == block * len(written)


def test_a_large_answer_that_nobody_reads_is_not_taken_in(serve, agent):
    """Behaviour 10.9"""
    state: dict[str, Any] = {}

    def handler(req, res):
        state["socket"] = req.socket
        for _ in range(50):
            res.write(bytes(MEBIBYTE))
        res.end()

    res = response_of(serve(handler), agent=agent)
    res.pause()
    eventually(lambda: "socket" in state and state["socket"].queued > 64 * 1024, "the writer is held")
    eventually(lambda: not res.socket.reading_on, "the receiver has stopped reading")
    taken = res.socket.bytes_read
    assert taken < 200 * 1024
    assert state["socket"].queued < 2 * MEBIBYTE
    with bounded("the body", 4 * LIMIT):
        assert sum(len(chunk) for chunk in res) == 50 * MEBIBYTE


def test_a_request_that_gets_no_answer_times_out(serve, agent):
    """Behaviour 10.10"""
    heard = Heard()
    req = begin(serve(lambda req, res: None), agent=agent, timeout=0.05)
    heard.listen(req, "timeout", "error", "close")
    req.end()
    heard.wait_for("timeout")
    req.destroy()
    heard.wait_for("close")


def test_a_connection_without_a_request_can_be_timed_out(serve, connect):
    """Behaviour 10.10"""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))
    server.on("secure_connection", lambda socket: socket.set_timeout(0.05, lambda: socket.end()))
    heard.listen(server, "secure_connection")
    assert connect(server).read_all() == b""
    assert heard.names == ["secure_connection"]


@pytest.mark.parametrize("path", ["cert", "pem"])
def test_a_key_that_does_not_belong_to_the_certificate_raises_at_once(path, tmp_path):
    """Behaviour 10.11"""
    wrong = {"cert": identity()["cert"], "key": identity("elsewhere.test")["key"]}
    if path == "cert":
        for name, pem in wrong.items():
            (tmp_path / name).write_bytes(pem)
        given: dict[str, Any] = {name: tmp_path / name for name in wrong}
    else:
        given = wrong
    for make in (https.create_server, https.Agent):
        with pytest.raises(ValueError, match="cannot be used together"):
            make(**given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs a certificate"),
        ({"cert": Path("missing.pem")}, "cannot read the certificate"),
        ({**identity(), "ca": Path("missing.pem")}, "cannot read the authorities"),
        ({**identity(), "ciphers": "NONE-SUCH"}, "no such ciphers"),
        ({"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, "one for clients"),
        ({"context": server_context(), "ciphers": "AES"}, "nothing else"),
    ],
)
def test_options_that_cannot_work_raise_at_once(options, says):
    with pytest.raises(ValueError, match=says):
        https.create_server(**options)


def test_a_ready_context_is_used(serve, agent):
    context = server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    res = response_of(serve(hello, context=context), agent=agent)
    assert res.socket.get_protocol() == "TLSv1.2"
    assert res.read() == b"hello /"


def test_one_byte_pieces_give_the_same_answer(serve):
    """Behaviour 10.12"""
    with wire(serve(lambda req, res: res.end(req.read())), piece=1) as client:
        assert client.send(get(method="POST", body=b"one byte at a time")).read_response().body == b"one byte at a time"


def test_one_byte_pieces_of_an_upgrade_lose_nothing(serve):
    """Behaviour 10.12"""
    server = serve()
    server.on("upgrade", lambda req, socket, head: socket.end(b"<" + head + socket.read(8 - len(head)) + b">"))
    with wire(server, piece=1) as client:
        assert client.send(UPGRADE + b"abcdefgh").read_all() == b"<abcdefgh>"


def test_pipelined_requests_in_one_record_are_answered_in_order(serve, connect):
    client = connect(serve(hello)).send(get("/1") + get("/2") + get("/3"))
    assert [client.read_response().body for _ in range(3)] == [b"hello /1", b"hello /2", b"hello /3"]


@pytest.mark.parametrize("request_bytes", [get("/a"), get("/a", method="POST", body=b"body")], ids=["GET", "POST"])
def test_a_request_that_comes_with_the_end_is_answered(serve, request_bytes):
    """`openssl s_client` ends its side as soon as its input does: in one record, or one segment, with the request."""
    with wire(serve(hello)) as client:
        client.sock.ssl.write(request_bytes)
        client.half_close()
        assert client.read_response().body == b"hello /a"


# --- errors of the handshake ---


@pytest.mark.parametrize(
    ("method", "piece"), [("GET", 1), ("POST", 1), ("GET", 99), ("OPTIONS", 99), ("CONNECT", 99), ("PRI", 99)]
)
def test_plain_http_to_the_port_of_tls_is_answered_in_plain(serve, method, piece):
    """In pieces only a few methods are known, by OpenSSL."""
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"))
    heard.listen(server, "tls_client_error", "client_error")
    data = get(method=method)[:99]
    with RawClient(server.address()) as client:
        for start in range(0, len(data[:5]) if piece == 1 else 1, piece):
            client.send(data[start : start + piece])
        answer = client.read_response()
        assert answer.status == 400
        assert answer.body == b"This port speaks HTTPS, and you spoke HTTP.\n"
        assert client.closed()
    error, socket = heard.wait_for("tls_client_error")
    assert error.code == "ERR_SSL_HTTP_REQUEST"
    assert socket.destroyed
    assert heard.names == ["tls_client_error"]


def test_a_large_plain_upload_to_the_port_of_tls_still_reads_the_answer(serve):
    server = serve(hello)
    with RawClient(server.address()) as client:
        client.send(get(method="POST", body=bytes(600_000)))
        assert client.read_response().status == 400


def test_tls_to_a_plain_port_is_an_error(plain, pool):
    heard = Heard()
    server = plain(lambda req, res: heard.note("request"))
    heard.listen(server, "client_error")
    server.on("client_error", lambda error, socket: socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"))
    error = error_of(server, agent=pool())
    assert error.code in ("ERR_SSL_WRONG_VERSION_NUMBER", "ERR_SSL_PACKET_LENGTH_TOO_LONG")
    assert isinstance(error, greenhttp.TLSError)
    assert heard.names == ["client_error"]


def test_garbage_in_the_handshake_ends_that_connection_only(serve, connect):
    heard = Heard()
    server = serve(hello)
    heard.listen(server, "tls_client_error")
    other = connect(server)
    with RawClient(server.address()) as client:
        client.send(b"\x00" * 100)
        error, socket = heard.wait_for("tls_client_error")
        assert isinstance(error, greenhttp.TLSError)
        assert error.code.startswith("ERR_SSL_")
        assert socket.destroyed
    assert other.send(get()).read_response().status == 200


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_client_that_leaves_in_the_handshake_is_told_of(serve, sent):
    heard = Heard()
    server = serve(hello)
    heard.listen(server, "tls_client_error", "secure_connection")
    with RawClient(server.address()) as client:
        client.send(sent)
    assert heard.wait_for("tls_client_error")[0].code == "ECONNRESET"
    assert heard.names == ["tls_client_error"]


def test_a_client_that_stalls_in_the_handshake_is_cut_and_others_are_served(serve, connect):
    heard = Heard()
    server = serve(hello, handshake_timeout=0.1)
    heard.listen(server, "tls_client_error")
    with RawClient(server.address()) as stalled:
        stalled.send(b"\x16\x03\x01")
        other = connect(server)
        assert other.send(get("/1")).read_response().status == 200
        assert stalled.closed()
        error, socket = heard.wait_for("tls_client_error")
        assert error.code == "ERR_TLS_HANDSHAKE_TIMEOUT"
        assert isinstance(error, TimeoutError)
        assert socket.destroyed
        assert other.send(get("/2")).read_response().status == 200


def test_a_server_that_stalls_in_the_handshake_is_given_up(origin, pool):
    error = error_of(origin, agent=pool(timeout=0.1))
    assert error.code == "ERR_TLS_HANDSHAKE_TIMEOUT"


def test_a_server_that_leaves_in_the_handshake_is_an_error(origin, pool):
    heard = Heard()
    req = begin(origin, agent=pool())
    heard.listen(req, "error", "response", "close")
    req.end()
    with origin.accept() as peer:
        peer.read_exactly(1)
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    assert heard[0][1].code == "ECONNRESET"


def test_a_request_given_up_in_the_handshake_leaves_nothing(origin, pool):
    agent, heard = pool(), Heard()
    req = begin(origin, agent=agent)
    heard.listen(req, "error", "close")
    req.end()
    peer = origin.accept()
    peer.read_exactly(1)
    req.destroy()
    heard.wait_for("close")
    peer.read_all()
    eventually(lambda: not agent.pool, "the end of the handshake")


def test_a_socket_destroyed_in_the_handshake_closes_the_connection(serve):
    heard = Heard()
    server = serve(hello)
    server.on("connection", lambda socket: (heard.listen(socket, "close"), socket.destroy()))
    heard.listen(server, "tls_client_error", "secure_connection")
    with RawClient(server.address()) as client:
        assert client.closed()
    heard.wait_for("close")
    assert sorted(heard.names) == ["close", "tls_client_error"]


def test_a_server_that_closes_does_not_wait_for_a_handshake(serve):
    server = serve(hello, handshake_timeout=0)
    with RawClient(server.address()) as client:
        eventually(lambda: server._connections, "the connection")
        server.close()
        assert server.join(LIMIT)
        assert client.closed()


def test_what_is_written_before_the_handshake_comes_after_it(serve):
    heard = Heard()
    server = serve(hello)

    def connected(socket):
        heard.note("write", socket.write("early ", None, lambda *error: heard.note("written", *error)))
        heard.note("queued", socket.queued)
        heard.note("certificate", socket.get_peer_certificate())
        socket.end("words")
        heard.listen(socket, "finish")

    server.on("connection", connected)
    with wire(server) as client:
        assert client.read_all() == b"early words"
    heard.wait_for("finish")
    assert heard[:3] == [("write", False), ("queued", 6), ("certificate", None)]
    assert heard.names.count("written") == 1
    assert ("written",) in heard


def test_many_bytes_written_before_the_handshake_wake_their_writer(serve):
    heard = Heard()
    server = serve(hello)

    def connected(socket):
        socket.write(bytes(100_000))
        heard.note("held")
        socket.write(b"more")
        heard.note("free")
        socket.end()

    server.on("connection", connected)
    with RawClient(server.address()) as client:
        heard.wait_for("held")
        client.sock = TLSWire(client.sock).handshake()
        assert client.read_all() == bytes(100_000) + b"more"
    heard.wait_for("free")


def test_a_handshake_in_pieces_with_the_request_in_its_last_flight_is_served(serve):
    server = serve(hello)
    with RawClient(server.address()) as client:
        client.sock = TLSWire(client.sock, piece=7).handshake()
        assert client.send(get("/x")).read_response().body == b"hello /x"


# --- cuts and ends ---


@pytest.mark.parametrize("headers", ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_request_cut_in_its_body_is_an_error_of_its_reader(serve, headers):
    outcome: AsyncResult[Any] = AsyncResult()

    def handler(req, res):
        try:
            outcome.set(req.read())
        except ConnectionError as error:
            outcome.set(error)

    with wire(serve(handler)) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n5\r\n".encode())
        client.cut()
        error = outcome.get(timeout=LIMIT)
    assert isinstance(error, greenhttp.ConnectionLostError)
    assert error.code == "ECONNRESET"


@pytest.mark.parametrize("polite", [True, False])
def test_an_upgraded_socket_tells_the_end_from_a_cut(serve, polite):
    outcome: AsyncResult[Any] = AsyncResult()
    server = serve()

    def upgraded(req, socket, head):
        socket.write(b"ready")
        try:
            outcome.set(head + socket.read())
        except ConnectionError as error:
            outcome.set(error)
        socket.destroy()

    server.on("upgrade", upgraded)
    with wire(server) as client:
        client.send(UPGRADE + b"some")
        assert client.read_exactly(5) == b"ready"  # and the session tickets: what is unread makes a reset of a close
        if polite:
            client.half_close()
        else:
            client.cut()
        told = outcome.get(timeout=LIMIT)
    if polite:
        assert told == b"some"
    else:
        assert isinstance(told, greenhttp.ConnectionLostError)
        assert "close_notify" in str(told)


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("head", ["", "Content-Length: 20\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_response_without_its_end_is_never_a_shorter_body(origin, agent, polite, head):
    req = begin(origin, agent=agent)
    req.end()
    peer = accepted(origin)
    peer.answer(f"HTTP/1.1 200 OK\r\n{head}\r\n5\r\nbegun".encode())
    res = req.get_response(LIMIT)
    if polite:
        peer.close()
    else:
        peer.cut()
    with bounded("the end of the body"):
        if polite and not head:
            assert res.read() == b"5\r\nbegun"
        else:
            with pytest.raises(ConnectionError):
                res.read()
            assert not res.complete


def test_a_handler_that_fails_in_a_body_without_length_is_seen_as_a_cut(serve, connect, logged):
    def handler(req, res):
        res.write("begun")
        raise LookupError("in the middle")

    client = connect(serve(handler)).send(get(version="1.0"))
    assert client.read_head().status == 200
    assert client.read_exactly(5) == b"begun"
    with pytest.raises(ConnectionResetError):
        client.read_all()
    logged.claim("in the middle")


def test_a_client_that_closes_at_rest_without_close_notify_is_no_error(serve):
    heard = Heard()
    server = serve(hello)
    heard.listen(server, "tls_client_error", "client_error")
    with wire(server) as client:
        client.send(get()).read_response()
        client.cut()
    eventually(lambda: not server._connections, "the end of the connection")
    assert heard == []


def test_an_agent_that_drops_a_connection_says_close_notify(origin, pool):
    agent = pool(keep_alive=True)
    req = begin(origin, agent=agent)
    req.end()
    peer = accepted(origin)
    peer.answer(ok(b"x"))
    assert req.get_response(LIMIT).read() == b"x"
    eventually(lambda: agent.free_sockets, "the connection at rest")
    agent.destroy()
    assert peer.read_all() == b""


def test_a_half_close_loses_nothing_that_was_received_before(serve):
    """OpenSSL would give up at the first byte that it reads after it was told to close."""
    whole, read = pattern(300_000), AsyncResult()
    server = serve()

    def upgraded(req, socket, head):
        socket.unread(head)
        got = socket.read(10)
        eventually(lambda: not socket.reading_on, "the mark")
        assert socket._incoming.pending
        socket.end("enough")
        read.set(got + socket.read())

    server.on("upgrade", upgraded)
    with wire(server) as client:
        sender = gevent.spawn(lambda: client.send(UPGRADE + whole).half_close())
        assert client.read_all() == b"enough"
        sender.get(timeout=LIMIT)
        assert read.get(timeout=LIMIT) == whole


@pytest.mark.parametrize("size", [100_000, 1_000_000, 3_000_000])
def test_the_end_comes_after_all_bytes_however_full_the_kernel_is(serve, connect, size):
    client = connect(serve(lambda req, res: res.end(pattern(size))), receive_buffer=4096)
    client.send(get(version="1.0"))
    assert client.read_head().status == 200
    assert client.read_all() == pattern(size)


def test_a_half_close_in_the_middle_of_a_record_keeps_the_order(serve):
    """The reader wakes up, and ends, while the rest of the record is decrypted but not taken."""
    record, another, read = pattern(16_384), b"another", AsyncResult()
    server = serve()

    def upgraded(req, socket, head):
        socket.write("ready")
        got = socket.read1()
        socket.end("enough")
        read.set((len(got), got + socket.read()))

    server.on("upgrade", upgraded)
    with wire(server) as client:
        client.send(UPGRADE)
        assert client.read_exactly(5) == b"ready"
        client.send(record).send(another)
        assert client.read_all() == b"enough"
        client.half_close()
        first, got = read.get(timeout=LIMIT)
    assert first < len(record)
    assert got == record + another


def test_an_end_for_which_the_kernel_has_no_room_waits(serve, connect):
    """Of the last bytes before it the kernel takes all, and then nothing more."""
    sockets: Queue[Any] = Queue()
    server = serve()
    server.on("upgrade", lambda req, socket, head: sockets.put(socket))

    def begun() -> tuple[RawClient, Any]:
        client = connect(server, receive_buffer=4096).send(UPGRADE)
        socket = sockets.get(timeout=LIMIT)
        socket._sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, 16_384)
        return client, socket

    def fill(socket: Any, size: int, most: int = 1_000_000) -> int:
        """Send `size` bytes at a time until that is too much, at most so often. Returns how often."""
        for count in range(1, most + 1):
            if not socket.send(bytes(size)):
                return count
        return most

    coarse = fill(begun()[1], 1000) - 2
    _, socket = begun()
    fill(socket, 1000, coarse)
    fine = fill(socket, 1) - 1  # a record of one byte is smaller than a close_notify
    waited = 0
    for _ in range(5):
        client, socket = begun()
        size = 1000 * fill(socket, 1000, coarse) + fill(socket, 1, fine)
        socket.end()
        waited += socket.queued > 0
        assert client.read_all() == bytes(size)
    assert waited


def test_a_peer_that_ends_while_we_do_reads_everything(serve, connect):
    sockets: AsyncResult[Any] = AsyncResult()
    server = serve()

    def upgraded(req, socket, head):
        for _ in range(40):
            socket.send(pattern(100_000))
        socket.end()
        sockets.set(socket)

    server.on("upgrade", upgraded)
    client = connect(server, receive_buffer=4096).send(UPGRADE)
    assert sockets.get(timeout=LIMIT).queued > 0
    client.send(b"something").half_close()
    assert client.read_all() == 40 * pattern(100_000)


def test_finish_and_the_callback_of_write_come_over_tls(serve, connect):
    heard = Heard()

    def handler(req, res):
        res.on("finish", lambda: heard.note("finish"))
        res.write(pattern(MEBIBYTE), None, lambda *error: heard.note("written", *error))
        res.end()

    with bounded("the body"):
        assert connect(serve(handler)).send(get()).read_response().body == pattern(MEBIBYTE)
    heard.wait_for("finish")
    eventually(lambda: sorted(heard) == [("finish",), ("written",)], "both")


# --- both sides show certificates ---


def test_a_client_without_a_certificate_is_refused_where_one_is_required(serve, agent):
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"), **identity(), request_cert=True, ca=authority_pem())
    heard.listen(server, "tls_client_error")
    error = error_of(server, agent=agent)
    assert error.code == "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert heard.wait_for("tls_client_error")[0].code == "ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert heard.names == ["tls_client_error"]


def test_a_client_with_a_certificate_is_known_to_the_server(serve, pool):
    def handler(req, res):
        [names] = req.socket.get_peer_certificate()["subjectAltName"]
        res.end(f"{names[1]} {req.socket.authorized}")

    server = serve(handler, **identity(), request_cert=True, ca=authority_pem())
    assert fetch(server, agent=pool(**identity("somebody.test"))) == b"somebody.test True"


@pytest.mark.parametrize("reject", [True, False])
def test_a_client_with_a_certificate_of_others_is_refused(serve, pool, reject):
    options = {"request_cert": True, "reject_unauthorized": reject, "ca": authority_pem()}
    heard = Heard()
    server = serve(lambda req, res: heard.note("request"), **identity(), **options)
    error = error_of(server, agent=pool(**identity("somebody.test", by="others")))
    assert error.code == "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA"
    assert heard == []


def test_a_client_without_a_certificate_may_be_let_in(serve, agent):
    options = {"request_cert": True, "reject_unauthorized": False, "ca": authority_pem()}
    server = serve(lambda req, res: res.end(repr(req.socket.authorized)), **identity(), **options)
    assert fetch(server, agent=agent) == b"False"


# --- contexts, sessions, names ---


def test_a_new_certificate_is_for_new_connections_and_drops_none(serve, connect):
    server = serve(hello)
    old = connect(server)
    before = old.sock.ssl.getpeercert(True)
    renewed = identity("127.0.0.1", common_name="renewed")
    assert server.set_secure_context(**renewed) is server
    new = connect(server)
    assert new.sock.ssl.getpeercert(True) == ssl.PEM_cert_to_DER_cert(renewed["cert"].decode())
    assert old.sock.ssl.getpeercert(True) == before != new.sock.ssl.getpeercert(True)
    for client in (old, new):
        assert client.send(get("/x")).read_response().body == b"hello /x"


def test_a_new_certificate_that_cannot_be_used_leaves_the_old_one(serve, agent):
    server = serve(hello)
    with pytest.raises(ValueError, match="cannot be used together"):
        server.set_secure_context(cert=identity()["cert"], key=identity("elsewhere.test")["key"])
    assert fetch(server, agent=agent) == b"hello /"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_second_connection_resumes_the_session_of_the_first(serve, pool, version):
    context = server_context()
    context.minimum_version = context.maximum_version = version
    server, agent = serve(hello, context=context), pool()
    reused = []
    for _ in range(3):
        res = response_of(server, agent=agent)
        reused.append(res.socket.session_reused)
        assert res.read() == b"hello /"
        eventually(lambda: not agent.sockets, "the end of the connection")
    assert reused == [False, True, True]
    server.set_secure_context(**identity())
    res = response_of(server, agent=agent)
    assert not res.socket.session_reused
    assert res.read() == b"hello /"


def test_a_session_is_not_resumed_with_other_options(serve, pool):
    server, agent = serve(hello), pool()
    for ciphers in (None, "ECDHE+AESGCM"):
        res = response_of(server, agent=agent, ciphers=ciphers)
        assert not res.socket.session_reused
        assert res.read() == b"hello /"
        eventually(lambda: not agent.sockets, "the end of the connection")


def test_sessions_are_kept_of_a_hundred_origins_only(serve, pool):
    server, agent = serve(hello), pool()
    for number in range(105):
        agent._sessions[f"gone {number}"] = (client_context(), None)
    fetch(server, agent=agent)
    eventually(lambda: not agent.sockets, "the end of the connection")
    assert "gone 104" in agent._sessions
    assert len(agent._sessions) <= 105


def test_get_name_tells_apart_what_must_not_share_a_connection(pool):
    agent = pool(ca=authority_pem())
    where = {"host": "a", "port": 443}
    variants: list[dict[str, Any]] = [
        {},
        {"ca": authority_pem("others")},
        identity("somebody.test"),
        identity("else.test"),
        {"ciphers": "ECDHE+AESGCM"},
        {"server_hostname": "b"},
        {"reject_unauthorized": False},
        {"check_server_identity": print},
        {"context": client_context()},
    ]
    names = [agent.get_name({**where, **variant}) for variant in variants]
    assert len(set(names)) == len(variants)
    assert names == [agent.get_name({**where, **variant}) for variant in variants]
    assert all(name.startswith("a:443:") for name in names)


def test_names_do_not_show_keys_and_passwords(pool):
    mine = identity("somebody.test")
    agent = pool(**mine)
    name = agent.get_name({"host": "a", "port": 443, "password": "secret-word"})
    assert "secret-word" not in name
    assert "PRIVATE" not in name
    assert len(name) < 60


def test_requests_with_different_options_do_not_share_a_connection(serve, agent):
    server = serve(lambda req, res: res.end(str(req.socket.remote_port)))
    ports = [fetch(server, agent=agent, **options) for options in ({}, {"reject_unauthorized": False}, {})]
    assert ports[0] == ports[2] != ports[1]


def test_the_socket_knows_what_it_is(serve, agent):
    facts: AsyncResult[Any] = AsyncResult()

    def handler(req, res):
        socket = req.socket
        facts.set((socket.encrypted, socket.authorized, socket.get_peer_certificate(), socket.alpn_protocol))
        res.end()

    res = response_of(serve(handler), agent=agent)
    assert facts.get(timeout=LIMIT) == (True, False, None, "http/1.1")
    socket = res.socket
    assert (socket.encrypted, socket.authorized, socket.alpn_protocol) == (True, True, "http/1.1")
    assert socket.get_protocol() == "TLSv1.3"
    assert socket.get_cipher()[1] == "TLSv1.3"
    assert ("IP Address", "127.0.0.1") in socket.get_peer_certificate()["subjectAltName"]
    assert isinstance(socket, greenhttp.TLSSocket)
    res.read()


@pytest.mark.parametrize(("offered", "agreed"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), (["x"], "x")])
def test_alpn_agrees_on_what_both_speak(serve, offered, agreed):
    context = client_context()
    context.set_alpn_protocols(offered)
    with wire(serve(hello, **identity(), alpn=["x", "http/1.1"]), context) as client:
        assert client.sock.ssl.selected_alpn_protocol() == agreed
        assert client.send(get()).read_response().status == 200


# --- beyond HTTP ---


def test_an_upgraded_socket_speaks_both_ways(serve, agent):
    server = serve()

    def upgraded(req, socket, head):
        socket.write("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        for chunk in socket:
            socket.write(chunk)
        socket.end()

    server.on("upgrade", upgraded)
    req = begin(server, agent=agent, headers={"Connection": "Upgrade", "Upgrade": "x"})
    req.end()
    socket = req.get_response(LIMIT).socket
    whole = pattern(4 * MEBIBYTE)
    writer = gevent.spawn(lambda: (socket.write(whole), socket.end()))
    with bounded("the echo", 2 * LIMIT):
        assert socket.read() == whole
    writer.get(timeout=LIMIT)
    socket.destroy()


def detached(serve: Any, sent: bytes = b"") -> tuple[RawClient, Any]:
    """A client, and what the server's listener has detached."""
    sockets: AsyncResult[Any] = AsyncResult()
    server = serve()

    def upgraded(req, socket, head):
        socket.unread(head)
        sockets.set(socket.detach())
        with pytest.raises(RuntimeError):
            socket.detach()

    server.on("upgrade", upgraded)
    client = wire(server).send(UPGRADE + sent)
    plain = sockets.get(timeout=LIMIT)
    plain.settimeout(LIMIT)
    return client, plain


def test_a_detached_socket_carries_both_ways_and_ends_politely(serve):
    client, plain = detached(serve, b"first ")
    with client, plain:
        whole = pattern(MEBIBYTE)
        sender = gevent.spawn(lambda: client.send(whole).half_close())
        got = b""
        while data := plain.recv(65536):
            got += data
        assert got == b"first " + whole
        sender.get(timeout=LIMIT)
        plain.sendall(b"answer")
        plain.close()
        assert client.read_all() == b"answer"


def test_a_cut_of_a_detached_socket_is_an_error(serve):
    client, plain = detached(serve)
    with client, plain:
        plain.sendall(b"ready")
        assert client.read_exactly(5) == b"ready"  # and the session tickets: what is unread makes a reset of a close
        client.send(b"part")
        client.cut()
        assert plain.recv(4) == b"part"
        with pytest.raises(ConnectionResetError):
            plain.recv(4)
        with pytest.raises(ConnectionResetError):
            plain.recv_into(bytearray(10))


def relay(req: Any, socket: Any, head: bytes) -> None:
    """A `'connect'` listener: to the server that was asked for, and back."""
    host, port = req.url.split(":")
    socket.unread(head)
    with gevent_socket.create_connection((host, int(port))) as origin, socket.detach() as client:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = gevent.spawn(copy, origin, client)
        copy(client, origin)
        back.get()


def copy(source: Any, target: Any) -> None:
    """Until one of them ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(stdlib_socket.SHUT_WR)
    except OSError:  # it ended in the middle
        pass


def tunnel_agent(ask: Callable[..., greenhttp.ClientRequest]) -> type[https.Agent]:
    """An agent whose connections are sockets of 'connect' events."""

    class TunnelAgent(https.Agent):
        __slots__ = ("tunnels",)

        def create_connection(self, options: Any) -> Any:
            req = ask(method="CONNECT", path=f"{options['host']}:{options['port']}", agent=False)
            opened: AsyncResult[Any] = AsyncResult()
            req.on("connect", lambda res, socket, head: (socket.unread(head), opened.set(socket)))
            req.on("error", opened.set_exception)
            req.end()
            return opened.get(timeout=LIMIT)

    return TunnelAgent


def test_https_goes_through_a_tunnel(serve, plain, pool):
    origin, proxy = serve(lambda req, res: res.end(req.read())), plain()
    proxy.on("connect", relay)
    agent = pool(
        tunnel_agent(lambda **options: greenhttp.request(host="127.0.0.1", port=port_of(proxy), **options)),
        keep_alive=True,
    )
    for size in (5, MEBIBYTE):
        req = begin(origin, method="POST", agent=agent)
        req.end(pattern(size))
        res = req.get_response(LIMIT)
        assert res.socket.authorized
        assert res.read() == pattern(size)
    assert len(agent.free_sockets) == 1


def test_https_goes_through_a_tunnel_that_is_itself_inside_tls(serve, pool):
    """The proxy must not be able to read: the origin's TLS is inside that of the proxy."""
    seen = []
    origin, proxy = serve(lambda req, res: res.end(req.read())), serve()
    origin.on("secure_connection", seen.append)
    proxy.on("connect", relay)
    agent = pool(
        tunnel_agent(lambda **options: begin(proxy, ca=authority_pem(), **options)),
        keep_alive=True,
    )
    req = begin(origin, method="POST", agent=agent)
    req.end(pattern(MEBIBYTE))
    res = req.get_response(LIMIT)
    assert res.read() == pattern(MEBIBYTE)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["gevent", "stdlib"])
def test_create_connection_returns_a_socket_without_tls(serve, agent, kind):
    server = serve(hello)
    module = {"gevent": gevent_socket, "stdlib": stdlib_socket}[kind]
    made = lambda options: module.create_connection(server.address())  # noqa: E731
    assert fetch(server, agent=agent, create_connection=made) == b"hello /"


def test_create_connection_cannot_return_a_socket_inside_tls(serve, agent):
    server, made = serve(hello), []

    def create(options):
        context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=authority_pem().decode())
        made.append(context.wrap_socket(gevent_socket.create_connection(server.address()), server_hostname="127.0.0.1"))
        return made[-1]

    assert isinstance(error_of(server, agent=agent, create_connection=create), TypeError)
    made[0].close()


# --- what a connection costs ---


def test_an_idle_connection_has_no_greenlet(serve, connect):
    server = serve(hello)

    def greenlets() -> int:
        gc.collect()
        return sum(isinstance(item, greenlet.greenlet) and not item.dead for item in gc.get_objects())

    connect(server).send(get()).read_response()
    before = greenlets()
    clients = [connect(server) for _ in range(30)]
    for client in clients:
        client.send(get()).read_response()
    assert len(server._connections) == 31
    assert greenlets() <= before


def test_a_closed_connection_is_not_kept_alive(serve, pool):
    def sockets() -> int:
        return sum(isinstance(item, greenhttp.TLSSocket) for item in gc.get_objects())

    server, agent = serve(hello), pool()
    fetch(server, agent=agent)
    error_of(server, agent=pool(ca=authority_pem("others")))
    eventually(lambda: not server._connections, "the end of the connections")
    gc.collect()
    gc.disable()
    try:
        before = sockets()
        for _ in range(3):
            fetch(server, agent=agent)
            eventually(lambda: not server._connections, "the end of the connection")
        assert sockets() <= before
    finally:
        gc.enable()


def test_a_socket_has_no_dictionary(serve, agent):
    res = response_of(serve(hello), agent=agent)
    with pytest.raises(AttributeError):
        res.socket.something = 1
    res.read()
