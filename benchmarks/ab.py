"""ab, the load generator for a connection each request (HTTP/1.0, no keep-alive).

Not wrk: that cannot be bound to a number of requests, hence of ports, and it counts an error where a server
closes as asked but without saying `Connection: close`, as pywsgi does.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from .results import VoidRunError

__all__ = ["Report", "run"]

_TIMEOUT = 60.0  # seconds, for a few thousand requests


@dataclass(frozen=True)
class Report:
    requests: int
    seconds: float
    bodies: int  # bytes of all bodies
    tls: str  # version, cipher and key exchange, in ab's words; empty without TLS


def run(port: int, path: str, requests: int, concurrency: int, *, secure: bool = False) -> Report:
    """Ask `requests` times, `concurrency` at a time.

    Args:
        secure: over TLS 1.3. ab resumes no session, so each connection has a full handshake.

    Raises:
        VoidRunError: ab counted a failure of any kind, or stopped early.
    """
    url = f"{'https' if secure else 'http'}://127.0.0.1:{port}{path}"
    options = ("-f", "TLS1.3") if secure else ()
    command = ("ab", "-q", "-n", str(requests), "-c", str(concurrency), *options, url)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise VoidRunError("ab did not end") from error
    if ended.returncode != 0:
        raise VoidRunError(f"ab failed: {ended.stderr.strip()[-200:]}")
    for failure in ("Failed requests", "Write errors", "Non-2xx responses"):
        if count := _figure(ended.stdout, failure):
            raise VoidRunError(f"ab counted {failure}: {count:.0f}")
    if _figure(ended.stdout, "Complete requests") != requests:
        raise VoidRunError("ab did not complete all requests")
    return Report(
        requests,
        _figure(ended.stdout, "Time taken for tests"),
        int(_figure(ended.stdout, "HTML transferred")),
        " ".join(re.findall(r"^(?:SSL/TLS Protocol|Server Temp Key):\s+(\S+)", ended.stdout, re.MULTILINE)),
    )


def _figure(printed: str, name: str) -> float:
    """A line of ab's report; 0 if it is not there, for ab leaves out errors that it did not see."""
    found = re.search(rf"^{name}:\s+([\d.]+)", printed, re.MULTILINE)
    return float(found[1]) if found else 0.0
