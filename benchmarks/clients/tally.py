"""What the client programs in Python share: their arguments, what they count, the line of JSON they print."""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import dataclass

__all__ = ["Tally", "Task"]


@dataclass(frozen=True)
class Task:
    url: str
    size: int  # bytes of the body that must come
    concurrency: int
    warm_up: float  # seconds
    seconds: float

    @classmethod
    def from_command_line(cls) -> Task:
        url, size, concurrency, warm_up, seconds = sys.argv[1:]
        return cls(url, int(size), int(concurrency), float(warm_up), float(seconds))


class Tally:
    """The workers ask and `count()` while `running`; `start()` and `stop()` bound the part that is measured."""

    def __init__(self, task: Task) -> None:
        self.running = True
        self._size = task.size
        self._requests = self._errors = 0

    def count(self, status: int | None, body: bytes) -> None:
        """Raises ValueError if the answer is not right."""
        if status != 200 or len(body) != self._size:
            raise ValueError(f"status {status} and {len(body)} bytes, not 200 and {self._size}")
        self._requests += 1

    def fail(self, error: Exception) -> None:
        """A worker gives up. One error voids the run, so it need not go on."""
        self._errors += 1
        print(f"Error: {error!r}", file=sys.stderr)

    def start(self) -> None:
        self._before = self._figures()

    def stop(self) -> None:
        after = self._figures()
        self.running = False
        self._measured = [late - early for late, early in zip(after, self._before, strict=True)]

    def report(self, about: str) -> None:
        requests, seconds, cpu_seconds = self._measured
        figures = {"requests": requests, "seconds": seconds, "errors": self._errors, "cpu_seconds": cpu_seconds}
        print(json.dumps({"about": f"{about}, Python {platform.python_version()}", **figures}))

    def _figures(self) -> tuple[int, float, float]:
        return self._requests, time.perf_counter(), time.process_time()
