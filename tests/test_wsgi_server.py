"""`WSGIServer`: in the place of `gevent.pywsgi.WSGIServer`."""

from __future__ import annotations

import io
import logging
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool

from greenhttp.wsgi import WSGIServer

from .support import LIMIT, OK, TEXT, App, Heard, RawClient, Response, answer_of, body_app, bounded, eventually, get
from .tls import TLSWire, authority, identity, server_context


def failing(environ: dict[str, Any], start_response: Any) -> Any:
    raise ValueError("oops")


@pytest.fixture
def wsgi_server() -> Iterator[Callable[..., WSGIServer]]:
    """`wsgi_server(app, listener, **options)`: started, and stopped after the test."""
    servers: list[WSGIServer] = []

    def make(app: App, listener: Any = ("127.0.0.1", 0), **options: Any) -> WSGIServer:
        server = WSGIServer(listener, app, **{"log": None, **options})
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("form", ["{}", ":{}", "127.0.0.1:{}", "*:{}", "[::1]:{}"])
def test_a_listener_may_be_text(wsgi_server, form):
    port = free_port()
    if form == "{}":
        server = wsgi_server(body_app(b"ok"), port)
    else:
        try:
            server = wsgi_server(body_app(b"ok"), form.format(port))
        except OSError as error:
            pytest.skip(f"no such address here: {error}")

    assert server.server_port == port
    assert answer_of(("::1", port, 0, 0) if "::1" in form else ("127.0.0.1", port)).body == b"ok"


def test_a_listener_may_be_a_tuple_and_tells_its_address(wsgi_server):
    server = wsgi_server(body_app(b"ok"))

    assert server.address == ("127.0.0.1", server.server_port)
    assert server.server_host == "127.0.0.1"
    assert server.server_port > 0
    assert answer_of(server.address).body == b"ok"


def test_a_listener_may_be_a_path(wsgi_server):
    seen = []

    def app(environ, start_response):
        seen.append(environ)
        start_response(OK, [])
        return [b"ok"]

    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"
        server = wsgi_server(app, path)
        assert (server.address, server.server_host, server.server_port) == (path, None, None)
        assert answer_of(path).body == b"ok"
        server.stop()
    assert (seen[0]["SERVER_NAME"], seen[0]["SERVER_PORT"]) == ("localhost", "80")
    assert "REMOTE_ADDR" not in seen[0]


def test_a_listener_may_be_a_socket(wsgi_server):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        address = bound.getsockname()
        server = wsgi_server(body_app(b"ok"), bound)
        assert server.address == address
        assert answer_of(address).body == b"ok"


def test_the_socket_of_a_server_is_its_until_it_stops(wsgi_server):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = wsgi_server(body_app(b"ok"), bound)
        assert server.socket.getsockname() == server.address
        server.stop()

        assert bound.fileno() == -1
        assert not hasattr(server, "socket")
        with pytest.raises(ConnectionRefusedError):
            RawClient(server.address).close()


def test_a_bound_socket_has_its_backlog():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(TypeError, match="backlog"):
            WSGIServer(bound, body_app(b"ok"), backlog=5)


def test_a_subclass_may_have_the_application_as_an_attribute_or_a_method():
    class Attribute(WSGIServer):
        application = staticmethod(body_app(b"attribute"))

    class Method(WSGIServer):
        def application(self, environ, start_response):
            start_response(OK, [("X-Port", str(self.server_port))])
            return [b"method"]

    for kind, given, body in [
        (Attribute, None, b"attribute"),
        (Method, None, b"method"),
        (Attribute, body_app(b"given"), b"given"),
    ]:
        with kind(("127.0.0.1", 0), given, log=None) as server:
            server.start()
            assert answer_of(server.address).body == body


@pytest.mark.parametrize("listener", ["nonsense", "host:port", ":99999", ""])
def test_a_listener_that_is_none_is_a_value_error(listener):
    with pytest.raises(ValueError, match="cannot listen"):
        WSGIServer(listener, body_app(b""))


def test_the_life_of_a_server():
    server = WSGIServer(("127.0.0.1", 0), body_app(b"ok"), log=None)
    assert (server.started, server.closed, server.address) == (False, True, ("127.0.0.1", 0))
    serving = gevent.spawn(server.serve_forever)
    eventually(lambda: server.started)
    assert answer_of(server.address).body == b"ok"

    server.stop(timeout=LIMIT)

    with bounded("the end of serve_forever"):
        serving.get()
    assert not server.started
    with pytest.raises(ConnectionRefusedError):
        RawClient(server.address).close()


def test_a_server_is_a_context_and_starts_again():
    with WSGIServer(("127.0.0.1", 0), body_app(b"ok"), log=None) as server:
        for _ in range(2):
            server.start()
            server.start()
            assert answer_of(server.address).body == b"ok"
            server.stop()


def test_stop_waits_for_what_runs_and_cuts_the_rest(wsgi_server):
    begun, end = Heard(), Event()

    def app(environ, start_response):
        begun.note("begun")
        end.wait()
        start_response(OK, [])
        return [b"done"]

    server = wsgi_server(app)
    with RawClient(server.address) as patient:
        patient.send(get())
        begun.wait_for("begun")
        stopping = gevent.spawn(server.stop, LIMIT)
        eventually(lambda: server.closed)
        assert not stopping.ready()
        end.set()
        assert patient.read_response().body == b"done"
    with bounded("the stop"):
        stopping.get()

    end.clear()
    server.start()
    with RawClient(server.address) as cut:
        cut.send(get())
        begun.wait_for("begun", 2)
        server.stop(timeout=0.01)
        assert cut.closed()
    end.set()


def test_a_number_as_spawn_limits_how_many_run(wsgi_server):
    running = Heard()
    go_on = Event()

    def app(environ, start_response):
        running.note("in")
        go_on.wait()
        running.note("out")
        start_response(OK, [])
        return []

    server = wsgi_server(app, spawn=1)
    with RawClient(server.address) as first, RawClient(server.address) as second:
        first.send(get())
        second.send(get())
        running.wait_for("in")
        go_on.set()
        first.read_response()
        second.read_response()
    assert running.names == ["in", "out", "in", "out"]


def test_stop_kills_what_a_pool_still_runs(wsgi_server):
    heard = Heard()

    def app(environ, start_response):
        heard.note("begun")
        try:
            Event().wait()
        finally:
            heard.note("killed")

    pool = Pool(5)
    server = wsgi_server(app, spawn=pool)
    assert server.pool is pool
    with RawClient(server.address) as sender:
        sender.send(get())
        heard.wait_for("begun")
        server.stop(timeout=0.01)
        heard.wait_for("killed")


@pytest.mark.parametrize("spawn", [gevent.spawn, gevent.spawn_raw])
def test_gevents_own_spawns_mean_no_limit(wsgi_server, spawn):
    assert wsgi_server(body_app(b"ok"), spawn=spawn).pool is None


@pytest.mark.parametrize("options", [{"handler_class": object}, {"spawn": None}, {"no_such": 1}])
def test_what_is_not_supported_is_a_type_error(options):
    with pytest.raises(TypeError, match=r"handler_class|spawn|no_such"):
        WSGIServer(("127.0.0.1", 0), body_app(b""), **options)


def test_options_of_the_http_server_may_be_given(wsgi_server):
    server = wsgi_server(body_app(b"ok"), timeout=7, max_header_size=1000)

    assert (server.server.timeout, server.server.max_header_size) == (7, 1000)


def test_the_log_has_the_format_of_pywsgi(wsgi_server):
    log = io.StringIO()
    server = wsgi_server(body_app(b"Hello"), log=log)

    answer_of(server.address, get("/a?b"))
    answer_of(server.address, get('/"x"', method="HEAD", headers="Connection: close\r\n"))

    pattern = r'127\.0\.0\.1 - - \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "GET /a\?b HTTP/1\.1" 200 5 \d+\.\d{6}\n'
    first, second = log.getvalue().splitlines(keepends=True)
    assert re.fullmatch(pattern, first)
    assert '"HEAD /%22x%22 HTTP/1.1" 200 ' in second


def test_logs_may_be_loggers(wsgi_server, caplog):
    caplog.set_level(logging.INFO)
    server = wsgi_server(failing, log=logging.getLogger("access"), error_log=logging.getLogger("wrong"))

    assert answer_of(server.address).status == 500

    found = {record.name: (record.levelname, record.getMessage()) for record in caplog.records}
    assert found["wrong"][0] == "ERROR"
    assert "ValueError: oops" in found["wrong"][1]
    assert found["access"][0] == "INFO"
    assert '" 500 ' in found["access"][1]


def test_a_log_that_is_a_logger_is_that_logger_in_all_else(wsgi_server):
    server = wsgi_server(failing, log=logging.getLogger("all else"))

    server.log.level = logging.CRITICAL
    server.log.note = "mine"

    assert (logging.getLogger("all else").level, logging.getLogger("all else").note) == (logging.CRITICAL, "mine")
    del server.log.note
    assert not hasattr(logging.getLogger("all else"), "note")
    server.log.setLevel(logging.NOTSET)


def test_error_logs_take_lines(wsgi_server, caplog):
    def app(environ, start_response):
        environ["wsgi.errors"].writelines(["one\n", "two\n"])
        environ["wsgi.errors"].flush()
        start_response(OK, [])
        return [b"ok"]

    server = wsgi_server(app, error_log=logging.getLogger("lines"))

    assert answer_of(server.address).body == b"ok"
    assert caplog.messages == ["one", "two"]


def test_both_logs_go_to_stderr_unless_told_otherwise(capsys):
    with WSGIServer(("127.0.0.1", 0), failing) as server:
        server.start()
        answer_of(server.address)

    err = capsys.readouterr().err
    assert "ValueError: oops" in err
    assert '"GET / HTTP/1.1" 500' in err


def test_logs_may_be_none(wsgi_server, capsys):
    assert answer_of(wsgi_server(failing, error_log=None).address).status == 500
    assert capsys.readouterr() == ("", "")


def test_environ_and_application_may_be_changed(wsgi_server):
    server = wsgi_server(body_app(b"old"), environ={"a": 1})
    server.environ["b"] = 2
    seen = []

    def app(environ, start_response):
        seen.append((environ["a"], environ["b"]))
        start_response(OK, [])
        return [b"new"]

    server.application = app

    assert answer_of(server.address).body == b"new"
    assert seen == [(1, 2)]


def test_a_server_without_an_application_says_so(wsgi_server, capsys):
    assert answer_of(wsgi_server(None).address).status == 500
    assert "no application" in capsys.readouterr().err


def test_a_server_on_every_address_has_the_name_of_the_host_and_a_restart_its_new_port(wsgi_server):
    seen = []

    def app(environ, start_response):
        seen.append((environ["SERVER_NAME"], int(environ["SERVER_PORT"])))
        start_response(OK, [])
        return []

    server = wsgi_server(app, ":0")
    ports = []
    for _ in range(2):
        ports.append(server.server_port)
        answer_of(("127.0.0.1", server.server_port))
        server.stop()
        server.start()

    assert seen == [(socket.gethostname(), port) for port in ports]


# --- TLS ---


def scheme_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """An application that answers with its scheme."""
    start_response(OK, [TEXT])
    return [environ["wsgi.url_scheme"].encode()]


@pytest.fixture
def pem_files(tmp_path: Any) -> dict[str, str]:
    """A certificate, its key and our authority, as files."""
    contents = {**identity(), "ca": authority().cert_pem.bytes()}
    for name, pem in contents.items():
        (tmp_path / name).write_bytes(pem)
    return {name: str(tmp_path / name) for name in contents}


def asked_over_tls(server: WSGIServer) -> Response:
    """The answer of a server that speaks TLS."""
    plain = RawClient(server.address)
    try:
        plain.sock = TLSWire(plain.sock).handshake()  # type: ignore[assignment]
        return plain.send(get()).read_response()
    finally:
        plain.close()


def test_tls_options_have_the_names_of_pywsgi(wsgi_server, pem_files):
    server = wsgi_server(
        scheme_app,
        certfile=pem_files["cert"],
        keyfile=pem_files["key"],
        ca_certs=pem_files["ca"],
        cert_reqs=ssl.CERT_OPTIONAL,
        do_handshake_on_connect=True,
        suppress_ragged_eofs=True,
    )

    assert asked_over_tls(server).body == b"https"


def test_tls_may_be_a_ready_context(wsgi_server):
    assert asked_over_tls(wsgi_server(scheme_app, ssl_context=server_context())).body == b"https"


def test_bad_tls_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="certificate"):
        WSGIServer(("127.0.0.1", 0), scheme_app, certfile=str(tmp_path / "none"))
