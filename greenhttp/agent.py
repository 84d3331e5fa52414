"""`Agent`: keeps connections to origins and hands them to requests (reference: `http.Agent`).

A free connection is used at once, in the greenlet that asks; only to open one takes a greenlet, out of a pool.
"""

from __future__ import annotations

import _socket
import math
from collections.abc import Mapping, Sized
from typing import Any, ClassVar

import gevent
from gevent import get_hub
from gevent.pool import Pool

from .client_connection import ClientConnection, hang_up
from .deadlines import Deadlines
from .dialing import dial, dial_path
from .errors import InvalidArgumentError, MessageStateError
from .events import EventEmitter
from .parser import MAX_HEADER_SIZE, ResponseLimits
from .sockets import Socket
from .streams import HIGH_WATER_MARK
from .workers import ENDINGS, Workers, deliver

__all__ = ["Agent", "default_agents", "global_agent", "plain_socket"]

MAX_FREE_SOCKETS = 256  # of one origin. Precedent: Node
KEEP_ALIVE_DELAY = 1.0  # seconds of rest before the operating system probes the peer. Precedent: Node

MAX_NAMES = 1024  # of URLs, remembered

Options = Mapping[str, Any]


class Origin:
    """The connections to one origin."""

    __slots__ = ("busy", "free", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy: dict[Socket, None] = {}  # those that serve a request; in the order in which they began
        self.free: list[Socket] = []  # those at rest; the one that rested longest is first


class Agent(EventEmitter):
    """A pool of connections. An agent belongs to the hub, and so to the thread, that uses it.

    Args:
        keep_alive: keep connections for requests to come, not only for those that wait.
        keep_alive_delay: seconds of rest after which the operating system probes the peer of a kept connection.
        max_sockets: connections to one origin at a time; requests beyond it wait in their order.
        max_free_sockets: connections to one origin kept at rest.
        max_total_sockets: connections to all origins together.
        scheduling: `'lifo'` uses the connection that rested shortest, `'fifo'` the one that rested longest.
        timeout: seconds to open a connection, and that one may rest; 0 is unlimited.
        max_header_size: bytes of the head of a response; of its trailers too.

    Events:
        'free' (socket, options): a connection is free, and will serve a waiting request or be kept.

    Raises:
        ValueError: `scheduling` is something else (`ERR_INVALID_ARG_VALUE`).
    """

    __slots__ = (
        "_deadlines",
        "_dialing",
        "_hub",
        "_names",
        "_origins",
        "_workers",
        "keep_alive",
        "keep_alive_delay",
        "limits",
        "max_free_sockets",
        "max_sockets",
        "max_total_sockets",
        "pool",
        "requests",
        "scheduling",
        "timeout",
    )

    EVENTS: ClassVar[frozenset[str]] = frozenset({"free"})

    #: The only scheme that requests through this agent may have; None: any.
    protocol: ClassVar[str | None] = "http:"
    default_port: ClassVar[int] = 80
    #: Options of a request that only this kind of agent understands.
    OPTIONS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        keep_alive: bool = False,
        keep_alive_delay: float = KEEP_ALIVE_DELAY,
        max_sockets: float = math.inf,
        max_free_sockets: int = MAX_FREE_SOCKETS,
        max_total_sockets: float = math.inf,
        scheduling: str = "lifo",
        timeout: float = 0,
        max_header_size: int = MAX_HEADER_SIZE,
    ) -> None:
        super().__init__()
        if scheduling not in ("lifo", "fifo"):
            raise InvalidArgumentError(
                f"scheduling is 'lifo' or 'fifo', not {scheduling!r}", code="ERR_INVALID_ARG_VALUE"
            )
        self.keep_alive = keep_alive
        self.keep_alive_delay = keep_alive_delay
        self.max_sockets = max_sockets
        self.max_free_sockets = max_free_sockets
        self.max_total_sockets = max_total_sockets
        self.scheduling = scheduling
        self.timeout = timeout
        self.limits = ResponseLimits(max_header_size, max_headers_count=0)
        #: The greenlets that open connections. It has no size of its own: a full pool would block the hub, and
        #: `max_total_sockets` counts what is open as well.
        self.pool = Pool()
        self._origins: dict[str, Origin] = {}  # those with a connection
        #: By name of origin, the requests that wait for a socket. Not to be changed.
        self.requests: dict[str, list[Any]] = {}
        self._names: dict[Any, str] = {}  # by the options of a URL
        # by name of origin, for whom connections are being opened, and the greenlets that do it
        self._dialing: dict[str, dict[Any, gevent.Greenlet[..., object]]] = {}
        self._hub: Any = None
        self._workers: Workers
        self._deadlines: Deadlines

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={_count(self.sockets)} free={_count(self.free_sockets)}>"

    @property
    def sockets(self) -> dict[str, list[Socket]]:
        """By name of origin, the sockets that serve a request (reference: `agent.sockets`)."""
        return {origin.name: list(origin.busy) for origin in self._origins.values() if origin.busy}

    @property
    def free_sockets(self) -> dict[str, list[Socket]]:
        """By name of origin, the sockets at rest; the one that rested longest is first (reference:
        `agent.freeSockets`)."""
        return {origin.name: list(origin.free) for origin in self._origins.values() if origin.free}

    def get_name(self, options: Options) -> str:
        """What tells origins apart: requests of one name share connections (reference: `agent.getName`).

        Args:
            options: of a request; `host`, `port`, `local_address`, `family` and `socket_path` count.
        """
        name = f"{options.get('host') or 'localhost'}:{options.get('port') or ''}:{options.get('local_address') or ''}"
        family, path = options.get("family"), options.get("socket_path")
        if family:
            name += f":{family}"
        return f"{name}:{path}" if path else name

    def name_of(self, options: Options) -> str:
        """`get_name(options)`; those of a URL are named once."""
        if type(options) is dict:
            return self.get_name(options)
        name = self._names.get(options)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            name = self._names[options] = self.get_name(options)
        return name

    def create_connection(self, options: Options) -> Any:
        """In a greenlet of the pool: open a connection. A subclass may open it in another way.

        Returns:
            A connected stream socket: of the standard library, of gevent, or a greenhttp `Socket` that nobody else
            uses, such as the one of a `'connect'` event.

        Raises:
            OSError: it cannot be opened.
        """
        timeout = self.timeout or options.get("timeout") or None
        path = options.get("socket_path")
        if path:
            return dial_path(path, timeout=timeout)
        return dial(
            options.get("host") or "localhost",
            options.get("port") or self.default_port,
            family=options.get("family") or 0,
            local_address=options.get("local_address"),
            timeout=timeout,
        )

    def destroy(self) -> None:
        """Destroy every connection, in use, at rest or being opened (reference: `agent.destroy`)."""
        for requests in list(self._dialing.values()):
            for request in list(requests):
                self._stop_dialing(request)
        for origin in list(self._origins.values()):
            for socket in (*origin.busy, *origin.free):
                socket.destroy()

    # --- for requests ---

    def add_request(self, request: Any) -> None:
        """Never blocks: give `request` a connection, now or later."""
        if self._hub is not get_hub():
            self._settle_down()
        name = request.name
        if not self._use_free(name, request):
            if self._may_dial(name):
                self._dial(request)
            else:
                self.requests.setdefault(name, []).append(request)

    def request_dropped(self, request: Any) -> None:
        """Never blocks: `request`, which has no connection, was given up. Where nobody else waits for the one that is
        being opened for it, that is given up too."""
        dialing = self._dialing.get(request.name)
        doomed = [other for other in dialing if other.destroyed] if dialing else []
        if doomed and all(other.destroyed for other in self.requests.get(request.name, ())):
            for other in doomed:
                self._stop_dialing(other)

    def _settle_down(self) -> None:
        if self._origins or self._dialing:
            raise MessageStateError("an Agent belongs to the thread that uses it first; make one for each thread")
        self._hub = gevent.get_hub()
        self._workers = Workers.of(self._hub)
        self._deadlines = Deadlines(self._hub)

    def _use_free(self, name: str, request: Any) -> bool:
        origin = self._origins.get(name)
        free = origin.free if origin is not None else None
        while free:
            socket = free.pop() if self.scheduling == "lifo" else free.pop(0)
            connection: Any = socket.owner
            if connection.is_usable():
                connection.origin.busy[socket] = None
                connection.start(request)
                return True
            socket.destroy()
        return False

    def _may_dial(self, name: str) -> bool:
        origin = self._origins.get(name)
        here = len(origin.busy) if origin is not None else 0
        if here + len(self._dialing.get(name, ())) >= self.max_sockets:
            return False
        if self.max_total_sockets == math.inf:
            return True
        if self._total() >= self.max_total_sockets:
            for resting in self._origins.values():
                if resting.free:
                    resting.free[0].destroy()  # one at rest makes room, perhaps for who waited longer
                    return self._may_dial(name)
        return self._total() < self.max_total_sockets

    def _total(self) -> int:
        connected = sum(len(origin.busy) + len(origin.free) for origin in self._origins.values())
        return connected + _count(self._dialing)

    # --- opening ---

    def _dial(self, request: Any) -> None:
        opener: gevent.Greenlet[..., object] = gevent.Greenlet(self._open, request)
        self._dialing.setdefault(request.name, {})[request] = opener
        self.pool.start(opener)

    def _open(self, request: Any) -> None:
        """In a greenlet of the pool."""
        name = request.name
        try:
            create = request.options.get("create_connection") or self.create_connection
            socket = self._transport(create(request.options), request.options)
        except ENDINGS:
            self._dialed(request)
            request.failed(hang_up())
            self._serve_waiting(name)
            raise
        except BaseException as error:
            self._dialed(request)
            request.failed(error if isinstance(error, Exception) else TimeoutError(str(error)))
            self._serve_waiting(name)
        else:
            if self._dialed(request) is None:
                socket.destroy()  # it came before the end that it was to be stopped with
                return
            origin = self._origins.get(name)
            if origin is None:
                origin = self._origins[name] = Origin(name)
            connection = ClientConnection(self, origin, socket)
            if self.keep_alive:
                socket.set_keep_alive(True, self.keep_alive_delay)
            if request.destroyed:
                connection.rest()
            else:
                origin.busy[socket] = None
                connection.start(request)
        finally:
            del request  # the error's traceback would keep it, and so the error, alive

    def _stop_dialing(self, request: Any) -> None:
        opener = self._dialed(request)
        if opener is not None:
            opener.kill(block=False)
            request.failed(hang_up())
            self._serve_waiting(request.name)

    def _dialed(self, request: Any) -> Any:
        dialing = self._dialing.get(request.name, {})
        opener = dialing.pop(request, None)
        if not dialing:
            self._dialing.pop(request.name, None)
        return opener

    def _transport(self, stream: Any, options: Options) -> Socket:
        """In a greenlet of the pool: what carries the bytes over an open connection."""
        if isinstance(stream, Socket):
            return stream
        plain, unread = plain_socket(stream)
        socket = Socket(plain, self._workers, self._deadlines, high_water_mark=HIGH_WATER_MARK)
        if unread:
            socket.unread(unread)
        return socket

    # --- for connections ---

    def connection_free(self, connection: ClientConnection) -> None:
        """An exchange is over and the connection fit for another: a waiting request gets it, or it rests."""
        origin, socket = connection.origin, connection.socket
        origin.busy.pop(socket, None)
        if self._listeners is not None or socket._listeners is not None:
            self._workers.soon(deliver, socket, "free")
            self._workers.soon(deliver, self, "free", socket, {"name": origin.name})
        if self.requests and origin.name in self.requests:
            request = self._next_waiting(origin.name)
            if request is not None:
                origin.busy[socket] = None
                connection.start(request)
                return
        if self.keep_alive and len(origin.free) < self.max_free_sockets:
            origin.free.append(socket)
        else:
            socket.destroy()
        if self.requests and self.max_total_sockets != math.inf:
            self._serve_waiting(origin.name)  # other origins' requests, for which it makes room

    def connection_gone(self, connection: ClientConnection, retry: Any = None) -> None:
        """A connection is closed, or was given away; `retry` is a request that gets a fresh one in its place."""
        origin: Origin = connection.origin
        socket = connection.socket
        origin.busy.pop(socket, None)
        if socket in origin.free:
            origin.free.remove(socket)
        if not origin.busy and not origin.free and self._origins.get(origin.name) is origin:
            del self._origins[origin.name]
        if retry is not None:
            self._dial(retry)
        else:
            self._serve_waiting(origin.name)

    def _serve_waiting(self, name: str) -> None:
        """There is room for one more connection, to this origin or, where all count together, to any."""
        for candidate in [name] if self.max_total_sockets == math.inf else [name, *self.requests]:
            if candidate in self.requests and self._may_dial(candidate):
                request = self._next_waiting(candidate)
                if request is not None:
                    self._dial(request)
                    return

    def _next_waiting(self, name: str) -> Any:
        waiting = self.requests.get(name)
        while waiting:
            request = waiting.pop(0)
            if not waiting:
                del self.requests[name]
            if not request.destroyed:
                return request
        return None


def plain_socket(stream: Any) -> tuple[_socket.socket, bytes]:
    """The connection of `stream` in its smallest form, and what was read from it already.

    Raises:
        TypeError: it is not a socket, or one inside TLS.
    """
    if isinstance(stream, Socket):
        stream = stream.detach()
    if not hasattr(stream, "detach"):
        raise TypeError(f"create_connection must return a connected socket, not {stream!r}")
    if hasattr(stream, "do_handshake"):  # what is inside its TLS could not be carried on
        raise TypeError("create_connection must return the connection without TLS; that is the agent's part")
    unread: bytes = getattr(stream, "unread", b"")
    family, kind, proto = stream.family, stream.type, stream.proto
    plain = _socket.socket(family, kind, proto, fileno=stream.detach())
    plain.setblocking(False)
    if family in (_socket.AF_INET, _socket.AF_INET6):
        plain.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return plain, unread


def _count(by_name: Mapping[str, Sized]) -> int:
    return sum(map(len, by_name.values()))


#: The agent of requests that name none.
global_agent = Agent()

#: That, by protocol.
default_agents: dict[str, Agent] = {"http:": global_agent}
