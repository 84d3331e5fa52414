"""How far the whole run is, on stderr: on a terminal one line, rewritten; elsewhere a line for each run."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]


class Progress:
    """
    Args:
        estimates: seconds that each run, in order, is thought to take.
    """

    def __init__(self, estimates: list[float]) -> None:
        self._left = estimates
        self._total = len(estimates)
        self._started = time.monotonic()
        self._rewrites = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """The next run begins."""
        elapsed = time.monotonic() - self._started
        whole = elapsed + sum(self._left)
        self._left = self._left[1:]
        number = self._total - len(self._left)
        line = f"[{number}/{self._total}] {what}  {_clock(elapsed)} of about {_clock(whole)}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._rewrites else f"{line}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._rewrites:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
