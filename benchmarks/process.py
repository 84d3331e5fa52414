"""Processes that we start and must not leave behind, nor their workers: ended one by one, and what they said last."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterable

__all__ = ["last_words", "stop"]

STOP_TIMEOUT = 3.0  # seconds between SIGTERM and SIGKILL


def stop(process: subprocess.Popen[str], workers: Iterable[int] = ()) -> None:
    """End it, and then those of its `workers`, as pids, that it has left behind."""
    handles = _handles(set(workers) - {process.pid})  # a pid may be given to another process, these may not
    try:
        _stop(process)
    finally:
        for handle in handles:
            _kill(handle)


def _handles(workers: Iterable[int]) -> list[int]:
    handles = []
    for pid in workers:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:
            pass  # it has ended by itself
    return handles


def _kill(handle: int) -> None:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], STOP_TIMEOUT)  # its core must be free for the next turn
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second Ctrl-C comes here too
        process.kill()
        process.wait()


def last_words(errors: str) -> str:
    """The error in what was written to stderr: Python ends with it, Node writes its version below."""
    lines = [line for line in errors.splitlines() if line.strip()]
    last = lines[-1] if lines else "nothing on stderr"
    return next((line for line in reversed(lines) if "Error" in line), last).strip()
