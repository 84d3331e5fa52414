"""`gunicorn -k greenhttp.gunicorn.Worker app:app`: gunicorn's processes, and greenhttp's server in each of them.

What every setting of gunicorn means here is in docs/gunicorn.md.
"""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar
from wsgiref.util import FileWrapper

import gevent
from gevent import monkey
from gevent.event import Event

from . import https
from .errors import PeerTimeoutError
from .incoming import IncomingMessage
from .parser import MAX_HEADER_SIZE
from .response import ServerResponse
from .server import Server
from .sockets import Socket
from .status import STATUS_CODES
from .wsgi_environ import Environ
from .wsgi_gateway import Gateway

try:
    from gunicorn.http.wsgi import WSGIErrorsWrapper
    from gunicorn.sock import ssl_context
    from gunicorn.workers.base import Worker as _Base
except ModuleNotFoundError as missing:
    raise ImportError("greenhttp.gunicorn needs gunicorn: pip install 'greenhttp[gunicorn]'") from missing

__all__ = ["Worker"]

BEAT = 1.0  # seconds between two signs of life, if `timeout` allows as much
LEEWAY = 0.5  # seconds before the end of `graceful_timeout`, when the arbiter kills, that we cut what still runs
UNLIMITED_HEAD = 1024 * 1024  # bytes, where gunicorn is told to set no limit. Precedent: gunicorn's fast parser
ARBITERS_OWN = ("os", "signal")  # what the arbiter learns by that a worker has ended
PATCH_A_PART = "with preload_app, the application may patch by monkey.patch_all(os=False, signal=False)"
#: Settings about requests that have no meaning here; a value of the user's own is told in the log.
NOT_HONOURED = """casefold_http_method forwarder_headers header_map http2_cleartext http_protocols
    permit_obsolete_folding permit_unconventional_http_method permit_unconventional_http_version protocol
    proxy_protocol strip_header_spaces threads""".split()


class _ReadFile(FileWrapper):
    """`wsgi.file_wrapper` where `sendfile` is not wanted: the gateway sends files in the plain one only."""


class _Request:
    """A request as gunicorn's hooks and its access log know it."""

    __slots__ = ("_message",)

    def __init__(self, message: IncomingMessage) -> None:
        self._message = message

    @property
    def method(self) -> str:
        """`'GET'`, ..."""
        return self._message.method

    @property
    def uri(self) -> str:
        """The request target as sent."""
        return self._message.url

    @property
    def path(self) -> str:
        """The target before its query."""
        return self._message.url.partition("?")[0]

    @property
    def query(self) -> str:
        """The target after `?`."""
        return self._message.url.partition("?")[2]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in capitals, and values, as received."""
        flat = self._message.raw_headers
        return [(name.upper(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]


class _Response:
    """An answer as gunicorn's hooks and its access log know it."""

    __slots__ = ("_response",)

    def __init__(self, response: ServerResponse) -> None:
        self._response = response

    @property
    def status(self) -> str:
        """`'200 OK'`."""
        code = self._response.status_code
        return f"{code} {self._response.status_message or STATUS_CODES.get(code, 'unknown')}"

    @property
    def sent(self) -> int:
        """Bytes of body."""
        return self._response.body_size

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Those of the application."""
        found: list[tuple[str, str]] = []
        for name, value, _ in self._response.headers.values():
            values = value if isinstance(value, (list, tuple)) else (value,)
            found += [(name, str(item)) for item in values]
        return found


class Worker(_Base):  # type: ignore[misc]  # gunicorn has no types
    """A worker of gunicorn: serves its listeners until the arbiter, `max_requests` or the arbiter's death ends it."""

    #: Options of `greenhttp.Server` for a subclass to set, such as `timeout`; they win over gunicorn's settings.
    server_options: ClassVar[Mapping[str, Any]] = {}

    alive: bool  # the base's: False once the worker is to leave

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """In the arbiter: tell of settings that will not be honoured."""
        for name in NOT_HONOURED:
            setting = cfg.settings.get(name)  # older versions do not have all of them
            if setting is not None and setting.get() != type(setting)().get():
                log.warning("greenhttp.gunicorn.Worker does not honour the setting %s", name)

    # --- its life ---

    def init_process(self) -> None:
        """In the new process: patch the standard library, load the application, and serve until the end."""
        signal.signal(signal.SIGTERM, super().handle_exit)  # the handler of the arbiter, inherited, would lose it
        if any(map(monkey.is_module_patched, ARBITERS_OWN)):
            self.log.warning("The arbiter is patched, and may not hear of workers that end: %s", PATCH_A_PART)
        monkey.patch_all()
        gevent.reinit()
        self._leaving = Event()
        self._aborted = False
        self._running: dict[IncomingMessage, Environ | None] = {}  # the requests whose application has not returned
        self._servers: list[Server] = []
        super().init_process()

    def init_signals(self) -> None:
        """As the base does; but what may block or must end the hub's sleep runs in a greenlet.

        SIGABRT stays as it is: it comes when the hub is blocked.
        """
        super().init_signals()
        handlers = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGINT: self.handle_quit,
            signal.SIGQUIT: self.handle_quit,
            signal.SIGUSR1: self.handle_usr1,
        }
        self._watchers = [gevent.signal_handler(number, run, number, None) for number, run in handlers.items()]

    def load_wsgi(self) -> None:
        """Load the application and make the servers: what is wrong with either ends gunicorn instead of this worker
        only."""
        super().load_wsgi()
        self._secure_fields = [
            (f"HTTP_{name.upper().replace('-', '_')}", value) for name, value in self.cfg.secure_scheme_headers.items()
        ]
        self._pre_request, self._post_request = self.cfg.pre_request, self.cfg.post_request
        self._proxies = tuple(self.cfg.forwarded_allow_ips)
        mount = os.environ.get("SCRIPT_NAME", "").rstrip("/")
        self._mount = os.fsencode(mount).decode("latin-1")  # as PEP 3333 has strings
        self._servers = [self._make_server() for _ in self.sockets]

    def run(self) -> None:
        """Serve; return when the worker has stopped in good order."""
        if self.alive:  # SIGTERM may have come while the application was loaded
            for server, listener in zip(self._servers, self.sockets, strict=True):
                server.listen(listener, backlog=self.cfg.backlog)
        beat = gevent.spawn(self._beat)
        try:
            self._leaving.wait()
            self._drain()
        finally:
            beat.kill()  # the file that it touches is closed next

    def handle_abort(self, sig: int, frame: object) -> None:
        """SIGABRT: the hub is blocked; end at once, wherever that is."""
        self._aborted = True
        super().handle_abort(sig, frame)

    def handle_exit(self, sig: int, frame: object) -> None:
        """SIGTERM: stop in good order."""
        self._leave()

    def _beat(self) -> None:
        """In a greenlet, so that a blocked hub shows: give the arbiter signs of life, and look for its own."""
        while True:
            self.notify()
            if self.alive and self.ppid != os.getppid():
                self.log.info("The arbiter has gone: worker %s stops", self.pid)
                self.alive = False
            if not self.alive:  # or gunicorn's reloader has set it
                self._leave()
            gevent.sleep(min(BEAT, self.timeout or BEAT))

    def _leave(self) -> None:
        """Accept no more, close what is idle; `run` sees to the rest. Never blocks."""
        self.alive = False
        if self._leaving.is_set():
            return
        for listener in self.sockets:  # the servers have their own descriptors, and accept what waits there
            listener.close()
        for server in self._servers:
            server.close()
        self._leaving.set()

    def _drain(self) -> None:
        """Wait for what runs, and cut it when `graceful_timeout` is nearly over."""
        deadline = time.monotonic() + self.cfg.graceful_timeout - LEEWAY
        # an application may go on without its connection, or have taken it
        while self._running or not all(server.join(0) for server in self._servers):
            if time.monotonic() > deadline:
                self._cut()
                return
            gevent.sleep(0.02)

    def _cut(self) -> None:
        cut = [f"{request.method} {request.url}" for request in self._running]
        self.log.warning("graceful_timeout is over: worker %s cuts %d requests: %s", self.pid, len(cut), cut[:20])
        for server in self._servers:
            server.close_all_connections()

    # --- what it serves ---

    def _make_server(self) -> Server:
        cfg = self.cfg
        environ: Environ = {"wsgi.multiprocess": cfg.workers > 1}
        if not cfg.sendfile:
            environ["wsgi.file_wrapper"] = _ReadFile
        gateway = Gateway(self._application, environ=environ, errors=WSGIErrorsWrapper(cfg))
        options: dict[str, Any] = {
            "ignore_upgrade": True,
            "keep_alive_timeout": cfg.keepalive,
            "max_connections": cfg.worker_connections,
            "max_header_size": _head_size(cfg.limit_request_line, cfg.limit_request_field_size),
            "max_headers_count": cfg.limit_request_fields,
            "max_requests_per_socket": 0 if cfg.keepalive else 1,
            "timeout": 0,  # gunicorn lets applications take their time; what waits for a client has limits of its own
            **self.server_options,
        }
        handler = partial(self._handle, gateway)
        if not cfg.is_ssl:
            server = Server(handler, **options)
        else:
            context: ssl.SSLContext = ssl_context(cfg)
            context.set_alpn_protocols(["http/1.1"])  # nothing else is spoken here, whatever `http_protocols` says
            server = https.Server(handler, context=context, **options)
        return server.on("refused", self._refused)

    def _refused(self, error: Exception, socket: Socket) -> None:
        """A client broke HTTP, and was told so: gunicorn's words. Those that were only slow are not worth a line."""
        if not isinstance(error, PeerTimeoutError):
            self.log.warning("Invalid request from ip=%s: %s", socket.remote_address or "", error)

    def _handle(self, gateway: Gateway, request: IncomingMessage, response: ServerResponse) -> None:
        """The request handler of all servers."""
        begin = time.monotonic()
        self._running[request] = None
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Worker %s stops: it has served its %d requests", self.pid, self.nr)
            self._leave()  # before the answer, so that it says `Connection: close`
        try:
            gateway.handle(request, response)
        except SystemExit:
            if self._aborted:
                raise
            # what one application raises must not end the requests of all, and gunicorn takes some codes for a reason
            # to end itself
            self.log.exception("%s %s tried to end the worker", request.method, request.url)
            response._connection.listener_failed(request)
        finally:
            environ = self._running.pop(request)
            if environ is not None:
                self._done(request, response, environ, timedelta(seconds=time.monotonic() - begin))

    def _application(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The application, behind what gunicorn does before it."""
        message: IncomingMessage = environ["greenhttp.request"]
        environ["RAW_URI"] = message.url
        self._running[message] = environ
        if self._mount:
            self._enter_mount(environ)
        self._pre_request(self, _Request(message))
        scheme = self._scheme(environ)
        if scheme is None:
            start_response("400 Bad Request", [("Content-Type", "text/plain"), ("Connection", "close")])
            return [b"The scheme headers contradict each other.\n"]
        environ["wsgi.url_scheme"] = scheme
        answer: Iterable[bytes] = self.wsgi(environ, start_response)
        return answer

    def _enter_mount(self, environ: Environ) -> None:
        """The application lives below `SCRIPT_NAME` of the process's environment, and the proxy has left that on.

        Raises:
            LookupError: the path is elsewhere.
        """
        mount, path = self._mount, environ["PATH_INFO"]
        if path != mount and not path.startswith(mount + "/"):
            raise LookupError(f"the path {path!r} is not below SCRIPT_NAME, {mount!r}")
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = mount, path[len(mount) :]

    def _scheme(self, environ: Environ) -> str | None:
        """`wsgi.url_scheme`, which a proxy that is trusted may tell; None if it tells both."""
        own: str = environ["wsgi.url_scheme"]
        peer = environ["REMOTE_ADDR"]
        if peer:
            trusted = _is_among(peer, self._proxies)
        else:  # a Unix socket is
            trusted = isinstance(environ["greenhttp.request"].socket.local_address, str)
        if not trusted:
            return own
        told = {"https" if environ[key] == value else "http" for key, value in self._secure_fields if key in environ}
        if len(told) > 1:
            return None
        return told.pop() if told else own

    def _done(self, message: IncomingMessage, response: ServerResponse, environ: Environ, took: timedelta) -> None:
        """The application has returned: the access log and the hook."""
        request, answer = _Request(message), _Response(response)
        self.log.access(answer, request, environ, took)
        try:
            self._post_request(self, request, environ, answer)
        except Exception:
            self.log.exception("post_request failed on %s %s", request.method, request.uri)


def _head_size(line: int, field: int) -> int:
    """Bytes of a head that keeps gunicorn's limits of its line and of one field; 0 is none, there."""
    return max(MAX_HEADER_SIZE, line + field) if line and field else UNLIMITED_HEAD


@lru_cache(maxsize=1024)
def _is_among(address: str, allowed: tuple[str, ...]) -> bool:
    """Whether `allowed`, addresses and networks or `*`, has `address` in it."""
    if "*" in allowed:
        return True
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in ip_network(network, strict=False) for network in allowed)
