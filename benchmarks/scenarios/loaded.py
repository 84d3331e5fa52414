"""Throughput under wrk: how many exchanges a second, and what one costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import wrk
from ..exchange import Exchange
from ..payloads import MIB
from ..results import BUSY, CPU_PER_REQUEST, MIB_PER_SECOND, REQUESTS_PER_SECOND, Measurement, Metric, VoidRun
from ..server import Server
from ..settings import WARM_UP, Settings
from .base import Scenario

__all__ = ["Loaded"]


@dataclass(frozen=True)
class Loaded(Scenario):
    """
    Args:
        exchange: what is asked; a POSTed body must be of `load.body` bytes.
        headline: REQUESTS_PER_SECOND or MIB_PER_SECOND (of bodies).
        longest: seconds that one timing may take at most, whatever the command line says.
    """

    name: str
    title: str
    exchange: Exchange
    load: wrk.Load = wrk.Load()
    headline: Metric = REQUESTS_PER_SECOND
    longest: int | None = None

    programs = ("wrk",)

    @property
    def metrics(self) -> Sequence[Metric]:  # type: ignore[override]
        return self.headline, CPU_PER_REQUEST, BUSY

    def estimate(self, settings: Settings) -> float:
        return WARM_UP + self._seconds(settings) + 0.5

    def check(self, server: Server) -> None:
        self.exchange.check(server.port)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        wrk.run(self.load, server.port, self.exchange.path, WARM_UP)
        before = server.cpu_seconds()
        report = wrk.run(self.load, server.port, self.exchange.path, self._seconds(settings))
        cpu = server.cpu_seconds() - before
        size = len(self.exchange.reply)
        if report.received < report.requests * size:
            raise VoidRun(f"{report.requests} bodies of {size} bytes, but only {report.received} bytes came")
        return {
            self.headline: report.rate * size / MIB if self.headline is MIB_PER_SECOND else report.rate,
            CPU_PER_REQUEST: cpu / report.requests * 1e6,
            BUSY: cpu / report.seconds * 100,
        }

    def _seconds(self, settings: Settings) -> int:
        return settings.seconds if self.longest is None else min(settings.seconds, self.longest)
