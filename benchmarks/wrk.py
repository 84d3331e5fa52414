"""wrk, the load generator of the throughput scenarios: one thread, on the core that we are on."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .results import VoidRunError

__all__ = ["Load", "Report", "run"]

_SCRIPT = Path(__file__).with_suffix(".lua")
_GRACE = 30.0  # seconds beyond the planned end before a hanging wrk is killed


@dataclass(frozen=True)
class Load:
    connections: int = 64
    pipelined: int = 1  # requests sent at a time on each connection
    body: int = 0  # bytes; more than 0 makes it a POST
    browsers: int = 0  # to pass for in turn: each request has the fields of a browser, and a cookie of its own


@dataclass(frozen=True)
class Report:
    requests: int
    seconds: float
    received: int  # bytes, heads included

    @property
    def rate(self) -> float:
        """Requests answered each second."""
        return self.requests / self.seconds


def run(load: Load, port: int, path: str, seconds: int, *, secure: bool = False) -> Report:
    """Load the server for about `seconds`, over TLS if `secure`: with one handshake a connection, before the first.

    Raises:
        VoidRunError: wrk counted an error of any kind, or no answer at all.
    """
    options = ("-t", "1", "-c", str(load.connections), "-d", str(seconds), "-s", str(_SCRIPT))
    url = f"{'https' if secure else 'http'}://127.0.0.1:{port}{path}"
    command = ("wrk", *options, url, "--", str(load.pipelined), str(load.body), str(load.browsers))
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE)
    except subprocess.TimeoutExpired as error:
        raise VoidRunError("wrk did not end") from error
    lines = ended.stdout.splitlines()
    if ended.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise VoidRunError(f"wrk failed: {(ended.stderr or ended.stdout).strip()[-200:]}")
    summary = json.loads(lines[-1])
    errors = {kind: count for kind, count in summary["errors"].items() if count}
    if errors:
        raise VoidRunError("wrk counted errors: " + ", ".join(f"{kind} {count}" for kind, count in errors.items()))
    if summary["requests"] == 0:
        raise VoidRunError("not one request was answered")
    return Report(summary["requests"], summary["microseconds"] / 1e6, summary["bytes"])
