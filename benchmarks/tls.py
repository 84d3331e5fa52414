"""TLS: the certificate of a run, and what every connection of it must have come to."""

from __future__ import annotations

import functools
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .exchange import TIMEOUT
from .results import VoidRunError

__all__ = ["CIPHER", "GROUP", "VERSION", "Identity", "identity", "probe"]

# What all contenders must speak, for another cipher or key exchange costs something else. OpenSSL's first choices.
VERSION = "TLSv1.3"
CIPHER = "TLS_AES_256_GCM_SHA384"
GROUP = "X25519"

_REQUEST = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split()
_NAMES = ("-addext", "subjectAltName=IP:127.0.0.1")


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, ECDSA on P-256, in files that go when the process ends."""

    cert: Path
    key: Path
    context: ssl.SSLContext  # of a client that trusts this certificate alone, and speaks TLS 1.3 alone
    directory: tempfile.TemporaryDirectory[str] = field(repr=False)


@functools.cache
def identity() -> Identity:
    """The same one for all servers of this run, signed by itself.

    Raises:
        VoidRunError: openssl did not make it.
    """
    directory = tempfile.TemporaryDirectory(prefix="benchmarks-tls-")
    cert, key = (Path(directory.name) / name for name in ("cert.pem", "key.pem"))
    command = ("openssl", *_REQUEST, *_NAMES, "-keyout", str(key), "-out", str(cert))
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    except OSError as error:
        raise VoidRunError(f"openssl: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise VoidRunError("openssl did not end") from error
    except subprocess.CalledProcessError as error:
        raise VoidRunError(f"no certificate: {error.stderr.strip()[-200:]}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cert)
    return Identity(cert, key, context, directory)


def probe(port: int) -> None:
    """Connect once: certificate, version and cipher must be those that all contenders are to have.

    Raises:
        VoidRunError: they are not, or there was no handshake.
    """
    try:
        with (
            socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain,
            identity().context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            cipher = secure.cipher()
            spoken = secure.version(), cipher[0] if cipher is not None else None
    except OSError as error:
        raise VoidRunError(f"TLS handshake: {error!r}") from error
    if spoken != (VERSION, CIPHER):
        raise VoidRunError(f"it speaks {spoken[0]} with {spoken[1]}, not {VERSION} with {CIPHER}")
