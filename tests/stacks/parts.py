"""What the applications share, and no framework brings."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

#: Where the files are that the applications serve.
FOLDER = Path(os.environ["STACKS_FOLDER"])
LIMIT = 10.0  # seconds that an answer of `control` may take


def summary(stream: Any, **more: Any) -> dict[str, Any]:
    """Size and digest of a body that is read in pieces."""
    return summary_of(iter(partial(stream.read, 64 * 1024), b""), **more)


def summary_of(pieces: Iterable[bytes], **more: Any) -> dict[str, Any]:
    """The same of an iterable."""
    size, sha256 = 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        sha256.update(piece)
    return {"size": size, "sha256": sha256.hexdigest(), **more}


def failure() -> None:
    raise ZeroDivisionError("planned")


class Stream:
    """A body whose next piece is made when the test says so."""

    def __init__(self) -> None:
        self.go = Event()
        self.closed = Event()

    def pieces(self) -> Iterator[bytes]:
        """Two pieces; the second is made after `go`."""
        try:
            yield b"first\n"
            self.go.wait()
            yield b"second\n"
        finally:
            self.closed.set()

    def endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"more\n" * 10_000
        finally:
            self.closed.set()

    def events(self, gone: Any) -> Iterator[bytes]:
        """Server-sent events, one after each `go`, until `gone` is set."""
        number = 0
        try:
            yield b": welcome\n\n"
            while True:
                gevent.wait([self.go, gone], count=1)
                if gone.is_set():
                    break
                self.go.clear()
                yield f"id: {number}\ndata: gr\u00fcn {number}\n\n".encode()
                number += 1
        finally:
            self.closed.set()


STREAMS: defaultdict[str, Stream] = defaultdict(Stream)


def control(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Beside the application, on a port of its own: `/go/<name>` and `/closed/<name>`, which waits for that."""
    _, verb, name = environ["PATH_INFO"].split("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if verb == "go":
        STREAMS[name].go.set()
        return [b"gone on"]
    return [b"closed" if STREAMS[name].closed.wait(LIMIT) else b"still open"]
