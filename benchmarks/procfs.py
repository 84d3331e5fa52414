"""What the kernel tells about another process: its CPU time, its memory, its session."""

from __future__ import annotations

import re
import time
from pathlib import Path

__all__ = ["cpu_seconds", "peak_memory", "reset_peak", "resident_memory", "session"]


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads so far.

    /proc/PID/stat has the same in clock ticks of 10 ms, too coarse where 256 MiB take 50 ms. The process's own clock
    counts in nanoseconds; its number is what clock_getcpuclockid(3) computes, which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def session(leader: int) -> list[int]:
    """The processes of the session that one with this pid has begun, itself among them."""
    members = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()  # the name before may have anything in it
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(fields[3]) == leader:
            members.append(int(file.parent.name))
    return members


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
