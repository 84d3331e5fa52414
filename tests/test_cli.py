"""`python -m greenhttp`, in a process of its own."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .tls import client_context, identity
from .visitors import visiting

LIMIT = 15.0  # seconds for a process to start or to end

HANDLER = """
import time
def handle(req, res):
    if req.url == "/slow":
        res.write("begun ")
        time.sleep(0.5)  # cooperates: the command line has patched it
        res.end("done")
    elif req.url == "/limit":
        res.end(str(req.socket.timeout))
    elif req.url == "/forever":
        res.write("begun")
        time.sleep(1000)
    else:
        res.end("hello from a file")
not_callable = 1
def application(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/limit":
        return [str(environ["greenhttp.request"].socket.timeout).encode()]
    return [b"hello from WSGI"]
def other_names(a, b):
    return application(a, b)
def handler_with_odd_names(environ, response):
    response.end("hello from a file")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in a folder with `app.py`; whatever runs afterwards is killed."""
    (tmp_path / "app.py").write_text(HANDLER)
    (tmp_path / "broken.py").write_text("import a_module_that_is_missing\n")
    for name, pem in identity().items():
        (tmp_path / f"{name}.pem").write_bytes(pem)
    (tmp_path / "both.pem").write_bytes(b"".join(identity().values()))
    (tmp_path / "other.pem").write_bytes(identity("elsewhere.test")["key"])
    running: list[subprocess.Popen[str]] = []

    def make(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "greenhttp", *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        running.append(process)
        return process

    yield make
    for process in running:
        process.kill()
        process.communicate()


def port_of(process: subprocess.Popen[str]) -> int:
    """The port in the line that a server prints when it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)/", line)
    assert found is not None, (line, process.stderr and process.stderr.read())
    return int(found[1])


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [("/", 200, "greenhttp is running"), ("/hello", 200, "Hello"), ("/headers", 200, "Host: "), ("/x", 404, "nothing")],
)
def test_without_a_handler_the_demonstration_is_served(start: Any, ask: Any, path: str, status: int, text: str) -> None:
    response = ask(port_of(start("--bind", "127.0.0.1:0")), path)

    assert response.status == status
    assert text in response.read().decode()


def test_a_named_handler_is_served(start: Any, ask: Any) -> None:
    assert ask(port_of(start("app:handle", "--bind", "127.0.0.1:0"))).read() == b"hello from a file"


@pytest.mark.parametrize("options", [("app:application",), ("app:other_names", "--wsgi")])
def test_a_wsgi_application_is_served_and_upgrades_reach_it(start: Any, options: tuple[str, ...]) -> None:
    port = port_of(start(*options, "--bind", "127.0.0.1:0"))

    with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: other\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\nhello from WSGI")


@pytest.mark.parametrize(("name", "seconds"), [("handle", 120), ("application", 0)])
def test_a_wsgi_application_may_be_silent_for_longer_than_a_handler(
    start: Any, ask: Any, name: str, seconds: float
) -> None:
    answer = ask(port_of(start(f"app:{name}", "--bind", "127.0.0.1:0")), "/limit")

    assert float(answer.read()) == seconds
    assert answer.headers["Keep-Alive"] == "timeout=120"


def test_a_handler_may_be_called_one_whatever_it_looks_like(start: Any, ask: Any) -> None:
    process = start("app:handler_with_odd_names", "--handler", "--bind", "127.0.0.1:0")

    assert ask(port_of(process)).read() == b"hello from a file"


@pytest.mark.parametrize("options", [("--cert", "cert.pem", "--key", "key.pem"), ("--cert", "both.pem")])
def test_with_a_certificate_https_is_served_and_told(start: Any, options: tuple[str, ...]) -> None:
    process = start("app:handle", "--bind", "127.0.0.1:0", *options)
    line = process.stdout.readline()
    found = re.search(r" on https://127\.0\.0\.1:(\d+)/\n", line)
    assert found is not None, line
    connection = http.client.HTTPSConnection("127.0.0.1", int(found[1]), timeout=LIMIT, context=client_context())
    connection.request("GET", "/")
    with connection.getresponse() as response:
        assert response.read() == b"hello from a file"
    connection.close()

    process.terminate()

    assert process.wait(LIMIT) == 0


def test_an_inherited_descriptor_is_served(start: Any, ask: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        process = start("app:handle", "--bind", f"fd:{number}", pass_fds=[number])

        assert ask(port_of(process)).read() == b"hello from a file"


def test_a_unix_socket_is_served_and_removed_at_the_end(start: Any, tmp_path: Path) -> None:
    process = start("app:handle", "--bind", f"unix:{tmp_path}/s")
    assert f"unix:{tmp_path}/s" in process.stdout.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"hello from a file")

    process.terminate()

    assert process.wait(LIMIT) == 0
    assert not os.path.exists(f"{tmp_path}/s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_what_runs_is_finished_and_the_status_is_0(start: Any, ask: Any, number: int) -> None:
    process = start("app:handle", "--bind", "127.0.0.1:0")
    response = ask(port_of(process), "/slow")
    assert response.read(6) == b"begun "

    process.send_signal(number)

    assert response.read() == b"done"
    assert process.wait(LIMIT) == 0


def test_at_a_signal_under_load_no_request_is_lost(start: Any) -> None:
    process = start("app:handle", "--bind", "127.0.0.1:0")

    with visiting(port_of(process)) as visitors:
        process.terminate()
        visitors.all_are_refused()

    assert visitors.failures == []
    assert process.wait(LIMIT) == 0


def test_at_a_signal_what_does_not_end_is_cut_after_the_grace_and_named(start: Any, ask: Any) -> None:
    process = start("app:handle", "--bind", "127.0.0.1:0", "--graceful-timeout", "0.2")
    response = ask(port_of(process), "/forever")
    assert response.read(5) == b"begun"

    process.terminate()

    assert process.wait(LIMIT) == 0
    assert "GET /forever" in process.stderr.read()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()


def test_the_access_log_has_a_line_for_each_request_with_its_time(start: Any, ask: Any) -> None:
    process = start("app:handle", "--bind", "127.0.0.1:0", "--access-log")
    ask(port_of(process), "/slow").read()

    line = process.stdout.readline()

    found = re.fullmatch(r'127\.0\.0\.1 - - \[.+\] "GET /slow HTTP/1\.1" 200 10 (\d+\.\d+)\n', line)
    assert found is not None, line
    assert float(found[1]) >= 0.4


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["missing:handle"], 1, "there is no module 'missing'"),
        (["app:missing"], 1, "module 'app' has no 'missing'"),
        (["app"], 1, "module:handler"),
        (["app:not_callable"], 1, "is not callable"),
        (["--bind", "nowhere"], 1, "--bind takes HOST:PORT, unix:PATH or fd:N"),
        (["--bind", "unix:/missing/folder/s"], 1, "cannot listen"),
        (["--key", "key.pem"], 1, "--key needs --cert"),
        (["--cert", "missing.pem"], 1, "cannot read the certificate"),
        (["--cert", "app.py"], 1, "--cert app.py: the certificate and its key cannot be used together"),
        (["--cert", "cert.pem", "--key", "other.pem"], 1, "cannot be used together: KEY_VALUES_MISMATCH"),
        (["--no-such-option"], 2, "unrecognized arguments"),
        (["--graceful-timeout", "soon"], 2, "invalid"),
    ],
)
def test_a_mistake_gives_a_clear_line_and_no_traceback(
    start: Any, arguments: list[str], status: int, says: str
) -> None:
    process = start(*arguments)
    _, printed = process.communicate(timeout=LIMIT)

    assert process.returncode == status
    assert says in printed.splitlines()[-1]
    assert len(printed.splitlines()) == 1 or status == 2
    assert "Traceback" not in printed


def test_a_taken_port_gives_one_clear_line(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--bind", f"127.0.0.1:{taken.getsockname()[1]}")
        _, printed = process.communicate(timeout=LIMIT)

    assert process.returncode == 1
    assert len(printed.splitlines()) == 1
    assert "Address already in use" in printed


def test_a_module_that_fails_by_itself_shows_where(start: Any) -> None:
    process = start("broken:handle")
    _, printed = process.communicate(timeout=LIMIT)

    assert process.returncode == 1
    assert "a_module_that_is_missing" in printed
    assert "broken.py" in printed
