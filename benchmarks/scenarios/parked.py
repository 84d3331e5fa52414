"""Thousands of long-polls: on each connection a request whose handler waits. Then all are answered."""

from __future__ import annotations

import time

from ..crowd import BATCH, Crowd
from ..exchange import TIMEOUT, Exchange, asked
from ..payloads import HELLO
from ..results import CPU_PER_REQUEST, Measurement, Metric, VoidRunError
from ..server import Server
from ..settings import Settings
from .base import ServerScenario
from .idle import SETTLE

__all__ = ["Parked"]

_PER_REQUEST = Metric("KiB/request", digits=1, higher_is_better=False)


class Parked(ServerScenario):
    name = "parked"
    title = "parked long-polls: resident memory of each, CPU from its connect to its answer"
    metrics = (_PER_REQUEST, CPU_PER_REQUEST)

    def open_files(self, settings: Settings) -> int:
        return settings.connections + super().open_files(settings)

    def estimate(self, settings: Settings) -> float:
        return 1 + SETTLE + settings.connections / 2000

    def check(self, server: Server) -> None:
        with Crowd(server.port) as crowd:
            _park(crowd, server.port, 1)
            crowd.must_be_silent()
            _release(crowd, server.port)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        with Crowd(server.port) as crowd:  # a short warm-up: what it frees is used again, and so is not counted
            _park(crowd, server.port, min(settings.connections, BATCH))
            _release(crowd, server.port)
        time.sleep(SETTLE)
        resident, cpu = server.resident_memory(), server.cpu_seconds()
        with Crowd(server.port) as crowd:
            _park(crowd, server.port, settings.connections)
            time.sleep(SETTLE)
            grown = server.resident_memory() - resident
            crowd.must_be_silent()
            _release(crowd, server.port)
            cpu = server.cpu_seconds() - cpu
        return {
            _PER_REQUEST: grown / settings.connections / 1024,
            CPU_PER_REQUEST: cpu / settings.connections * 1e6,
        }


def _park(crowd: Crowd, port: int, count: int) -> None:
    """Batch by batch, each once the handlers of the one before are waiting: no backlog overflows."""
    while len(crowd) < count:
        crowd.ask("/parked", min(BATCH, count - len(crowd)))
        deadline = time.monotonic() + TIMEOUT
        while (waiting := _waiting(port)) != b"%d" % len(crowd):
            if time.monotonic() > deadline:
                raise VoidRunError(f"{len(crowd)} requests should wait, but the server says {waiting[:20]!r}")
            time.sleep(0.001)


def _release(crowd: Crowd, port: int) -> None:
    Exchange("/release", HELLO).check(port)
    crowd.receive(HELLO, len(crowd))


def _waiting(port: int) -> bytes:
    with asked(port, "GET", "/waiting") as response:
        return response.read()
