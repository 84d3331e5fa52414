"""A new TLS connection for each request: what a full handshake costs."""

from __future__ import annotations

from .. import ab
from ..contenders import TLS_SERVERS
from ..exchange import Exchange
from ..payloads import HELLO
from ..results import BUSY, Measurement, Metric, VoidRunError
from ..server import Server
from ..settings import Settings
from ..tls import CIPHER, GROUP, VERSION
from .base import ServerScenario

__all__ = ["Handshakes"]

_AT_A_TIME = 16
_WARM_UP = 1000  # handshakes
_TIMED = 5000

_PER_SECOND = Metric("handshakes/s")
_CPU = Metric("CPU us/handshake", higher_is_better=False)


class Handshakes(ServerScenario):
    name = "tls-handshakes"
    title = f"a TLS 1.3 connection with a full handshake for each request (ab without -k), {_AT_A_TIME} at a time"
    metrics = (_PER_SECOND, _CPU, BUSY)
    contenders = TLS_SERVERS
    programs = ("ab", "openssl")

    def estimate(self, settings: Settings) -> float:
        return (_WARM_UP + _TIMED) / 1200

    def check(self, server: Server) -> None:
        Exchange("/hello", HELLO).check(server.port, server.context)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        ab.run(server.port, "/hello", _WARM_UP, _AT_A_TIME, secure=True)
        before = server.cpu_seconds()
        report = ab.run(server.port, "/hello", _TIMED, _AT_A_TIME, secure=True)
        cpu = server.cpu_seconds() - before
        if report.bodies != report.requests * len(HELLO):
            raise VoidRunError(f"{report.requests} bodies of {len(HELLO)} bytes, but {report.bodies} bytes came")
        if not report.tls.startswith(f"{VERSION},{CIPHER},") or not report.tls.endswith(f" {GROUP}"):
            raise VoidRunError(f"ab and it speak {report.tls}, not {VERSION},{CIPHER} {GROUP}")
        return {
            _PER_SECOND: report.requests / report.seconds,
            _CPU: cpu / report.requests * 1e6,
            BUSY: cpu / report.seconds * 100,
        }
