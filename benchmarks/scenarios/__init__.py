"""All scenarios, in the order in which they run. To add one: an object here, or a class in a file beside."""

from __future__ import annotations

from ..contenders import FLASK_SERVERS, TLS_SERVERS, WSGI_SERVERS
from ..exchange import Exchange
from ..payloads import DOWNLOAD, HELLO, PAGE
from ..wrk import Load
from .asking import PAGES, Asking
from .base import Scenario
from .churn import Churn
from .handshakes import Handshakes
from .idle import Idle, TLSIdle
from .large_download import FastDownload, SlowDownload
from .loaded import BODIES, Loaded
from .parked import Parked
from .upload import Upload

__all__ = ["SCENARIOS", "Scenario"]

_HELLO = Exchange("/hello", HELLO)
_POSTED = 1024  # bytes
_WSGI_BASELINE = "gunicorn-gevent"

SCENARIOS: tuple[Scenario, ...] = (
    Loaded("hello", "13 bytes to 64 keep-alive connections", _HELLO, Load()),
    Loaded("pipelined", "the same, 16 requests pipelined at a time", _HELLO, Load(pipelined=16)),
    Loaded(
        "echo",
        "POST of 1 KiB sent back, 64 keep-alive connections",
        Exchange("/echo", b"x" * _POSTED, "POST", b"x" * _POSTED),
        Load(body=_POSTED),
    ),
    Loaded(
        "download",
        "1 MiB with Content-Length to 16 keep-alive connections",
        Exchange("/download", DOWNLOAD),
        Load(connections=16),
        BODIES,
    ),
    Loaded(
        "stream",
        "1 MiB in 64 chunks to 16 keep-alive connections",
        Exchange(f"/stream?bytes={len(DOWNLOAD)}", DOWNLOAD, chunked=True),
        Load(connections=16),
        BODIES,
    ),
    Churn(),
    Upload(),
    FastDownload(),
    SlowDownload(),
    Idle(),
    Parked(),
    Loaded(
        "tls-hello",
        "13 bytes to 64 keep-alive TLS connections",
        _HELLO,
        Load(),
        contenders=TLS_SERVERS,
        programs=("wrk", "openssl"),
    ),
    Handshakes(),
    TLSIdle(),
    Asking("client", "clients: GETs of 13 bytes from nginx, 64 at a time, keep-alive", _HELLO),
    Asking("client-100k", "clients: the same, of 100 KiB", Exchange("/page", PAGE), PAGES),
    Loaded(
        "wsgi",
        "a WSGI application's 13 bytes to 64 keep-alive connections",
        _HELLO,
        Load(),
        contenders=WSGI_SERVERS,
        baseline=_WSGI_BASELINE,
    ),
    Loaded(
        "wsgi-browsers",
        "the same to 1,000 browsers: 11 fields, each with a cookie of its own",
        _HELLO,
        Load(browsers=1000),
        contenders=WSGI_SERVERS,
        baseline=_WSGI_BASELINE,
    ),
    Loaded(
        "wsgi-flask",
        "13 bytes from a Flask route to 64 keep-alive connections",
        _HELLO,
        Load(),
        contenders=FLASK_SERVERS,
        baseline=_WSGI_BASELINE,
    ),
)
