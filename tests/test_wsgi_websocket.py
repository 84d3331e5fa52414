"""WebSocket libraries for WSGI on `WSGIServer`, in a process of its own, and clients that know nothing of greenhttp."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .support import LIMIT, eventually

websocket = pytest.importorskip("websocket", reason="websocket-client IS NOT INSTALLED: WebSockets are NOT tested")
pytest.importorskip("flask", reason="Flask IS NOT INSTALLED: WebSockets are NOT tested")

# The servers tell the port first, and then when handlers end. `/left` counts the connections, with its own.
PROGRAM = """
from gevent import monkey
monkey.patch_all()
import os, sys
from flask import Flask, request
from greenhttp.wsgi import WSGIServer

def left():
    sockets = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            sockets += os.readlink("/proc/self/fd/" + name) in connections()
        except FileNotFoundError:
            pass
    return str(sockets)

def connections():
    found = set()
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(":%04X" % server.server_port) and fields[3] != "0A":  # it listens
            found.add("socket:[" + fields[9] + "]")
    return found

app = Flask(__name__)
app.get("/left")(left)
APPLICATION
server = WSGIServer(("127.0.0.1", 0), app, log=None)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""

FLASK_SOCK = """
import threading
from flask_sock import Sock
sock = Sock(app)
rooms = []

def handler(path):
    def decorate(function):
        def handle(ws):
            try:
                function(ws)
            finally:
                print("ended", path, flush=True)
        return sock.route(path, endpoint=path)(handle)
    return decorate

@handler("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())

@handler("/push")
def push(ws):
    for number in range(100):
        ws.send(f"news {number}")
    ws.receive()

@handler("/bye")
def bye(ws):
    ws.close(4001, "enough")

@handler("/large")
def large(ws):
    ws.send(bytes(int(ws.receive())))
    ws.send("and more")
    ws.receive()

@handler("/both")
def both(ws):
    senders = [threading.Thread(target=ws.send, args=(bytes([number]) * 10_000_000,)) for number in range(2)]
    for sender in senders:
        sender.start()
    ws.receive()

@handler("/chat")
def chat(ws):
    rooms.append(ws)
    while True:
        text = ws.receive()
        for each in rooms:
            each.send(text)
"""

SOCKET_IO = """
from flask_socketio import SocketIO, emit, disconnect
io = SocketIO(app, async_mode=sys.argv[1])

@io.on("echo")
def echo(data):
    emit("echo", data)

@io.on("everybody")
def everybody(data):
    emit("news", data, broadcast=True)

@io.on("bye")
def bye():
    disconnect()

@io.on("push")
def push():
    def work():
        for number in range(100):
            io.emit("news", number)
    io.start_background_task(work)

@io.on("disconnect")
def gone(reason):
    print("ended", flush=True)
"""


class Program:
    """A running server."""

    def __init__(self, application: str, *arguments: str) -> None:
        code = PROGRAM.replace("APPLICATION", application)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        first = self.line()
        assert first, self._process.stderr and self._process.stderr.read()
        self.port = int(first)

    def line(self) -> str:
        """What it tells next."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> str:
        """Kill it. Returns what it has written to `sys.stderr`."""
        self._process.kill()
        return self._process.communicate()[1]


@contextlib.contextmanager
def running(application: str, *arguments: str) -> Iterator[Program]:
    """A server, that has complained of nothing."""
    program = Program(application, *arguments)
    try:
        yield program
    finally:
        told = program.end()
    assert told == ""


def ask_left(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as asking:
        asking.sendall(b"GET /left HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return int(asking.makefile("rb").read().rpartition(b"\r\n")[2])


@contextlib.contextmanager
def nothing_left_in(program: Program) -> Iterator[None]:
    """A server lets go of all connections."""
    yield
    eventually(lambda: ask_left(program.port) == 1, "the end of the connections")


def vanish(client: Any) -> None:
    """Close the connection without a word of WebSocket, and with a reset."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.shutdown()


# --- Flask-Sock ---

Dial = Callable[[str], Any]


@pytest.fixture(scope="module")
def flask_sock() -> Iterator[Program]:
    """A server with handlers of Flask-Sock."""
    pytest.importorskip("flask_sock", reason="flask-sock IS NOT INSTALLED: it is NOT tested")
    with running(FLASK_SOCK) as program:
        yield program


@pytest.fixture
def dial(flask_sock: Program) -> Iterator[Dial]:
    """`dial(path)`: a WebSocket, its connection closed after the test."""
    clients = []

    def make(path: str) -> Any:
        client = websocket.create_connection(f"ws://127.0.0.1:{flask_sock.port}{path}", timeout=LIMIT)
        clients.append(client)
        return client

    with nothing_left_in(flask_sock):
        yield make
        for client in clients:
            client.shutdown()


def test_flask_sock_echoes(flask_sock, dial):
    client = dial("/echo")
    for message in ("hello", "\N{SNOWMAN}", "x" * 100_000):
        client.send(message)
        assert client.recv() == message
    for data in (b"\0\xff", bytes(range(256)) * 400):
        client.send_binary(data)
        assert client.recv() == data
    client.close(timeout=LIMIT)

    assert flask_sock.line() == "ended /echo"


def test_flask_sock_pushes(flask_sock, dial):
    client = dial("/push")

    assert [client.recv() for _ in range(100)] == [f"news {number}" for number in range(100)]
    client.close(timeout=LIMIT)
    assert flask_sock.line() == "ended /push"


def test_flask_sock_sends_all_of_a_message_that_the_kernel_does_not_take_at_once(flask_sock, dial):
    client = dial("/large")
    client.send("20000000")

    assert client.recv() == bytes(20_000_000)
    assert client.recv() == "and more"
    client.close(timeout=LIMIT)
    assert flask_sock.line() == "ended /large"


def test_flask_sock_does_not_mix_messages_that_are_sent_at_once(flask_sock, dial):
    client = dial("/both")

    assert {client.recv(), client.recv()} == {bytes([number]) * 10_000_000 for number in range(2)}
    client.close(timeout=LIMIT)
    assert flask_sock.line() == "ended /both"


def test_flask_sock_answers_a_ping_and_a_close(flask_sock, dial):
    client = dial("/echo")
    client.ping(b"there?")
    assert client.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"there?")
    client.send_close(1000, b"done")

    assert client.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_CLOSE, struct.pack("!H", 1000) + b"done")
    assert flask_sock.line() == "ended /echo"


def test_flask_sock_closes_with_a_reason(flask_sock, dial):
    client = dial("/bye")

    assert client.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_CLOSE, struct.pack("!H", 4001) + b"enough")
    assert client.sock.recv(1) == b""
    assert flask_sock.line() == "ended /bye"


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_handler_of_flask_sock_ends_when_the_client_vanishes(flask_sock, dial, how):
    client = dial("/echo")
    client.send("hello")
    assert client.recv() == "hello"
    if how == "reset":
        vanish(client)
    else:
        client.shutdown()

    assert flask_sock.line() == "ended /echo"


def test_flask_sock_serves_several_at_once(flask_sock, dial):
    clients = [dial("/echo") for _ in range(20)]
    for index, client in enumerate(clients):
        client.send(f"from {index}")
    for index, client in reversed(list(enumerate(clients))):
        assert client.recv() == f"from {index}"
    for client in clients:
        client.close(timeout=LIMIT)

    assert [flask_sock.line() for _ in clients] == ["ended /echo"] * 20


def test_a_handler_of_flask_sock_reaches_the_other_clients(flask_sock, dial):
    clients = []
    for index in range(5):
        clients.append(dial("/chat"))
        clients[-1].send(f"{index} is here")
        assert [client.recv() for client in clients] == [f"{index} is here"] * (index + 1)
    for client in clients:
        client.close(timeout=LIMIT)

    assert [flask_sock.line() for _ in clients] == ["ended /chat"] * 5


# --- Flask-SocketIO ---


@pytest.fixture(scope="module", params=["gevent", "threading"])
def socket_io(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A server with handlers of Flask-SocketIO, that has its greenlets from gevent or from `threading`."""
    pytest.importorskip("flask_socketio", reason="Flask-SocketIO IS NOT INSTALLED: it is NOT tested")
    with running(SOCKET_IO, request.param) as program:
        yield program


@pytest.fixture
def join(socket_io: Program) -> Iterator[Callable[..., Any]]:
    """`join()`: a client of Socket.IO, disconnected after the test."""
    import socketio

    clients = []

    def make(**options: Any) -> Any:
        client = socketio.SimpleClient()
        client.connect(f"http://127.0.0.1:{socket_io.port}", wait_timeout=LIMIT, **options)
        clients.append(client)
        return client

    with nothing_left_in(socket_io):
        yield make
        for client in clients:
            client.disconnect()


@pytest.mark.parametrize("transports", [["polling", "websocket"], ["websocket"]], ids=["upgraded", "at once"])
def test_socket_io_echoes(socket_io, join, transports):
    client = join(transports=transports)
    assert client.transport == "websocket"
    for data in ("hello", b"\0\xff", "x" * 100_000, bytes(100_000)):
        client.emit("echo", data)
        assert client.receive(LIMIT) == ["echo", data]
    client.disconnect()

    assert socket_io.line() == "ended"


def test_socket_io_pushes_to_several_at_once(socket_io, join):
    clients = [join(transports=["websocket"]) for _ in range(5)]
    clients[0].emit("push")
    for client in clients:
        assert [client.receive(LIMIT) for _ in range(100)] == [["news", number] for number in range(100)]
    clients[1].emit("everybody", "hello")
    assert [client.receive(LIMIT) for client in clients] == [["news", "hello"]] * 5
    for client in clients:
        client.disconnect()

    assert [socket_io.line() for _ in clients] == ["ended"] * 5


@pytest.fixture
def entered(socket_io: Program) -> Iterator[Any]:
    """A WebSocket that is a client of Socket.IO, by hand; its connection is closed after the test."""
    url = f"ws://127.0.0.1:{socket_io.port}/socket.io/?EIO=4&transport=websocket"
    client = websocket.create_connection(url, timeout=LIMIT)
    with nothing_left_in(socket_io):
        assert client.recv().startswith("0{")
        client.send("40")
        assert client.recv().startswith("40{")
        yield client
        client.shutdown()


def test_socket_io_disconnects_a_client(socket_io, entered):
    entered.send('42["bye"]')

    assert entered.recv() == "41"
    assert socket_io.line() == "ended"


@pytest.mark.parametrize("how", ["end", "reset"])
def test_socket_io_notices_that_a_client_vanishes(socket_io, entered, how):
    if how == "reset":
        vanish(entered)
    else:
        entered.shutdown()

    assert socket_io.line() == "ended"
