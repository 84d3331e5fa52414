"""Each example runs as its first lines say, and does what it promises."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
LIMIT = 15.0  # seconds for anything

Example = Callable[..., int]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """The examples that run; killed after the test."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def example(processes: list[subprocess.Popen[str]]) -> Example:
    """Start an example on a free port, with further arguments; returns the port."""

    def start(name: str, *arguments: str) -> int:
        command = [sys.executable, str(EXAMPLES / name), "0", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None
        return int(found[1])

    return start


def test_hello_answers(example: Example, ask: Any) -> None:
    assert b"ello" in ask(example("hello.py")).read()


def test_echo_upload_tells_size_and_hash(example: Example, ask: Any) -> None:
    body = b"greenhttp" * 100_000

    told = ask(example("echo_upload.py"), "/", "POST", body).read().decode()

    assert str(len(body)) in told
    assert hashlib.sha256(body).hexdigest() in told


def test_long_poll_gets_the_news(example: Example, ask: Any) -> None:
    port = example("long_poll.py")
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    waiting.request("GET", "/")
    told = b"told 0\n"
    while told == b"told 0\n":  # until the poll is parked
        told = ask(port, "/", "POST", b"the news").read()

    assert told == b"told 1\n"
    assert waiting.getresponse().read() == b"the news"
    waiting.close()


def test_stream_sends_events_as_they_happen(example: Example, ask: Any) -> None:
    response = ask(example("stream.py"))

    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.readline()


def test_upgrade_echo_sends_back_what_it_gets(example: Example) -> None:
    with socket.create_connection(("127.0.0.1", example("upgrade_echo.py")), timeout=LIMIT) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst")
        received = b""
        while not received.endswith(b"first"):
            received += client.recv(4096)
        client.sendall(b"second")
        client.shutdown(socket.SHUT_WR)
        rest = client.makefile("rb").read()

    assert received.startswith(b"HTTP/1.1 101 ")
    assert rest == b"second"


# --- those of WSGI ---


@pytest.fixture
def flask(example: Example) -> int:
    """The port of the example."""
    for package in ("flask", "flask_sock"):
        pytest.importorskip(package, reason=f"{package} IS NOT INSTALLED: the example of Flask is NOT tested")
    return example("wsgi_flask.py")


def test_flask_answers(flask: int, ask: Any) -> None:
    assert ask(flask).read() == b"Hello from Flask\n"


def test_flask_streams_the_news_until_the_reader_has_gone(flask: int, processes: Any, ask: Any) -> None:
    reader = http.client.HTTPConnection("127.0.0.1", flask, timeout=LIMIT)
    reader.request("GET", "/news")
    response = reader.getresponse()

    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.readline() == b"\n"
    assert ask(flask, "/news", "POST", b"fresh").read() == b"told 1\n"
    assert response.readline() == b"fresh\n"
    response.close()
    reader.close()
    assert processes[-1].stdout.readline() == "a reader has gone\n"


def test_flask_echoes_on_a_websocket(flask: int) -> None:
    websocket = pytest.importorskip("websocket", reason="websocket-client IS NOT INSTALLED: the echo is NOT tested")
    client = websocket.create_connection(f"ws://127.0.0.1:{flask}/echo", timeout=LIMIT)
    client.send("hello")

    assert client.recv() == "hello"
    client.close(timeout=LIMIT)


@pytest.fixture
def django(example: Example) -> int:
    """The port of the example."""
    pytest.importorskip("django", reason="Django IS NOT INSTALLED: its example is NOT tested")
    return example("wsgi_django.py")


def test_django_streams(django: int, ask: Any) -> None:
    response = ask(django, "/stream")

    assert response.getheader("Transfer-Encoding") == "chunked"
    assert [response.readline() for _ in range(6)] == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n", b""]


def test_django_sends_events_until_the_listener_has_gone(django: int, processes: Any) -> None:
    listener = http.client.HTTPConnection("127.0.0.1", django, timeout=LIMIT)
    listener.request("GET", "/events")
    response = listener.getresponse()

    assert response.getheader("Content-Type") == "text/event-stream"
    for number in range(2):
        event = [response.readline() for _ in range(3)]
        assert (event[0], event[1][:6], event[2]) == (f"id: {number}\n".encode(), b"data: ", b"\n")
    response.close()
    listener.close()
    assert processes[-1].stdout.readline() == "a listener has gone\n"


def test_django_long_poll_gets_the_news(django: int, ask: Any) -> None:
    reader = http.client.HTTPConnection("127.0.0.1", django, timeout=LIMIT)
    reader.request("GET", "/news")
    told = b"told 0\n"
    while told == b"told 0\n":  # until the poll is parked
        told = ask(django, "/news", "POST", b"fresh").read()

    assert told == b"told 1\n"
    assert reader.getresponse().read() == b"fresh"
    reader.close()


def test_django_long_poll_notices_that_the_reader_has_gone(django: int, processes: Any, ask: Any) -> None:
    with socket.create_connection(("127.0.0.1", django), timeout=LIMIT) as reader:
        reader.sendall(b"GET /news HTTP/1.1\r\nHost: a\r\n\r\n")

    assert processes[-1].stdout.readline() == "a reader has gone\n"
    assert ask(django, "/news", "POST", b"fresh").read() == b"told 0\n"


def test_django_takes_an_upload(django: int, ask: Any) -> None:
    body = b"greenhttp" * 1_000_000

    told = ask(django, "/upload", "PUT", body).read().decode()

    assert told == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"


# --- the client's ---


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    return run(sys.executable, str(EXAMPLES / name), *arguments)


def origin_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def origin() -> Iterator[socket.socket]:
    """A server by hand; it listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT)
        yield listening


def accept(listening: socket.socket) -> tuple[socket.socket, bytes]:
    """The next connection, and the head of its request."""
    connection, _ = listening.accept()
    connection.settimeout(LIMIT)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return connection, head


def refusing_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def test_download_writes_the_file_and_shows_its_progress(example: Example, tmp_path: Path) -> None:
    url = f"{origin_of(example('hello.py'))}/some/file"
    done = run_example("download.py", url, str(tmp_path / "file"))

    assert (done.returncode, done.stdout) == (0, "")
    assert "(100%)" in done.stderr
    assert (tmp_path / "file").read_text() == "Hello, GET /some/file\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("url", [f"http://127.0.0.1:{refusing_port()}/", "http://a.invalid/", "not a url"])
def test_download_that_fails_says_so_in_one_line(url: str, tmp_path: Path) -> None:
    done = run_example("download.py", url, str(tmp_path / "file"))

    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"{url}: ")
    assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "file").exists()


def test_download_that_is_cut_off_leaves_no_file(origin: socket.socket, tmp_path: Path) -> None:
    url = f"{origin_of(origin.getsockname()[1])}/file"
    command = [sys.executable, str(EXAMPLES / "download.py"), url, str(tmp_path / "file")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        connection, _ = accept(origin)
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        _, told = process.communicate(timeout=LIMIT)

    assert process.returncode == 1
    assert "aborted" in told
    assert not (tmp_path / "file").exists()


def test_connect_proxy_fetches_through_itself(example: Example) -> None:
    done = run_example("connect_proxy.py", "0", "127.0.0.1", str(example("hello.py")))

    assert "Hello, GET /\n" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl IS NOT INSTALLED")
def test_connect_proxy_tunnels_for_curl(example: Example, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"greenhttp" * 1_000_000)
    proxy, url = origin_of(example("connect_proxy.py")), origin_of(example("echo_upload.py"))
    through = run("curl", "-sS", "-p", "-x", proxy, "--data-binary", f"@{body}", url)
    refused = run("curl", "-sS", "-p", "-x", proxy, origin_of(refusing_port()))

    assert hashlib.sha256(body.read_bytes()).hexdigest() in through.stdout
    assert "502" in refused.stderr


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_reverse_proxy_passes_an_upload_on(example: Example, method: str, chunked: bool) -> None:
    pieces = [b"greenhttp" * 10_000] * 100
    port = example("reverse_proxy.py", origin_of(example("echo_upload.py")))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    for _ in range(2):
        client.request(method, "/", iter(pieces) if chunked else b"".join(pieces), encode_chunked=chunked)
        told = client.getresponse().read().decode()

        assert told == f"9000000 {hashlib.sha256(b''.join(pieces)).hexdigest()}\n"
    client.close()


def test_reverse_proxy_passes_answers_without_a_body_on(example: Example) -> None:
    port = example("reverse_proxy.py", origin_of(example("hello.py")))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    client.request("HEAD", "/")
    head = client.getresponse()
    length = head.getheader("Content-Length")
    head.read()
    client.request("GET", "/")

    assert client.getresponse().read() == b"Hello, GET /\n"
    assert length == str(len(b"Hello, HEAD /\n"))
    client.close()


def test_reverse_proxy_keeps_what_concerns_one_connection_to_itself(example: Example, origin: socket.socket) -> None:
    client = http.client.HTTPConnection(
        "127.0.0.1", example("reverse_proxy.py", origin_of(origin.getsockname()[1])), timeout=LIMIT
    )
    client.request("GET", "/a?b", headers={"Connection": "x-mine", "X-Mine": "1", "TE": "trailers", "X-Kept": "1"})
    connection, head = accept(origin)
    with connection:
        lines = [
            b"HTTP/1.1 418 Short and Stout", b"Connection: x-ours", b"X-Ours: 1", b"Keep-Alive: timeout=5",
            b"Set-Cookie: a", b"Set-Cookie: b", b"Content-Length: 3",
        ]  # fmt: skip
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\ntea")
        answer = client.getresponse()
        text = head.decode().lower()

        assert text.startswith("get /a?b http/1.1\r\n")
        assert f"host: 127.0.0.1:{origin.getsockname()[1]}\r\n" in text
        assert ("x-kept: 1" in text, "x-mine" in text, "te:" in text) == (True, False, False)
        assert (answer.status, answer.reason, answer.read()) == (418, "Short and Stout", b"tea")
        assert answer.headers.get_all("Set-Cookie") == ["a", "b"]
        assert answer.getheader("X-Ours") is None
        assert answer.getheader("Keep-Alive") != "timeout=5"
    client.close()


def test_reverse_proxy_tells_if_the_origin_cannot_be_reached(example: Example, ask: Any) -> None:
    answer = ask(example("reverse_proxy.py", origin_of(refusing_port())))

    assert answer.status == 502
    assert b"cannot be reached" in answer.read()


def test_reverse_proxy_lets_go_of_the_origin_when_the_client_has_gone(example: Example, origin: socket.socket) -> None:
    port = example("reverse_proxy.py", origin_of(origin.getsockname()[1]))
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection, _ = accept(origin)
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nfirst")
            received = b""
            while b"first" not in received:
                received += client.recv(4096)
            client.close()

            assert connection.recv(1) == b""


def test_reverse_proxy_cuts_an_answer_that_the_origin_cuts(example: Example, origin: socket.socket) -> None:
    port = example("reverse_proxy.py", origin_of(origin.getsockname()[1]))
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection, _ = accept(origin)
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        received = b""
        while data := client.recv(4096):
            received += data

    assert b"half" in received
    assert not received.endswith(b"0\r\n\r\n")


def fill(sock: socket.socket) -> int:
    """Send until the other side takes no more; how many bytes it took."""
    sock.settimeout(0.3)
    sent = 0
    try:
        while sent < 1_000_000_000:
            sent += sock.send(bytes(100_000))
    except TimeoutError:
        pass
    return sent


@pytest.mark.parametrize("fast", ["origin", "client"])
def test_reverse_proxy_holds_the_faster_side_back(example: Example, origin: socket.socket, fast: str) -> None:
    port = example("reverse_proxy.py", origin_of(origin.getsockname()[1]))
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        length = b"Content-Length: 1000000000\r\n\r\n"
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + (length if fast == "client" else b"\r\n"))
        connection, _ = accept(origin)
        with connection:
            if fast == "origin":
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + length)
            sent = fill(connection if fast == "origin" else client)

    assert sent < 50_000_000  # what the operating system holds for both connections
