"""Clients that ask on and on, each on a connection that it keeps, in threads: what a restart must not lose."""

from __future__ import annotations

import functools
import http.client
import resource
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE = 15.0  # seconds that a visitor waits for an answer, and a test for visitors


class Visitor(threading.Thread):
    """Asks until it is told to stop, or until nobody listens any more."""

    def __init__(self, port: int, context: ssl.SSLContext | None, going: threading.Event) -> None:
        super().__init__(daemon=True)
        self.answers: list[str] = []
        self.failures: list[str] = []
        self.refused = False
        self._going = going
        self._connection: http.client.HTTPConnection = (
            http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            if context is None
            else http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
        )

    def run(self) -> None:
        while self._going.is_set() and not self.refused:
            try:
                self._ask()
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(f"after {len(self.answers)} answers: {error!r}")
                self._connection.close()
        self._connection.close()

    def _ask(self) -> None:
        connection = self._connection
        # a client that pauses for so long that the server has closed sees it before it asks
        if connection.sock is not None and _has_news(connection.sock):
            connection.close()
        if connection.sock is None:
            try:
                connection.connect()
            except ConnectionRefusedError:
                self.refused = True
                return
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, (response.status, body)
        self.answers.append(body)


def _has_news(sock: object) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)  # type: ignore[arg-type]
    return bool(poll.poll(0))


class Visitors(list[Visitor]):
    """Many of them."""

    def all_hear(self, word: str) -> None:
        """Wait until everybody's latest answer has `word` in it."""
        self._all(lambda visitor: any(word in answer for answer in visitor.answers[-1:]), f"an answer with {word!r}")

    def all_are_refused(self) -> None:
        """Wait until nobody listens any more."""
        self._all(lambda visitor: visitor.refused, "a refusal")

    def _all(self, condition: Callable[[Visitor], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not all(map(condition, self)):
            assert time.monotonic() < end, (what, self.failures, [visitor.answers[-1:] for visitor in self])
            time.sleep(0.01)

    @property
    def failures(self) -> list[str]:
        """What went wrong, whoever it happened to."""
        return [failure for visitor in self for failure in visitor.failures]


@contextmanager
def visiting(port: int, count: int = 8, context: ssl.SSLContext | None = None) -> Iterator[Visitors]:
    """`count` visitors of 127.0.0.1, that have had an answer each; they stop at the end."""
    going = threading.Event()
    going.set()
    visitors = Visitors(Visitor(port, context, going) for _ in range(count))
    for visitor in visitors:
        visitor.start()
    try:
        visitors.all_hear("")
        yield visitors
    finally:
        going.clear()
        for visitor in visitors:
            visitor.join(PATIENCE)
    assert not any(visitor.is_alive() for visitor in visitors)


def descriptors(needed: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a test: so many descriptors may be open, here and in the processes that it starts. Skips loudly if not."""

    def wrap(test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def run(*args: Any, **options: Any) -> None:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if hard < needed:
                pytest.skip(f"ONLY {hard} DESCRIPTORS ARE ALLOWED: {test.__name__} IS NOT RUN")
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
            try:
                test(*args, **options)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        return run

    return wrap
