"""Fixtures of the live tests. What a test leaves behind fails it: connections, descriptors, log records."""

from __future__ import annotations

import gc
import http.client
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import greenhttp
from greenhttp import https

from .origin import origin as origin
from .support import LIMIT, RawClient, bounded, eventually
from .tls import identity

#: Modules that do not care what carries the bytes: their tests run over TCP, and over TLS. The others either choose
#: their transport themselves, or are about listening, addresses and processes, which TLS leaves as they are.
BOTH_TRANSPORTS = frozenset(
    "test_flow test_keep_alive test_message test_refusals test_response test_timeouts test_upgrade".split()
)


def pytest_configure(config: pytest.Config) -> None:
    """The marks that these fixtures understand."""
    config.addinivalue_line("markers", "tcp_only(reason): where a test that runs over both transports cannot use TLS")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of `BOTH_TRANSPORTS` that serve run twice."""
    if "serve" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in BOTH_TRANSPORTS:
        only = metafunc.definition.get_closest_marker("tcp_only")
        marks = [pytest.mark.skip(reason=f"not over TLS: {only.args[0]}")] if only else []
        metafunc.parametrize("transport", ["tcp", pytest.param("tls", marks=marks)], indirect=True)


@pytest.fixture(scope="session", autouse=True)
def _warm_hub() -> None:
    """The descriptors that gevent opens once and keeps."""
    hub = gevent.get_hub()
    hub.threadpool.apply(int)
    gevent.sleep(0.001)
    gc.collect()
    gc.freeze()  # `nothing_left` collects after every test, and need not look at pytest itself


class Logged(logging.Handler):
    """Records of the logger `greenhttp` at WARNING or above that nobody has claimed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def claim(self, text: str = "") -> logging.LogRecord:
        """Wait for a record whose message or exception contains `text`, and take it off the list."""
        found: list[logging.LogRecord] = []

        def there() -> bool:
            found[:] = [record for record in self.records if text in _whole(record)]
            return bool(found)

        eventually(there, f"a log record with {text!r}")
        self.records.remove(found[0])
        return found[0]


def _whole(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else ""
    return f"{record.levelname} {record.getMessage()} {error!r}"


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # of `listdir` itself
            pass
    return found


@pytest.fixture
def logged() -> Iterator[Logged]:
    """The log of the library; a test claims what it expects: `logged.claim("part of the message")`."""
    handler = Logged()
    logger = logging.getLogger("greenhttp")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a descriptor, an unclaimed log record, or an exception that only the hub saw.

    A test that asks for `caplog` claims all records.
    """
    hub_errors: list[str] = []

    def hub_error(_: Any, context: object, kind: type[BaseException], error: Any, trace: Any) -> None:
        if not issubclass(kind, gevent.get_hub().NOT_ERROR):
            hub_errors.append(f"{context!r}: {kind.__name__}: {error}")
        original(context, kind, error, trace)

    hub_class = type(gevent.get_hub())
    original = gevent.get_hub().handle_error
    monkeypatch.setattr(hub_class, "handle_error", hub_error)
    gc.collect()
    before = _descriptors()
    yield
    gc.collect()
    try:
        eventually(lambda: len(_descriptors()) <= len(before))
    except AssertionError:
        left = {number: what for number, what in _descriptors().items() if before.get(number) != what}
        pytest.fail(f"open descriptors are left: {left}")
    if "caplog" not in request.fixturenames:
        assert [_whole(record) for record in logged.records] == [], "unclaimed log records"
    assert hub_errors == [], "exceptions that nobody caught"


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """What carries the bytes of `serve` and `connect`: `'tcp'` or `'tls'`."""
    return getattr(request, "param", "tcp")


@pytest.fixture
def serve(nothing_left: None, transport: str) -> Iterator[Callable[..., greenhttp.Server]]:
    """`serve(handler, **options)`: a server on a free port of 127.0.0.1, closed after the test.

    The clients of `connect` are closed before it, so what it then still holds is a connection it has lost sight of.
    """
    servers: list[greenhttp.Server] = []

    def make(handler: Callable[..., object] | None = None, **options: Any) -> greenhttp.Server:
        if transport == "tls":
            own = {} if options.keys() & {"cert", "context"} else identity()
            server: greenhttp.Server = https.create_server(handler, **own, **options)
        else:
            server = greenhttp.create_server(handler, **options)
        server.listen(0, "127.0.0.1")
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.close()
    left = []
    for server in servers:
        if not server.join(LIMIT / 2):
            left.append(repr(server))
            server.close_all_connections()
            with bounded("the end of the server"):
                server.join()
    assert left == [], "servers still had connections after their clients had gone"


@pytest.fixture
def connect(serve: object, transport: str) -> Iterator[Callable[..., RawClient]]:
    """`connect(server)`: a `RawClient`, closed after the test and before the server."""
    clients: list[RawClient] = []

    def make(where: Any, **options: Any) -> RawClient:
        client = RawClient(where, secure=transport == "tls", **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def ask() -> Iterator[Callable[..., http.client.HTTPResponse]]:
    """`ask(port, path, method, body)`: a blocking request to another process; closed after the test."""
    connections: list[http.client.HTTPConnection] = []

    def make(port: int, path: str = "/", method: str = "GET", body: bytes | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3 * LIMIT)
        connections.append(connection)
        connection.request(method, path, body)
        response = connection.getresponse()
        connections.append(response)  # type: ignore[arg-type]  # it holds the socket too
        return response

    yield make
    for connection in connections:
        connection.close()
