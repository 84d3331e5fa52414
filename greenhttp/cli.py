"""The command line: `python -m greenhttp [module:handler] [options]`.

It patches the standard library before it imports the handler, so that blocking handlers cooperate.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import monkey

from . import https
from ._version import __version__
from .access_log import log_requests
from .server import Server
from .wsgi_gateway import WSGI_OPTIONS, gateway, is_application

__all__ = ["main"]

DEFAULT_BIND = "127.0.0.1:8000"
GRACE = 30.0  # seconds for what runs at SIGTERM. Precedents: Kubernetes and gunicorn 30


class _UsageError(Exception):
    """What the user got wrong, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0 after an orderly stop, 1 if it cannot start, 2 for bad
    usage."""
    options = _parser().parse_args(arguments)
    monkey.patch_all()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        handler: Any = _load(options.handler)
        wsgi = is_application(handler) if options.wsgi is None else options.wsgi
        server = _server(options.cert, options.key, **(WSGI_OPTIONS if wsgi else {}))
        if options.access_log:
            log_requests(server, sys.stdout)  # its listener comes first, to see when a request begins
        server.on("request", gateway(handler) if wsgi else handler)
        _listen(server, options.bind)
    except _UsageError as error:
        print(f"greenhttp: {error}", file=sys.stderr)
        return 1
    _stop_on_signals(server, options.graceful_timeout)
    print(f"greenhttp {__version__} serves {options.handler} on {_shown(server)}", flush=True)
    server.join()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m greenhttp",
        description="Serve a request handler or a WSGI application; without one, a demonstration.",
    )
    parser.add_argument("handler", nargs="?", default="greenhttp.demo:handle", metavar="module:handler")
    parser.add_argument(
        "--bind", default=DEFAULT_BIND, metavar="HOST:PORT|unix:PATH|fd:N", help=f"where to listen ({DEFAULT_BIND})"
    )
    parser.add_argument(
        "--cert", metavar="FILE", help="serve https: the certificate, with those between it and the root"
    )
    parser.add_argument("--key", metavar="FILE", help="its private key, unless that is in the same file")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--wsgi", action="store_true", default=None, help="it is a WSGI application, whatever it looks like"
    )
    kind.add_argument("--handler", dest="wsgi", action="store_false", help="it is a request handler")
    parser.add_argument("--access-log", action="store_true", help="a line on stdout for each request")
    parser.add_argument(
        "--graceful-timeout",
        type=_seconds,
        default=GRACE,
        metavar="SECONDS",
        help=f"for requests under way at SIGTERM or SIGINT ({GRACE:g})",
    )
    parser.add_argument("--version", action="version", version=f"greenhttp {__version__}")
    return parser


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _load(name: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise _UsageError(f"name the handler as module:handler, not {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that the handler's module needs: the traceback says where
        raise _UsageError(f"there is no module {error.name!r} (looked in the current directory too)") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _UsageError(f"module {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise _UsageError(f"{name} is not callable")
    return found  # type: ignore[no-any-return]


def _server(cert: str | None, key: str | None, **options: Any) -> Server:
    if cert is None and key is None:
        return Server(**options)
    if cert is None:
        raise _UsageError("--key needs --cert")
    try:
        return https.Server(cert=cert, key=key, **options)
    except ValueError as error:
        raise _UsageError(f"--cert {cert}{f' --key {key}' if key else ''}: {error}") from error


def _listen(server: Server, bind: str) -> None:
    kind, _, rest = bind.partition(":")
    try:
        if kind == "unix" and rest:
            server.listen(rest)
        elif kind == "fd" and rest.isdecimal():
            server.listen({"fd": int(rest)})
        else:
            host, _, port = bind.rpartition(":")
            if not port.isdecimal() or int(port) > 65535:
                raise _UsageError(f"--bind takes HOST:PORT, unix:PATH or fd:N, not {bind!r}")
            server.listen(int(port), host.strip("[]") or None)
    except OSError as error:
        raise _UsageError(f"cannot listen: {error.strerror or error}") from error


def _shown(server: Server) -> str:
    address = server.address()
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    scheme = "https" if isinstance(server, https.Server) else "http"
    return f"{scheme}://{host}:{address[1]}/"


def _stop_on_signals(server: Server, grace: float) -> None:
    def stop() -> None:
        if server.closing:
            os._exit(1)  # asked twice
        server.close(timeout=grace)

    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop)
