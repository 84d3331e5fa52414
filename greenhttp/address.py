"""Where a request goes: from a URL or options to what stands in its head.

Pure: no socket, no clock, no greenlet.
"""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import InvalidArgumentError
from .headers import validate_header_name

__all__ = [
    "Address",
    "address_of",
    "basic_credentials",
    "checked_host",
    "checked_method",
    "checked_path",
    "checked_port",
    "host_header",
]

_UNESCAPED = re.compile(r"[^\x21-\x7e\x80-\xff]")  # blanks, control characters, and what latin-1 does not have
_NEVER_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(dict[str, Any]):
    """The options that stand in a URL, and nothing else; shared by the requests for it. Not to be changed.

    Args:
        protocol, host, port, path, auth: as the options of these names.
        default_port: of the protocol.
    """

    __slots__ = ("head",)

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __init__(self, protocol: str, host: str, port: int, path: str, auth: str | None, default_port: int) -> None:
        super().__init__(protocol=protocol, host=host, port=port, path=path, method="GET")
        lines = [f"GET {path} HTTP/1.1", f"Host: {host_header(host, port, default_port)}"]
        if auth is not None:
            self["auth"] = auth
            lines.append(f"Authorization: {basic_credentials(auth)}")
        #: What a `get()` of it sends over a connection that is to be kept.
        self.head = "\r\n".join((*lines, "Connection: keep-alive", "", "")).encode("latin-1")


@lru_cache(maxsize=1024)
def address_of(url: str) -> Address:
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
        checked_host(parts.hostname),
        checked_port(port or _DEFAULT_PORTS[parts.scheme]),
        checked_path((parts.path or "/") + (f"?{parts.query}" if parts.query else "")),
        auth,
        _DEFAULT_PORTS[parts.scheme],
    )


def checked_port(port: Any) -> int:
    """`port` as a number.

    Raises:
        ValueError: it is none from 1 to 65535 (`ERR_SOCKET_BAD_PORT`).
    """
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else port
    if type(number) is not int or not 0 < number < 65536:
        raise InvalidArgumentError(f"not a port: {port!r}", code="ERR_SOCKET_BAD_PORT")
    return number


@lru_cache(maxsize=1024)
def checked_host(host: str) -> str:
    """`host`, if it may stand in a head.

    Raises:
        TypeError, ValueError: it is no `str`, or has a character that must not be there (`ERR_INVALID_CHAR`).
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {type(host).__name__}")
    if _UNESCAPED.search(host):
        raise InvalidArgumentError(f"invalid character in the host {host!r}", code="ERR_INVALID_CHAR")
    return host


@lru_cache(maxsize=1024)
def checked_path(path: str) -> str:
    """`path`, if it may stand in a request line.

    Raises:
        TypeError, ValueError: it is no `str`, or has a character that must not be there (`ERR_UNESCAPED_CHARACTERS`).
    """
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {type(path).__name__}")
    if _UNESCAPED.search(path):
        raise InvalidArgumentError(
            f"the request path contains unescaped characters: {path!r}", code="ERR_UNESCAPED_CHARACTERS"
        )
    return path


@lru_cache(maxsize=64)
def checked_method(method: str) -> str:
    """`method` in capitals.

    Raises:
        TypeError, ValueError: it is no token (RFC 9110 section 9.1).
    """
    if not isinstance(method, str):
        raise TypeError(f"method must be a str, not {type(method).__name__}")
    validate_header_name(method)
    return method.upper()


def host_header(host: str, port: int, default_port: int) -> str:
    """The value of `Host` (RFC 9110 section 7.2)."""
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return name if port == default_port else f"{name}:{port}"


def basic_credentials(auth: str) -> str:
    """The value of `Authorization` for `'user:password'` (RFC 7617)."""
    return f"Basic {base64.b64encode(auth.encode('utf-8')).decode('ascii')}"
