"""The contender granian, with one worker and its WSGI interface."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TextIO

from granian import Granian  # type: ignore[import-not-found, unused-ignore]
from granian.constants import Interfaces  # type: ignore[import-not-found, unused-ignore]

from .program import about, announce, target


def reserve() -> tuple[socket.socket, int]:
    """A free port; while the socket is open nobody else is given it. Granian shares it by SO_REUSEPORT."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved, reserved.getsockname()[1]


def announce_when_up(port: int, versions: str, stream: TextIO) -> None:
    """Its worker is the one that listens, and no hook tells when."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    announce(port, versions, stream)


if __name__ == "__main__":
    versions = about("granian")
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where it logs to
    reserved, port = reserve()
    threading.Thread(target=announce_when_up, args=(port, versions, stdout), daemon=True).start()
    Granian(target(), port=port, interface=Interfaces.WSGI, workers=1, websockets=False).serve()
