"""One large upload: its speed, and how much memory the server grows by meanwhile."""

from __future__ import annotations

import http.client
import itertools
import time

from ..exchange import TIMEOUT, Exchange
from ..payloads import CHUNK, DOWNLOAD, MIB
from ..results import CPU_PER_MIB, MIB_PER_SECOND, PEAK_GROWTH, Measurement, VoidRun
from ..server import Server
from ..settings import Settings
from .base import Scenario

__all__ = ["Upload"]

_WARM_UP = 16 * MIB  # bytes: beyond every buffer on the way


class Upload(Scenario):
    name = "upload"
    title = "one large POST with Content-Length, read piece by piece"
    metrics = (MIB_PER_SECOND, CPU_PER_MIB, PEAK_GROWTH)

    def estimate(self, settings: Settings) -> float:
        return 0.5 + settings.mib / 500

    def check(self, server: Server) -> None:
        Exchange("/upload", b"%d" % len(CHUNK), "POST", CHUNK).check(server.port)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        self._send(server, _WARM_UP)
        resident, cpu, start = server.reset_peak(), server.cpu_seconds(), time.perf_counter()
        self._send(server, settings.large)
        seconds = time.perf_counter() - start
        return {
            MIB_PER_SECOND: settings.mib / seconds,
            CPU_PER_MIB: (server.cpu_seconds() - cpu) / settings.mib * 1e6,
            PEAK_GROWTH: (server.peak_memory() - resident) / MIB,
        }

    def _send(self, server: Server, size: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        body = itertools.repeat(DOWNLOAD, size // len(DOWNLOAD))
        try:
            connection.request("POST", "/upload", body, {"Content-Length": str(size)})
            response = connection.getresponse()
            counted = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise VoidRun(f"upload: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200 or counted != b"%d" % size:
            raise VoidRun(f"status {response.status}, {counted[:20]!r} of {size} bytes counted")
