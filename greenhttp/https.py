"""`greenhttp.https`: the same server and client, over TLS (reference: `https`).

Server and agent differ from those without TLS in the sockets that they make, and in nothing else.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from gevent.hub import Waiter

from . import client
from .agent import Agent as PlainAgent
from .agent import default_agents, plain_socket
from .errors import ConnectionLostError
from .events import Listener
from .request import ClientRequest
from .server import Server as PlainServer
from .sockets import Socket
from .streams import HIGH_WATER_MARK
from .tls import HANDSHAKE_TIMEOUT, TLSSocket
from .tls_context import CLIENT_OPTIONS, SERVER_OPTIONS, client_context, server_context
from .workers import deliver

__all__ = ["Agent", "Server", "create_server", "get", "global_agent", "request"]

MAX_SESSIONS = 100  # kept for resumption, one of each origin. Precedent: Node

_Self = TypeVar("_Self", bound="Server")
_NAME_KEY = os.urandom(16)


class Server(PlainServer):
    """An HTTP/1.1 server over TLS.

    Args:
        handler: the first `'request'` listener.
        handshake_timeout: seconds for a TLS handshake; 0 is unlimited.
        options: `cert`, `key`, `password`, `ca`, `ciphers`, `request_cert`, `reject_unauthorized`, `alpn`,
            `sni_callback` or `context`: see `set_secure_context`; and those of `greenhttp.Server`.

    Events:
        those of `greenhttp.Server`; 'secure_connection' (socket): a handshake is over; 'tls_client_error' (exception,
        socket): one has failed, and the socket is closed.

    Raises:
        ValueError: there is no certificate, or its key does not belong to it.
    """

    __slots__ = ("_context", "handshake_timeout")

    EVENTS: ClassVar[frozenset[str]] = PlainServer.EVENTS | {"secure_connection", "tls_client_error"}

    def __init__(
        self, handler: Listener | None = None, *, handshake_timeout: float = HANDSHAKE_TIMEOUT, **options: Any
    ) -> None:
        secure = {name: options.pop(name) for name in SERVER_OPTIONS & options.keys()}
        super().__init__(handler, **options)
        self.handshake_timeout = handshake_timeout
        self._context = server_context(**secure)

    def set_secure_context(self: _Self, **options: Any) -> _Self:
        """Use another certificate from now on; connections that are open keep theirs.

        Args:
            options: `cert` and `key` (paths or PEM text), `password` of the key; `ca`: who signs the certificates of
                clients; `request_cert`: ask them for one; `reject_unauthorized`: False lets those without pass;
                `ciphers` of TLS 1.2; `alpn`; `sni_callback`; or a ready `context` (`ssl.SSLContext`).

        Returns:
            The server.

        Raises:
            ValueError: as the constructor does; the certificate in use stays.
        """
        self._context = server_context(**options)
        return self

    def _make_socket(self, sock: Any) -> Socket:
        return TLSSocket(
            sock,
            self._workers,
            self._deadlines,
            context=self._context,
            server_side=True,
            established=self._established,
            timeout=self.timeout,
            high_water_mark=self.high_water_mark,
            handshake_timeout=self.handshake_timeout,
        )

    def _established(self, socket: TLSSocket, error: Exception | None) -> None:
        if error is None:
            if self.listener_count("secure_connection"):
                self._workers.enter(deliver, self, "secure_connection", socket)
        elif self.listener_count("tls_client_error"):
            self._workers.dispatch(deliver, self, "tls_client_error", error, socket)


def create_server(handler: Callable[..., object] | None = None, **options: Any) -> Server:
    """A new `Server`; `options` are its keyword arguments (reference: `https.createServer`)."""
    return Server(handler, **options)


class Agent(PlainAgent):
    """A pool of connections over TLS; it resumes sessions.

    Args:
        options: `ca` (whom to trust: a path, PEM text, or a list of these; else the system's authorities), `cert` and
            `key` (who we are), `password`, `ciphers`, `server_hostname` (else the host), `reject_unauthorized` (False
            trusts anybody), `check_server_identity` (called with host and certificate instead of the usual check; what
            it raises refuses the server), or a ready `context`. A request may give its own. And those of
            `greenhttp.Agent`; its `timeout` bounds the handshake too.

    Raises:
        ValueError: an option cannot be used, such as a key that does not belong to the certificate.
    """

    __slots__ = ("_secure", "_sessions")

    protocol: ClassVar[str | None] = "https:"
    default_port: ClassVar[int] = 443
    OPTIONS: ClassVar[frozenset[str]] = CLIENT_OPTIONS | {"server_hostname"}

    def __init__(self, **options: Any) -> None:
        self._secure = {name: options.pop(name) for name in self.OPTIONS & options.keys()}
        super().__init__(**options)
        if self._secure:
            client_context(self._secure)  # what is wrong with them is told now
        self._sessions: dict[str, tuple[ssl.SSLContext, ssl.SSLSession | None]] = {}

    def get_name(self, options: Mapping[str, Any]) -> str:
        """As `greenhttp.Agent.get_name`; with what tells TLS connections apart.

        Names come to stand in errors and logs, and keys and passwords must not: so it is a digest of the options.
        """
        name = super().get_name(options)
        given = [(option, self._option(options, option)) for option in sorted(self.OPTIONS)]
        told = repr([(option, value) for option, value in given if value is not None])
        if told == "[]":
            return name
        return f"{name}:{hashlib.blake2b(told.encode(), digest_size=8, key=_NAME_KEY).hexdigest()}"

    def _option(self, options: Mapping[str, Any], name: str) -> Any:
        value = options.get(name)
        return self._secure.get(name) if value is None else value

    def _transport(self, stream: Any, options: Mapping[str, Any]) -> Socket:
        """In a greenlet of the pool: the handshake. A connection that is inside TLS already, such as that to a proxy,
        carries a second one."""
        plain, unread = plain_socket(stream)
        waiter: Waiter[Exception | None] = Waiter(self._hub)
        try:
            secure = {name: self._option(options, name) for name in self.OPTIONS}
            host = secure["server_hostname"] or options.get("host") or "localhost"
            context = client_context(secure)
            socket = TLSSocket(
                plain,
                self._workers,
                self._deadlines,
                context=context,
                server_side=False,
                server_hostname=host,
                session=self._resumable(self.get_name(options), context),
                established=lambda _, error: waiter.switch(error),
                high_water_mark=HIGH_WATER_MARK,
                handshake_timeout=self.timeout or options.get("timeout") or HANDSHAKE_TIMEOUT,
            )
        except BaseException:
            plain.close()
            raise
        if unread:
            socket.receive_early(unread)
        try:
            error = waiter.get()
            if error is not None:
                raise error
            if secure["check_server_identity"] is not None:
                secure["check_server_identity"](host, socket.get_peer_certificate())
            if socket.destroyed:
                raise ConnectionLostError("the server has closed the connection", code="ECONNRESET")
        except BaseException:
            socket.destroy()
            raise
        finally:
            error = None  # its traceback leads here
        return socket

    def connection_free(self, connection: Any) -> None:
        """As `greenhttp.Agent.connection_free`; by now the server has sent its session ticket."""
        socket = connection.socket
        if not socket.remembered:
            socket.remembered = True
            if connection.name not in self._sessions or not socket.session_reused:
                self._remember(connection.name, socket)
        super().connection_free(connection)

    def _remember(self, name: str, socket: TLSSocket) -> None:
        self._sessions.pop(name, None)
        if len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[name] = (socket.context, socket.session)

    def _resumable(self, name: str, context: ssl.SSLContext) -> ssl.SSLSession | None:
        known, session = self._sessions.get(name, (None, None))
        return session if known is context else None


#: The agent of https requests that name none.
global_agent = Agent()
default_agents["https:"] = global_agent


def request(
    url_or_options: str | Mapping[str, Any] | None = None,
    callback: Listener | None = None,
    *,
    agent: PlainAgent | Literal[False] | None = None,
    **options: Any,
) -> ClientRequest:
    """As `greenhttp.request`, with `https:` as the protocol and 443 as the port unless others are named; `options` may
    also be those of `Agent` (reference: `https.request`)."""
    url, agent, options = _as_https(url_or_options, agent, options)
    return client.request(url, callback, agent=agent, **options)


def get(
    url_or_options: str | Mapping[str, Any] | None = None,
    callback: Listener | None = None,
    *,
    agent: PlainAgent | Literal[False] | None = None,
    **options: Any,
) -> ClientRequest:
    """As `request()`, without a body: it is sent at once (reference: `https.get`)."""
    url, agent, options = _as_https(url_or_options, agent, options)
    return client.get(url, callback, agent=agent, **options)


def _as_https(
    given: str | Mapping[str, Any] | None, agent: PlainAgent | Literal[False] | None, options: dict[str, Any]
) -> tuple[str | None, PlainAgent | Literal[False], dict[str, Any]]:
    """The same arguments, with the defaults of https."""
    url = given if isinstance(given, str) else None
    if not isinstance(given, str):
        options = {"protocol": "https:", **(given or {}), **options}
        if agent is None:
            agent = options.pop("agent", None)
    return url, global_agent if agent is None else agent, options
