"""An address that answers to nobody: a connection there stays half-open."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blackhole(host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a listener on `host` whose queue is full, so that the kernel drops who else wants to connect."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        fillers = [socket.socket(family) for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((host, port))
            yield port
        finally:
            for filler in fillers:
                filler.close()
