"""A new connection for each request: what accepting and closing costs."""

from __future__ import annotations

from .. import ab
from ..exchange import Exchange
from ..payloads import HELLO
from ..results import BUSY, CPU_PER_REQUEST, REQUESTS_PER_SECOND, Measurement, VoidRunError
from ..server import Server
from ..settings import Settings
from .base import ServerScenario

__all__ = ["Churn"]

_AT_A_TIME = 64
_WARM_UP = 4000  # requests
_TIMED = 12_000  # requests: with the warm-up well below the 28,232 ephemeral ports that Linux has for one address


class Churn(ServerScenario):
    name = "churn"
    title = f"a connection for each request (ab without -k), {_AT_A_TIME} at a time"
    metrics = (REQUESTS_PER_SECOND, CPU_PER_REQUEST, BUSY)
    programs = ("ab",)

    def estimate(self, settings: Settings) -> float:
        return (_WARM_UP + _TIMED) / 8000

    def check(self, server: Server) -> None:
        Exchange("/hello", HELLO).check(server.port)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        ab.run(server.port, "/hello", _WARM_UP, _AT_A_TIME)
        before = server.cpu_seconds()
        report = ab.run(server.port, "/hello", _TIMED, _AT_A_TIME)
        cpu = server.cpu_seconds() - before
        if report.bodies != report.requests * len(HELLO):
            raise VoidRunError(f"{report.requests} bodies of {len(HELLO)} bytes, but {report.bodies} bytes came")
        return {
            REQUESTS_PER_SECOND: report.requests / report.seconds,
            CPU_PER_REQUEST: cpu / report.requests * 1e6,
            BUSY: cpu / report.seconds * 100,
        }
