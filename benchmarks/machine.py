"""The machine under the benchmark: its cores, its limit of open files, what is installed."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from dataclasses import dataclass

__all__ = ["Cores", "about", "missing", "raise_open_files"]


@dataclass(frozen=True)
class Cores:
    """Which core a contender has and which its other side; the same one twice on a machine with one core."""

    contender: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """First and last of the cores we may use: neighbours are often two threads of one physical core."""
        usable = os.sched_getaffinity(0)
        return cls(contender=min(usable), load=max(usable))


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one, for us and all we start. Returns the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def missing(programs: tuple[str, ...]) -> list[str]:
    """Those of `programs` that are not on PATH."""
    return [program for program in programs if shutil.which(program) is None]


def about() -> dict[str, str | int]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
