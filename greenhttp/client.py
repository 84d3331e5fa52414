"""`request()` and `get()`: from a URL and options to a `ClientRequest` (reference: `http.request`, `http.get`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from .address import address_of, checked_host, checked_method, checked_path, checked_port
from .agent import Agent, default_agents, global_agent
from .events import Listener
from .request import ClientRequest

__all__ = ["Client", "create_client", "get", "request"]

_OPTIONS = frozenset(
    """auth create_connection family headers host hostname local_address max_headers_count method path port
    protocol set_host socket_path timeout""".split()
)


def request(
    url_or_options: str | Mapping[str, Any] | None = None,
    callback: Listener | None = None,
    *,
    agent: Agent | Literal[False] | None = None,
    **options: Any,
) -> ClientRequest:
    """Begin a request; it is sent when its `end()` is called (reference: `http.request`).

    Args:
        url_or_options: a URL, or a mapping of the options.
        callback: a one-off `'response'` listener.
        agent: None is `global_agent`, False a new one for this request alone.
        options: win over those in the first argument:
            `host` or `hostname` (`'localhost'`), `port` (80), `path` (`'/'`), `method` (`'GET'`),
            `headers` (a mapping; or pairs, which are sent as they are, without a `Host` added),
            `auth` (`'user:password'`), `timeout` (seconds without a byte until `'timeout'`), `family` (4 or 6),
            `local_address` (of the interface), `socket_path` (of a Unix socket), `set_host` (False adds no `Host`),
            `max_headers_count` (lines of the response), `create_connection` (a callable that takes the options and
            returns a connected socket), `protocol` (`'http:'`).

    Returns:
        The request. What goes wrong on the network comes as its `'error'`, or out of `get_response()`.

    Raises:
        TypeError, ValueError: an option is unknown or invalid; nothing was sent.
    """
    if type(url_or_options) is str and not options:
        return ClientRequest(address_of(url_or_options), agent, callback)
    return ClientRequest(*_complete(url_or_options, agent, options), callback)


def get(
    url_or_options: str | Mapping[str, Any] | None = None,
    callback: Listener | None = None,
    *,
    agent: Agent | Literal[False] | None = None,
    **options: Any,
) -> ClientRequest:
    """As `request()`, without a body: it is sent at once (reference: `http.get`)."""
    if type(url_or_options) is str and not options:
        begun = ClientRequest(address_of(url_or_options), agent, callback)
    else:
        begun = ClientRequest(*_complete(url_or_options, agent, options), callback)
    try:
        begun.end()
    except BaseException:
        begun.destroy()  # nobody else knows of it
        raise
    return begun


def _complete(given: str | Mapping[str, Any] | None, agent: Any, more: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """All options with their defaults, and the agent."""
    if given is None:
        options = more
    elif isinstance(given, str):
        options = {**address_of(given), **more}
    elif isinstance(given, Mapping):
        options = {**given, **more}
    else:
        raise TypeError(f"give a URL or a mapping of options, not {type(given).__name__}")
    if agent is None:
        agent = options.pop("agent", None)
    if agent is not None and agent is not False and not hasattr(agent, "add_request"):
        raise TypeError(f"agent must be an Agent, None or False, not {agent!r}")
    pool: Any = agent or default_agents.get(options.get("protocol") or "http:", global_agent)
    known = _OPTIONS | getattr(pool, "OPTIONS", frozenset())
    if not known.issuperset(options):
        raise TypeError(f"unknown options of a request: {', '.join(sorted(set(options) - known))}")
    options["protocol"] = options.get("protocol") or getattr(pool, "protocol", None)
    options["host"] = checked_host(options.get("hostname") or options.get("host") or "localhost")
    options["port"] = checked_port(options.get("port") or getattr(pool, "default_port", None))
    options["path"] = checked_path(options.get("path") or "/")
    options["method"] = checked_method(options.get("method") or "GET")
    return options, agent


class Client:
    """One server, one connection at a time. Made by `create_client()`, deprecated like it."""

    def __init__(self, port: int, host: str) -> None:
        self._where = {"host": host, "port": port}
        self._agent = Agent(max_sockets=1)

    def request(self, method_or_path: str, path: Any = None, headers: Any = None) -> ClientRequest:
        """Begin a request: `request([method,] path[, headers])`; a first argument with `/` is the path of a GET."""
        if method_or_path.startswith("/"):
            return self._begin("GET", method_or_path, path if headers is None else headers)
        return self._begin(method_or_path, path or "/", headers)

    def _begin(self, method: str, path: str, headers: Any) -> ClientRequest:
        return request(self._where, method=method, path=path, headers=headers, agent=self._agent)


def create_client(port: int = 80, host: str = "localhost") -> Client:
    """Deprecated: use `request()` (reference: `http.createClient`)."""
    warnings.warn("create_client() is deprecated; use request()", DeprecationWarning, stacklevel=2)
    return Client(port, host)
