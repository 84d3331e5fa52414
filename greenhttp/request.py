"""`ClientRequest`: a request on its way to a server, and the wait for its response (reference: that class)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import gevent
from gevent.hub import Waiter

from .agent import Agent, global_agent
from .client_connection import ClientConnection, hang_up
from .errors import ConnectionLostError, InvalidHeaderError, MessageStateError, PeerTimeoutError
from .events import Listener
from .incoming import IncomingMessage
from .outgoing import (
    CHUNKED,
    ENDED,
    FINISHED,
    LENGTH,
    NO_EXTRAS,
    OPEN,
    UNTIL_CLOSE,
    OutgoingMessage,
    content_length,
)
from .sockets import Socket
from .streams import Data, encode
from .workers import Workers, deliver, log

__all__ = ["ClientRequest"]

_Self = TypeVar("_Self", bound="ClientRequest")

MAX_HEADERS_COUNT = 1000  # lines of a response
# Requests with these methods have a body only if somebody writes one (RFC 9110 section 9.3).
_BODILESS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "TRACE"))
_IDEMPOTENT = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"))  # RFC 9110 section 9.2.2


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
        "_destroyed",
        "_failure",
        "_failure_told",
        "_keep_alive_options",
        "_no_delay",
        "_over",
        "_replay",
        "_response",
        "_socket_told",
        "_timeout",
        "_waiter",
        "aborted",
        "agent",
        "max_headers_count",
        "method",
        "name",
        "options",
        "path",
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

    def __init__(self, options: Mapping[str, Any], callback: Listener | None = None) -> None:
        no_socket: Any = None
        OutgoingMessage.__init__(self, no_socket)
        #: The options that it was made with, complete.
        self.options = options
        self.method: str = options["method"]
        self.path: str = options["path"]
        #: The most header lines of the response; 0 is unlimited.
        self.max_headers_count: int = options.get("max_headers_count", MAX_HEADERS_COUNT)
        #: Whether the connection had served another request before.
        self.reused_socket = False
        #: Whether `abort()` was called.
        self.aborted = False
        self._timeout: float = options.get("timeout") or 0
        self._no_delay: bool | None = None
        self._keep_alive_options: tuple[bool, float] | None = None
        self._connection: ClientConnection | None = None
        self._response: IncomingMessage | None = None
        self._waiter: Waiter[None] | None = None  # of the greenlet in `get_response()`
        self._failure: Exception | None = None
        self._failure_told = True
        self._socket_told = False
        self._replay: bytes | None = None  # all of it, if it may be sent twice
        self._over = False
        self._destroyed = False
        agent = options.get("agent")
        #: Whether the connection may serve others afterwards.
        self.should_keep_alive = agent is not False and not (agent is None and options.get("create_connection"))
        self.agent: Agent = global_agent if agent is None else Agent() if agent is False else agent
        self.name = self.agent.get_name(options)
        self._set_headers(options)
        if callback is not None:
            self.once("response", callback)
        self.agent.add_request(self)
        if self._connection is None:
            self.hold()
        if "expect" in self.headers:
            self.flush_headers()

    def __repr__(self) -> str:
        return f"<ClientRequest {self.method} {self.name} {self.path} {self._stage.name.lower()}>"

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._over:
            self.destroy()

    def __del__(self) -> None:
        if not self._failure_told:
            log.error("%r failed, and nobody was told: %s", self, self._failure)

    def _set_headers(self, options: Mapping[str, Any]) -> None:
        headers = options.get("headers")
        if options.get("set_host", True) and (headers is None or isinstance(headers, Mapping)):
            self.headers.set("Host", _host_header(options["host"], options["port"], self.agent.default_port))
        if headers:
            self.headers.merge(headers)
        auth = options.get("auth")
        if auth is not None and "authorization" not in self.headers:
            credentials = base64.b64encode(auth.encode("utf-8")).decode("ascii")
            self.headers.set("Authorization", f"Basic {credentials}")
        connection = self.headers.value("connection")
        if connection is not None and "close" in str(connection).lower():
            self.should_keep_alive = False

    def on(self: _Self, event: str, listener: Listener) -> _Self:
        """As `EventEmitter.on`; a `'socket'` listener that comes late is still told."""
        super().on(event, listener)
        if event == "socket" and self._connection is not None:
            self.workers.soon(self._tell_socket)
        return self

    # --- out ---

    def _encode_head(self, length: int | None) -> bytes:
        headers = self.headers
        extras = self._extras or NO_EXTRAS
        parts = [_request_line(self.method, self.path), headers.encode()]
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
        chunk = data if type(data) is bytes else b"" if data is None else encode(data, encoding)
        if self._stage is not OPEN or callback is not None or self._extras is not None:
            return super().end(chunk, None, callback)
        head = self._encode_head(len(chunk))
        if self._framing is not LENGTH or self._announced != len(chunk):
            return super().end(chunk, None, callback)
        whole = head + chunk if chunk else head
        self._written = len(chunk)
        self._stage = ENDED
        if self.method in _IDEMPOTENT:
            self._replay = whole
        self._give(whole)
        if self._backlog is None:
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
            self._wait_for_response(timeout)
        if self._response is None:
            assert self._failure is not None
            self._failure_told = True
            raise self._failure
        return self._response

    def _wait_for_response(self, timeout: float | None) -> None:
        waiter = self._waiter = Waiter()
        limit = gevent.Timeout.start_new(timeout) if timeout is not None else None
        try:
            waiter.get()
        except BaseException as interrupted:
            self._waiter = None
            self._failure_told = True
            self.destroy()
            if interrupted is not limit:
                raise
            self._failure = PeerTimeoutError(f"no response from {self.name} within {timeout} s", code="ETIMEDOUT")
        finally:
            self._waiter = None
            if limit is not None:
                limit.close()

    # --- control ---

    def abort(self) -> None:
        """Give the request up: `'abort'`, once; then as `destroy()` (reference: `request.abort`)."""
        if not self.aborted:
            self.aborted = True
            self.workers.soon(deliver, self, "abort")
            self.destroy()

    def destroy(self: _Self, error: Exception | None = None) -> _Self:
        """Close the connection, if it is still at this request; before the response `'error'` follows (`ECONNRESET`
        unless `error` is given), then `'close'`. Returns the request."""
        if not self._over and not self._destroyed:
            self._destroyed = True
            if self._connection is not None and self._connection.serves(self):
                self.socket.destroy(error)
            else:
                self.failed(error or hang_up())
        return self

    @property
    def destroyed(self) -> bool:
        """Whether it was given up, or its connection went away before the exchange was over."""
        return self._destroyed or super().destroyed

    @property
    def timeout(self) -> float:
        """Seconds without a byte either way until `'timeout'`; 0 is never."""
        return self._timeout

    def set_timeout(self: _Self, seconds: float, callback: Listener | None = None) -> _Self:
        """`'timeout'` after `seconds` without a byte either way; 0 switches it off (reference: `request.setTimeout`).

        The request goes on, unless a listener destroys it; a greenlet that waits for it gets a `PeerTimeoutError` if
        nobody listens. Returns the request.
        """
        if seconds < 0:
            raise ValueError("a timeout is a number of seconds, 0 for none")
        self._timeout = seconds
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
        self._no_delay = no_delay
        self._apply_options()

    def set_socket_keep_alive(self, enable: bool = False, initial_delay: float = 0) -> None:
        """Probe an idle peer after `initial_delay` seconds; applied when there is a socket (reference:
        `request.setSocketKeepAlive`)."""
        self._keep_alive_options = (enable, initial_delay)
        self._apply_options()

    def _apply_options(self) -> None:
        if self._connection is None or not self._connection.serves(self):
            return
        if self._no_delay is not None:
            self.socket.set_no_delay(self._no_delay)
        if self._keep_alive_options is not None:
            self.socket.set_keep_alive(*self._keep_alive_options)

    # --- told by the connection; none of these blocks ---

    @property
    def all_sent(self) -> bool:
        """Whether nothing of it is still to be sent."""
        return self._stage >= FINISHED

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
        if self._no_delay is not None or self._keep_alive_options is not None:
            self._apply_options()
        if self._listeners is not None:
            self.workers.soon(self._tell_socket)
        if self._backlog is not None:
            self.take_turn()

    def may_retry(self) -> bool:
        """Whether it can be sent once more, on a fresh connection; it is prepared for that then."""
        if self._replay is None or self._destroyed:
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
        if self.is_heard:
            self.workers.enter(self._tell_response, message)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.switch(None)

    def handed_over(self, message: IncomingMessage, socket: Socket, rest: bytes) -> None:
        """In the hub: the connection leaves HTTP."""
        self._response = message
        self._end_exchange()
        event = "connect" if self.method == "CONNECT" else "upgrade"
        if self.listener_count(event):
            self.workers.enter(self._tell_handed_over, event, message, socket, rest)
        elif self._waiter is None:
            socket.destroy()
        else:
            socket.unread(rest)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.switch(None)
        self._tell_close_soon()

    def failed(self, error: Exception) -> None:
        """There will be no response, or what came after it was at fault."""
        if self._over:
            return
        self._end_exchange()
        self._destroyed = True
        self._failure, self._failure_told = error, False
        callbacks = self._give_up(error)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._failure_told = True
            gevent.get_hub().loop.run_callback(waiter.switch, None)
        self.workers.soon(self._tell_failure, callbacks, error)

    def completed(self) -> None:
        """The exchange is over."""
        if self._over:
            return
        self._end_exchange()
        self._give_up(hang_up())
        self._tell_close_soon()

    def _end_exchange(self) -> None:
        self._over = True
        self._connection = None
        self._replay = None

    def _tell_close_soon(self) -> None:
        if self._listeners is not None and self.listener_count("close"):
            self.workers.soon(deliver, self, "close")

    # --- in a worker: the listeners ---

    def _tell_socket(self) -> None:
        if not self._socket_told and self.listener_count("socket"):
            self._socket_told = True
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
            self._failure_told = True
            deliver(self, "error", error)
        deliver(self, "close")


def _host_header(host: str, port: int, default_port: int) -> str:
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return name if port == default_port else f"{name}:{port}"


def _request_line(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\n".encode("latin-1")
