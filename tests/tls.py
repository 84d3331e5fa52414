"""What the tests over TLS share: an authority with its certificates, and the other side of a connection.

The other side is OpenSSL in memory over a plain socket, so that a test decides itself when which bytes travel.
"""

from __future__ import annotations

import functools
import socket as stdlib_socket
import ssl
from typing import Any

import trustme

__all__ = ["TLSWire", "authority", "authority_pem", "client_context", "identity", "server_context"]

HOSTS = ("127.0.0.1", "localhost", "::1")


@functools.cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


def authority(name: str = "ours") -> trustme.CA:
    """One that signs certificates; another for another `name`."""
    return _authority(name)


def authority_pem(name: str = "ours") -> bytes:
    """Its own certificate, which a peer must trust."""
    return authority(name).cert_pem.bytes()


@functools.cache
def _issued(hosts: tuple[str, ...], name: str, issue: tuple[tuple[str, Any], ...]) -> trustme.LeafCert:
    return authority(name).issue_cert(*hosts, **dict(issue))


def identity(*hosts: str, by: str = "ours", **issue: Any) -> dict[str, bytes]:
    """`cert` and `key` for `hosts` (all names of this machine), as PEM; `issue` are options of trustme."""
    leaf = _issued(hosts or HOSTS, by, tuple(sorted(issue.items())))
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return {"cert": chain, "key": leaf.private_key_pem.bytes()}


def client_context() -> ssl.SSLContext:
    """It trusts our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


def server_context() -> ssl.SSLContext:
    """It has a certificate of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _issued(HOSTS, "ours", ()).configure_cert(context)
    return context


@functools.cache
def _shared_context() -> ssl.SSLContext:
    return client_context()


class TLSWire:
    """A connected gevent socket inside TLS; what it lacks, `sock` does.

    Args:
        sock: connected.
        context: of our side; one that trusts our authority, if there is none.
        piece: send at most so many bytes at a time; 0: all.
        options: of `SSLContext.wrap_bio`.
    """

    def __init__(self, sock: Any, context: ssl.SSLContext | None = None, *, piece: int = 0, **options: Any) -> None:
        self.sock = sock
        self.piece = piece
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if not options.get("server_side"):
            options.setdefault("server_hostname", "127.0.0.1")
        self.ssl = (context or _shared_context()).wrap_bio(self.incoming, self.outgoing, **options)
        self._notified = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def handshake(self) -> TLSWire:
        """Do our part. Returns the wire."""
        while True:
            try:
                self.ssl.do_handshake()
                self.flush()
                return self
            except ssl.SSLWantReadError:
                self.flush()
                self._fill()
            except ssl.SSLError:
                self.flush()  # the alert
                raise

    def flush(self) -> None:
        """Send what OpenSSL has made."""
        data = self.outgoing.read()
        size = self.piece or len(data) or 1
        for start in range(0, len(data), size):
            self.sock.sendall(data[start : start + size])

    def _fill(self) -> None:
        data = self.sock.recv(256 * 1024)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def sendall(self, data: bytes) -> None:
        """As a socket's."""
        self.ssl.write(data)
        self.flush()

    def recv(self, size: int) -> bytes:
        """As a socket's; an end without `close_notify` is a `ConnectionResetError`."""
        while True:
            try:
                return self.ssl.read(size)
            except ssl.SSLWantReadError:
                self.flush()
                self._fill()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError:
                raise ConnectionResetError("cut: there was no close_notify") from None

    def notify_close(self) -> None:
        """Send `close_notify`."""
        self._notified = True
        unread = self.incoming.read()  # OpenSSL looks for the peer's
        try:
            self.ssl.unwrap()
        except ssl.SSLError:
            pass
        if unread:
            self.incoming.write(unread)
        self.flush()

    def shutdown(self, how: int) -> None:
        """As a socket's, of `SHUT_WR`."""
        assert how == stdlib_socket.SHUT_WR
        self.notify_close()
        self.sock.shutdown(how)

    def close(self) -> None:
        """With `close_notify`, if that is possible without waiting."""
        if not self._notified and not self.sock.closed:
            self.sock.setblocking(False)
            try:
                self.notify_close()
            except OSError:
                pass
        self.cut()

    def cut(self) -> None:
        """Close without it."""
        self.sock.close()
