"""`WSGIServer`: serves a WSGI application; takes the place of `gevent.pywsgi.WSGIServer`. And `gateway()`, the request
handler behind it."""

from __future__ import annotations

import io
import logging
import ssl
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import gevent
from gevent.event import Event
from gevent.pool import Pool

from . import https
from .errors import InvalidArgumentError
from .server import BACKLOG, Server
from .wsgi_gateway import Application, Gateway, gateway

__all__ = ["WSGIServer", "gateway"]

_Self = TypeVar("_Self", bound="WSGIServer")
_TLS_NAMES = {"certfile": "cert", "keyfile": "key", "ca_certs": "ca", "ciphers": "ciphers", "ssl_context": "context"}
_TLS_IGNORED = frozenset(("do_handshake_on_connect", "server_side", "ssl_version", "suppress_ragged_eofs"))


class _ToLogger:
    """A stream whose lines are records of a logger; in all else it is that logger (reference: `LoggingLogAdapter`)."""

    __slots__ = ("_level", "_logger")

    def __init__(self, logger: Any, level: int) -> None:
        object.__setattr__(self, "_logger", logger)
        object.__setattr__(self, "_level", level)

    def write(self, text: str) -> int:
        self._logger.log(self._level, text.removesuffix("\n"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """A record is out when it is written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._logger, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._logger, name)


class _Nowhere(io.TextIOBase):
    """Forgets what is written."""

    def write(self, text: str) -> int:
        return len(text)


class WSGIServer:
    """Serves a WSGI application (reference: `gevent.pywsgi.WSGIServer`).

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
            `greenhttp.https.Server` has it; and the options of `greenhttp.Server`, such as `timeout`.

    Raises:
        TypeError: an option is unknown, or cannot be supported.
        ValueError: there is no such address, or something about TLS is wrong.
    """

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
        if handler_class is not None:
            raise TypeError(
                "handler_class is not supported: there is no pywsgi.WSGIHandler here; for WebSockets listen to "
                "'upgrade' of a greenhttp.Server"
            )
        self._where = _parse_listener(listener)
        self._bound = hasattr(self._where, "getsockname")
        if self._bound and backlog is not None:
            raise TypeError("backlog must be None with a bound socket")
        self._backlog = BACKLOG if backlog is None else backlog
        self._address: Any = self._where.getsockname() if self._bound else self._where
        self._stopped = Event()
        self._stopped.set()
        self.log = _stream(log, logging.INFO)
        self.error_log = _stream(error_log, logging.ERROR)
        self._gateway = Gateway(_no_application, environ=environ, errors=self.error_log or _Nowhere(), log=self.log)
        if application is not None:
            self.application = application
        self.pool = _pool(spawn)
        options = {"ignore_upgrade": True, "pool": self.pool, **_tls_options(options)}
        handler = self._gateway.handle if self.log is None else self._gateway.handle_and_log
        #: The HTTP server; its attributes are the limits.
        self.server: Server = (
            https.Server(handler, **options) if {"cert", "context"} & options.keys() else Server(handler, **options)
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address!r} {'started' if self.started else 'stopped'}>"

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def application(self) -> Application:
        """The application; another one is for the requests to come."""
        return self._gateway.application

    @application.setter
    def application(self, application: Application) -> None:
        self._gateway.application = application

    @property
    def environ(self) -> dict[str, Any]:
        """The user's entries of the environ; changes before the first request count."""
        return self._gateway.environ

    # --- where it listens ---

    @property
    def started(self) -> bool:
        """Whether connections are accepted."""
        return self.server.listening

    @property
    def closed(self) -> bool:
        """Whether no connections are accepted."""
        return not self.server.listening

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
        """The listening socket.

        Raises:
            AttributeError: it does not listen.
        """
        if not self.started:
            raise AttributeError(f"{self!r} has no socket: it does not listen")
        return self.server._listener

    # --- its life ---

    def start(self) -> None:
        """Listen, and return.

        Raises:
            OSError: the address cannot be bound.
        """
        if self.started:
            return
        self._gateway.application = self.application  # a subclass may have it as an attribute
        host, where = self._where if isinstance(self._where, tuple) else (None, self._where)
        self.server.listen(where, host, self._backlog)
        self._address = self.server.address()
        self._stopped.clear()

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Listen, and return when somebody has called `stop()`.

        Args:
            stop_timeout: for the `stop()` at the end, if an exception ends the waiting.
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
        self._stopped.set()

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more, and wait for the requests under way; then the rest is cut.

        Args:
            timeout: seconds to wait; None: `stop_timeout`.
        """
        self.close()
        if not self.server.join(self.stop_timeout if timeout is None else timeout):
            if self.pool is not None:
                self.pool.kill(block=False)
            self.server.close_all_connections()
            self.server.join(1)


def _no_application(environ: Any, start_response: Any) -> Any:
    raise TypeError("the WSGIServer has no application")


def _parse_listener(listener: Any) -> Any:
    """`(host, port)`, a path or a socket."""
    if isinstance(listener, tuple):
        return listener[0], int(listener[1])
    if not isinstance(listener, str):
        return ("", listener) if isinstance(listener, int) else listener
    if listener.startswith("unix:") or "/" in listener:
        return listener.removeprefix("unix:")
    host, _, port = listener.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidArgumentError(f"cannot listen on {listener!r}: give host:port, :port, or a path with a slash")
    return "" if host == "*" else host.strip("[]"), int(port)


def _stream(log: Any, level: int) -> Any:
    """A text stream for `log`, or None."""
    if log == "default":
        return sys.stderr
    if log is not None and not hasattr(log, "write") and hasattr(log, "log"):
        return _ToLogger(log, level)
    return log


def _pool(spawn: Any) -> Pool | None:
    if spawn == "default" or spawn in (gevent.spawn, gevent.spawn_raw):
        return None
    if isinstance(spawn, Pool):
        return spawn
    if isinstance(spawn, int) and not isinstance(spawn, bool):
        return Pool(spawn)
    raise TypeError(f"spawn takes 'default', a number or a gevent.pool.Pool, not {spawn!r}")


def _tls_options(options: dict[str, Any]) -> dict[str, Any]:
    """pywsgi's names of the TLS options, and `ssl.wrap_socket`'s, as `https.Server` has them."""
    found = {_TLS_NAMES.get(name, name): value for name, value in options.items() if name not in _TLS_IGNORED}
    required = found.pop("cert_reqs", ssl.CERT_NONE)
    if required != ssl.CERT_NONE:
        found["request_cert"] = True
        found["reject_unauthorized"] = required == ssl.CERT_REQUIRED
    return found
