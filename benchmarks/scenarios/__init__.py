"""All scenarios, in the order in which they run. To add one: an object here, or a file with a `Scenario` beside."""

from __future__ import annotations

from ..exchange import Exchange
from ..payloads import DOWNLOAD, HELLO
from ..results import MIB_PER_SECOND
from ..wrk import Load
from .base import Scenario
from .idle import Idle
from .large_download import FastDownload, SlowDownload
from .loaded import Loaded
from .parked import Parked
from .upload import Upload

__all__ = ["SCENARIOS", "Scenario"]

_HELLO = Exchange("/hello", HELLO)
_POSTED = 1024  # bytes
_STREAM = Exchange(f"/stream?bytes={len(DOWNLOAD)}", DOWNLOAD, chunked=True)

SCENARIOS: tuple[Scenario, ...] = (
    Loaded("hello", "13 bytes to 64 keep-alive connections", _HELLO),
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
        MIB_PER_SECOND,
    ),
    Loaded("stream", "1 MiB in 64 chunks to 16 keep-alive connections", _STREAM, Load(connections=16), MIB_PER_SECOND),
    Loaded(
        "churn",
        "a connection for each request (wrk with Connection: close), 64 at a time",
        _HELLO,
        Load(close=True),
        longest=2,  # seconds: each request costs an ephemeral port or a TIME_WAIT, and there are 28,232 ports
    ),
    Upload(),
    FastDownload(),
    SlowDownload(),
    Idle(),
    Parked(),
)
