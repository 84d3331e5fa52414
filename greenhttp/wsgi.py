"""`WSGIServer`: serves a WSGI application; takes the place of `gevent.pywsgi.WSGIServer`. And `gateway()`, the request
handler behind it."""

from __future__ import annotations

import logging
import socket as stdlib_socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import Hub
from gevent.pool import Group, Pool
from gevent.server import StreamServer

from . import https
from .errors import InvalidArgumentError
from .incoming import IncomingMessage
from .response import ServerResponse
from .server import BACKLOG, Server
from .tls_context import SERVER_OPTIONS
from .workers import Worker
from .wsgi_environ import BASE_ENVIRON, Environ, server_name
from .wsgi_gateway import WSGI_OPTIONS, Application, Gateway, gateway
from .wsgi_log import as_stream

__all__ = ["WSGI_OPTIONS", "WSGIServer", "gateway"]

_Self = TypeVar("_Self", bound="WSGIServer")
_TLS_NAMES = {"certfile": "cert", "keyfile": "key", "ca_certs": "ca", "ciphers": "ciphers", "ssl_context": "context"}
_TLS_IGNORED = frozenset(("do_handshake_on_connect", "server_side", "ssl_version", "suppress_ragged_eofs"))
_TLS = SERVER_OPTIONS | _TLS_NAMES.keys() | _TLS_IGNORED | {"cert_reqs"}

_GIVE_A_SOCKET = "bind a socket, and give it as the listener"
#: What pywsgi's server has and this one cannot have, with what to do instead.
_NOT_HERE = {
    name: f"{name} has no effect here; {instead}"
    for names, instead in (
        ("handler_class", "there is no pywsgi.WSGIHandler: for WebSockets and the log see docs/wsgi.md"),
        (
            "handle set_handle do_handle do_read do_close wrap_socket wrap_socket_and_handle",
            "wrap the application, or listen to the events of the attribute `server`",
        ),
        ("init_socket set_listener start_accepting stop_accepting", _GIVE_A_SOCKET),
        ("environ_class secure_environ_class", "PEP 3333 demands a dict: wrap the application"),
        ("set_spawn full", "give `spawn`, or `max_connections`"),
        ("is_fatal_error fatal_errors min_delay max_delay", "what `accept` raises is handled"),
    )
    for name in names.split()
}


class _ServerGateway(Gateway):
    """The gateway of a `WSGIServer`, which knows what each environ begins as.

    Args:
        application: the WSGI application.
        get_environ: that server's method.
    """

    __slots__ = ("_get_environ",)

    def __init__(self, application: Application, get_environ: Callable[[], Environ]) -> None:
        super().__init__(application)
        self._get_environ = get_environ

    def base_environ(self, request: IncomingMessage) -> Environ:
        """As the server says."""
        return self._get_environ()


class _AskingGateway(_ServerGateway):
    """The same, if `get_environ` was overridden: it may tell requests apart."""

    __slots__ = ()

    def handle(self, request: IncomingMessage, response: ServerResponse) -> None:
        """The request handler."""
        self.forget()
        super().handle(request, response)


class WSGIServer:
    """Serves a WSGI application (reference: `gevent.pywsgi.WSGIServer`).

    What of pywsgi's server a subclass may override is in docs/wsgi.md; the rest is refused.

    Args:
        listener: `(host, port)`, `':port'`, `'host:port'`, a port, the path of a Unix socket, or a bound socket.
        application: the WSGI application; None: the one that a subclass has as its attribute.
        backlog: connections that may wait for `accept`; not with a socket.
        spawn: how many requests run at a time, as a number or a `gevent.pool.Pool`; `'default'` is unlimited.
        log: a text stream or a logger for a line about each request; None: none. `'default'` is `sys.stderr`.
        error_log: the same for `wsgi.errors` and for what the application raises.
        handler_class: not supported.
        environ: entries for the environ of each request.
        options: TLS as there (`certfile`, `keyfile`, `ca_certs`, `cert_reqs`, `ciphers`, `ssl_context`), or as
            `greenhttp.https.Server` has it; and the options of `greenhttp.Server`. `timeout` is 0 and
            `keep_alive_timeout` 120 seconds, unless `timeout` is given.

    Raises:
        TypeError: an option is unknown, or cannot be supported; so can what a subclass overrides.
        ValueError: there is no such address, or something about TLS is wrong.
    """

    #: What each environ begins as, before what the server and `environ` say.
    base_env: ClassVar[Environ] = dict(BASE_ENVIRON)
    #: Connections accepted in a row; 1 if the environ says `wsgi.multiprocess`.
    max_accept = 100
    #: Connections that may wait for `accept`.
    backlog = BACKLOG
    #: Whether an address may be bound while connections of its last listener are about; it always may.
    reuse_addr = True
    #: Seconds that `stop()` waits for requests under way.
    stop_timeout: float | None = 1

    def __init__(
        self,
        listener: Any,
        application: Application | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        log: Any = "default",
        error_log: Any = "default",
        handler_class: object = None,
        environ: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        _refuse_overrides(type(self))
        if handler_class is not None:
            raise TypeError(_NOT_HERE["handler_class"])
        self._where = _parse_listener(listener)
        self._bound = hasattr(self._where, "getsockname")
        if self._bound and backlog is not None:
            raise TypeError("backlog must be None with a bound socket")
        if backlog is not None:
            self.backlog = backlog
        self._address: Any = self._where.getsockname() if self._bound else self._where
        self._environ: Environ = {}
        self._stopped = Event()
        self._stopped.set()
        self.pool = _pool(spawn)
        #: The HTTP server; its attributes are the limits.
        self.server: Server = _http_server({"pool": self.pool, **options})
        self._gateway = self._make_gateway()
        if application is not None:
            self.application = application
        self.log = log
        self.error_log = as_stream(error_log, logging.ERROR)
        self.set_environ(environ)
        self.set_max_accept()

    def _make_gateway(self) -> Gateway:
        application = _no_application
        if type(self).application is not WSGIServer.application:  # an attribute or a method of a subclass
            application = self._call_application
        kind = _ServerGateway if type(self).get_environ is WSGIServer.get_environ else _AskingGateway
        return kind(application, self.get_environ)

    def _call_application(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self.application(environ, start_response)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address!r} {'started' if self.started else 'stopped'}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NOT_HERE:
            raise TypeError(_NOT_HERE[name])
        super().__setattr__(name, value)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what it serves ---

    @property
    def application(self) -> Application:
        """The application; another one is for the requests to come."""
        return self._gateway.application

    @application.setter
    def application(self, application: Application) -> None:
        self._gateway.application = application

    @property
    def log(self) -> Any:
        """The stream of the access log; may be set to all that the argument may be."""
        return self._gateway.log

    @log.setter
    def log(self, log: Any) -> None:
        self._gateway.log = as_stream(log, logging.INFO)
        self.server.remove_all_listeners("request")
        self.server.on("request", self._gateway.handle if log is None else self._gateway.handle_and_log)

    @property
    def environ(self) -> Environ:
        """What the environ of each request begins as; changes are for the requests to come, if it is asked for anew."""
        self._gateway.forget()  # whoever asks may change it
        return self._environ

    @environ.setter
    def environ(self, environ: Environ) -> None:
        self._environ = environ
        self._gateway.forget()

    def set_environ(self, environ: Mapping[str, Any] | None = None) -> None:
        """Make `environ` anew: of `base_env`, the scheme, and over them the entries given, or else those there are."""
        given = self.environ if environ is None else environ
        self.environ = {**self.base_env, "wsgi.url_scheme": "https" if self.ssl_enabled else "http", **given}
        if self.environ.get("wsgi.errors") is None:
            self.environ["wsgi.errors"] = self.error_log
        if self.started:
            self.update_environ()
        self._gateway.forget()

    def update_environ(self) -> None:
        """Called once the server listens: add SERVER_NAME and SERVER_PORT, unless they are there."""
        name, port = server_name(self._address, secure=self.ssl_enabled)
        self.environ.setdefault("SERVER_NAME", name)
        self.environ.setdefault("SERVER_PORT", port)

    def get_environ(self) -> Environ:
        """What the environ of one request begins as; a subclass that overrides it is asked for each."""
        return dict(self.environ)

    def set_max_accept(self) -> None:
        """Called once: processes that share a listener should take one connection at a time."""
        if self.environ.get("wsgi.multiprocess"):
            self.max_accept = 1

    # --- where it listens ---

    @classmethod
    def get_listener(cls, address: Any, backlog: int | None = None, family: int = stdlib_socket.AF_INET) -> Any:
        """A socket that is bound to `address` and listens, to be given as the listener.

        Raises:
            OSError: the address cannot be bound.
        """
        return StreamServer.get_listener(address, cls.backlog if backlog is None else backlog, family)

    @property
    def started(self) -> bool:
        """Whether connections are accepted."""
        return self.server.listening

    @property
    def closed(self) -> bool:
        """Whether there is no listening socket."""
        return not hasattr(self, "socket")

    @property
    def ssl_enabled(self) -> bool:
        """Whether it speaks TLS."""
        return isinstance(self.server, https.Server)

    @property
    def address(self) -> Any:
        """Where it listens, `(host, port)` or a path; before `start()`: where it will."""
        return self._address

    @property
    def server_host(self) -> str | None:
        """The host of `address`; None for a path."""
        return self._address[0] if isinstance(self._address, tuple) else None

    @property
    def server_port(self) -> int | None:
        """The port of `address`; None for a path."""
        return self._address[1] if isinstance(self._address, tuple) else None

    @property
    def socket(self) -> Any:
        """The listening socket; before `start()` the one that was given.

        Raises:
            AttributeError: there is none.
        """
        if self.started:
            return self.server._listener
        if self._bound:
            return self._where
        raise AttributeError(f"{self!r} has no socket: it does not listen")

    # --- its life ---

    def start(self) -> None:
        """Listen, and return. After a `stop()`: at the same address.

        Raises:
            OSError: the address cannot be bound.
        """
        if self.started:
            return
        host, where = self._where if isinstance(self._where, tuple) else (None, self._where)
        self.server.listen(where, host, self.backlog)
        self.server._acceptor.max_accept = self.max_accept  # type: ignore[union-attr]  # it listens
        self._address = self.server.address()
        if host is not None:
            self._where = host, self._address[1]
        self.update_environ()
        self._stopped.clear()

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Listen, and return when somebody has called `stop()`.

        Args:
            stop_timeout: for the `stop()` at the end.
        """
        self.start()
        try:
            self._stopped.wait()
        finally:
            self.stop(stop_timeout)

    def close(self) -> None:
        """Accept no more, and close the socket that was given, if one was; requests under way go on."""
        if self.started:
            self.server.close()
        if self._bound:
            self._where.close()
            self._bound = False
            self._where = self._address[:2] if isinstance(self._address, tuple) else self._address
        self._stopped.set()

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more, and wait for the requests under way; then the rest is cut.

        In a request, which would wait for itself, and in the hub, where signal handlers may run, it returns at once.

        Args:
            timeout: seconds to wait; None: `stop_timeout`.
        """
        self.close()
        seconds = self.stop_timeout if timeout is None else timeout
        if isinstance(gevent.getcurrent(), (Hub, Worker)):
            gevent.spawn(self._finish, seconds)
        else:
            self._finish(seconds)

    def _finish(self, seconds: float | None) -> None:
        if not self.server.join(seconds):
            if self.pool is not None:
                self.pool.kill(block=False)
            self.server.close_all_connections()
            self.server.join(1)


def _refuse_overrides(kind: type[WSGIServer]) -> None:
    """What a subclass has in vain is better told than ignored."""
    for name, message in _NOT_HERE.items():
        if hasattr(kind, name):
            raise TypeError(f"{kind.__name__}: {message}")
    if kind.get_listener.__func__ is not WSGIServer.get_listener.__func__ or not kind.reuse_addr:  # type: ignore[attr-defined]
        raise TypeError(f"{kind.__name__}: get_listener and reuse_addr have no effect here; {_GIVE_A_SOCKET}")


def _no_application(environ: Any, start_response: Any) -> Any:
    raise TypeError("the WSGIServer has no application")


def _parse_listener(listener: Any) -> Any:
    """`(host, port)`, a path or a socket."""
    if hasattr(listener, "do_handshake"):
        raise TypeError(f"a listener must be a plain socket, not {listener!r}: TLS has options")
    if isinstance(listener, (tuple, int)):
        host, number = listener[:2] if isinstance(listener, tuple) else ("", listener)
        if not 0 <= int(number) < 65536:
            raise InvalidArgumentError(f"cannot listen on {listener!r}: there is no such port")
        return host, int(number)
    if not isinstance(listener, str):
        return listener
    if listener.startswith("unix:") or "/" in listener:
        return listener.removeprefix("unix:")
    host, _, port = listener.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidArgumentError(f"cannot listen on {listener!r}: give host:port, :port, or a path with a slash")
    return "0.0.0.0" if host in ("", "*") else host.strip("[]"), int(port)  # as pywsgi


def _pool(spawn: Any) -> Any:
    """A `gevent.pool.Pool` or `Group`, or None."""
    if spawn == "default" or spawn in (gevent.spawn, gevent.spawn_raw):
        return None
    if isinstance(spawn, Group):
        return spawn
    if isinstance(spawn, int) and not isinstance(spawn, bool):
        return Pool(spawn)
    raise TypeError(f"spawn takes 'default', a number or a gevent.pool.Pool, not {spawn!r}")


def _http_server(options: dict[str, Any]) -> Server:
    kind = Server if _TLS.isdisjoint(options) else https.Server
    if "timeout" in options:  # whoever limits every silence limits that between requests
        options = {"keep_alive_timeout": None, **options}
    return kind(**{**WSGI_OPTIONS, **_tls_options(options)})


def _tls_options(options: dict[str, Any]) -> dict[str, Any]:
    """pywsgi's names of the TLS options, and `ssl.wrap_socket`'s, as `https.Server` has them."""
    found = {_TLS_NAMES.get(name, name): value for name, value in options.items() if name not in _TLS_IGNORED}
    required = found.pop("cert_reqs", ssl.CERT_NONE)
    if required != ssl.CERT_NONE:
        found["request_cert"] = True
        found["reject_unauthorized"] = required == ssl.CERT_REQUIRED
    return found
