"""One line for each answered request, in the common log format with the seconds that it took."""

from __future__ import annotations

import time
from typing import TextIO

from .incoming import IncomingMessage
from .response import ServerResponse
from .server import Server

__all__ = ["log_requests"]

# Control characters and quotes of a request must not forge lines.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x22, 0x5C, *range(0x7F, 0x100))}


def log_requests(server: Server, stream: TextIO) -> None:
    """Write a line to `stream` whenever a response of `server` is finished, or cut off by its client."""

    def began(req: IncomingMessage, res: ServerResponse) -> None:
        start = time.monotonic()
        peer = req.socket.remote_address or "-"

        def ended() -> None:
            when = time.strftime("%d/%b/%Y:%H:%M:%S %z")
            line = f"{req.method} {req.url} HTTP/{req.http_version}".translate(_ESCAPES)
            status = res.status_code if res.writable_finished else 499  # nginx's number for a client that left
            stream.write(f'{peer} - - [{when}] "{line}" {status} {res.body_size} {time.monotonic() - start:.6f}\n')
            stream.flush()

        res.on("finish", ended)
        res.on("close", ended)

    server.on("request", began)
