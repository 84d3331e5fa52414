"""From options to an `ssl.SSLContext`: whom to trust, who we are, and what may be spoken."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from .errors import InvalidArgumentError

__all__ = ["CLIENT_OPTIONS", "SERVER_OPTIONS", "client_context", "server_context"]

SERVER_OPTIONS = frozenset(
    "alpn ca cert ciphers context key password reject_unauthorized request_cert sni_callback".split()
)
CLIENT_OPTIONS = frozenset(
    ("ca", "cert", "check_server_identity", "ciphers", "context", "key", "password", "reject_unauthorized")
)

#: A path, or the PEM text itself.
Pem = str | bytes | os.PathLike[str]


def server_context(
    *,
    cert: Pem | None = None,
    key: Pem | None = None,
    password: str | None = None,
    ca: Pem | Iterable[Pem] | None = None,
    ciphers: str | None = None,
    request_cert: bool = False,
    reject_unauthorized: bool = True,
    alpn: Iterable[str] = ("http/1.1",),
    sni_callback: Any = None,
    context: ssl.SSLContext | None = None,
) -> ssl.SSLContext:
    """The context of a server.

    Args:
        cert: its certificate, with those between it and the root, as a path or PEM text; with `key` in it, or beside.
        key: its private key.
        password: of the key.
        ca: who signs the certificates of clients.
        ciphers: for TLS 1.2, in OpenSSL's notation.
        request_cert: ask clients for a certificate.
        reject_unauthorized: refuse clients that have none.
        alpn: the protocols that are offered.
        sni_callback: called with (ssl object, name or None, context) in a handshake; may choose another context.
        context: a ready one; then nothing else may be given.

    Raises:
        ValueError: something is missing, or certificate and key do not belong together.
    """
    if context is not None:
        if (cert, key, password, ca, ciphers, sni_callback) != (None,) * 6 or request_cert:
            raise InvalidArgumentError("with a ready context, nothing else about TLS may be given")
        try:
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        except ssl.SSLError as error:
            raise InvalidArgumentError("that context is one for clients") from error
        return context
    if cert is None:
        raise InvalidArgumentError("a TLS server needs a certificate: give cert (and key), or a ready context")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_identity(made, cert, key, password)
    if ciphers is not None:
        _set_ciphers(made, ciphers)
    if request_cert:
        made.verify_mode = ssl.CERT_REQUIRED if reject_unauthorized else ssl.CERT_OPTIONAL
        if ca is None:
            made.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    if ca is not None:
        _load_authorities(made, ca)
    made.set_alpn_protocols(list(alpn))
    if sni_callback is not None:
        made.sni_callback = sni_callback
    return made


def client_context(options: dict[str, Any]) -> ssl.SSLContext:
    """The context of a client.

    Args:
        options: those of a request; `CLIENT_OPTIONS` count: `ca`, `cert`, `key`, `password`, `ciphers` as for servers;
            `reject_unauthorized`: False accepts any certificate; `check_server_identity`: who may answer is decided
            elsewhere; `context`: a ready one, which replaces the others.

    Raises:
        ValueError: certificate and key do not belong together, or cannot be read.
    """
    context: ssl.SSLContext | None = options.get("context")
    if context is not None:
        return context
    given = tuple((name, _hashable(options[name])) for name in sorted(CLIENT_OPTIONS) if options.get(name) is not None)
    return _client_context(given)


@lru_cache(maxsize=64)  # to load the system's authorities takes milliseconds
def _client_context(given: tuple[tuple[str, Any], ...]) -> ssl.SSLContext:
    options = dict(given)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    if options.get("check_server_identity") is not None:
        made.check_hostname = False
    if options.get("reject_unauthorized") is False:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif options.get("ca") is None:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if options.get("ca") is not None:
        _load_authorities(made, options["ca"])
    if options.get("cert") is not None:
        _load_identity(made, options["cert"], options.get("key"), options.get("password"))
    if options.get("ciphers") is not None:
        _set_ciphers(made, options["ciphers"])
    made.set_alpn_protocols(["http/1.1"])
    return made


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, set)) else value


def _set_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as error:
        raise InvalidArgumentError(f"no such ciphers: {ciphers!r}") from error


def _load_identity(context: ssl.SSLContext, cert: Pem, key: Pem | None, password: str | None) -> None:
    with _as_file(cert) as cert_path, _as_file(key) as key_path:
        try:
            context.load_cert_chain(cert_path or "", key_path, password or "")
        except ssl.SSLError as error:
            raise InvalidArgumentError(
                f"the certificate and its key cannot be used together: {error.reason or error}"
            ) from error
        except OSError as error:
            raise InvalidArgumentError(f"cannot read the certificate or its key: {error}") from error


def _load_authorities(context: ssl.SSLContext, ca: Pem | Iterable[Pem]) -> None:
    for one in [ca] if isinstance(ca, (str, bytes, os.PathLike)) else ca:
        try:
            if _is_pem(one):
                context.load_verify_locations(cadata=one.decode("ascii") if isinstance(one, bytes) else str(one))
            else:
                context.load_verify_locations(cafile=os.fspath(one))
        except OSError as error:  # ssl.SSLError is one
            raise InvalidArgumentError(f"cannot read the authorities in ca: {error}") from error


def _is_pem(given: Pem) -> bool:
    return isinstance(given, bytes) or (isinstance(given, str) and "-----BEGIN" in given)


class _as_file:  # noqa: N801  # used like a function
    """The path of something that may be PEM text; OpenSSL reads certificates from files alone."""

    def __init__(self, given: Pem | None) -> None:
        self._given = given
        self._file: Any = None

    def __enter__(self) -> str | None:
        if self._given is None:
            return None
        if not _is_pem(self._given):
            return os.fsdecode(self._given)
        text = self._given if isinstance(self._given, bytes) else str(self._given).encode("ascii")
        self._file = tempfile.NamedTemporaryFile()  # readable for us alone
        self._file.write(text)
        self._file.flush()
        return str(self._file.name)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
