"""Who takes part. To add one: write a server program that prints its port on the first line and what it is on
the second, serves the paths of `servers/greenhttp_server.py`, and give it a line here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONTENDERS", "ROOT", "Contender"]

ROOT = Path(__file__).resolve().parent.parent  # servers run from here and so find this tree's greenhttp
_SERVERS = Path(__file__).resolve().parent / "servers"


@dataclass(frozen=True)
class Contender:
    name: str
    command: tuple[str, ...]


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.servers.{module}", *arguments)


CONTENDERS = (
    Contender("greenhttp", _python("greenhttp_server")),
    Contender("node", ("node", str(_SERVERS / "node_server.js"))),
    Contender("pywsgi", _python("pywsgi_server")),
    Contender("pywsgi-nodelay", _python("pywsgi_server", "--nodelay")),
)
