"""Node's `http` module for Python, on gevent. See `create_server`."""

from ._version import __version__
from .errors import (
    BodyLengthError,
    ConnectionLostError,
    HTTPError,
    InvalidArgumentError,
    InvalidHeaderError,
    MessageStateError,
    PeerTimeoutError,
    RemoteProtocolError,
)
from .events import EventEmitter
from .headers import validate_header_name, validate_header_value
from .incoming import IncomingMessage
from .outgoing import OutgoingMessage
from .parser import MAX_HEADER_SIZE as max_header_size  # noqa: N811  # Node's name
from .response import ServerResponse
from .server import Server, create_server
from .sockets import Socket
from .status import METHODS, STATUS_CODES

__all__ = [
    "METHODS",
    "STATUS_CODES",
    "BodyLengthError",
    "ConnectionLostError",
    "EventEmitter",
    "HTTPError",
    "IncomingMessage",
    "InvalidArgumentError",
    "InvalidHeaderError",
    "MessageStateError",
    "OutgoingMessage",
    "PeerTimeoutError",
    "RemoteProtocolError",
    "Server",
    "ServerResponse",
    "Socket",
    "__version__",
    "create_server",
    "max_header_size",
    "validate_header_name",
    "validate_header_value",
]
