"""Large downloads in chunks, read as fast as they come, or slowly: speed, and how the server's memory grows.

The slow client finds out a server without backpressure: it makes the whole body while only a little is taken.
"""

from __future__ import annotations

import http.client
import time

from ..exchange import Exchange, asked
from ..payloads import CHUNK, DOWNLOAD, MIB
from ..results import PEAK_GROWTH, Measurement, VoidRunError
from ..server import Server
from ..settings import Settings
from .base import ServerScenario
from .bulk import METRICS, WARM_UP, estimate, measure_transfers

__all__ = ["FastDownload", "SlowDownload"]

_PAUSE = 0.01  # seconds between two pieces that the slow client takes: 16 KiB each, so 1.6 MiB/s


class _LargeDownload(ServerScenario):
    def check(self, server: Server) -> None:
        Exchange(_path(len(DOWNLOAD)), DOWNLOAD, chunked=True).check(server.port)


class FastDownload(_LargeDownload):
    name = "fast-download"
    title = "large downloads in chunks one after the other, read as fast as they come"
    metrics = METRICS

    def estimate(self, settings: Settings) -> float:
        return estimate(settings)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        return measure_transfers(_download, server, settings)


class SlowDownload(_LargeDownload):
    name = "slow-download"
    title = "a large download in chunks, first read at 1.6 MiB/s, then to its end"
    metrics = (PEAK_GROWTH,)

    def estimate(self, settings: Settings) -> float:
        return estimate(settings)

    def measure(self, server: Server, settings: Settings) -> Measurement:
        _download(server, WARM_UP)
        resident, taken, end = server.reset_peak(), 0, time.perf_counter() + settings.seconds
        with asked(server.port, "GET", _path(settings.large)) as response:
            while time.perf_counter() < end and taken < settings.large:
                taken += len(response.read(len(CHUNK)))
                time.sleep(_PAUSE)
            grown = max(0, server.peak_memory() - resident)
            _read(response, settings.large - taken)
        return {PEAK_GROWTH: grown / MIB}


def _path(size: int) -> str:
    return f"/stream?bytes={size}"


def _download(server: Server, size: int) -> None:
    with asked(server.port, "GET", _path(size)) as response:
        _read(response, size)


def _read(response: http.client.HTTPResponse, size: int) -> None:
    """Read to the end, which must come after exactly `size` bytes."""
    if response.status != 200:
        raise VoidRunError(f"status {response.status}")
    buffer = memoryview(bytearray(MIB))
    got = 0
    while count := response.readinto(buffer):
        got += count
    if got != size:
        raise VoidRunError(f"{got} bytes came to the end of the download, not {size}")
