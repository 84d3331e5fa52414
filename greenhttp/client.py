"""`request()` and `get()`: from a URL and options to a `ClientRequest` (reference: `http.request`, `http.get`)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from .agent import Agent, default_agents, global_agent
from .errors import InvalidArgumentError
from .events import Listener
from .headers import validate_header_name
from .request import Address, ClientRequest

__all__ = ["Client", "create_client", "get", "request"]

_UNESCAPED = re.compile(r"[^\x21-\x7e\x80-\xff]")  # blanks, control characters, and what latin-1 does not have
_NEVER_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
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
        return ClientRequest(_address(url_or_options), agent, callback)
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
        begun = ClientRequest(_address(url_or_options), agent, callback)
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
        options = {**_address(given), **more}
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
    options["host"] = _checked_host(options.get("hostname") or options.get("host") or "localhost")
    options["port"] = _checked_port(options.get("port") or getattr(pool, "default_port", None))
    options["path"] = _checked_path(options.get("path") or "/")
    options["method"] = _checked_method(options.get("method") or "GET")
    return options, agent


@lru_cache(maxsize=1024)
def _address(url: str) -> Address:
    """The options that stand in a URL.

    Raises:
        ValueError: it is not the URL of something that HTTP can fetch.
    """
    if _NEVER_IN_URL.search(url):  # `urlsplit` would leave some of them out
        raise InvalidArgumentError(f"the URL contains unescaped characters: {url!r}", code="ERR_INVALID_URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"not a URL: {url!r}: {error}", code="ERR_INVALID_URL") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise InvalidArgumentError(f"not an http or https URL with a host: {url!r}", code="ERR_INVALID_URL")
    auth: str | None = None
    if parts.username is not None:
        auth = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Address(
        f"{parts.scheme}:",
        _checked_host(parts.hostname),
        _checked_port(port or _DEFAULT_PORTS[parts.scheme]),
        _checked_path((parts.path or "/") + (f"?{parts.query}" if parts.query else "")),
        auth,
        _DEFAULT_PORTS[parts.scheme],
    )


def _checked_port(port: Any) -> int:
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else port
    if type(number) is not int or not 0 < number < 65536:
        raise InvalidArgumentError(f"not a port: {port!r}", code="ERR_SOCKET_BAD_PORT")
    return number


@lru_cache(maxsize=1024)
def _checked_host(host: str) -> str:
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {type(host).__name__}")
    if _UNESCAPED.search(host):
        raise InvalidArgumentError(f"invalid character in the host {host!r}", code="ERR_INVALID_CHAR")
    return host


@lru_cache(maxsize=1024)
def _checked_path(path: str) -> str:
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {type(path).__name__}")
    if _UNESCAPED.search(path):
        raise InvalidArgumentError(
            f"the request path contains unescaped characters: {path!r}", code="ERR_UNESCAPED_CHARACTERS"
        )
    return path


@lru_cache(maxsize=64)
def _checked_method(method: str) -> str:
    if not isinstance(method, str):
        raise TypeError(f"method must be a str, not {type(method).__name__}")
    validate_header_name(method)  # a method is a token too
    return method.upper()


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
