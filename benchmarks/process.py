"""Processes that we start and must not leave behind: ended by their own pid, and what they said last."""

from __future__ import annotations

import subprocess

__all__ = ["last_words", "stop"]

STOP_TIMEOUT = 3.0  # seconds between SIGTERM and SIGKILL


def stop(process: subprocess.Popen[str]) -> None:
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
