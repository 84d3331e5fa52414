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
from .errors import ConnectionLostError, HTTPError, MessageStateError, PeerTimeoutError
from .sockets import READ_SIZE, SMALL_READ_SIZE, Socket, State, WriteDone
from .streams import HIGH_WATER_MARK, Data, Progress
from .workers import Workers

__all__ = ["HANDSHAKE_TIMEOUT", "TLSError", "TLSSocket"]

HANDSHAKE_TIMEOUT = 60.0  # seconds. Precedents: nginx 60, Node 120
_OPEN, _ENDING, _ENDED, _CLOSED = State  # a global is found faster than a member of an enum
RECORD = 16 * 1024  # bytes of plaintext, the most in one record (RFC 8446 section 5.1)
_PLAIN_REASONS = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")  # what OpenSSL calls them
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

    __slots__ = (
        "_decrypted",
        "_early",
        "_established",
        "_incoming",
        "_notified",
        "_outgoing",
        "_ssl",
        "_started",
        "handshake_timeout",
        "remembered",
        "secure",
    )

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
        self._decrypted: list[bytes] | None = None  # taken out of OpenSSL before its reader wanted it
        self._notified = False  # our `close_notify` is on its way
        #: Whether its session was kept for others to resume.
        self.remembered = False
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
        its DER bytes. None if there is none, or the handshake is not over."""
        if not self.secure:
            return None
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
            self._read_failed(error)
            return
        self.last_activity = monotonic()
        self.bytes_read += len(data)
        self._read_size = READ_SIZE if len(data) == self._read_size else SMALL_READ_SIZE
        if not data:
            self._incoming.write_eof()  # it is empty: as long as bytes wait there, nothing is read
        elif not self.secure and self._ssl.server_side and self._speaks_plainly(data):
            self._refuse(_plain_http(), _PLAIN_ANSWER)
            return
        else:
            self._incoming.write(data)
        self._advance()

    def receive_early(self, data: bytes) -> None:
        """Bytes that were read before TLS took the connection over."""
        self._incoming.write(data)

    def _speaks_plainly(self, data: bytes) -> bool:
        """Whether a client takes us for a plain HTTP server. OpenSSL sees that by itself, but not of every method."""
        return not self._incoming.pending and data.startswith(_PLAIN_METHODS)

    def _advance(self) -> None:
        """In the hub: let OpenSSL work off what has come."""
        if self._state is _CLOSED:
            return
        try:
            if not self.secure:
                self._ssl.do_handshake()
                self._become_secure()
            incoming = self._incoming
            while self.reading_on:
                if self._decrypted:
                    data = self._decrypted.pop(0)
                else:
                    data = self._ssl.read(min(incoming.pending, RECORD) or RECORD)
                if not data:
                    self._end_reading()
                    break
                owner = self.owner
                if owner is not None:
                    owner.data_received(data)
                else:
                    self._take_in(data)
                if not incoming.pending and not self._ssl.pending() and not self._decrypted:
                    break  # else the next read would only raise
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end_reading()
        except ssl.SSLError as error:
            if error.reason in _PLAIN_REASONS:
                self._refuse(_plain_http(), _PLAIN_ANSWER)
            else:
                self._refuse(_translated(error, secure=self.secure), self._outgoing.read())  # the alert
            return
        if self._outgoing.pending:
            self._flush_records()

    def _become_secure(self) -> None:
        self.secure = True
        self._flush_records()
        early, self._early = self._early, None
        if early is not None:
            self._send_early(early)
        established = self._established
        del self._established
        established(self, None)
        if self.listener_count("secure_connect"):
            self.workers.dispatch(self._deliver, "secure_connect")

    def _send_early(self, early: list[bytes | WriteDone]) -> None:
        self.queued = 0
        ends = self._state is _ENDING
        if ends:
            self._state = _OPEN
        for entry in early:
            if callable(entry):
                self.when_sent(entry)
            else:
                self.send(entry)
        if self._room is not None and self.queued < self.high_water_mark:
            self._room.set()
        if ends:
            self.end()
        elif self._out is None:
            if self.owner is not None:
                self.owner.drained()
            elif self.listener_count("drain"):
                self.workers.dispatch(self._deliver, "drain")

    def _end_reading(self) -> None:
        self.pause_reading()
        self._on_eof()

    def resume_reading(self) -> None:
        """Read again; what is decrypted already comes first."""
        was_off = not self.reading_on
        super().resume_reading()
        if was_off and self.reading_on:
            self.workers.hub.loop.run_callback(self._advance)

    # --- out ---

    def send(self, data: bytes) -> bool:
        """As `Socket.send`."""
        if self._state is not _OPEN:
            return False
        if not self.secure:
            if self._early is None:
                self._early = []
            self._early.append(data)
            self.queued += len(data)
            return False
        if not data:
            return self._out is None
        try:
            if len(data) <= RECORD:
                self._ssl.write(data)
                return Socket.send(self, self._outgoing.read())  # as super(), in less time
            records = []
            for start in range(0, len(data), RECORD):  # OpenSSL's buffer never shrinks below what it once held
                self._ssl.write(data[start : start + RECORD])
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self.destroy(_translated(error, secure=True))
            return False
        return super().send_parts(*records)

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
        """Send what OpenSSL has to say by itself: handshakes, key updates."""
        if not self._outgoing.pending or self._state is _CLOSED:
            return
        records = self._outgoing.read()
        if self._state is _OPEN:
            super().send(records)
        elif self._state is _ENDING:  # after what is queued, or the peer could not read it
            self._queue(records)

    def end(self, data: Data | None = None, encoding: str | None = None) -> None:
        """As `Socket.end`; before the handshake is over, after it."""
        if self.secure or self._state is not _OPEN:
            super().end(data, encoding)
            return
        if data:
            self.write(data, encoding)
        if self._early is None:
            self._early = []
        self._state = _ENDING

    def close_gently(self) -> None:
        """As `Socket.close_gently`; in a handshake there is nothing that could be told gently."""
        if self.secure:
            super().close_gently()
        else:
            self.destroy()

    def _send_end(self) -> None:
        """Our `close_notify`, then our end: without it the peer could not tell the end from a cut."""
        if not self.secure:
            return  # it was the handshake's bytes that have gone
        if not self._notified:
            self._say_close()
            records = self._outgoing.read()
            sent = 0
            try:
                sent = self._sock.send(records)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.destroy()  # the peer was faster
                return
            if sent < len(records):
                self._queue(records[sent:])  # `_flush` comes back here
                return
        super()._send_end()

    def _say_close(self) -> None:
        self._notified = True
        # OpenSSL would look for the peer's `close_notify` too, and give up at the first byte of anything else
        while self._ssl.pending():
            if self._decrypted is None:
                self._decrypted = []
            self._decrypted.append(self._ssl.read(RECORD))
        unread = self._incoming.read()
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's, which `_advance` sees
        if unread:
            self._incoming.write(unread)

    # --- the end ---

    def destroy(self: Any, error: Exception | None = None) -> Any:
        """As `Socket.destroy`. A client at the end of its exchange says `close_notify`; to anybody else it is a cut, so
        that a body without a length does not look whole."""
        says_close = error is None and self._state is _OPEN and self._out is None and self.secure
        if says_close and self.owner is not None and not self._ssl.server_side and not self._incoming.eof:
            self._say_close()
            try:
                self._sock.send(self._outgoing.read())
            except OSError:
                pass  # it would only have been polite
        return super().destroy(error)

    def _refuse(self, error: Exception, last_words: bytes) -> None:
        """In the hub: close with an error that the peer is told of."""
        if self._state is not _OPEN or self._out is not None or not last_words:
            self.destroy(error)
            return
        self._peer_name()
        self._release()
        # to close at once, with bytes unread, could cost the peer what it is told
        closing = Socket(self._sock, self.workers, self.deadlines)
        closing.send(last_words)
        closing.close_gently()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self.secure and hasattr(self, "_established"):
            established = self._established
            del self._established
            lost = error or ConnectionLostError("the connection was closed in the handshake", code="ECONNRESET")
            early, self._early = self._early, None
            for entry in early or ():
                if callable(entry):
                    entry(lost)
            established(self, lost)
        self._decrypted = None
        super()._lose(error)

    def check_deadlines(self, now: float) -> float:
        """In the hub: see `Expiring`."""
        if self.secure or not self.handshake_timeout or self._state is _CLOSED:
            return super().check_deadlines(now)
        deadline = self._started + self.handshake_timeout
        if deadline <= now:
            self.destroy(
                PeerTimeoutError(
                    f"no TLS handshake within {self.handshake_timeout:g} s", code="ERR_TLS_HANDSHAKE_TIMEOUT"
                )
            )
            return NEVER
        return deadline

    def detach(self) -> gevent.socket.socket:
        """As `Socket.detach`, but what is given away speaks to two greenlets, which carry the bytes through TLS. A cut
        raises `ConnectionResetError` there, too.

        Raises:
            RuntimeError: bytes are still queued for sending, or the socket is closed.
        """
        if self._state is _CLOSED or self._out is not None or not self.secure:
            raise MessageStateError("cannot detach: the socket is closed, or bytes still wait to be sent")
        ours, theirs = gevent.socket.socketpair()
        carried = _CarriedSocket(theirs.family, theirs.type, theirs.proto, fileno=theirs.detach())
        gevent.spawn(self._moved()._carry, ours, carried.failure)
        return carried

    def _moved(self) -> TLSSocket:
        """Another object for this connection; this one is closed."""
        inflow = self.inflow
        notified, ended = self._notified, self._state is _ENDED
        self._release()
        sock = self._sock
        sock = type(sock)(sock.family, sock.type, sock.proto, fileno=sock.detach())
        sock.setblocking(False)
        moved = TLSSocket.__new__(TLSSocket)
        Socket.__init__(moved, sock, self.workers, self.deadlines, high_water_mark=self.high_water_mark)
        for name in ("_decrypted", "_early", "_incoming", "_outgoing", "_ssl", "_started", "handshake_timeout"):
            setattr(moved, name, getattr(self, name))
        moved.secure, moved._notified, moved.remembered = True, notified, True
        if ended:
            moved._state = _ENDED
        if inflow is not None:
            moved.unread(b"".join(inflow.chunks))
            if inflow.progress is not Progress.OPEN:
                moved._end_reading()
        self.workers.hub.loop.run_callback(moved._advance)
        self._lose(None)
        return moved

    def _carry(self, ours: Any, failure: list[Exception]) -> None:
        out = gevent.spawn(self._carry_out, ours)
        self._carry_in(ours, failure)
        out.join()
        ours.close()
        self.destroy()

    def _carry_out(self, ours: Any) -> None:
        try:
            while data := ours.recv(READ_SIZE):
                self.write(data)
            self.end()
        except (OSError, MessageStateError):
            self.destroy()

    def _carry_in(self, ours: Any, failure: list[Exception]) -> None:
        try:
            for chunk in self:
                ours.sendall(chunk)
        except (OSError, HTTPError) as error:
            failure.append(error)
        try:
            ours.shutdown(gevent.socket.SHUT_RDWR if failure else gevent.socket.SHUT_WR)
        except OSError:
            pass  # it is closed there


class _CarriedSocket(gevent.socket.socket):
    """The user's end of a detached connection: after a cut it raises where it would return the end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.failure: list[Exception] = []

    def recv(self, size: int, *flags: int) -> bytes:
        return super().recv(size, *flags) or self._at_end(b"", size)

    def recv_into(self, buffer: Any, size: int = 0, *flags: int) -> int:
        return super().recv_into(buffer, size, *flags) or self._at_end(0, len(buffer))

    def _at_end(self, end: Any, wanted: int) -> Any:
        if wanted and self.failure:
            raise ConnectionLostError("the connection was cut", code="ECONNRESET") from self.failure[0]
        return end


def _plain_http() -> TLSError:
    return TLSError("the client speaks HTTP, not HTTPS", code="ERR_SSL_HTTP_REQUEST")


def _translated(error: ssl.SSLError, *, secure: bool) -> Exception:
    if isinstance(error, ssl.SSLCertVerificationError):
        failed = TLSError(f"the peer's certificate is not accepted: {error.verify_message}", code=_verify_code(error))
        failed.__cause__ = error.with_traceback(None)  # which would keep the socket
        return failed
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLEOFError) or "EOF" in reason:
        if secure:
            return ConnectionLostError("the connection was cut: no close_notify came before its end", code="ECONNRESET")
        return ConnectionLostError("the connection was closed in the handshake", code="ECONNRESET")
    failed = TLSError(f"TLS failed: {reason.lower().replace('_', ' ')}", code=f"ERR_SSL_{reason}")
    failed.__cause__ = error.with_traceback(None)
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
