"""`WSGIServer`: in the place of `gevent.pywsgi.WSGIServer`."""

from __future__ import annotations

import io
import logging
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Group, Pool

from greenhttp import rate
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
    assert (seen[0]["REMOTE_ADDR"], "REMOTE_PORT" in seen[0]) == ("", False)


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


def test_after_a_bound_socket_a_restart_binds_its_address(wsgi_server):
    bound = WSGIServer.get_listener(("127.0.0.1", 0))
    server = WSGIServer(bound, body_app(b"ok"), log=None)
    address = bound.getsockname()
    assert (server.started, server.closed, server.socket) == (False, False, bound)
    for _ in range(2):
        server.start()
        assert answer_of(address).body == b"ok"
        server.stop()
        assert server.closed


def test_a_tls_socket_cannot_be_the_listener():
    bound = socket.create_server(("127.0.0.1", 0))
    with server_context().wrap_socket(bound, server_side=True) as wrapped, pytest.raises(TypeError, match="plain"):
        WSGIServer(wrapped, body_app(b""))


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


@pytest.mark.parametrize("listener", ["nonsense", "host:port", ":99999", "", ("127.0.0.1", 70000), 70000])
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


@pytest.mark.parametrize("spawn", ["default", 5, Group()], ids=["default", "number", "group"])
def test_a_request_that_stops_the_server_is_answered(wsgi_server, spawn):
    """Given a server that serves for ever, when a request stops it, then the answer comes, and then the end."""

    def app(environ, start_response):
        server.stop()
        start_response(OK, [])
        return [b"stopped"]

    server = wsgi_server(app, spawn=spawn)
    serving = gevent.spawn(server.serve_forever)

    assert answer_of(server.address).body == b"stopped"
    with bounded("the end of serve_forever"):
        serving.get()


def test_stop_may_be_called_in_the_hub_where_signal_handlers_may_run(wsgi_server):
    server = wsgi_server(body_app(b"ok"))
    serving = gevent.spawn(server.serve_forever)

    gevent.get_hub().loop.run_callback(server.stop)

    with bounded("the end of serve_forever"):
        serving.get()
    assert server.closed


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


OVERRIDES = {
    "handle": lambda self, sock, address: None,
    "handler_class": object,
    "init_socket": lambda self: None,
    "get_listener": classmethod(lambda *_: None),
    "wrap_socket_and_handle": lambda self, sock, address: None,
    "environ_class": dict,
    "reuse_addr": False,
    "full": lambda self: False,
    "min_delay": 1,
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_what_a_subclass_overrides_in_vain_is_a_type_error(name):
    kind = type("Mine", (WSGIServer,), {name: OVERRIDES[name]})

    with pytest.raises(TypeError, match=f"Mine: .*{name}.* no effect"):
        kind(("127.0.0.1", 0), body_app(b""))


@pytest.mark.parametrize("name", ["handle", "handler_class", "environ_class"])
def test_what_is_set_in_vain_is_a_type_error(name):
    server = WSGIServer(("127.0.0.1", 0), body_app(b""))

    with pytest.raises(TypeError, match=f"{name} has no effect"):
        setattr(server, name, OVERRIDES[name])


# --- how long ---


def test_only_the_waiting_for_a_client_is_limited_unless_a_timeout_is_given(wsgi_server):
    def limits(**options):
        server = wsgi_server(body_app(b"ok"), **options).server
        return server.timeout, server.keep_alive_timeout, server.headers_timeout, server.min_data_rate

    assert limits() == (0, 120, 60, 240)
    assert limits(keep_alive_timeout=5) == (0, 5, 60, 240)
    assert limits(timeout=7) == (7, None, 60, 240)
    assert limits(timeout=7, keep_alive_timeout=5) == (7, 5, 60, 240)


def test_an_application_that_is_silent_is_cut_by_a_timeout_only(wsgi_server):
    """Given two silent applications, when the server of one has a short timeout, then only that one is cut."""
    go = Event()

    def app(environ, start_response):
        go.wait()
        start_response(OK, [])
        return [b"at last"]

    with (
        RawClient(wsgi_server(app).address) as patient,
        RawClient(wsgi_server(app, timeout=0.05).address) as cut,
    ):
        patient.send(get())
        cut.send(get())
        assert cut.closed()
        go.set()
        assert patient.read_response().body == b"at last"


def test_an_idle_connection_ends(wsgi_server):
    with RawClient(wsgi_server(body_app(b"ok"), keep_alive_timeout=0.05).address) as idle:
        assert idle.send(get()).read_response().body == b"ok"
        assert idle.closed()


def test_a_connection_that_sends_nothing_ends(wsgi_server):
    with RawClient(wsgi_server(body_app(b"ok"), headers_timeout=0.05).address) as mute:
        assert mute.read_response().status == 408
        assert mute.closed()


def test_a_client_that_stops_in_its_body_is_cut(wsgi_server, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.05)

    def app(environ, start_response):
        return [environ["wsgi.input"].read()]

    with RawClient(wsgi_server(app, error_log=None).address) as stopped:
        stopped.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert stopped.read_response().status == 408


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"], ids=["kept", "last"])
def test_a_client_that_stops_taking_its_answer_is_cut(wsgi_server, monkeypatch, headers):
    monkeypatch.setattr(rate, "GRACE", 0.05)
    heard = Heard()

    def app(environ, start_response):
        environ["greenhttp.request"].on("close", lambda: heard.note("cut"))
        start_response(OK, [])
        return (b"x" * 1_000_000 for _ in range(100))

    server = wsgi_server(app, min_data_rate=1e12)
    with RawClient(server.address, receive_buffer=4096) as stopped:
        stopped.send(get(headers=headers))
        heard.wait_for("cut")


# --- logs, environ and application ---


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


def test_the_log_may_be_changed_while_the_server_runs(wsgi_server):
    server = wsgi_server(body_app(b"ok"))
    server.log.write("goes nowhere")
    log = io.StringIO()
    for given in (log, None):
        server.log = given
        answer_of(server.address)

    assert log.getvalue().count("GET / HTTP/1.1") == 1


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    """The environs that `seeing_app` got."""
    return []


@pytest.fixture
def seeing_app(seen: list[dict[str, Any]]) -> App:
    """An application that keeps each environ."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response(OK, [])
        return [b"ok"]

    return app


def test_the_environ_of_a_server_is_what_each_request_begins_with(wsgi_server, seeing_app, seen):
    server = wsgi_server(seeing_app, environ={"SCRIPT_NAME": "/app", "mine": 1})
    for change in (dict, lambda: server.environ.update(mine=2), lambda: server.set_environ({"mine": 3})):
        change()
        answer_of(server.address, get("/app/path", headers="Connection: close\r\n"))

    assert [environ["mine"] for environ in seen] == [1, 2, 3]
    assert [environ["SCRIPT_NAME"] for environ in seen] == ["/app", "/app", ""]
    assert [environ["SERVER_PORT"] for environ in seen] == [str(server.server_port)] * 3
    assert seen[0]["PATH_INFO"] == "/app/path"  # as pywsgi has it: nothing is stripped
    assert server.environ["wsgi.url_scheme"] == "http"
    assert "PATH_INFO" not in server.environ


def test_a_subclass_may_override_what_makes_the_environ(wsgi_server, seeing_app, seen):
    class Mine(WSGIServer):
        base_env: ClassVar = {**WSGIServer.base_env, "base": "mine"}

        def set_environ(self, environ=None):
            super().set_environ(environ)
            self.environ["set"] = "mine"

        def update_environ(self):
            self.environ["SERVER_NAME"] = f"at {self.server_port}"
            super().update_environ()

        def get_environ(self):
            environ = super().get_environ()
            environ["get"] = f"mine {len(seen)}"
            return environ

    with Mine(("127.0.0.1", 0), seeing_app, log=None) as server:
        server.start()
        answers = [answer_of(server.address).body for _ in range(2)]

    assert answers == [b"ok", b"ok"]
    assert [environ["get"] for environ in seen] == ["mine 0", "mine 1"]
    for environ in seen:
        assert (environ["base"], environ["set"]) == ("mine", "mine")
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (f"at {server.server_port}", str(server.server_port))
    assert "get" not in server.environ


def test_a_subclass_may_have_entries_of_the_environ_as_an_attribute(wsgi_server, seeing_app, seen):
    class Mine(WSGIServer):
        environ: ClassVar = {"mine": "class"}

    with Mine(("127.0.0.1", 0), seeing_app, log=None) as server:
        server.start()
        answer_of(server.address)

    assert (seen[0]["mine"], seen[0]["wsgi.url_scheme"]) == ("class", "http")
    assert Mine.environ == {"mine": "class"}


@pytest.mark.parametrize(("environ", "most"), [({}, 100), ({"wsgi.multiprocess": True}, 1)])
def test_one_of_several_processes_accepts_one_connection_at_a_time(wsgi_server, environ, most):
    server = wsgi_server(body_app(b"ok"), environ=environ)

    assert server.max_accept == server.server._acceptor.max_accept == most


def test_the_application_of_a_subclass_may_be_replaced_while_it_runs():
    class Mine(WSGIServer):
        application = staticmethod(body_app(b"old"))

    with Mine(("127.0.0.1", 0), log=None) as server:
        server.start()
        assert answer_of(server.address).body == b"old"
        server.application = body_app(b"new")
        assert answer_of(server.address).body == b"new"


def test_a_failing_request_does_not_tell_its_secrets(capsys):
    """Given a request with credentials, when its application raises, then no log has them."""
    with WSGIServer(("127.0.0.1", 0), failing) as server:
        server.start()
        secrets = "Authorization: Basic c2VjcmV0\r\nCookie: id=c2VjcmV0\r\nConnection: close\r\n"
        assert answer_of(server.address, get(headers=secrets)).status == 500

    told = "".join(capsys.readouterr())
    assert "ValueError: oops" in told
    assert "c2VjcmV0" not in told


def test_a_server_without_an_application_says_so(wsgi_server, capsys):
    assert answer_of(wsgi_server(None).address).status == 500
    assert "no application" in capsys.readouterr().err


def test_a_server_on_every_address_has_the_name_of_the_host_and_a_restart_the_same_port(wsgi_server):
    seen = []

    def app(environ, start_response):
        seen.append((environ["SERVER_NAME"], int(environ["SERVER_PORT"])))
        start_response(OK, [])
        return []

    server = wsgi_server(app, ":0")
    port = server.server_port
    for _ in range(2):
        answer_of(("127.0.0.1", port))
        server.stop()
        server.start()

    assert seen == [(socket.gethostname(), port)] * 2


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


@pytest.mark.parametrize("options", [{"certfile": "/none"}, {"keyfile": "/none"}, {"ssl_version": ssl.PROTOCOL_TLS}])
def test_bad_tls_is_a_value_error(options):
    with pytest.raises(ValueError, match="certificate"):
        WSGIServer(("127.0.0.1", 0), scheme_app, **options)


@pytest.mark.parametrize(("options", "enabled"), [({}, False), ({"ssl_context": server_context()}, True)])
def test_a_server_tells_whether_it_speaks_tls(options, enabled):
    assert WSGIServer(("127.0.0.1", 0), scheme_app, **options).ssl_enabled is enabled
