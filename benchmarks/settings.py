"""What the command line decides, for all scenarios of one run."""

from __future__ import annotations

from dataclasses import dataclass

from .payloads import MIB

__all__ = ["WARM_UP", "Settings"]

WARM_UP = 1  # seconds, wrk's shortest run; at tens of thousands of requests/s it is enough for Node's JIT


@dataclass(frozen=True)
class Settings:
    """Defaults are chosen so that all contenders in all scenarios take about thirteen minutes."""

    rounds: int = 3
    seconds: int = 2  # of one timing; wrk takes whole seconds
    mib: int = 256  # size of the large upload and the large downloads
    connections: int = 8000  # idle or parked at a time

    @property
    def large(self) -> int:
        """The large upload's and downloads' size in bytes."""
        return self.mib * MIB
