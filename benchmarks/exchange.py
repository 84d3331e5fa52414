"""One request and the answer it must get; asking is the check that comes before any timing."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from .results import VoidRunError

__all__ = ["TIMEOUT", "Exchange", "asked", "receive"]

TIMEOUT = 30.0  # seconds without a byte, then the run is void


@dataclass(frozen=True)
class Exchange:
    path: str
    reply: bytes
    method: str = "GET"
    body: bytes | None = None
    chunked: bool = False  # how the reply is framed: in chunks, else by Content-Length

    def check(self, port: int, context: ssl.SSLContext | None = None) -> None:
        """Ask once and compare everything.

        Args:
            context: of our side, of a server that speaks TLS.

        Raises:
            VoidRunError: status, fields or body are not what they should be.
        """
        name = "Transfer-Encoding" if self.chunked else "Content-Length"
        framing = "chunked" if self.chunked else str(len(self.reply))
        with asked(port, self.method, self.path, self.body, context=context) as response:
            receive(response, self.reply)
            for field, wanted in (("Content-Type", "text/plain"), (name, framing)):
                if response.getheader(field) != wanted:
                    raise VoidRunError(f"{self.path} sends {field}: {response.getheader(field)}, not {wanted}")


@contextmanager
def asked(
    port: int,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """The response to a request on a connection of its own, which is closed on leaving.

    Raises:
        VoidRunError: the exchange broke, here or while the response was read inside.
    """
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        if context is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)
    )
    try:
        connection.request(method, path, body, headers or {})
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise VoidRunError(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()


def receive(response: http.client.HTTPResponse, reply: bytes) -> None:
    """Read a response whose status must be 200 and whose body must be `reply`, or raise VoidRunError."""
    if response.status != 200:
        raise VoidRunError(f"status {response.status}")
    body = response.read()
    if body != reply:
        got, wanted = (f"{len(each)} bytes beginning with {each[:20]!r}" for each in (body, reply))
        raise VoidRunError(f"the body is {got}, not {wanted}")
