"""One request and the answer it must get; asking is the check that comes before any timing."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

from .results import VoidRun

__all__ = ["TIMEOUT", "Exchange", "receive"]

TIMEOUT = 30.0  # seconds without a byte, then the run is void


@dataclass(frozen=True)
class Exchange:
    path: str
    reply: bytes
    method: str = "GET"
    body: bytes | None = None
    chunked: bool = False  # how the reply is framed: in chunks, else by Content-Length

    def check(self, port: int) -> None:
        """Ask once and compare everything.

        Raises:
            VoidRun: status, fields or body are not what they should be.
        """
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            connection.request(self.method, self.path, self.body)
            self._compare(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise VoidRun(f"{self.method} {self.path}: {error!r}") from error
        finally:
            connection.close()

    def _compare(self, response: http.client.HTTPResponse) -> None:
        receive(response, self.reply)
        framing = "chunked" if self.chunked else str(len(self.reply))
        name = "Transfer-Encoding" if self.chunked else "Content-Length"
        for field, wanted in (("Content-Type", "text/plain"), (name, framing)):
            if response.getheader(field) != wanted:
                raise VoidRun(f"{self.path} sends {field}: {response.getheader(field)}, not {wanted}")


def receive(response: http.client.HTTPResponse, reply: bytes) -> None:
    """Read a response whose status must be 200 and whose body must be `reply`, or raise VoidRun."""
    if response.status != 200:
        raise VoidRun(f"status {response.status}")
    body = response.read()
    if body != reply:
        raise VoidRun(f"the body is {len(body)} bytes beginning with {body[:20]!r}, not {len(reply)} with {reply[:20]!r}")
