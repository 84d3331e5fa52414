"""Thousands of keep-alive connections that have had their answer: their memory, and what they cost others."""

from __future__ import annotations

import time

from .. import wrk
from ..contenders import TLS_SERVERS
from ..crowd import BATCH, Crowd
from ..exchange import Exchange
from ..payloads import HELLO
from ..results import Measurement, Metric
from ..server import Server
from ..settings import WARM_UP, Settings
from .base import ServerScenario

__all__ = ["SETTLE", "Idle", "TLSIdle"]

SETTLE = 0.5  # seconds for collectors and allocators to come to rest before memory is read

_PER_CONNECTION = Metric("KiB/connection", digits=1, higher_is_better=False)
_ALONE = Metric("requests/s alone")
_BESIDE = Metric("beside them")
_SHARE = Metric("share %", digits=1)

_LOAD = wrk.Load()


class Idle(ServerScenario):
    name = "idle"
    title = "keep-alive connections at rest: resident memory of each, and hello beside them"
    metrics = (_PER_CONNECTION, _ALONE, _BESIDE, _SHARE)
    programs: tuple[str, ...] = ("wrk",)

    def open_files(self, settings: Settings) -> int:
        return self.connections(settings) + super().open_files(settings)

    def estimate(self, settings: Settings) -> float:
        return 1 + WARM_UP + 2 * (settings.seconds + SETTLE) + settings.connections / 3000

    def connections(self, settings: Settings) -> int:
        """How many are idle at a time."""
        return settings.connections

    def check(self, server: Server) -> None:
        Exchange("/hello", HELLO).check(server.port, server.context)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        connections, secure = self.connections(settings), server.context is not None
        # Load comes first: the heap a busy server has anyway must not be charged to the idle connections.
        wrk.run(_LOAD, server.port, "/hello", WARM_UP, secure=secure)
        alone = wrk.run(_LOAD, server.port, "/hello", settings.seconds, secure=secure).rate
        time.sleep(SETTLE)
        resident = server.resident_memory()
        with Crowd(server.port, server.context) as crowd:
            while len(crowd) < connections:
                count = min(BATCH, connections - len(crowd))
                crowd.ask("/hello", count)
                crowd.receive(HELLO, count)
            time.sleep(SETTLE)
            grown = server.resident_memory() - resident
            beside = wrk.run(_LOAD, server.port, "/hello", settings.seconds, secure=secure).rate
            crowd.must_be_silent()
        return {
            _PER_CONNECTION: grown / connections / 1024,
            _ALONE: alone,
            _BESIDE: beside,
            _SHARE: beside / alone * 100,
        }


class TLSIdle(Idle):
    """Fewer connections, for handshakes take time."""

    name = "tls-idle"
    title = "keep-alive TLS connections at rest: resident memory of each, and tls-hello beside them"
    contenders = TLS_SERVERS
    programs = ("wrk", "openssl")

    def estimate(self, settings: Settings) -> float:
        return 1 + WARM_UP + 2 * (settings.seconds + SETTLE) + self.connections(settings) / 500

    def connections(self, settings: Settings) -> int:
        return max(1, settings.connections // 4)
