"""Large bodies one after the other on one core: how fast, at what cost, and how far the server's memory grows."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..payloads import MIB
from ..results import BUSY, CPU_PER_MIB, MIB_PER_SECOND, PEAK_GROWTH, Measurement
from ..server import Server
from ..settings import Settings

__all__ = ["METRICS", "WARM_UP", "estimate", "measure_transfers"]

METRICS = (MIB_PER_SECOND, CPU_PER_MIB, BUSY, PEAK_GROWTH)
WARM_UP = 64 * MIB  # bytes: beyond every buffer on the way, and enough for a JIT


def estimate(settings: Settings) -> float:
    """Seconds: the time asked for, and the transfer that is under way at its end."""
    return 0.5 + settings.seconds + settings.mib / 1000


def measure_transfers(transfer: Callable[[Server, int], None], server: Server, settings: Settings) -> Measurement:
    """Call `transfer(server, bytes)` with the large size until the time is up, once at least."""
    transfer(server, WARM_UP)
    resident, cpu, start, count = server.reset_peak(), server.cpu_seconds(), time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < settings.seconds:
        transfer(server, settings.large)
        count += 1
    seconds = time.perf_counter() - start
    cpu = server.cpu_seconds() - cpu
    mib = count * settings.mib
    return {
        MIB_PER_SECOND: mib / seconds,
        CPU_PER_MIB: cpu / mib * 1e6,
        BUSY: cpu / seconds * 100,
        PEAK_GROWTH: max(0, server.peak_memory() - resident) / MIB,
    }
