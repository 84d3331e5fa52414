"""Node's `http` module for Python, on gevent. See `create_server`, and `get` and `request`."""

from . import https
from ._version import __version__
from .agent import Agent, global_agent
from .client import create_client, get, request
from .dialing import ConnectError, HostNotFoundError
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
from .request import ClientRequest
from .response import ServerResponse
from .server import Server, create_server
from .sockets import Socket
from .status import METHODS, STATUS_CODES
from .tls import TLSError, TLSSocket

__all__ = [
    "METHODS",
    "STATUS_CODES",
    "Agent",
    "BodyLengthError",
    "ClientRequest",
    "ConnectError",
    "ConnectionLostError",
    "EventEmitter",
    "HTTPError",
    "HostNotFoundError",
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
    "TLSError",
    "TLSSocket",
    "__version__",
    "create_client",
    "create_server",
    "get",
    "global_agent",
    "https",
    "max_header_size",
    "request",
    "validate_header_name",
    "validate_header_value",
]
