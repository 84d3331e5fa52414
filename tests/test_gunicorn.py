"""`gunicorn -k greenhttp.gunicorn.Worker`, in processes of its own."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_peers import needs
from .tls import client_context, identity
from .visitors import descriptors, visiting

LIMIT = 15.0  # seconds for a process to start or to end
QUICK = 3.0  # seconds for an end that waits for nobody; it takes some tenths

APP = """
import os, sys, time
from gevent import monkey
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        return slow(start_response)
    if path == "/big":
        start_response("200 OK", [])
        return (b"x" * 1_000_000 for _ in range(50))
    if path == "/length":
        start_response("200 OK", [])
        return [str(len(environ["wsgi.input"].read())).encode()]
    if path == "/where":
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']} {path} {environ['RAW_URI']}".encode()]
    if path == "/peer":
        start_response("200 OK", [])
        return [repr(environ["REMOTE_ADDR"]).encode()]
    if path == "/exit":
        sys.exit(3)  # gunicorn's code for a worker that cannot boot
    if path == "/forever":
        time.sleep(1000)
    if path == "/block":
        monkey.get_original("time", "sleep")(1000)
    start_response("200 OK", [("X-Answer", "42")])
    return [f"{os.getpid()} {environ['wsgi.url_scheme']} one".encode()]
def slow(start_response):
    start_response("200 OK", [])
    yield b"begun "
    time.sleep(0.5)  # cooperates: the worker has patched it before it loaded this
    yield b"done"
"""
HOOKS = """
def pre_request(worker, req):
    worker.log.info("before %s %s", req.method, req.path)
def post_request(worker, req, environ, resp):
    worker.log.info("after %s: %s", environ["RAW_URI"], resp.status)
"""
READY = """
def post_worker_init(worker):
    worker.log.info("ready")
"""
#: For a stop that takes no connection for idle.
PATIENCE = """
import greenhttp.server
greenhttp.server.IDLE_AFTER = 60.0
"""
#: A server that waits 0.1 seconds for a byte, unless it is told otherwise.
IMPATIENCE = """
from greenhttp.server import Server
Server.__init__.__kwdefaults__["timeout"] = 0.1
"""
#: Nothing is patient with clients.
STRICT = """
from greenhttp import gunicorn, rate
rate.GRACE = 0.1
class Worker(gunicorn.Worker):
    server_options = {"min_data_rate": 1e12, "headers_timeout": 0.2}
"""


class Gunicorn(subprocess.Popen[bytes]):
    """The arbiter, with what it and its workers have logged."""

    log: Path

    def logged(self, pattern: str) -> re.Match[str]:
        """Wait for a line in the log."""
        return logged(self.log, pattern)

    def count(self, text: str, number: int) -> None:
        """Wait until `text` stands in the log `number` times."""
        self.logged(rf"(?s)({text}.*){{{number}}}")

    @property
    def port(self) -> int:
        return int(self.logged(r"Listening at: https?://127\.0\.0\.1:(\d+)")[1])


def logged(path: Path, pattern: str) -> re.Match[str]:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        text = path.read_text() if path.exists() else ""
        found = re.search(pattern, text)
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{pattern!r} was not logged: {text}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Start gunicorn in a folder with `app.py`; whatever runs afterwards is killed, workers too."""
    pytest.importorskip("gunicorn", reason="gunicorn is not installed: the worker is NOT tested")
    files = {
        "app": APP,
        "hooks": HOOKS,
        "impatient": IMPATIENCE,
        "patient": READY + PATIENCE,
        "ready": READY,
        "strict": STRICT,
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    for name, pem in identity().items():
        (tmp_path / f"{name}.pem").write_bytes(pem)
    running: list[Gunicorn] = []

    def make(*arguments: str, app: str = "app:app") -> Gunicorn:
        command = [sys.executable, "-m", "gunicorn", "-k", "greenhttp.gunicorn.Worker", "--bind", "127.0.0.1:0"]
        log = tmp_path / "log"
        # newer versions put a control socket there
        environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "GUNICORN_CMD_ARGS": ""}
        with log.open("wb") as stream:
            process = Gunicorn(
                [*command, *arguments, app],
                cwd=tmp_path,
                env=environ,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        process.log = log
        running.append(process)
        return process

    yield make
    for process in running:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # all have ended
            pass
        process.wait()


@pytest.fixture
def client() -> Iterator[Callable[..., http.client.HTTPConnection]]:
    """`client(port)`: a connection that is kept, closed after the test."""
    made: list[http.client.HTTPConnection] = []

    def make(port: int) -> http.client.HTTPConnection:
        made.append(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def get(connection: http.client.HTTPConnection, path: str = "/", **headers: str) -> list[str]:
    """Ask, on the connection that is kept if there is one. Returns the words of the body."""
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    assert response.status == 200, (response.status, body)
    return body.split()


def raw(path: Path, *fields: str, target: str = "/") -> bytes:
    """Ask at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall("\r\n".join([f"GET {target} HTTP/1.0", *fields, "", ""]).encode())
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_without_gunicorn_the_import_says_what_is_missing() -> None:
    code = "import sys; sys.modules['gunicorn'] = None; import greenhttp.gunicorn"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)

    assert run.stderr.endswith("ImportError: greenhttp.gunicorn needs gunicorn: pip install 'greenhttp[gunicorn]'\n")


def test_it_serves_every_listener_logs_as_gunicorn_does_and_heeds_its_settings(
    start: Any, client: Any, tmp_path: Path
) -> None:
    form = '%(h)s "%(r)s" %(s)s %(B)s %({x-asked}i)s %({x-answer}o)s %({path_info}e)s %(L)s'
    process = start(
        *("--bind", "unix:s", "--config", "hooks.py", "--forwarded-allow-ips", "10.0.0.1", "--threads", "4"),
        *("--access-logfile", "access", "--access-logformat", form),
    )

    pid, scheme, _ = get(client(process.port), "/a%20b?c", **{"X-Asked": "yes", "X-Forwarded-Proto": "https"})

    line = rf'127\.0\.0\.1 "GET /a%20b\?c HTTP/1\.1" 200 {len(pid) + 9} yes 42 /a b 0\.\d{{6}}\n'
    assert logged(tmp_path / "access", line)
    assert scheme == "http"  # the client's address is not among those that may tell
    assert process.logged(r"before GET /a%20b\n")
    assert process.logged(r"after /a%20b\?c: 200 OK\n")
    assert process.logged("does not honour the setting threads")
    # who asks at a Unix socket may tell
    assert raw(tmp_path / "s", "X-Forwarded-Proto: https").endswith(b" https one")
    assert raw(tmp_path / "s", target="/peer").endswith(b"''")  # as under gunicorn's own workers
    assert raw(tmp_path / "s", "X-Forwarded-Proto: http").endswith(b" http one")
    assert raw(tmp_path / "s", "X-Forwarded-Proto: http", "X-Forwarded-Ssl: on").startswith(b"HTTP/1.1 400 ")


def test_with_a_certificate_https_is_served_and_without_keep_alive_connections_close(start: Any) -> None:
    process = start("--certfile", "cert.pem", "--keyfile", "key.pem", "--keep-alive", "0")
    connection = http.client.HTTPSConnection("127.0.0.1", process.port, timeout=LIMIT, context=client_context())
    connection.request("GET", "/")
    with connection.getresponse() as response:
        assert response.headers["Connection"] == "close"
        assert response.read().endswith(b" https one")
    connection.close()


def test_a_certificate_that_cannot_be_used_ends_gunicorn(start: Any) -> None:
    assert start("--certfile", "app.py").wait(LIMIT) == 3


def test_an_application_that_is_missing_is_told_as_gunicorn_tells_it(start: Any) -> None:
    process = start(app="app:missing")

    assert process.wait(LIMIT) == 4
    assert process.logged("Failed to find attribute 'missing' in 'app'")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("options", [(), ("--certfile", "cert.pem", "--keyfile", "key.pem")], ids=["plain", "tls"])
def test_hup_again_and_again_loads_the_application_anew_and_loses_no_request(
    start: Any, tmp_path: Path, workers: int, options: tuple[str, ...]
) -> None:
    process = start("--keep-alive", "60", "--config", "ready.py", "-w", str(workers), *options)

    with visiting(process.port, context=client_context() if options else None) as visitors:
        for reloads, word in enumerate(("two", "three", "four")):
            process.count("ready", workers * (reloads + 1))  # one that was just forked may miss the signal
            (tmp_path / "app.py").write_text(APP.replace("one", word))
            process.send_signal(signal.SIGHUP)
            visitors.all_hear(word)

    assert visitors.failures == []
    assert not any(visitor.refused for visitor in visitors)


@needs("wrk")
def test_hup_again_and_again_under_wrk_costs_no_request(start: Any) -> None:
    # patient, because on a busy machine wrk itself may be held up for longer than makes a connection idle
    process = start("--keep-alive", "60", "--config", "patient.py", "-w", "2")
    process.count("ready", 2)
    wrk = subprocess.Popen(
        ["wrk", "-t1", "-c32", "-d6s", f"http://127.0.0.1:{process.port}/"], stdout=subprocess.PIPE, text=True
    )

    for reloads in (1, 2, 3, 4, 5):
        process.send_signal(signal.SIGHUP)
        process.count("ready", 2 + 2 * reloads)
        process.count("Worker exiting", 2 * reloads)

    printed = wrk.communicate(timeout=LIMIT)[0]
    assert "Requests/sec" in printed
    assert "Socket errors" not in printed
    assert "Non-2xx" not in printed


def test_max_requests_under_load_loses_no_request(start: Any) -> None:
    process = start("--keep-alive", "60", "-w", "2", "--max-requests", "300")

    with visiting(process.port) as visitors:
        process.count("Worker exiting", 4)

    assert visitors.failures == []
    assert not any(visitor.refused for visitor in visitors)


@descriptors(1200)
def test_a_stop_does_not_wait_for_a_thousand_idle_connections(start: Any, client: Any) -> None:
    process = start("--keep-alive", "60")
    idle = [client(process.port) for _ in range(1000)]
    for connection in idle:
        get(connection)
    assert all(connection.sock for connection in idle)
    begin = time.monotonic()

    process.terminate()

    assert process.wait(LIMIT) == 0
    assert time.monotonic() - begin < QUICK


def test_sigterm_lets_a_running_request_finish(start: Any, client: Any) -> None:
    process = start()
    connection = client(process.port)
    connection.request("GET", "/slow")
    response = connection.getresponse()
    assert response.read(6) == b"begun "

    process.terminate()

    assert response.read() == b"done"
    assert process.wait(LIMIT) == 0
    assert "SIGKILL" not in process.log.read_text()


@pytest.mark.parametrize("options", [(), ("--certfile", "cert.pem", "--keyfile", "key.pem")], ids=["plain", "tls"])
def test_a_request_that_comes_during_the_stop_is_answered(start: Any, options: tuple[str, ...]) -> None:
    """The first of a new connection, which may be in its handshake, and the next of one that was used."""
    process = start("--keep-alive", "60", "--config", "patient.py", *options)
    new = socket.create_connection(("127.0.0.1", process.port), LIMIT)
    used = socket.create_connection(("127.0.0.1", process.port), LIMIT)
    if options:
        used = client_context().wrap_socket(used, server_hostname="127.0.0.1")
    assert b"\r\nConnection: keep-alive\r\n" in ask(used)

    process.terminate()
    until_refused(process.port)
    if options:
        new = client_context().wrap_socket(new, server_hostname="127.0.0.1")

    for sock in (new, used):
        answer = ask(sock)
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b" one")
        sock.close()
    assert process.wait(LIMIT) == 0


def until_refused(port: int) -> None:
    """Wait until nobody listens."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), LIMIT).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # at the very moment
            continue
    raise AssertionError(f"somebody still listens at {port}")


def ask(sock: socket.socket) -> bytes:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = b""
    while not answer.endswith(b" one"):
        piece = sock.recv(4096)
        assert piece, answer
        answer += piece
    return answer


def test_a_stop_waits_a_moment_only_for_connections_that_say_nothing(start: Any, client: Any) -> None:
    process = start()
    silent = client(process.port)
    silent.connect()
    get(client(process.port))
    begin = time.monotonic()

    process.terminate()

    assert process.wait(LIMIT) == 0
    assert time.monotonic() - begin < QUICK


def test_what_does_not_end_is_cut_and_named_before_the_arbiter_kills(start: Any, client: Any) -> None:
    process = start("--graceful-timeout", "1", "--config", "hooks.py")
    connection = client(process.port)
    connection.request("GET", "/forever")
    process.logged("before GET /forever")

    process.terminate()

    with pytest.raises(ConnectionError):
        connection.getresponse()
    assert process.wait(LIMIT) == 0
    assert process.logged("cuts 1 requests: .*GET /forever")
    assert "SIGKILL" not in process.log.read_text()


def test_sigint_waits_for_nobody(start: Any, client: Any) -> None:
    process = start()
    connection = client(process.port)
    get(connection)
    connection.request("GET", "/forever")
    begin = time.monotonic()

    process.send_signal(signal.SIGINT)

    assert process.wait(LIMIT) == 0
    assert time.monotonic() - begin < QUICK


def test_after_max_requests_another_worker_serves_and_nothing_fails(start: Any, client: Any) -> None:
    process = start("--max-requests", "3", "--keep-alive", "60")
    connection = client(process.port)

    pids = [get(connection)[0] for _ in range(7)]

    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_a_worker_whose_hub_is_blocked_is_replaced(start: Any, client: Any) -> None:
    process = start("--timeout", "1")
    connection = client(process.port)
    before = get(connection)[0]

    connection.request("GET", "/block")
    assert connection.getresponse().status == 500
    assert process.logged(rf"WORKER TIMEOUT \(pid:{before}\)")
    process.count("Booting worker", 2)  # the first has gone by then
    assert get(client(process.port))[0] != before


def test_an_application_that_exits_ends_its_own_request_only(start: Any, client: Any) -> None:
    process = start()
    pid = get(client(process.port))[0]
    slow = client(process.port)
    slow.request("GET", "/slow")
    exiting = client(process.port)
    exiting.request("GET", "/exit")

    assert exiting.getresponse().status == 500
    assert slow.getresponse().read() == b"begun done"
    assert get(client(process.port))[0] == pid
    assert process.logged(r"(?s)GET /exit tried to end the worker.*SystemExit: 3")


def test_an_arbiter_that_the_application_has_patched_is_warned_of(start: Any, client: Any, tmp_path: Path) -> None:
    (tmp_path / "patched.py").write_text("from gevent import monkey; monkey.patch_all()\nfrom app import app\n")
    process = start("--preload", app="patched:app")

    assert process.logged(r"may patch by monkey.patch_all\(os=False, signal=False\)")


def test_an_arbiter_that_is_patched_as_documented_replaces_a_worker(start: Any, client: Any, tmp_path: Path) -> None:
    patch = "from gevent import monkey; monkey.patch_all(os=False, signal=False)\n"
    (tmp_path / "patched.py").write_text(patch + "from app import app\n")
    process = start("--preload", app="patched:app")
    before = get(client(process.port))[0]
    os.kill(int(before), signal.SIGKILL)

    assert get(client(process.port))[0] != before
    assert "may patch" not in process.log.read_text()


def test_a_worker_leaves_when_its_arbiter_has_died(start: Any, client: Any) -> None:
    process = start()
    pid = get(client(process.port))[0]

    process.kill()

    assert process.logged(f"worker {pid} stops")
    assert process.logged(rf"Worker exiting \(pid: {pid}\)")


def test_a_request_that_is_refused_is_told_as_gunicorn_tells_it_and_answered_as_the_server_does(start: Any) -> None:
    process = start()

    with socket.create_connection(("127.0.0.1", process.port), LIMIT) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))

    assert answer == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    assert process.logged(r"\[WARNING\] Invalid request from ip=127\.0\.0\.1: Parse Error: .*Host")


def test_an_application_may_be_silent_for_as_long_as_it_likes(start: Any, client: Any) -> None:
    process = start("--config", "impatient.py")

    assert get(client(process.port), "/slow") == ["begun", "done"]


@pytest.mark.parametrize(
    "sent",
    [b"GET / HT", b"", b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"],
    ids=["head", "nothing", "body"],
)
def test_a_client_that_stops_sending_is_cut(start: Any, sent: bytes) -> None:
    process = start("-k", "strict.Worker")
    with socket.create_connection(("127.0.0.1", process.port), LIMIT) as sock:
        sock.sendall(sent)

        answer = b"".join(iter(lambda: sock.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 408 ")
    process.terminate()
    assert process.wait(LIMIT) == 0
    assert "Invalid request" not in process.log.read_text()  # it was slow, no more


def test_a_client_that_stops_reading_is_cut(start: Any, tmp_path: Path) -> None:
    process = start("-k", "strict.Worker", "--access-logfile", "access")
    with socket.create_connection(("127.0.0.1", process.port), LIMIT) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")

        assert logged(tmp_path / "access", "GET /big")  # the application has come to its end, without a reader

        received = 0
        try:
            while piece := sock.recv(1_000_000):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < 50_000_000


@pytest.mark.parametrize(
    ("path", "told"),
    [("/a%2Fb/where?x", "/a/b /where /a%2Fb/where?x"), ("/a/b/where", "/a/b /where /a/b/where")],
)
def test_script_name_of_the_environment_is_where_the_application_is_mounted(
    start: Any, client: Any, path: str, told: str
) -> None:
    process = start("--env", "SCRIPT_NAME=/a/b")

    assert " ".join(get(client(process.port), path)) == told


@pytest.mark.parametrize("path", ["/elsewhere", "/a/bc", "/"])
def test_a_path_that_is_not_below_script_name_gets_500(start: Any, client: Any, path: str) -> None:
    process = start("--env", "SCRIPT_NAME=/a/b")
    connection = client(process.port)
    connection.request("GET", path)

    assert connection.getresponse().status == 500
    assert process.logged(f"the path '{path}' is not below SCRIPT_NAME, '/a/b'")


def test_the_mount_itself_has_an_empty_path(start: Any, client: Any) -> None:
    process = start("--env", "SCRIPT_NAME=/a/b/")

    assert get(client(process.port), "/a/b")[2] == "one"
