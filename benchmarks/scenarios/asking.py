"""Clients that ask nginx: how many exchanges a second, and what one costs the client."""

from __future__ import annotations

from dataclasses import dataclass

from .. import client
from ..contenders import CLIENTS, Contender
from ..exchange import Exchange
from ..nginx import Nginx
from ..payloads import MIB
from ..results import CLIENT_BUSY, CPU_PER_REQUEST, MIB_PER_SECOND, REQUESTS_PER_SECOND, Measurement, Metric
from ..settings import WARM_UP, Settings
from .base import Scenario

__all__ = ["ANSWERS", "PAGES", "Asking"]

ANSWERS = (REQUESTS_PER_SECOND, CPU_PER_REQUEST, CLIENT_BUSY)
PAGES = (REQUESTS_PER_SECOND, MIB_PER_SECOND, CPU_PER_REQUEST, CLIENT_BUSY)

_GREETING = 0.2  # seconds


@dataclass(frozen=True)
class Asking(Scenario):
    """
    Args:
        exchange: a GET of what nginx has.
        metrics: ANSWERS or PAGES.
    """

    name: str
    title: str
    exchange: Exchange
    metrics: tuple[Metric, ...] = ANSWERS

    contenders = CLIENTS
    programs = ("nginx",)

    def estimate(self, settings: Settings) -> float:
        return WARM_UP + settings.seconds

    def greet(self, contender: Contender, core: int) -> str:
        return self._ask(contender, core, 0, _GREETING).about

    def run(self, contender: Contender, core: int, settings: Settings) -> Measurement:
        report = self._ask(contender, core, WARM_UP, settings.seconds)
        rate = report.requests / report.seconds
        return {
            REQUESTS_PER_SECOND: rate,
            MIB_PER_SECOND: rate * len(self.exchange.reply) / MIB,
            CPU_PER_REQUEST: report.cpu_seconds / report.requests * 1e6,
            CLIENT_BUSY: report.cpu_seconds / report.seconds * 100,
        }

    def _ask(self, contender: Contender, core: int, warm_up: float, seconds: float) -> client.Report:
        with Nginx() as nginx:
            self.exchange.check(nginx.port)
            url = f"http://127.0.0.1:{nginx.port}{self.exchange.path}"
            return client.run(contender, core, url, len(self.exchange.reply), warm_up, seconds)
