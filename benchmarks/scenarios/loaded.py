"""Throughput under wrk: how many exchanges a second, and what one costs."""

from __future__ import annotations

from dataclasses import dataclass

from .. import wrk
from ..contenders import SERVERS, Contender
from ..exchange import Exchange
from ..payloads import MIB
from ..results import (
    BASELINE,
    BUSY,
    CPU_PER_REQUEST,
    MIB_PER_SECOND,
    REQUESTS_PER_SECOND,
    Measurement,
    Metric,
    VoidRunError,
)
from ..server import Server
from ..settings import WARM_UP, Settings
from .base import ServerScenario

__all__ = ["BODIES", "REQUESTS", "Loaded"]

REQUESTS = (REQUESTS_PER_SECOND, CPU_PER_REQUEST, BUSY)
BODIES = (MIB_PER_SECOND, CPU_PER_REQUEST, BUSY)


@dataclass(frozen=True)
class Loaded(ServerScenario):
    """
    Args:
        exchange: what is asked; a POSTed body must be of `load.body` bytes.
        metrics: REQUESTS or BODIES.
        contenders: SERVERS, TLS_SERVERS or those of WSGI.
    """

    name: str
    title: str
    exchange: Exchange
    load: wrk.Load
    metrics: tuple[Metric, ...] = REQUESTS
    contenders: tuple[Contender, ...] = SERVERS
    baseline: str = BASELINE
    programs: tuple[str, ...] = ("wrk",)

    def estimate(self, settings: Settings) -> float:
        return WARM_UP + settings.seconds + 0.5

    def check(self, server: Server) -> None:
        self.exchange.check(server.port, server.context)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        secure = server.context is not None
        wrk.run(self.load, server.port, self.exchange.path, WARM_UP, secure=secure)
        before = server.cpu_seconds()
        report = wrk.run(self.load, server.port, self.exchange.path, settings.seconds, secure=secure)
        cpu = server.cpu_seconds() - before
        size = len(self.exchange.reply)
        if report.received < report.requests * size:
            raise VoidRunError(f"{report.requests} bodies of {size} bytes, but only {report.received} bytes came")
        return {
            REQUESTS_PER_SECOND: report.rate,
            MIB_PER_SECOND: report.rate * size / MIB,
            CPU_PER_REQUEST: cpu / report.requests * 1e6,
            BUSY: cpu / report.seconds * 100,
        }
