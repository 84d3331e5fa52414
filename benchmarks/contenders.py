"""Who takes part: servers in the servers' scenarios, those that speak TLS in the TLS ones, WSGI servers in the WSGI
ones, clients in the clients'.

To add a server: write a program that prints its port on the first line and what it is on the second, serves the
paths of `servers/greenhttp_server.py`, and give it a line here; one that takes `--cert FILE --key FILE` may have a
line among the TLS servers too. To add a WSGI server: write a program like those in `servers/wsgi/`, and give it a line
here. To add a client: write a program that takes the arguments and prints the line of JSON of `clients/tally.py`, and
give it a line here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLIENTS", "FLASK_SERVERS", "ROOT", "SERVERS", "TLS_SERVERS", "WSGI_SERVERS", "Contender"]

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parent  # the programs run from here and so find this tree's greenhttp


@dataclass(frozen=True)
class Contender:
    """Its name is unique in its role."""

    name: str
    role: str  # "server", "TLS server", "WSGI server", "Flask server" or "client"
    command: tuple[str, ...]

    @property
    def secure(self) -> bool:
        """Whether it is a server that gets a certificate and speaks TLS."""
        return self.role == "TLS server"

    def __str__(self) -> str:
        return self.name if self.role == "server" else f"{self.name} {self.role}"


def _server(name: str, *command: str) -> Contender:
    return Contender(name, "server", command)


def _tls_server(name: str, *command: str) -> Contender:
    return Contender(name, "TLS server", command)


def _wsgi_server(name: str, program: str) -> Contender:
    return Contender(name, "WSGI server", _python(f"servers.wsgi.{program}", "hello"))


def _flask_server(name: str, program: str) -> Contender:
    return Contender(name, "Flask server", _python(f"servers.wsgi.{program}", "flask"))


def _client(name: str, *command: str) -> Contender:
    return Contender(name, "client", command)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.{module}", *arguments)


_GREENHTTP_SERVER = _python("servers.greenhttp_server")
_NODE_SERVER = ("node", str(_HERE / "servers" / "node_server.js"))

SERVERS = (
    _server("greenhttp", *_GREENHTTP_SERVER),
    _server("node", *_NODE_SERVER),
    _server("pywsgi", *_python("servers.pywsgi_server")),
    _server("pywsgi-nodelay", *_python("servers.pywsgi_server", "--nodelay")),
)

TLS_SERVERS = (
    _tls_server("greenhttp", *_GREENHTTP_SERVER),
    _tls_server("node", *_NODE_SERVER),
)

WSGI_SERVERS = (
    _wsgi_server("greenhttp", "greenhttp_server"),
    _wsgi_server("pywsgi-nodelay", "pywsgi_server"),
    _wsgi_server("gunicorn-gevent", "gunicorn_server"),
    _wsgi_server("waitress", "waitress_server"),
    _wsgi_server("cheroot", "cheroot_server"),
    _wsgi_server("granian", "granian_server"),
)

FLASK_SERVERS = (
    _flask_server("greenhttp", "greenhttp_server"),
    _flask_server("gunicorn-gevent", "gunicorn_server"),
)

CLIENTS = (
    _client("greenhttp", *_python("clients.greenhttp_client")),
    _client("node", "node", str(_HERE / "clients" / "node_client.js")),
    _client("geventhttpclient", *_python("clients.geventhttpclient_client")),
    _client("urllib3", *_python("clients.urllib3_client")),
    _client("aiohttp", *_python("clients.aiohttp_client")),
)
