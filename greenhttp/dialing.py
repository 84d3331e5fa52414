"""Opening connections: names to addresses, and of several addresses the first that answers.

Everything here blocks the calling greenlet, never the hub.
"""

from __future__ import annotations

import _socket
import errno
import socket as stdlib_socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any

import gevent
import gevent.socket
from gevent.queue import Queue

from .errors import HTTPError, PeerTimeoutError

__all__ = ["ConnectError", "HostNotFoundError", "dial", "dial_path", "resolve"]

ATTEMPT_DELAY = 0.25  # seconds that one address has before the next is tried too. Precedent: RFC 8305 section 5

SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.1  # seconds before a Unix socket whose queue is full is tried again

_Address = tuple[int, int, int, str, Any]  # as `getaddrinfo` gives them


class HostNotFoundError(HTTPError, stdlib_socket.gaierror):
    """The name of a host could not be resolved."""


class ConnectError(HTTPError, OSError):
    """None of the addresses of a host could be reached. `errno` and `code` are those of the last attempt."""


class _RefusedError(ConnectError, ConnectionRefusedError):
    """The host is there, but nothing listens on the port."""


def dial(
    host: str, port: int, *, family: int = 0, local_address: str | None = None, timeout: float | None = None
) -> _socket.socket:
    """Connect to `port` of `host`; of several addresses, in turn IPv6 and IPv4, the first that answers wins.

    Args:
        family: 4 or 6 for these addresses only; 0 for both.
        local_address: the interface to connect from.
        timeout: seconds for all of it.

    Returns:
        A connected, non-blocking socket.

    Raises:
        HostNotFoundError: the name has no address (`ENOTFOUND`).
        ConnectError: none of them can be reached (`ECONNREFUSED`, `EHOSTUNREACH`, ...).
        PeerTimeoutError: that took longer than `timeout` (`ETIMEDOUT`).
    """
    if local_address is not None and not family:
        family = 6 if ":" in local_address else 4
    with gevent.Timeout(timeout) as limit:
        try:
            return _first_connected(_in_turn(resolve(host, port, family)), host, port, local_address)
        except gevent.Timeout as timed_out:
            if timed_out is not limit:
                raise
            raise PeerTimeoutError(
                f"no connection to {host} port {port} within {timeout} s", code="ETIMEDOUT"
            ) from None


def dial_path(path: str, *, timeout: float | None = None) -> _socket.socket:
    """Connect to the Unix socket at `path`.

    Raises:
        ConnectError: it cannot be reached (`ENOENT`, `ECONNREFUSED`, ...).
        PeerTimeoutError: that took longer than `timeout` (`ETIMEDOUT`).
    """
    sock = _socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with gevent.Timeout(timeout, PeerTimeoutError(f"no connection to {path} within {timeout} s", code="ETIMEDOUT")):
            _connect_path(sock, path)
    except OSError as error:
        sock.close()
        raise error if isinstance(error, HTTPError) else _failed(error, path) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_path(sock: _socket.socket, path: str) -> None:
    pause = SHORTEST_PAUSE
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:  # the server's queue is full, and when it has room again, nothing tells
            gevent.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def resolve(host: str, port: int, family: int = 0) -> list[_Address]:
    """The addresses of `host`, as `getaddrinfo` gives them.

    Raises:
        HostNotFoundError: it has none (`ENOTFOUND`).
    """
    families = {4: stdlib_socket.AF_INET, 6: stdlib_socket.AF_INET6}
    wanted = families.get(family, stdlib_socket.AF_UNSPEC)
    kind = stdlib_socket.SOCK_STREAM
    found: Any
    try:
        # an address needs no resolver, and so no other thread
        found = _socket.getaddrinfo(host, port, wanted, kind, 0, stdlib_socket.AI_NUMERICHOST)
        return list(found)
    except (stdlib_socket.gaierror, UnicodeError):
        pass
    try:
        host.encode("idna")  # what cannot be a name is told here: gevent would print it
        found = gevent.socket.getaddrinfo(host, port, wanted, kind)
        return list(found)
    except stdlib_socket.gaierror as error:
        code = "EAI_AGAIN" if error.errno == stdlib_socket.EAI_AGAIN else "ENOTFOUND"
        unknown = HostNotFoundError(f"cannot find the host {host!r} (port {port}): {error.strerror}", code=code)
        unknown.errno = error.errno
        raise unknown from error
    except UnicodeError as error:
        raise HostNotFoundError(f"not the name of a host: {host!r} (port {port})", code="ENOTFOUND") from error


def _in_turn(addresses: list[_Address]) -> list[_Address]:
    """The families alternate, beginning with the one that the system prefers (RFC 8305 section 4)."""
    preferred = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    pairs: Iterable[_Address | None] = chain.from_iterable(zip_longest(preferred, others))
    return [address for address in pairs if address is not None]


def _first_connected(addresses: list[_Address], host: str, port: int, local_address: str | None) -> _socket.socket:
    if len(addresses) == 1:
        try:
            return _connected(addresses[0], local_address)
        except OSError as error:
            raise _failed(error, f"{host} port {port}") from error
    race = _Race(addresses, local_address)
    try:
        return race.run()
    except OSError as error:
        raise _failed(error, f"{host} port {port}") from error
    finally:
        race.end()


class _Race:
    """Attempts at several addresses, each begun a little after the one before, or when that has failed."""

    def __init__(self, addresses: list[_Address], local_address: str | None) -> None:
        self._addresses = addresses
        self._local_address = local_address
        self._attempts: list[gevent.Greenlet[..., None]] = []
        self._outcomes: Queue[Any] = Queue()
        self._over = False

    def run(self) -> _socket.socket:
        """Block until one has won, or raise the error of the last."""
        pending = len(self._addresses)
        while True:
            begun = len(self._attempts)
            more = begun < len(self._addresses)
            if more:
                self._attempts.append(gevent.spawn(self._attempt, self._addresses[begun]))
                more = begun + 1 < len(self._addresses)
            try:
                outcome = self._outcomes.get(timeout=ATTEMPT_DELAY if more else None)
            except gevent.queue.Empty:
                continue
            if not isinstance(outcome, OSError):
                return outcome  # type: ignore[no-any-return]
            pending -= 1
            if not pending:
                raise outcome

    def _attempt(self, address: _Address) -> None:
        try:
            outcome: Any = _connected(address, self._local_address)
        except OSError as error:
            outcome = error
        if not self._over:
            self._outcomes.put(outcome)
        elif not isinstance(outcome, OSError):
            outcome.close()  # its end came before it could be killed

    def end(self) -> None:
        """Never blocks: give up what is still under way."""
        self._over = True
        gevent.killall(self._attempts, block=False)
        while not self._outcomes.empty():  # two won at the same time
            late = self._outcomes.get()
            if not isinstance(late, OSError):
                late.close()


def _connected(address: _Address, local_address: str | None) -> _socket.socket:
    family, kind, proto, _, where = address
    sock = gevent.socket.socket(family, kind, proto)
    try:
        if local_address is not None:
            sock.bind((local_address, 0))
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return _plain(sock)


def _plain(sock: Any) -> _socket.socket:
    """The same connection as a plain non-blocking socket, which needs no gevent objects of its own."""
    family, kind, proto = sock.family, sock.type, sock.proto
    plain = _socket.socket(family, kind, proto, fileno=sock.detach())
    plain.setblocking(False)
    return plain


def _failed(error: OSError, where: str) -> ConnectError:
    refused = error.errno == errno.ECONNREFUSED
    text = f"{error.strerror or error}: {where}"
    failed = (_RefusedError if refused else ConnectError)(text, code=errno.errorcode.get(error.errno or 0))
    failed.errno = error.errno
    failed.strerror = text
    return failed
