"""Each example runs as its first lines say, and does what it promises."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
LIMIT = 15.0  # seconds for anything


@pytest.fixture
def example() -> Iterator[Callable[[str], int]]:
    """Start an example on a free port; returns the port."""
    running: list[subprocess.Popen[str]] = []

    def start(name: str) -> int:
        process = subprocess.Popen([sys.executable, str(EXAMPLES / name), "0"], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None
        return int(found[1])

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_hello_answers(example: Callable[[str], int], ask: Any) -> None:
    assert b"ello" in ask(example("hello.py")).read()


def test_echo_upload_tells_size_and_hash(example: Callable[[str], int], ask: Any) -> None:
    body = b"greenhttp" * 100_000

    told = ask(example("echo_upload.py"), "/", "POST", body).read().decode()

    assert str(len(body)) in told
    assert hashlib.sha256(body).hexdigest() in told


def test_long_poll_gets_the_news(example: Callable[[str], int], ask: Any) -> None:
    port = example("long_poll.py")
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    waiting.request("GET", "/")
    told = b"told 0\n"
    while told == b"told 0\n":  # until the poll is parked
        told = ask(port, "/", "POST", b"the news").read()

    assert told == b"told 1\n"
    assert waiting.getresponse().read() == b"the news"
    waiting.close()


def test_stream_sends_events_as_they_happen(example: Callable[[str], int], ask: Any) -> None:
    response = ask(example("stream.py"))

    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.readline()


def test_upgrade_echo_sends_back_what_it_gets(example: Callable[[str], int]) -> None:
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
