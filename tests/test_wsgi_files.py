"""`wsgi.file_wrapper`: plain files leave by sendfile(2), all others are read. Source: PEP 3333, "Optional
Platform-Specific File Handling".

Whether a file was read shows where it stands when it is closed: sendfile is told its own offset, and leaves that of the
file alone.
"""

from __future__ import annotations

import gzip
import io
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenhttp import rate
from greenhttp.sockets import FILE_PIECE
from greenhttp.streams import HIGH_WATER_MARK
from greenhttp.wsgi import gateway

from .support import LIMIT, Heard, RawClient, bounded, eventually, get

OK = "200 OK"
KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
LARGE = 300 * KIBIBYTE  # bytes: more than one would read at a time
HUGE = 12 * MEBIBYTE  # bytes: more than the kernel takes for a client that does not read
SMALL_BUFFER = 4096  # of such a client
CLOSE = get(headers="Connection: close\r\n")

App = Callable[[dict[str, Any], Callable[..., Any]], Any]
Open = Callable[[], Any]


@pytest.fixture
def errors() -> Iterator[io.StringIO]:
    """What was written to `wsgi.errors`; what a test does not `claim` fails it."""
    written = io.StringIO()
    yield written
    assert written.getvalue() == ""


def claim(errors: io.StringIO) -> str:
    """What was written so far, taken out."""
    text = errors.getvalue()
    errors.seek(0)
    errors.truncate()
    return text


@pytest.fixture
def serve_app(serve: Any, errors: io.StringIO) -> Callable[..., Any]:
    """`serve_app(app, **options)`: a server with a WSGI application."""

    def make(app: App, *, log: Any = None, **options: Any) -> Any:
        return serve(gateway(app, errors=errors, log=log), ignore_upgrade=True, **options)

    return make


@pytest.fixture
def client(serve_app: Any, connect: Any) -> Callable[..., RawClient]:
    """`client(app, **options)`: a client that is connected to a server with `app`."""

    def make(app: App, *, receive_buffer: int | None = None, **options: Any) -> RawClient:
        made: RawClient = connect(serve_app(app, **options), receive_buffer=receive_buffer)
        return made

    return make


class Shelf:
    """A file of random bytes, opened as often as it is asked for; `heard` has where each stood when it was closed."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.content = os.urandom(size)
        path.write_bytes(self.content)
        self.heard = Heard()

    def open(self, *, at: int = 0, **options: Any) -> Any:
        file: Any = open(self.path, "rb", **options)  # noqa: SIM115  # who serves it closes it
        file.seek(at)
        really_close = file.close

        def close() -> None:
            if not file.closed:
                self.heard.note("closed", file.tell())
            really_close()

        file.close = close
        return file

    def left_at(self) -> int:
        """Where a file stood when it was closed; waits for that."""
        position: int = self.heard.wait_for("closed")[0]
        return position


@pytest.fixture
def shelf(tmp_path: Path) -> Callable[[int], Shelf]:
    """`shelf(size)`: a file of that many bytes."""
    return lambda size: Shelf(tmp_path / "file", size)


def serving(open_file: Open, *headers: tuple[str, str], status: str = OK) -> App:
    """An application that answers with what `open_file` returns."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return environ["wsgi.file_wrapper"](open_file(), 1000)

    return app


class Watched:
    """An application around another, of whose calls it knows the requests and the greenlets."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.requests: list[Any] = []
        self.greenlets: list[Any] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.requests.append(environ["greenhttp.request"])
        self.greenlets.append(gevent.getcurrent())
        return self._app(environ, start_response)

    @property
    def request(self) -> Any:
        """The last."""
        return self.requests[-1]

    def wait_until_blocked(self, count: int = 1) -> None:
        """Until so many files wait for their clients."""
        eventually(lambda: [bool(r.socket.queued) for r in self.requests] == [True] * count, f"{count} files that wait")


def received_of(client: RawClient) -> bytes:
    """The body of a cut answer, as much as comes."""
    client.read_head()
    received = b""
    try:
        while client._more("the end of the connection"):
            received += client._take(len(client.buffer))
    except ConnectionResetError:
        pass
    return received


# --- what is sent ---


@pytest.mark.parametrize("buffering", [-1, 0], ids=["buffered", "raw"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_plain_file_is_sent_and_not_read(client, shelf, buffering, announced):
    file = shelf(LARGE)
    headers = [("Content-Length", str(LARGE))] if announced else []

    answer = client(serving(lambda: file.open(buffering=buffering), *headers)).send(get()).read_response()

    assert answer.body == file.content
    assert answer.all("content-length") == [str(LARGE)]
    assert answer["transfer-encoding"] is None
    assert file.left_at() == 0


def test_a_plain_file_is_sent_over_a_unix_socket(shelf, errors, tmp_path):
    from greenhttp.wsgi import WSGIServer

    file = shelf(LARGE)
    path = str(tmp_path / "socket")
    server = WSGIServer(path, serving(file.open), log=None, error_log=errors)
    server.start()
    try:
        with RawClient(path) as client:
            assert client.send(get()).read_response().body == file.content
    finally:
        server.stop()
    assert file.left_at() == 0


@pytest.mark.parametrize("size", [0, 1, HIGH_WATER_MARK - 1, HIGH_WATER_MARK, HIGH_WATER_MARK + 1, FILE_PIECE + 1])
def test_files_of_every_size_arrive_whole_and_leave_the_connection_usable(client, shelf, size):
    file = shelf(size)
    sender = client(serving(file.open))

    for _ in range(2):
        answer = sender.send(get()).read_response()
        assert answer.body == file.content
        assert answer["content-length"] == str(size)


@pytest.mark.parametrize("size", [100, LARGE])
def test_a_file_is_sent_from_where_it_stands(client, shelf, size):
    file = shelf(size)

    def open_file():
        opened = file.open(at=10)
        opened.read(7)  # more is in its buffer by now
        return opened

    answer = client(serving(open_file)).send(get()).read_response()

    assert answer.body == file.content[17:]
    assert answer["content-length"] == str(size - 17)


@pytest.mark.parametrize("position", [LARGE, 2 * LARGE], ids=["at-its-end", "beyond"])
def test_a_file_of_which_nothing_is_left_is_an_empty_body(client, shelf, position):
    file = shelf(LARGE)
    sender = client(serving(lambda: file.open(at=position)))

    for _ in range(2):
        answer = sender.send(get()).read_response()
        assert (answer.body, answer["content-length"]) == (b"", "0")


@pytest.mark.parametrize(("length", "size"), [(0, 100), (5, 100), (0, LARGE), (5, LARGE), (LARGE - 1, LARGE)])
@pytest.mark.parametrize("kind", ["plain", "in memory"])
def test_no_more_than_the_content_length_is_sent(client, shelf, length, size, kind):
    """PEP 3333: transmission goes on until the end of the file or the Content-Length, and neither is an error."""
    file = shelf(size)
    open_file = file.open if kind == "plain" else lambda: io.BytesIO(file.content)
    sender = client(serving(open_file, ("Content-Length", str(length))))

    for _ in range(2):
        answer = sender.send(get()).read_response()
        assert answer.body == file.content[:length]
        assert answer["content-length"] == str(length)


@pytest.mark.parametrize("size", [0, 100, LARGE])
def test_a_file_shorter_than_announced_is_seen_to_be_cut(client, shelf, size):
    file = shelf(size)
    sender = client(serving(file.open, ("Content-Length", str(LARGE + 1)))).send(get())

    head = sender.read_head()

    assert head["content-length"] == str(LARGE + 1)
    assert sender.read_all() == file.content


def test_a_file_that_shrinks_while_it_is_sent_is_seen_to_be_cut(client, shelf):
    file = shelf(HUGE)
    log = io.StringIO()
    app = Watched(serving(file.open))
    sender = client(app, log=log, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    os.truncate(file.path, 1000)

    head = sender.read_head()
    received = sender.read_all()

    assert 1000 <= len(received) < HUGE
    assert app.request.socket.bytes_written == len(head.head) + len(received)
    eventually(log.getvalue, "a line in the log")
    assert f'" 200 {len(received)} ' in log.getvalue()


def test_a_file_that_is_closed_while_it_is_sent_is_seen_to_be_cut(client, shelf, errors):
    file = shelf(HUGE)
    opened = file.open()
    app = Watched(serving(lambda: opened))
    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    opened.close()

    received = received_of(sender)

    assert file.content.startswith(received)
    assert len(received) < HUGE
    assert "ValueError" in claim(errors)  # of the file: it is closed


@pytest.mark.parametrize("size", [100, LARGE])
def test_head_gets_the_length_alone(client, shelf, size):
    file = shelf(size)
    sender = client(serving(file.open))

    for _ in range(2):
        assert sender.send(get(method="HEAD")).read_response("HEAD")["content-length"] == str(size)
    assert sender.buffer == b""
    assert sender.send(get()).read_response().body == file.content


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("size", [100, LARGE])
def test_a_bodiless_status_leaves_the_connection_usable(client, shelf, status, size):
    """A length that the application does not tell is not made up, either: RFC 9110 section 8.6."""
    file = shelf(size)
    sender = client(serving(file.open, status=status))

    for _ in range(2):
        assert sender.send(get()).read_response()["content-length"] is None
    assert sender.buffer == b""


@pytest.mark.parametrize("size", [100, LARGE])
def test_http_1_0_gets_a_file_and_may_keep_its_connection(client, shelf, size):
    file = shelf(size)
    app = serving(file.open)
    kept = client(app)

    for _ in range(2):
        answer = kept.send(get(version="1.0", headers="Connection: keep-alive\r\n")).read_response()
        assert (answer.body, answer["content-length"]) == (file.content, str(size))
    closed = client(app).send(get(version="1.0"))
    assert closed.read_response().body == file.content
    assert closed.closed()


def test_what_was_written_before_comes_first(client, shelf):
    """Given `write()` and then a file, with and without a Content-Length, then both arrive in order, up to that."""
    file = shelf(LARGE)

    def app(environ, start_response):
        length = environ["QUERY_STRING"]
        start_response(OK, [("Content-Length", length)] if length else [])(b"before ")
        return environ["wsgi.file_wrapper"](file.open())

    sender = client(app)

    assert sender.send(get("/")).read_response().body == b"before " + file.content
    assert sender.send(get(f"/?{LARGE + 7}")).read_response().body == b"before " + file.content
    assert sender.send(get(f"/?{LARGE}")).read_response().body == b"before " + file.content[:-7]


def test_one_open_file_may_be_sent_to_many_at_once(serve_app, connect, shelf):
    file = shelf(HUGE)
    opened = file.open()

    def app(environ, start_response):
        start_response(OK, [])
        wrapper = environ["wsgi.file_wrapper"](opened)
        del wrapper.close
        return wrapper

    server = serve_app(app)
    clients = [connect(server).send(get()) for _ in range(3)]
    readers = [gevent.spawn(client.read_response) for client in clients]

    with opened, bounded("three answers"):
        assert [reader.get().body == file.content for reader in readers] == [True] * 3


# --- what has to be read ---


def test_what_cannot_be_sent_is_read_from_there_on(client, shelf):
    """Given a file that has no more bytes for sendfile, and again some when it is read, then all of them arrive."""
    file = shelf(HUGE)
    opened = file.open()
    really_seek = opened.seek

    def seek(position):
        os.truncate(file.path, HUGE)
        return really_seek(position)

    opened.seek = seek
    app = Watched(serving(lambda: opened if not opened.closed else file.open()))
    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    os.truncate(file.path, 1000)

    assert len(sender.read_response().body) == HUGE
    assert file.left_at() == HUGE
    assert app.request.socket.queued == 0
    assert len(sender.send(get()).read_response().body) == HUGE


class Reversed(io.FileIO):
    """A file with a `read()` of its own."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size)[::-1]


def zipped(path: Path) -> Any:
    path.write_bytes(gzip.compress(os.urandom(LARGE), 1))
    return gzip.open(path)


def buffered_zipped(path: Path) -> Any:
    return io.BufferedReader(zipped(path))


def of_a_pipe(path: Path) -> Any:
    reader, writer = os.pipe()
    os.write(writer, os.urandom(60_000))
    os.close(writer)
    return os.fdopen(reader, "rb")


def of_a_socket(path: Path) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(os.urandom(60_000))
        return ours.makefile("rb")


def in_memory(path: Path) -> Any:
    return io.BytesIO(os.urandom(LARGE))


def with_its_own_read(path: Path) -> Any:
    path.write_bytes(os.urandom(LARGE))
    return Reversed(path)


def just_written(path: Path) -> Any:
    file = open(path, "w+b")  # noqa: SIM115
    file.write(os.urandom(LARGE))
    file.seek(10)
    return file


def of_the_kernel(path: Path) -> Any:
    return open("/proc/self/cmdline", "rb")  # it says that its size is 0


@pytest.mark.parametrize(
    "make", [zipped, buffered_zipped, of_a_pipe, of_a_socket, in_memory, with_its_own_read, just_written, of_the_kernel]
)
def test_whatever_is_no_plain_file_is_read(client, tmp_path, make):
    """Given an object whose `read()` does not give what its descriptor has, or that has none, then it is read."""
    pieces = []

    def open_file():
        file = make(tmp_path / "file")
        read = file.read

        def noting(size):
            pieces.append(read(size))
            return pieces[-1]

        file.read = noting
        return file

    answer = client(serving(open_file)).send(get()).read_response()

    assert answer.body == b"".join(pieces)
    assert answer.body


def test_text_is_refused(client, shelf, errors):
    file = shelf(0)
    file.path.write_text("x" * LARGE)

    answer = client(serving(lambda: open(file.path))).send(get()).read_response()  # noqa: SIM115

    assert answer.status == 500
    assert "must be bytes" in claim(errors)


def test_a_closed_file_is_an_error_of_the_application(client, shelf, errors):
    file = shelf(LARGE)

    def open_file():
        opened = file.open()
        opened.close()
        return opened

    assert client(serving(open_file)).send(get()).read_response().status == 500
    assert "ValueError" in claim(errors)


@pytest.mark.parametrize("size", [100, LARGE])
def test_a_file_before_start_response_is_an_error_of_the_application(client, shelf, errors, size):
    file = shelf(size)

    answer = client(lambda environ, start: environ["wsgi.file_wrapper"](file.open())).send(get()).read_response()

    assert answer.status == 500
    assert "before it called start_response" in claim(errors)


@pytest.mark.parametrize("transport", ["tls"], indirect=True)
@pytest.mark.parametrize("size", [100, LARGE])
def test_over_tls_a_file_is_read(client, shelf, size):
    file = shelf(size)

    answer = client(serving(file.open)).send(get()).read_response()

    assert answer.body == file.content
    assert answer["content-length"] == str(size)
    assert file.left_at() == size


def test_a_file_behind_another_answer_waits_for_its_turn(client, shelf):
    file = shelf(LARGE)
    go, asked = Event(), Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/first":
            go.wait(LIMIT)
            start_response(OK, [])
            return [b"first"]
        asked.set()
        return serving(file.open)(environ, start_response)

    sender = client(app).send(get("/first") + get("/file") + get("/file"))
    assert asked.wait(LIMIT)
    go.set()

    assert sender.read_response().body == b"first"
    for _ in range(2):
        assert sender.read_response().body == file.content


def test_files_that_are_asked_for_in_one_packet_arrive_in_order(client, shelf):
    file = shelf(2 * FILE_PIECE)

    def app(environ, start_response):
        return serving(lambda: file.open(at=int(environ["QUERY_STRING"])))(environ, start_response)

    sender = client(app).send(b"".join(get(f"/?{start}") for start in (0, 1000, 2000)))

    for start in (0, 1000, 2000):
        assert sender.read_response().body == file.content[start:]


# --- slow clients, and those that go ---


def test_a_client_that_reads_slowly_gets_all_of_it_in_many_times_the_timeout(client, shelf):
    file = shelf(2 * MEBIBYTE)

    def app(environ, start_response):
        with socket.socket(fileno=os.dup(environ["greenhttp.request"].socket.fileno())) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)  # it asks for more all the time
        return serving(file.open)(environ, start_response)

    sender = client(app, receive_buffer=SMALL_BUFFER, timeout=0.4).send(get())
    sender.read_head()

    received = []
    for _ in range(64):
        received.append(sender.read_exactly(32 * KIBIBYTE))
        gevent.sleep(0.015)

    assert b"".join(received) == file.content
    assert file.left_at() == 0


def test_a_client_that_stops_reading_is_cut_at_the_timeout(client, shelf):
    file = shelf(HUGE)
    app = Watched(serving(file.open))
    sender = client(app, receive_buffer=SMALL_BUFFER, timeout=0.1).send(get())
    sender.read_head()

    assert file.left_at() == 0
    assert app.request.aborted


def test_a_client_slower_than_min_data_rate_is_cut(client, shelf, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.05)
    file = shelf(HUGE)
    app = Watched(serving(file.open))
    sender = client(app, receive_buffer=SMALL_BUFFER, min_data_rate=1e12).send(get())
    sender.read_head()

    assert file.left_at() == 0
    assert app.request.aborted


def test_a_client_faster_than_min_data_rate_is_not_cut(client, shelf, monkeypatch):
    monkeypatch.setattr(rate, "GRACE", 0.01)
    file = shelf(HUGE)

    answer = client(serving(file.open), receive_buffer=SMALL_BUFFER, min_data_rate=1000).send(get()).read_response()

    assert answer.body == file.content


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset])
def test_a_client_that_goes_away_ends_the_sending_at_once_and_nobody_is_told_of_an_error(client, shelf, leave):
    file = shelf(HUGE)
    app = Watched(serving(file.open))
    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    leave(sender)

    assert file.left_at() == 0
    assert app.request.aborted
    assert app.request.socket.destroyed


def test_a_client_that_ends_its_side_gets_no_more_than_is_under_way(client, shelf):
    """As with every body, unless `http_allow_half_open` is set."""
    file = shelf(HUGE)
    app = Watched(serving(file.open))
    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    sender.half_close()
    eventually(lambda: app.request.aborted, "the end of the request")

    received = received_of(sender)

    assert file.content.startswith(received)
    assert len(received) < HUGE
    assert file.left_at() == 0


def test_a_killed_worker_leaves_a_connection_that_is_cut(client, shelf):
    file = shelf(HUGE)
    app = Watched(serving(file.open))
    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    with bounded("the kill"):
        app.greenlets[0].kill()

    assert app.request.socket.destroyed
    assert file.left_at() == 0
    assert len(received_of(sender)) < HUGE


def test_a_killed_worker_sends_nothing_of_a_file_that_gets_its_descriptor(client, shelf, tmp_path):
    """Given a worker that is killed, when another file is opened in the place of its own, then that is not sent."""
    file = shelf(HUGE)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(HUGE))
    done = Event()
    opened = file.open()
    descriptor = opened.fileno()
    really_close = opened.close

    def close():
        really_close()
        with open(secret, "rb") as other:
            assert other.fileno() == descriptor
            done.wait(LIMIT)

    opened.close = close
    app = Watched(serving(lambda: opened))
    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    app.greenlets[0].kill(block=False)

    received = received_of(sender)
    done.set()
    opened.close = really_close

    assert file.content.startswith(received)
    assert len(received) < HUGE


def test_a_gevent_timeout_of_the_application_cuts_the_connection(client, shelf, errors):
    file = shelf(HUGE)
    timeouts = []

    def app(environ, start_response):
        timeouts.append(gevent.Timeout.start_new(0.1))
        return serving(file.open)(environ, start_response)

    sender = client(app, receive_buffer=SMALL_BUFFER).send(get())
    file.left_at()

    assert len(received_of(sender)) < HUGE
    assert "Timeout: 0.1 seconds" in claim(errors)


def test_close_waits_for_a_file_and_close_all_connections_does_not(serve_app, connect, shelf):
    file = shelf(HUGE)
    app = Watched(serving(file.open))
    server = serve_app(app)
    patient, cut = [connect(server, receive_buffer=SMALL_BUFFER).send(get()) for _ in range(2)]
    app.wait_until_blocked(2)
    server.close()

    assert patient.read_response().body == file.content
    assert not server.join(0)
    server.close_all_connections()
    assert server.join(LIMIT)
    assert len(received_of(cut)) < HUGE


# --- everybody else ---


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A file of 256 MiB that takes no room."""
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 256 * MEBIBYTE)
    return path


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_a_large_file_does_not_stay_in_memory(client, sparse):
    sender = client(serving(lambda: open(sparse, "rb"))).send(get())  # noqa: SIM115
    left = int(sender.read_head()["content-length"]) - len(sender.buffer)
    buffer = bytearray(MEBIBYTE)
    before, peak = resident(), 0

    with bounded("256 MiB", 30):
        while left:
            left -= sender.sock.recv_into(buffer)
            peak = max(peak, resident())

    assert peak - before < 16 * MEBIBYTE


def test_others_are_answered_during_a_fast_download(serve_app, connect, sparse):
    """Given a client in a thread of its own that reads as fast as it can, then another need not wait for its end."""
    received = [0]

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/file":
            return serving(lambda: open(sparse, "rb"))(environ, start_response)
        start_response(OK, [])
        return [b"small"]

    def download(address):
        buffer = bytearray(MEBIBYTE)
        with socket.create_connection(address, timeout=LIMIT) as downloading:
            downloading.sendall(get("/file", headers="Connection: close\r\n"))
            while size := downloading.recv_into(buffer):
                received[0] += size

    server = serve_app(app)
    other = connect(server)
    downloader = gevent.get_hub().threadpool.spawn(download, server.address())
    eventually(lambda: received[0], "the begin of the download")
    assert other.send(get("/small")).read_response().body == b"small"
    received_by_then = received[0]

    downloader.get(timeout=30)
    assert received_by_then < 256 * MEBIBYTE < received[0]


def test_others_have_their_turn_between_two_pieces(client, shelf):
    """Given a file that the kernel takes at once, then it is not given at once."""
    file = shelf(2 * FILE_PIECE)
    seen = set()

    def app(environ, start_response):
        connection = environ["greenhttp.request"].socket

        def look():
            while not connection.destroyed:
                seen.add(connection.bytes_written - connection.queued)
                gevent.sleep(0)

        gevent.spawn(look)
        return serving(file.open)(environ, start_response)

    answer = client(app).send(CLOSE).read_response()

    assert answer.body == file.content
    assert any(0 < sent < 2 * FILE_PIECE for sent in seen)


def test_the_bookkeeping_counts_what_was_sent(client, shelf, errors):
    file = shelf(HUGE)
    log = io.StringIO()
    app = Watched(serving(file.open))
    sender = client(app, log=log).send(get())

    answer = sender.read_response()

    assert answer.body == file.content
    assert app.request.socket.bytes_written == len(answer.head) + HUGE
    eventually(log.getvalue, "a line in the log")
    assert f'"GET / HTTP/1.1" 200 {HUGE} ' in log.getvalue()


def test_the_log_of_a_cut_answer_does_not_claim_all_of_the_file(client, shelf):
    file = shelf(HUGE)
    log = io.StringIO()
    app = Watched(serving(file.open))
    sender = client(app, log=log, receive_buffer=SMALL_BUFFER).send(get())
    app.wait_until_blocked()
    sender.reset()

    eventually(log.getvalue, "a line in the log")
    size = int(log.getvalue().split('" 200 ')[1].split()[0])
    assert 0 < size < HUGE


# --- frameworks ---


def test_flask_sends_files_and_ranges_of_them(client, shelf):
    flask = pytest.importorskip("flask")
    file = shelf(LARGE)
    app = flask.Flask("files")
    app.add_url_rule("/path", "path", lambda: flask.send_file(file.path, mimetype="x/y", conditional=True))
    app.add_url_rule("/file", "file", lambda: flask.send_file(file.open(), mimetype="x/y"))
    sender = client(app)

    whole = sender.send(get("/path")).read_response()
    assert (whole.body, whole["content-length"]) == (file.content, str(LARGE))
    part = sender.send(get("/path", headers="Range: bytes=1000-200999\r\n")).read_response()
    assert (part.status, part.body) == (206, file.content[1000:201_000])
    assert sender.send(get("/path", method="HEAD")).read_response("HEAD")["content-length"] == str(LARGE)
    unchanged = get("/path", headers=f"If-None-Match: {whole['etag']}\r\n")
    assert sender.send(unchanged).read_response().status == 304
    opened = sender.send(get("/file")).read_response()
    assert (opened.body, opened["content-length"]) == (file.content, str(LARGE))
    assert file.left_at() == 0  # it was not read


DJANGO = """
import sys, types
from django import http
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

from greenhttp.wsgi import WSGIServer

def send(request):
    file = open(sys.argv[1], "rb")
    response = http.FileResponse(file)
    close = response.close
    def closing():
        print(file.tell(), flush=True)
        close()
    response.close = closing
    return response

urls = types.ModuleType("urls")
urls.urlpatterns = [path("file", send)]
settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, ROOT_URLCONF=urls, SECRET_KEY="s")
server = WSGIServer(("127.0.0.1", 0), get_wsgi_application(), log=None)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_django_sends_files(shelf, ask):
    """In a process of its own, as Django can be configured only once."""
    pytest.importorskip("django")
    file = shelf(LARGE)
    command = [sys.executable, "-c", DJANGO, str(file.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            response = ask(port, "/file")
            assert response.getheader("content-length") == str(LARGE)
            assert response.read() == file.content
            assert process.stdout.readline() == "0\n"  # it was not read
            assert ask(port, "/file", "HEAD").getheader("content-length") == str(LARGE)
        finally:
            process.kill()
