"""`Server`: accepts connections and tells its listeners of their requests (reference: `http.Server`)."""

from __future__ import annotations

import _socket
import errno
import os
import socket as stdlib_socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import Hub
from gevent.pool import Pool
from gevent.server import StreamServer

from .connection import ServerConnection
from .deadlines import Deadlines
from .dialing import resolve
from .errors import InvalidArgumentError, MessageStateError
from .events import EventEmitter, Listener
from .parser import MAX_HEADER_SIZE, ParserLimits
from .sockets import Socket
from .streams import HIGH_WATER_MARK
from .workers import Workers, deliver, log

__all__ = ["Server", "create_server"]

BACKLOG = 511  # connections that wait for `accept`; the operating system may set a lower limit
TIMEOUT = 120.0  # seconds. Precedent: Node 0.12
HEADERS_TIMEOUT = 60.0  # seconds. Precedents: Node 60, nginx 60
MIN_DATA_RATE = 240.0  # bytes a second. Precedent: Kestrel
#: Seconds of silence after which `close()` takes a connection for idle. The next request of a client that asks at once
#: is on the way before that: round the world and back takes 0.3. Precedent: nginx's `keepalive_min_timeout`
IDLE_AFTER = 0.4
LOOK_AGAIN = 0.1  # seconds until `close()` looks again at what has become idle

_Self = TypeVar("_Self", bound="Server")
Where = Any  # a port, a path, {"fd": n}, a socket or a server


class _Acceptor(StreamServer):
    """gevent's accept loop, with its back-off when descriptors run out; hands plain sockets over, in the hub."""

    def __init__(self, server: Server, listener: Any) -> None:
        self.server = server
        handle: Any = server._accepted
        super().__init__(listener, handle=handle, spawn=None)

    def do_read(self) -> Any:
        try:
            descriptor, peer = self.socket._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return None
        listener = self.socket
        return self.server._plain_socket(listener.family, listener.type, listener.proto, fileno=descriptor), peer

    def do_handle(self, *args: Any) -> None:
        self.server._accepted(*args)

    def full(self) -> bool:
        return self.server._is_full()

    def accept_all(self) -> None:
        """Take the connections that wait: if nobody else listens here, the kernel resets them with the listener."""
        try:
            for _ in range(BACKLOG):  # and not those that keep on coming
                if not self.started or self.full() or not (accepted := self.do_read()):
                    break
                self.do_handle(*accepted)
        except OSError as error:  # such as no more descriptors
            log.warning("close: connections that wait to be accepted may be lost: %s", error)


class Server(EventEmitter):
    """An HTTP/1.1 server. Limits and durations are attributes; those of a connection are read when it arrives.

    Args:
        handler: the first `'request'` listener.
        timeout: seconds without a byte either way until `'timeout'`, or the end; 0 is never.
        keep_alive_timeout: seconds between two requests; None: as `timeout`.
        headers_timeout: seconds for a head, from the connect or its first byte; 0 is unlimited.
        request_timeout: seconds for a whole request; 0 is unlimited.
        min_data_rate: bytes a second of a body, after 5 seconds of grace; 0 is unlimited.
        max_header_size: bytes of request line and headers; of trailers too.
        max_headers_count: lines; 0 is unlimited.
        max_requests_per_socket: 0 is unlimited.
        max_connections: beyond it connections wait in the backlog; 0 is unlimited.
        pool: how many handlers run at a time, as a number or a `gevent.pool.Pool`; None is unlimited.
        high_water_mark: bytes held for one direction of one connection.
        require_host_header: whether an HTTP/1.1 request without `Host` is refused.
        ignore_upgrade: answer upgrade requests as if they were none.
        http_allow_half_open: still answer a client that has ended its side.

    Events:
        'request' (request, response), 'check_continue' (request, response), 'connect' and 'upgrade' (request, socket,
        head), 'connection' (socket), 'client_error' (exception, socket), 'refused' (exception, socket): the server has
        answered a bad request by itself, 'timeout' (socket), 'listening' (), 'closing' (): `close()` was called,
        'close' (): the last connection is gone.
    """

    __slots__ = (
        "_acceptor",
        "_closed",
        "_connections",
        "_deadlines",
        "_hub",
        "_listener",
        "_path",
        "_plain_socket",
        "_pool_waiting",
        "_workers",
        "closing",
        "headers_timeout",
        "high_water_mark",
        "http_allow_half_open",
        "ignore_upgrade",
        "keep_alive_timeout",
        "max_connections",
        "max_requests_per_socket",
        "min_data_rate",
        "parser_limits",
        "pool",
        "request_timeout",
        "timeout",
    )

    EVENTS: ClassVar[frozenset[str]] = frozenset(
        {
            "check_continue",
            "client_error",
            "close",
            "closing",
            "connect",
            "connection",
            "listening",
            "refused",
            "request",
            "timeout",
            "upgrade",
        }
    )

    def __init__(
        self,
        handler: Listener | None = None,
        *,
        timeout: float = TIMEOUT,
        keep_alive_timeout: float | None = None,
        headers_timeout: float = HEADERS_TIMEOUT,
        request_timeout: float = 0,
        min_data_rate: float = MIN_DATA_RATE,
        max_header_size: int = MAX_HEADER_SIZE,
        max_headers_count: int = 1000,
        max_requests_per_socket: int = 0,
        max_connections: int = 0,
        pool: int | Pool | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
        require_host_header: bool = True,
        ignore_upgrade: bool = False,
        http_allow_half_open: bool = False,
    ) -> None:
        super().__init__()
        self.timeout = timeout
        self.keep_alive_timeout = keep_alive_timeout
        self.headers_timeout = headers_timeout
        self.request_timeout = request_timeout
        self.min_data_rate = min_data_rate
        self.max_requests_per_socket = max_requests_per_socket
        self.max_connections = max_connections
        self.high_water_mark = high_water_mark
        self.ignore_upgrade = ignore_upgrade
        self.http_allow_half_open = http_allow_half_open
        self.parser_limits = ParserLimits(max_header_size, max_headers_count, require_host_header)
        self.pool: Pool | None = Pool(pool) if isinstance(pool, int) else pool
        #: Whether `close()` was called.
        self.closing = False
        self._connections: set[ServerConnection] = set()
        self._pool_waiting: deque[ServerConnection] = deque()
        self._acceptor: _Acceptor | None = None
        self._closed = Event()
        self._path: str | None = None
        if handler is not None:
            self.on("request", handler)

    def __repr__(self) -> str:
        state = "listening" if self.listening else "closing" if self.closing else "not listening"
        return f"<{type(self).__name__} {state} connections={len(self._connections)}>"

    # --- limits that the parser shares ---

    @property
    def max_header_size(self) -> int:
        """Bytes of request line and headers, and of trailers."""
        return self.parser_limits.max_header_size

    @max_header_size.setter
    def max_header_size(self, size: int) -> None:
        self.parser_limits.max_header_size = size

    @property
    def max_headers_count(self) -> int:
        """Header lines of a request; 0 is unlimited (reference: `server.maxHeadersCount`)."""
        return self.parser_limits.max_headers_count

    @max_headers_count.setter
    def max_headers_count(self, count: int) -> None:
        self.parser_limits.max_headers_count = count

    @property
    def idle_timeout(self) -> float:
        """Seconds that a connection may be idle between requests: `keep_alive_timeout`, or else `timeout`."""
        return self.keep_alive_timeout or self.timeout

    def set_timeout(self: _Self, seconds: float, callback: Listener | None = None) -> _Self:
        """Set `timeout`, for the connections to come; `callback` is a `'timeout'` listener. Returns the server."""
        self.timeout = seconds
        if callback is not None:
            self.on("timeout", callback)
        return self

    # --- listening ---

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self._acceptor is not None and not self.closing

    def address(self) -> Any:
        """Where the server listens: `(host, port, ...)` or a path; None when it does not."""
        return self._listener.getsockname() if self.listening else None

    def listen(
        self: _Self,
        where: Where,
        host: str | None = None,
        backlog: int = BACKLOG,
        callback: Listener | None = None,
        *,
        reuse_port: bool = False,
        mode: int | None = None,
    ) -> _Self:
        """Start to accept connections; bound when it returns, `'listening'` follows (reference: `server.listen`).

        Args:
            where: a port (0: a free one), the path of a Unix socket, `{'fd': n}`, a bound socket, or another server.
            host: of a port; without it every address, IPv6 and IPv4.
            backlog: connections that may wait for `accept`.
            callback: a one-off `'listening'` listener.
            reuse_port: let other processes listen on the same port (SO_REUSEPORT).
            mode: permissions of a Unix socket's path.

        Returns:
            The server.

        Raises:
            OSError: it cannot be bound (`EADDRINUSE`, `EACCES`, ...).
            RuntimeError: the server listens already.
        """
        if self._acceptor is not None:
            raise MessageStateError("the server listens already", code="ERR_SERVER_ALREADY_LISTEN")
        if callback is not None and not callable(callback):
            raise TypeError("the listening callback must be callable")
        listener, self._path = _bind(where, host, backlog, reuse_port=reuse_port, mode=mode)
        listener.setblocking(False)
        self._hub: Hub = gevent.get_hub()
        self._workers = Workers.of(self._hub)
        self._deadlines = Deadlines(self._hub)
        # what `accept` makes: smaller than `socket.socket`, and never monkey-patched
        self._plain_socket = _socket.socket
        self._listener = listener
        self.closing = False
        self._closed.clear()
        self._acceptor = _Acceptor(self, listener)
        self._acceptor.start()
        if callback is not None:
            self.once("listening", callback)
        self._workers.soon(deliver, self, "listening")
        return self

    def _is_full(self) -> bool:
        return 0 < self.max_connections <= len(self._connections)

    def _accepted(self, sock: Any, peer: Any) -> None:
        """In the hub, or in `close()`: a client has connected, from the address `peer`."""
        sock.setblocking(False)
        if sock.family != stdlib_socket.AF_UNIX:
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        socket = self._make_socket(sock)
        socket._peer = peer  # a client that has reset its connection by now has no name any more
        self._connections.add(ServerConnection(self, socket))
        if self.listener_count("connection"):
            self._workers.dispatch(deliver, self, "connection", socket)

    def _make_socket(self, sock: Any) -> Socket:
        return Socket(sock, self._workers, self._deadlines, timeout=self.timeout, high_water_mark=self.high_water_mark)

    # --- what connections ask ---

    def may_handle(self, connection: ServerConnection) -> bool:
        """Whether a handler may be started; if not, `connection` is told when."""
        pool: Any = self.pool
        if pool is None or not pool.full():
            return True
        if connection not in self._pool_waiting:
            if not self._pool_waiting:
                pool._semaphore.rawlink(self._pool_freed)  # as gevent's servers: others may use the pool too
            self._pool_waiting.append(connection)
        return False

    def _pool_freed(self, semaphore: Any) -> None:
        """In the hub: a handler, or somebody else, has left the pool."""
        self.pool_has_room()

    def _unlink_if_nobody_waits(self) -> None:
        pool: Any = self.pool
        if not self._pool_waiting:
            pool._semaphore.unlink(self._pool_freed)

    def pool_has_room(self) -> None:
        """In the hub: the connection that waited longest may start a handler."""
        if self._pool_waiting:
            self._pool_waiting.popleft().resume_soon()
            self._unlink_if_nobody_waits()

    def connection_closed(self, connection: ServerConnection) -> None:
        """A connection serves no more."""
        self._connections.discard(connection)
        if connection in self._pool_waiting:
            self._pool_waiting.remove(connection)
            self._unlink_if_nobody_waits()
        if self._acceptor is not None and not self.closing:
            self._acceptor.start_accepting()
        if self.closing and not self._connections:
            self._finish_close()

    # --- closing ---

    def close(self: _Self, callback: Listener | None = None, *, timeout: float | None = None) -> _Self:
        """Stop accepting; close idle connections, and the others after what they are at (reference: `server.close`).

        Idle is one without a request under way on which nothing has moved for 0.4 seconds. A request that comes before
        that is answered, with `Connection: close`.

        Args:
            callback: called when the last connection is gone, as a one-off `'close'` listener.
            timeout: seconds after which the rest is cut; a warning in the log says what that was.

        Returns:
            The server.
        """
        if callback is not None:
            self.once("close", callback)
        if self._acceptor is None:
            return self
        if not self.closing:
            self.closing = True
            if self._path is not None:
                _unlink(self._path)  # first, so that nobody comes after the last look
            self._acceptor.accept_all()
            self._acceptor.close()
            if self.listener_count("closing"):
                self._workers.soon(deliver, self, "closing")
            for connection in self._connections:
                connection.wind_down()
            if self._connections:
                self._close_silent()
                gevent.spawn(self._see_off)
            else:
                self._finish_close()
        if timeout is not None:
            gevent.spawn_later(timeout, self._cut)
        return self

    def _see_off(self) -> None:
        """In a greenlet, until the server is closed: close what has become idle."""
        while not self._closed.wait(LOOK_AGAIN):
            self._close_silent()

    def _close_silent(self) -> None:
        before = time.monotonic() - IDLE_AFTER
        for connection in list(self._connections):
            connection.close_if_idle(before)

    def close_idle_connections(self) -> None:
        """Close the connections that have no request under way."""
        for connection in list(self._connections):
            connection.close_if_idle()

    def close_all_connections(self) -> None:
        """Destroy every connection, whatever it is at."""
        for connection in list(self._connections):
            connection.socket.destroy()

    def _cut(self) -> None:
        if self._connections and self.closing:
            cut = [connection.describe() for connection in self._connections]
            log.warning("close: cut %d connections: %s", len(cut), ", ".join(cut[:20]))
            self.close_all_connections()

    def _finish_close(self) -> None:
        self._acceptor = None
        self._workers.soon(self._tell_close)

    def _tell_close(self) -> None:
        """In a worker."""
        self._closed.set()
        deliver(self, "close")

    def join(self, timeout: float | None = None) -> bool:
        """Block until the server is closed, at most `timeout` seconds. Returns whether it is."""
        if self._acceptor is None and not self.closing:
            return True
        return bool(self._closed.wait(timeout))

    def serve_forever(self) -> None:
        """Block until the server is closed."""
        self.join()


def create_server(handler: Callable[..., object] | None = None, **options: Any) -> Server:
    """A new `Server`; `options` are the keyword arguments of `Server` (reference: `http.createServer`)."""
    return Server(handler, **options)


def _bind(
    where: Where, host: str | None, backlog: int, *, reuse_port: bool, mode: int | None
) -> tuple[Any, str | None]:
    """A listening socket, and the path that is to be removed with it."""
    if isinstance(where, Server):
        if where._acceptor is None:
            raise InvalidArgumentError("the other server does not listen")
        return stdlib_socket.socket(fileno=os.dup(where._listener.fileno())), None
    if isinstance(where, dict):
        return stdlib_socket.socket(fileno=where["fd"]), None
    if hasattr(where, "getsockname"):
        listener = stdlib_socket.socket(fileno=os.dup(where.fileno()))
        listener.listen(backlog)
        return listener, None
    if isinstance(where, str):
        return _bind_path(where, backlog, mode), where
    if not isinstance(where, int):
        raise TypeError(f"cannot listen on {where!r}: give a port, a path, {{'fd': n}}, a socket or a server")
    return _bind_port(where, host, backlog, reuse_port=reuse_port), None


def _bind_port(port: int, host: str | None, backlog: int, *, reuse_port: bool) -> Any:
    if host:
        family, kind, proto, _, address = resolve(host, port)[0]
        listener = stdlib_socket.socket(family, kind, proto)
    else:
        try:
            listener = stdlib_socket.socket(stdlib_socket.AF_INET6, stdlib_socket.SOCK_STREAM)
            listener.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 0)
            address = ("::", port)
        except OSError:  # no IPv6 here
            listener = stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM)
            address = ("0.0.0.0", port)
    try:
        listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise type(error)(error.errno, f"{error.strerror}: {address[0]} port {port}") from error
    return listener


def _bind_path(path: str, backlog: int, mode: int | None) -> Any:
    _remove_stale(path)
    listener = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    try:
        listener.bind(path)
        if mode is not None:
            os.chmod(path, mode)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise type(error)(error.errno, f"{error.strerror}: {path}") from error
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket that a crashed server left behind; one that answers stays, any other file too: `bind` fails."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:  # nothing is there, or `bind` will say what is wrong
        return
    probe = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            _unlink(path)
    finally:
        probe.close()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
