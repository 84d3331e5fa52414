"""What the kernel tells about another process under /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["cpu_seconds", "peak_memory", "reset_peak", "resident_memory"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads so far, in steps of a clock tick (mostly 10 ms)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the command's name before it may hold blanks
    return (int(fields[11]) + int(fields[12])) * _TICK


def resident_memory(pid: int) -> int:
    """Resident bytes, counted page by page: VmRSS in `status` may lag behind by some pages for each core."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Rss")


def peak_memory(pid: int) -> int:
    """The most bytes that have been resident since `reset_peak()`."""
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM")


def reset_peak(pid: int) -> None:
    """Set the peak back to what is resident now (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _kib(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"no {name} in {file}")
    return int(found[1]) * 1024
