"""A contender's client program: run on its core until it ends, its line of JSON read."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from dataclasses import dataclass

from .contenders import ROOT, Contender
from .process import last_words
from .results import VoidRunError

__all__ = ["Report", "run"]

CONCURRENCY = 64  # requests under way at a time, each on a connection of its own
_GRACE = 15.0  # seconds beyond the planned end before a hanging client is killed


@dataclass(frozen=True)
class Report:
    about: str  # versions, in the client's own words
    requests: int
    seconds: float
    cpu_seconds: float


def run(contender: Contender, core: int, url: str, size: int, warm_up: float, seconds: float) -> Report:
    """GET the URL, whose body must be of `size` bytes, over and over for about `seconds` after the warm-up.

    Raises:
        VoidRunError: it cannot be started, or failed, or one answer was not right, or there was none.
    """
    command = (*contender.command, url, str(size), str(CONCURRENCY), str(warm_up), str(seconds))
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=warm_up + seconds + _GRACE,
            preexec_fn=functools.partial(os.sched_setaffinity, 0, {core}),
        )
    except OSError as error:
        raise VoidRunError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise VoidRunError("the client did not end") from error
    if ended.returncode != 0 or not ended.stdout.startswith("{"):
        raise VoidRunError(last_words(ended.stderr))
    figures = json.loads(ended.stdout)
    if errors := figures.pop("errors"):
        raise VoidRunError(f"the client counted {errors} errors: {last_words(ended.stderr)}")
    report = Report(**figures)
    if report.requests == 0:
        raise VoidRunError("not one request was answered")
    return report
