"""One large download in chunks, to a client that reads as fast as it can or slowly: speed, and growth of memory.

A server without backpressure shows with the slow client: it makes the whole body while only a little is taken.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..exchange import TIMEOUT, Exchange
from ..payloads import CHUNK, DOWNLOAD, MIB
from ..results import CPU_PER_MIB, MIB_PER_SECOND, PEAK_GROWTH, Measurement, VoidRun
from ..server import Server
from ..settings import Settings
from .base import Scenario

__all__ = ["FastDownload", "SlowDownload"]

_WARM_UP = 16 * MIB  # bytes: beyond every buffer on the way
_PAUSE = 0.01  # seconds between two pieces that the slow client takes: 16 KiB each, so 1.6 MiB/s


class _LargeDownload(Scenario):
    def check(self, server: Server) -> None:
        Exchange(f"/stream?bytes={len(DOWNLOAD)}", DOWNLOAD, chunked=True).check(server.port)


class FastDownload(_LargeDownload):
    name = "fast-download"
    title = "one large download in chunks, read as fast as it comes"
    metrics = (MIB_PER_SECOND, CPU_PER_MIB, PEAK_GROWTH)

    def estimate(self, settings: Settings) -> float:
        return 0.5 + settings.mib / 300

    def measure(self, server: Server, settings: Settings) -> Measurement:
        with _downloading(server, _WARM_UP) as response:
            _read(response, _WARM_UP)
        resident, cpu, start = server.reset_peak(), server.cpu_seconds(), time.perf_counter()
        with _downloading(server, settings.large) as response:
            _read(response, settings.large)
        seconds = time.perf_counter() - start
        return {
            MIB_PER_SECOND: settings.mib / seconds,
            CPU_PER_MIB: (server.cpu_seconds() - cpu) / settings.mib * 1e6,
            PEAK_GROWTH: (server.peak_memory() - resident) / MIB,
        }


class SlowDownload(_LargeDownload):
    name = "slow-download"
    title = "one large download in chunks, first read at 1.6 MiB/s, then to its end"
    metrics = (PEAK_GROWTH,)

    def estimate(self, settings: Settings) -> float:
        return 0.5 + settings.seconds + settings.mib / 300

    def measure(self, server: Server, settings: Settings) -> Measurement:
        with _downloading(server, _WARM_UP) as response:
            _read(response, _WARM_UP)
        resident, taken, end = server.reset_peak(), 0, time.perf_counter() + settings.seconds
        with _downloading(server, settings.large) as response:
            while time.perf_counter() < end and taken < settings.large:
                taken += len(response.read(len(CHUNK)))
                time.sleep(_PAUSE)
            grown = server.peak_memory() - resident
            _read(response, settings.large - taken)
        return {PEAK_GROWTH: grown / MIB}


@contextmanager
def _downloading(server: Server, size: int) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    try:
        connection.request("GET", f"/stream?bytes={size}")
        response = connection.getresponse()
        if response.status != 200:
            raise VoidRun(f"status {response.status}")
        yield response
    except (OSError, http.client.HTTPException) as error:
        raise VoidRun(f"download: {error!r}") from error
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, size: int) -> None:
    """Read to the end, which must come after exactly `size` bytes."""
    buffer = memoryview(bytearray(MIB))
    left = size
    while count := response.readinto(buffer):
        left -= count
    if left:
        raise VoidRun(f"the download is {-left} bytes too long" if left < 0 else f"{left} bytes are missing at its end")
