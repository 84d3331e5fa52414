"""`ClientRequest`: a request on its way to a server, and the wait for its response (reference: that class)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import gevent
from gevent import get_hub, getcurrent
from greenlet import greenlet

from .address import Address, basic_credentials, host_header
from .agent import Agent, default_agents
from .client_connection import ClientConnection, hang_up
from .errors import ConnectionLostError, InvalidArgumentError, InvalidHeaderError, MessageStateError, PeerTimeoutError
from .events import Listener
from .framing import ResponseHead
from .headers import ListedHeaders, OutgoingHeaders, field_line
from .incoming import IncomingMessage
from .outgoing import (
    CHUNKED,
    ENDED,
    FINISHED,
    LENGTH,
    NO_EXTRAS,
    OPEN,
    UNTIL_CLOSE,
    Extras,
    OutgoingMessage,
    content_length,
)
from .sockets import Socket
from .streams import Data, encode
from .workers import Workers, deliver, log

__all__ = ["ClientRequest"]

_Self = TypeVar("_Self", bound="ClientRequest")
_switch = greenlet.switch  # the hub's own `switch` would first ask the greenlet what to do on leaving

MAX_HEADERS_COUNT = 1000  # lines of a response
# Requests with these methods have a body only if somebody writes one (RFC 9110 section 9.3).
_BODILESS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "TRACE"))
_IDEMPOTENT = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"))  # RFC 9110 section 9.2.2


class _ClientExtras(Extras):
    """What few requests need."""

    __slots__ = ("aborted", "keep_alive", "max_headers_count", "no_delay", "socket_told", "timeout")

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.max_headers_count = MAX_HEADERS_COUNT
        self.timeout = 0.0
        self.no_delay: bool | None = None
        self.keep_alive: tuple[bool, float] | None = None
        self.socket_told = False


class _Failure:
    """The error that a request ended with. If nobody has heard of it when the request is dropped, it is logged."""

    __slots__ = ("_error", "_told", "_what")

    def __init__(self, error: Exception, what: str) -> None:
        self._error, self._what = error, what
        self._told = False

    def tell(self) -> Exception:
        """The error, for somebody who hears of it."""
        self._told = True
        return self._error

    def __del__(self) -> None:
        if not self._told:
            log.error("%s failed, and nobody was told: %s", self._what, self._error)


class _Course(enum.IntEnum):
    """What has become of a request's exchange."""

    UNDER_WAY = 0
    DESTROYED = 1  # by the user; its connection is being closed
    OVER = 2
    FAILED = 3


UNDER_WAY, DESTROYED, OVER, FAILED = _Course


class ClientRequest(OutgoingMessage):
    """One request. Made by `request()` and `get()`; it is sent when `end()` is called.

    As a context manager it is destroyed at the end, unless its exchange is over by then.

    Args:
        options: as `request()` has made them complete.
        callback: a one-off `'response'` listener.

    Events:
        'response' (message), once; 'information' (message): an interim answer; 'continue' (): the server waits for the
        body; 'connect' and 'upgrade' (message, socket, head): the connection leaves HTTP; 'socket' (socket): one was
        assigned; 'timeout' (), 'abort' (), 'error' (exception), 'close' (): the exchange is over; those of
        `OutgoingMessage`.
    """

    __slots__ = (
        "_connection",
        "_course",
        "_failure",
        "_replay",
        "_response",
        "_waiter",
        "agent",
        "method",
        "name",
        "options",
        "reused_socket",
        "should_keep_alive",
    )

    EVENTS: ClassVar[frozenset[str]] = OutgoingMessage.EVENTS | {
        "abort",
        "connect",
        "continue",
        "information",
        "response",
        "socket",
        "timeout",
        "upgrade",
    }

    socket: Any  #: the connection's socket; None until one is assigned

    def __init__(
        self,
        options: Mapping[str, Any],
        agent: Agent | Literal[False] | None = None,
        callback: Listener | None = None,
    ) -> None:
        self._listeners = None
        self.socket = None
        self.headers = OutgoingHeaders()
        self._stage = OPEN
        self._backlog = None
        self.extras: _ClientExtras | None = None
        self._written = 0
        #: The options that it was made with, complete.
        self.options = options
        self.method: str = options["method"]
        #: The pool of its connection.
        self.agent = pool = agent if agent else _agent_for(options["protocol"], alone=agent is False)
        #: Whether the connection may serve others afterwards.
        self.should_keep_alive = agent is not False
        #: Whether the connection had served another request before.
        self.reused_socket = False
        self._connection: ClientConnection | None = None
        self._response: IncomingMessage | None = None
        self._waiter: greenlet | None = None  # that is in `get_response()`
        self._replay: bytes | None = None  # all of it, if it may be sent twice
        self._failure: _Failure | None = None
        self._course = UNDER_WAY
        protocol = pool.protocol
        if protocol is not None and options["protocol"] != protocol:
            raise InvalidArgumentError(
                f"the protocol {options['protocol']!r} does not go with this agent, which expects {protocol!r}",
                code="ERR_INVALID_PROTOCOL",
            )
        if type(options) is not Address:
            self._take_options(options, agent)
            pool = self.agent
        #: Of the origin, as the agent calls it.
        self.name = pool.name_of(options)
        if callback is not None:
            self.once("response", callback)
        if self.headers and "expect" in self.headers:
            self.hold()
            self.flush_headers()  # before anything is asked of the agent: it may raise
        pool.add_request(self)
        if self._connection is None and self._backlog is None:
            self.hold()

    def __repr__(self) -> str:
        return f"<ClientRequest {self.method} {self.where} {self.path} {self._stage.name.lower()}>"

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._course is UNDER_WAY:
            self.destroy()

    def _make_extras(self) -> _ClientExtras:
        if self.extras is None:
            self.extras = _ClientExtras()
        return self.extras

    def _take_options(self, options: Mapping[str, Any], agent: object) -> None:
        if agent is None and options.get("create_connection"):
            self.agent = Agent()  # whose connections are not for others, nor theirs for this
            self.should_keep_alive = False
        if options.get("timeout"):
            self._make_extras().timeout = options["timeout"]
        if "max_headers_count" in options:
            self._make_extras().max_headers_count = options["max_headers_count"]
        headers = options.get("headers")
        verbatim = headers is not None and not isinstance(headers, Mapping)
        if headers:
            if verbatim:
                self.headers = ListedHeaders()
            self.headers.merge(headers)
        if verbatim or not options.get("set_host", True):
            extras = self._make_extras()
            extras.removed |= {"host"}
        auth = options.get("auth")
        if auth is not None and "authorization" not in self.headers:
            self.headers.set("Authorization", basic_credentials(auth))
        connection = self.headers.value("connection")
        if connection is not None and "close" in str(connection).lower():
            self.should_keep_alive = False

    @property
    def path(self) -> str:
        """The request target."""
        path: str = self.options["path"]
        return path

    @property
    def where(self) -> str:
        """The server, for people."""
        return f"{self.options['host']}:{self.options['port']}"

    @property
    def aborted(self) -> bool:
        """Whether `abort()` was called."""
        return self.extras is not None and self.extras.aborted

    @property
    def max_headers_count(self) -> int:
        """The most header lines of the response; 0 is unlimited."""
        return self.extras.max_headers_count if self.extras is not None else MAX_HEADERS_COUNT

    @max_headers_count.setter
    def max_headers_count(self, count: int) -> None:
        self._make_extras().max_headers_count = count

    def get_header(self, name: str) -> Any:
        """As `OutgoingMessage.get_header`; the automatic `Host` too."""
        value = super().get_header(name)
        if value is None and name.lower() == "host" and "host" not in (self.extras or NO_EXTRAS).removed:
            return self._host
        return value

    @property
    def _host(self) -> str:
        return host_header(self.options["host"], self.options["port"], self.agent.default_port)

    def on(self: _Self, event: str, listener: Listener) -> _Self:
        """As `EventEmitter.on`; a `'socket'` listener that comes late is still told."""
        super().on(event, listener)
        if event == "socket" and self._connection is not None:
            self.workers.soon(self._tell_socket)
        return self

    # --- out ---

    def _encode_head(self, length: int | None, *, last: bool = False) -> bytes:
        headers = self.headers
        extras = self.extras or NO_EXTRAS
        parts = [f"{self.method} {self.path} HTTP/1.1\r\n".encode("latin-1")]
        if "host" not in headers and "host" not in extras.removed:
            parts.append(field_line("Host", self._host))
        if type(self.options) is Address and "auth" in self.options and "authorization" not in headers:
            parts.append(field_line("Authorization", basic_credentials(self.options["auth"])))
        parts.append(headers.encode())
        if "connection" not in headers and "connection" not in extras.removed:
            parts.append(b"Connection: keep-alive\r\n" if self.should_keep_alive else b"Connection: close\r\n")
        announced = -1
        if self.method == "CONNECT" or "upgrade" in headers:
            framing = UNTIL_CLOSE  # what is written after the head belongs to another protocol
        elif "transfer-encoding" in headers:
            if "content-length" in headers:
                raise InvalidHeaderError(
                    "set Content-Length or Transfer-Encoding, not both", code="ERR_HTTP_INVALID_HEADER_VALUE"
                )
            if not str(headers.value("transfer-encoding")).lower().rstrip("'] ").endswith("chunked"):
                raise InvalidHeaderError(
                    "the Transfer-Encoding of a request must end with chunked", code="ERR_HTTP_INVALID_HEADER_VALUE"
                )
            framing = CHUNKED
        elif "content-length" in headers:
            framing, announced = LENGTH, content_length(headers.value("content-length"))
        elif length is None or extras.trailers or "trailer" in headers:
            framing = CHUNKED
            parts.append(b"Transfer-Encoding: chunked\r\n")
        else:
            framing, announced = LENGTH, length
            if length or self.method not in _BODILESS:
                parts.append(b"Content-Length: %d\r\n" % length)
        parts.append(b"\r\n")
        self._framing, self._announced = framing, announced
        return b"".join(parts)

    def flush_headers(self) -> None:
        """Send the head now; with a method that usually has no body, it promises none unless a header does."""
        if self._stage is OPEN and self.method in _BODILESS:
            self._give(self._fix_head(0))
        else:
            super().flush_headers()

    def end(
        self,
        data: Data | None = None,
        encoding: str | None = None,
        callback: Callable[..., object] | None = None,
    ) -> bool:
        """Send the last piece, if any, and complete the request: see `OutgoingMessage.end`."""
        if self._stage is not OPEN or callback is not None:
            return super().end(data, encoding, callback)
        options = self.options
        if (
            type(options) is Address
            and data is None
            and self.extras is None
            and not self.headers
            and self.should_keep_alive
        ):
            whole = self._replay = options.head
            self._framing, self._announced = LENGTH, 0
        else:
            chunk = b"" if data is None else encode(data, encoding)
            head = self._encode_head(len(chunk))
            if self._framing is not LENGTH or self._announced != len(chunk):
                return super().end(chunk, None, callback)
            whole = head + chunk
            self._written = len(chunk)
            if self.method in _IDEMPOTENT:
                self._replay = whole
        self._stage = ENDED
        if self._backlog is not None:
            self._give(whole)
        elif self.socket.send(whole) and self._listeners is None:
            self._stage = FINISHED
        else:
            self._ended()
        return True

    def _ended(self) -> None:
        socket = self.socket
        if self._framing is LENGTH and self._written < self._announced:
            self.destroy(ConnectionLostError("the body is shorter than its Content-Length", code="ECONNRESET"))
        elif socket.queued:
            socket.when_sent(self.sent)
        else:
            self.sent(None)

    def sent(self, error: BaseException | None) -> None:
        """Never blocks: the operating system has the whole message, or never will."""
        super().sent(error)
        if self._stage is FINISHED and self._connection is not None:
            self._connection.request_sent()

    def lost(self, error: Exception) -> None:
        """Never blocks: the connection takes no more. Whether the request failed is seen when it is closed."""
        callbacks = self._give_up(error)
        if callbacks:
            self.workers.soon(self._tell_callbacks, callbacks, error)

    def _tell_callbacks(self, callbacks: list[Callable[..., object]], error: Exception) -> None:
        for callback in callbacks:
            self._call_back(callback, error)

    def _wait_for_room(self) -> None:
        try:
            super()._wait_for_room()
        except BaseException:  # a timeout or a kill: the body is cut
            self.destroy()
            raise

    @property
    def workers(self) -> Workers:
        """Which greenlets run the listeners."""
        return Workers.of(gevent.get_hub())

    # --- the response, in the blocking style ---

    def get_response(self, timeout: float | None = None) -> IncomingMessage:
        """Block until the head of the response is here.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            The response; its body may still be on its way.

        Raises:
            Exception: what `'error'` carries: `ConnectError`, `HostNotFoundError`, `ConnectionLostError`,
                `RemoteProtocolError`, ...
            PeerTimeoutError: nothing came in time; the request is destroyed.
            RuntimeError: nothing of the request was sent: `end()` was forgotten; or another greenlet waits already.
        """
        if self._response is None and self._failure is None:
            if self._stage is OPEN:
                raise MessageStateError("the request was not sent yet: call end() first")
            if self._waiter is not None:
                raise MessageStateError("another greenlet waits for this response already")
            if timeout is None:
                self._wait_for_response()
            else:
                self._wait_at_most(timeout)
        if self._response is None:
            assert self._failure is not None
            raise self._failure.tell()
        return self._response

    def _wait_for_response(self) -> None:
        current, hub = getcurrent(), get_hub()
        if current is hub:
            raise MessageStateError("the hub cannot wait for a response: call get_response() in a greenlet")
        try:
            while self._response is None and self._failure is None:
                self._waiter = current
                _switch(hub)
        except BaseException:  # a timeout or a kill
            self._waiter = None
            self.destroy()
            raise

    def _wait_at_most(self, timeout: float) -> None:
        with gevent.Timeout(timeout) as limit:
            try:
                self._wait_for_response()
            except gevent.Timeout as interrupted:
                if interrupted is not limit:
                    raise
                late = PeerTimeoutError(f"no response from {self.where} within {timeout} s", code="ETIMEDOUT")
                self._failure = _Failure(late, repr(self))

    # --- control ---

    def abort(self) -> None:
        """Give the request up: `'abort'`, once; then as `destroy()` (reference: `request.abort`)."""
        if not self.aborted:
            self._make_extras().aborted = True
            self.workers.soon(deliver, self, "abort")
            self.destroy()

    def destroy(self: _Self, error: Exception | None = None) -> _Self:
        """Close the connection, if it is still at this request; before the response `'error'` follows (`ECONNRESET`
        unless `error` is given), then `'close'`. Returns the request."""
        if self._course is UNDER_WAY:
            self._course = DESTROYED
            if self._connection is not None and self._connection.serves(self):
                self.socket.destroy(error)
            else:
                self.failed(error or hang_up())
                self.agent.request_dropped(self)
            if self._failure is not None:
                self._failure.tell()  # the caller knows
        return self

    @property
    def destroyed(self) -> bool:
        """Whether it was given up, or its connection went away before the exchange was over."""
        return self._course is DESTROYED or self._course is FAILED or super().destroyed

    @property
    def timeout(self) -> float:
        """Seconds without a byte either way until `'timeout'`; 0 is never."""
        return self.extras.timeout if self.extras is not None else 0

    def set_timeout(self: _Self, seconds: float, callback: Listener | None = None) -> _Self:
        """`'timeout'` after `seconds` without a byte either way; 0 switches it off (reference: `request.setTimeout`).

        The request goes on, unless a listener destroys it; a greenlet that waits for it gets a `PeerTimeoutError` if
        nobody listens. Returns the request.
        """
        if seconds < 0:
            raise ValueError("a timeout is a number of seconds, 0 for none")
        self._make_extras().timeout = seconds
        if callback is not None:
            self.once("timeout", callback)
        if self._connection is not None and self._connection.serves(self):
            self.socket.set_timeout(seconds)
        return self

    def clear_timeout(self: _Self) -> _Self:
        """Switch the timeout off. Returns the request."""
        return self.set_timeout(0)

    def set_no_delay(self, no_delay: bool = True) -> None:
        """Send small packets at once, the default here; applied when there is a socket (reference:
        `request.setNoDelay`)."""
        self._make_extras().no_delay = no_delay
        self._apply_options()

    def set_socket_keep_alive(self, enable: bool = False, initial_delay: float = 0) -> None:
        """Probe an idle peer after `initial_delay` seconds; applied when there is a socket (reference:
        `request.setSocketKeepAlive`)."""
        self._make_extras().keep_alive = (enable, initial_delay)
        self._apply_options()

    def _apply_options(self) -> None:
        extras = self.extras
        if extras is None or self._connection is None or not self._connection.serves(self):
            return
        if extras.no_delay is not None:
            self.socket.set_no_delay(extras.no_delay)
        if extras.keep_alive is not None:
            self.socket.set_keep_alive(*extras.keep_alive)

    # --- told by the connection; none of these blocks ---

    def too_many(self, head: ResponseHead) -> bool:
        """Whether the response has more header lines than this request allows."""
        return 0 < self.max_headers_count < len(head.fields) // 2

    @property
    def all_sent(self) -> bool:
        """Whether nothing of it is still to be sent."""
        return self._stage >= FINISHED

    @property
    def may_leave(self) -> bool:
        """Whether its connection may leave HTTP, because it has asked for that."""
        return self.method == "CONNECT" or "upgrade" in self.headers

    @property
    def is_heard(self) -> bool:
        """Whether somebody listens for the response."""
        return self._listeners is not None and self.listener_count("response") > 0

    @property
    def is_awaited(self) -> bool:
        """Whether a greenlet waits for the response."""
        return self._waiter is not None

    def assigned(self, connection: ClientConnection, *, reused: bool) -> None:
        """It is served by `connection` from now on."""
        self._connection = connection
        self.socket = connection.socket
        self.reused_socket = reused
        if self.extras is not None:
            self._apply_options()
        if self._listeners is not None:
            self.workers.soon(self._tell_socket)
        if self._backlog is not None:
            self.take_turn()

    def may_retry(self) -> bool:
        """Whether it can be sent once more, on a fresh connection; it is prepared for that then."""
        if self._replay is None or self._course is not UNDER_WAY:
            return False
        replay, self._replay = self._replay, None
        self._connection = None
        self.hold()
        self._stage = ENDED
        self._give(replay)
        return True

    def informed(self, message: IncomingMessage) -> None:
        """In the hub: an interim answer."""
        if self._listeners is not None:
            self.workers.enter(self._tell_information, message)

    def responded(self, message: IncomingMessage) -> None:
        """In the hub: the head of the response."""
        self._response = message
        self._replay = None
        if self._listeners is not None and self.is_heard:
            self.workers.enter(self._tell_response, message)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.switch()

    def handed_over(self, message: IncomingMessage, socket: Socket, rest: bytes) -> None:
        """In the hub: the connection leaves HTTP."""
        self._response = message
        self._course = OVER
        self._connection = self._replay = None
        event = "connect" if self.method == "CONNECT" else "upgrade"
        if self.listener_count(event):
            self.workers.enter(self._tell_handed_over, event, message, socket, rest)
        elif self._waiter is None:
            socket.destroy()
        else:
            socket.unread(rest)
        self._wake()
        self._tell_close_soon()

    def failed(self, error: Exception) -> None:
        """There will be no response, or what came after it was at fault."""
        if self._course is OVER or self._course is FAILED:
            return
        self._course = FAILED
        self._connection = self._replay = None
        self._failure = _Failure(error, repr(self))
        callbacks = self._give_up(error)
        if self._waiter is not None:
            self._failure.tell()
            gevent.get_hub().loop.run_callback(self._wake)
        self.workers.soon(self._tell_failure, callbacks, error)

    def _wake(self) -> None:
        """In the hub: the greenlet in `get_response()` goes on, if it is still there."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.switch()

    def completed(self, *, cut: bool = False) -> None:
        """The exchange is over, or its response was `cut`."""
        if self._course is UNDER_WAY:
            self._course = FAILED if cut else OVER
        elif self._course is DESTROYED:
            self._course = FAILED
        else:
            return
        self._connection = self._replay = None
        if self._stage is not FINISHED:
            self._give_up(hang_up())
        if self._listeners is not None:
            self._tell_close_soon()

    def _tell_close_soon(self) -> None:
        if self._listeners is not None and self.listener_count("close"):
            self.workers.soon(deliver, self, "close")

    # --- in a worker: the listeners ---

    def _tell_socket(self) -> None:
        if self.listener_count("socket") and not self._make_extras().socket_told:
            self._make_extras().socket_told = True
            deliver(self, "socket", self.socket)

    def _tell_information(self, message: IncomingMessage) -> None:
        deliver(self, "information", message)
        if message.status_code == 100:
            deliver(self, "continue")

    def _tell_response(self, message: IncomingMessage) -> None:
        if not deliver(self, "response", message) and not message.complete:
            message.destroy()

    def _tell_handed_over(self, event: str, message: IncomingMessage, socket: Socket, rest: bytes) -> None:
        if not deliver(self, event, message, socket, rest):
            socket.destroy()

    def _tell_failure(self, callbacks: list[Callable[..., object]], error: Exception) -> None:
        self._tell_callbacks(callbacks, error)
        if self.listener_count("error"):
            if self._failure is not None:
                self._failure.tell()
            deliver(self, "error", error)
        deliver(self, "close")


def _agent_for(protocol: str, *, alone: bool) -> Agent:
    shared = default_agents.get(protocol)
    if shared is None:
        raise InvalidArgumentError(f"there is no agent for the protocol {protocol!r}", code="ERR_INVALID_PROTOCOL")
    return type(shared)() if alone else shared
