"""The errors of greenhttp: one tree, whose branches tell whose doing it was.

Every class that has a twin in the standard library inherits from it as well, so that `except OSError` and
`except ValueError` work as elsewhere in Python. `code` is the name Node gives the error, where it has one.
"""

from __future__ import annotations

__all__ = [
    "BodyLengthError",
    "ConnectionLostError",
    "HTTPError",
    "InvalidArgumentError",
    "InvalidHeaderError",
    "MessageStateError",
    "PeerTimeoutError",
    "RemoteProtocolError",
]


class HTTPError(Exception):
    """The root. `code` is Node's name for the error, or None."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class InvalidArgumentError(HTTPError, ValueError):
    """A value from our caller that HTTP, or this package, has no place for. Nothing was changed or sent."""


class InvalidHeaderError(InvalidArgumentError):
    """A field name, field value, status message, method or path that must not reach the wire."""


class MessageStateError(HTTPError, RuntimeError):
    """A call that comes too late, such as a header after the head has gone. Nothing was changed or sent."""


class BodyLengthError(HTTPError, ValueError):
    """A body longer than the `Content-Length` that was announced for it; the surplus was not sent."""


class ConnectionLostError(HTTPError, ConnectionResetError):
    """The other side went away, or the connection was destroyed, before the message was complete."""


class RemoteProtocolError(HTTPError, ConnectionError):
    """The peer broke HTTP, or went over one of our limits.

    Args:
        message: what was wrong, for people.
        code: Node's name for it (`'HPE_HEADER_OVERFLOW'`, ...).
        status_hint: what a server may answer with: 400, 413, 414, 417, 431, 501 or 505.
    """

    def __init__(self, message: str, *, code: str = "HPE_INVALID_CONSTANT", status_hint: int = 400) -> None:
        super().__init__(message, code=code)
        self.status_hint = status_hint


class PeerTimeoutError(HTTPError, TimeoutError):
    """The peer was slower than an absolute limit allows: of the head, the whole request or the data rate."""

    status_hint = 408
