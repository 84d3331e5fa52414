"""`TLSSocket`: the transport over TLS. OpenSSL turns bytes into bytes in memory; the hub moves them, as without TLS.

So a resting connection has no greenlet either, and owners see no difference.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar

import gevent
import gevent.socket

from .deadlines import NEVER, Deadlines
from .errors import ConnectionLostError, HTTPError, PeerTimeoutError
from .sockets import READ_SIZE, SMALL_READ_SIZE, Socket, State, WriteDone
from .streams import HIGH_WATER_MARK
from .workers import Workers

__all__ = ["HANDSHAKE_TIMEOUT", "TLSError", "TLSSocket"]

HANDSHAKE_TIMEOUT = 60.0  # seconds. Precedents: nginx 60, Node 120
RECORD = 16 * 1024  # bytes of plaintext, the most in one record (RFC 8446 section 5.1)
_PLAIN_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"PATC", b"CONN", b"PRI ")
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 44\r\n\r\n"
    b"This port speaks HTTPS, and you spoke HTTP.\n"
)


class TLSError(HTTPError, ConnectionError):
    """No secure connection came about, or the peer broke TLS. `code` names the reason in OpenSSL's words."""


class TLSSocket(Socket):
    """One connected stream socket, inside TLS (reference: `tls.TLSSocket`).

    Args:
        sock, workers, deadlines, timeout, high_water_mark: as for `Socket`.
        context: of our side.
        server_side: whether we are the server.
        server_hostname: of whom the certificate must be; the server is told it, too.
        session: to resume.
        established: called in the hub when the handshake is over, with None or the error. Never blocks.
        handshake_timeout: seconds.

    Events:
        those of `Socket`, and 'secure_connect' (): the handshake is over.
    """

    __slots__ = ("_early", "_established", "_incoming", "_outgoing", "_ssl", "_started", "handshake_timeout", "secure")

    EVENTS: ClassVar[frozenset[str]] = Socket.EVENTS | {"secure_connect"}

    encrypted = True

    def __init__(
        self,
        sock: Any,
        workers: Workers,
        deadlines: Deadlines,
        *,
        context: ssl.SSLContext,
        server_side: bool,
        established: Callable[[TLSSocket, Exception | None], object],
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        timeout: float = 0,
        high_water_mark: int = HIGH_WATER_MARK,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )
        #: Whether the handshake is over.
        self.secure = False
        self._established = established
        self._early: list[bytes | WriteDone] | None = None  # sent before that
        self.handshake_timeout = handshake_timeout
        self._started = monotonic()
        super().__init__(sock, workers, deadlines, timeout=timeout, high_water_mark=high_water_mark)
        if handshake_timeout:
            deadlines.schedule(self, self._started + handshake_timeout)
        if not server_side:
            workers.hub.loop.run_callback(self._advance)

    # --- facts ---

    @property
    def authorized(self) -> bool:
        """Whether the peer has shown a certificate that we were to check, and it was in order."""
        return self.secure and self._ssl.context.verify_mode != ssl.CERT_NONE and self._ssl.getpeercert() is not None

    @property
    def context(self) -> ssl.SSLContext:
        """Of our side."""
        return self._ssl.context

    @property
    def session(self) -> ssl.SSLSession | None:
        """What another connection to the same server can resume."""
        return self._ssl.session

    @property
    def session_reused(self) -> bool:
        """Whether this connection resumed a session."""
        return bool(self._ssl.session_reused)

    @property
    def alpn_protocol(self) -> str | None:
        """The protocol that was agreed upon."""
        return self._ssl.selected_alpn_protocol()

    def get_peer_certificate(self, *, binary: bool = False) -> Any:
        """The peer's certificate: a mapping, as `ssl.SSLSocket.getpeercert` gives it, empty if it was not checked; or
        its DER bytes. None if there is none."""
        return self._ssl.getpeercert(binary_form=binary)

    def get_protocol(self) -> str | None:
        """`'TLSv1.3'`, ...; None before the handshake."""
        return self._ssl.version()

    def get_cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol and secret bits of the cipher; None before the handshake."""
        return self._ssl.cipher()

    # --- in ---

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self.last_activity = monotonic()
        self.bytes_read += len(data)
        self._read_size = READ_SIZE if len(data) == self._read_size else SMALL_READ_SIZE
        if data:
            if not self.secure and self._ssl.server_side and self._speaks_plainly(data):
                return
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self._advance()

    def receive_early(self, data: bytes) -> None:
        """Bytes that were read before TLS took the connection over."""
        self._incoming.write(data)

    def _speaks_plainly(self, data: bytes) -> bool:
        """A client that takes us for a plain HTTP server is told so."""
        if self._incoming.pending or not data.startswith(_PLAIN_METHODS):
            return False
        try:
            self._sock.send(_PLAIN_ANSWER)
        except OSError:
            pass
        self._fail(TLSError("the client speaks HTTP, not HTTPS", code="ERR_SSL_HTTP_REQUEST"))
        return True

    def _advance(self) -> None:
        """In the hub: let OpenSSL work off what has come."""
        if self._state is State.CLOSED:
            return
        try:
            if not self.secure:
                self._ssl.do_handshake()
                self._become_secure()
            incoming = self._incoming
            while self._reading_on:
                data = self._ssl.read(min(incoming.pending, RECORD) or RECORD)
                if not data:
                    self._end_reading()
                    break
                owner = self.owner
                if owner is not None:
                    owner.data_received(data)
                else:
                    self._take_in(data)
                if not incoming.pending and not self._ssl.pending():
                    break  # else the next read would only raise
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end_reading()
        except ssl.SSLError as error:
            self._flush_records()  # the alert
            self._fail(_translated(error, secure=self.secure))
            return
        except ssl.CertificateError as error:
            self._flush_records()
            self._fail(TLSError(str(error), code="ERR_TLS_CERT_ALTNAME_INVALID"))
            return
        self._flush_records()

    def _become_secure(self) -> None:
        self.secure = True
        self._flush_records()
        early, self._early = self._early, None
        self.queued = 0
        for entry in early or ():
            if callable(entry):
                self.when_sent(entry)
            else:
                self.send(entry)
        established = self._established
        del self._established
        established(self, None)
        if self.listener_count("secure_connect"):
            self.workers.dispatch(self._deliver, "secure_connect")

    def _end_reading(self) -> None:
        self.pause_reading()
        self._on_eof()

    def resume_reading(self) -> None:
        """Read again; what is decrypted already comes first."""
        was_off = not self._reading_on
        super().resume_reading()
        if was_off and self._reading_on:
            self.workers.hub.loop.run_callback(self._advance)

    # --- out ---

    def send(self, data: bytes) -> bool:
        """As `Socket.send`."""
        if self._state is not State.OPEN:
            return False
        if not self.secure:
            if self._early is None:
                self._early = []
            self._early.append(data)
            self.queued += len(data)
            return False
        if not data:
            return self._out is None
        self._ssl.write(data)
        return super().send(self._outgoing.read())

    def send_parts(self, *parts: bytes) -> bool:
        """As `send`."""
        return self.send(b"".join(parts))

    def when_sent(self, done: WriteDone) -> None:
        """As `Socket.when_sent`."""
        if self._early is not None:
            self._early.append(done)
        else:
            super().when_sent(done)

    def _flush_records(self) -> None:
        """Send what OpenSSL has to say by itself: handshakes, key updates, alerts."""
        if self._outgoing.pending and self._state is not State.CLOSED:
            records = self._outgoing.read()
            if self._state is State.OPEN:
                super().send(records)
            else:
                self._send_last(records)

    def _send_last(self, records: bytes) -> None:
        try:
            self._sock.send(records)
        except OSError:
            pass  # it would only have been polite

    def _send_end(self) -> None:
        self._notify_close()
        super()._send_end()

    def _notify_close(self) -> None:
        """Our `close_notify`: without it the peer could not tell the end from a cut."""
        if not self.secure:
            return
        try:
            self._ssl.unwrap()
        except (ssl.SSLError, OSError):
            pass  # it waits for the peer's, which `_advance` sees
        records = self._outgoing.read()
        if records:
            self._send_last(records)

    # --- the end ---

    def destroy(self: Any, error: Exception | None = None) -> Any:
        """As `Socket.destroy`."""
        if self._state is State.OPEN and error is None and self._out is None:
            self._notify_close()
        return super().destroy(error)

    def _fail(self, error: Exception) -> None:
        self.destroy(error)

    def _lose(self, error: Exception | None) -> None:
        if not self.secure and hasattr(self, "_established"):
            established = self._established
            del self._established
            lost = error or ConnectionLostError("the connection was closed in the handshake", code="ECONNRESET")
            for entry in self._early or ():
                if callable(entry):
                    entry(lost)
            self._early = None
            established(self, lost)
        super()._lose(error)

    def check_deadlines(self, now: float) -> float:
        """In the hub: see `Expiring`."""
        if self.secure or not self.handshake_timeout or self._state is State.CLOSED:
            return super().check_deadlines(now)
        deadline = self._started + self.handshake_timeout
        if deadline <= now:
            self._fail(
                PeerTimeoutError(
                    f"no TLS handshake within {self.handshake_timeout:g} s", code="ERR_TLS_HANDSHAKE_TIMEOUT"
                )
            )
            return NEVER
        return deadline

    def detach(self) -> gevent.socket.socket:
        """A plain `gevent.socket.socket` that speaks through this connection: two greenlets carry the bytes.

        Raises:
            RuntimeError: the socket is closed.
        """
        ours, theirs = gevent.socket.socketpair()
        gevent.spawn(self._carry_out, ours)
        gevent.spawn(self._carry_in, ours)
        return theirs

    def _carry_out(self, ours: Any) -> None:
        try:
            while data := ours.recv(READ_SIZE):
                self.write(data)
            self.end()
        except OSError:
            self.destroy()

    def _carry_in(self, ours: Any) -> None:
        try:
            for chunk in self:
                ours.sendall(chunk)
            ours.shutdown(gevent.socket.SHUT_WR)
        except (OSError, HTTPError):
            ours.close()


def _translated(error: ssl.SSLError, *, secure: bool) -> Exception:
    if isinstance(error, ssl.SSLCertVerificationError):
        failed = TLSError(f"the peer's certificate is not accepted: {error.verify_message}", code=_verify_code(error))
        failed.__cause__ = error
        return failed
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLEOFError) or "EOF" in reason:
        if secure:
            return ConnectionLostError("the connection was cut: no close_notify came before its end", code="ECONNRESET")
        return ConnectionLostError("the connection was closed in the handshake", code="ECONNRESET")
    failed = TLSError(f"TLS failed: {reason.lower().replace('_', ' ')}", code=f"ERR_SSL_{reason}")
    failed.__cause__ = error
    return failed


_VERIFY_CODES = {
    10: "CERT_HAS_EXPIRED",
    18: "DEPTH_ZERO_SELF_SIGNED_CERT",
    19: "SELF_SIGNED_CERT_IN_CHAIN",
    20: "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    21: "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    62: "ERR_TLS_CERT_ALTNAME_INVALID",
    64: "ERR_TLS_CERT_ALTNAME_INVALID",
}


def _verify_code(error: ssl.SSLCertVerificationError) -> str:
    return _VERIFY_CODES.get(error.verify_code, "CERT_REJECTED")
