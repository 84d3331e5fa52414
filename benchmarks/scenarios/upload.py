"""Large uploads: their speed, and how much memory the server grows by meanwhile."""

from __future__ import annotations

import itertools

from ..exchange import Exchange, asked, receive
from ..payloads import CHUNK, DOWNLOAD
from ..results import Measurement
from ..server import Server
from ..settings import Settings
from .base import ServerScenario
from .bulk import METRICS, estimate, measure_transfers

__all__ = ["Upload"]


class Upload(ServerScenario):
    name = "upload"
    title = "large POSTs with Content-Length one after the other, read piece by piece"
    metrics = METRICS

    def estimate(self, settings: Settings) -> float:
        return estimate(settings)

    def check(self, server: Server) -> None:
        Exchange("/upload", b"%d" % len(CHUNK), "POST", CHUNK).check(server.port)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        return measure_transfers(_upload, server, settings)


def _upload(server: Server, size: int) -> None:
    body = itertools.repeat(DOWNLOAD, size // len(DOWNLOAD))
    with asked(server.port, "POST", "/upload", body, {"Content-Length": str(size)}) as response:
        receive(response, b"%d" % size)
