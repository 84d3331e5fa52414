"""What the fields of a head mean for the framing of its message and for its connection.

Pure: bytes come in, a decision goes out. llhttp has checked the syntax by then; what it leaves to us stands here.
Refuse, never mend: what two readers could understand in two ways ends the connection.
Source: RFC 9112 sections 2.3, 3.2, 6 and 9.3; RFC 9110 sections 7.2, 7.8 and 10.1.1.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from .errors import RemoteProtocolError
from .status import METHODS

__all__ = ["REQUEST_DECIDERS", "RequestFraming", "RequestHead", "deciding_lines", "judge_request", "split_fields"]

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~%!$&'()*+,;=]+)(?::[0-9]*)?")  # RFC 9112 section 3.2
_IDLE_TIMEOUT = re.compile(rb"(?i:timeout) *= *\"?([0-9]{1,9})")
_DIGITS = re.compile(rb"[0-9]{1,18}")  # 18 digits stay below 2**63
_METHODS = {method.encode(): method for method in METHODS}


def deciding_lines(names: Iterable[str]) -> re.Pattern[bytes]:
    """A pattern whose `findall` gives the lines, of a head whose syntax was checked, of the fields with these names.

    Most lines are passed by at their first letter. The case of each letter is spelled out: that is faster than a flag.
    """
    spelled = ["".join(f"[{c.upper()}{c}]" if c.isalpha() else c for c in name) for name in names]
    first = "".join(sorted({letters[1:3] for letters in spelled}))
    return re.compile(rf"\n(?=[{first}])((?:{'|'.join(spelled)}):.*)\r".encode("ascii"))


def split_fields(head: bytes) -> list[bytes]:
    """Name, value, name, value, ... of a head whose syntax was checked, as received."""
    fields: list[bytes] = []
    for line in head.strip(b"\r\n").split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields += (name, value.strip(b" \t"))
    return fields


class RequestFraming:
    """What a request line and the fields that decide something mean. Shared by requests that are alike."""

    __slots__ = (
        "chunked",
        "content_length",
        "expects_continue",
        "has_body",
        "keep_alive",
        "method",
        "ordinary",
        "raw_method",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        raw_method: bytes,
        method: str,
        version: str,
        *,
        keep_alive: bool,
        content_length: int | None = None,
        chunked: bool = False,
        upgrade: bool = False,
        expects_continue: bool = False,
    ) -> None:
        self.raw_method = raw_method
        self.method = method
        self.version = version
        self.keep_alive = keep_alive
        self.content_length = content_length
        self.chunked = chunked
        self.upgrade = upgrade
        self.expects_continue = expects_continue
        #: Whether bytes of a body follow.
        self.has_body = chunked or bool(content_length)
        #: Whether nothing in it changes what follows or how the answer is framed: the case to be fast in.
        self.ordinary = version == "1.1" and keep_alive and not expects_continue and not upgrade and method != "HEAD"

    def without(self, *, upgrade: bool = False, expects_continue: bool = False) -> RequestFraming:
        """The same, as if the request had not asked for that."""
        return RequestFraming(
            self.raw_method,
            self.method,
            self.version,
            keep_alive=self.keep_alive,
            content_length=self.content_length,
            chunked=self.chunked,
            upgrade=self.upgrade and not upgrade,
            expects_continue=self.expects_continue and not expects_continue,
        )


class _Head:
    """What the heads of both directions have."""

    __slots__ = ("body", "complete", "raw")

    raw: bytes  #: the whole head, as received
    body: bytes | None  #: if all of it came with the head, until somebody takes it
    complete: bool  #: whether the message has no body, or it came with the head

    @property
    def fields(self) -> list[bytes]:
        """Name, value, name, value, ... as received."""
        return split_fields(self.raw)


class RequestHead(_Head):
    """One request line with its fields, and what they mean."""

    __slots__ = ("framing", "shared", "target")

    def __init__(self, framing: RequestFraming, target: bytes, raw: bytes, body: bytes | None) -> None:
        self.framing = framing
        self.target = target
        self.raw = raw
        self.body = body
        self.complete = body is not None
        #: Whether other requests have this very object, because they begin with the same bytes; then nothing in it
        #: ever changes.
        self.shared = False

    def __repr__(self) -> str:
        framing = self.framing
        return f"<RequestHead {framing.method} {self.target.decode('latin-1')} HTTP/{framing.version}>"


@lru_cache(maxsize=256)  # clients send the same few fields of this kind again and again
def judge_request(method: bytes, version: str, require_host: bool, *lines: bytes) -> RequestFraming:
    """What a request means.

    Args:
        method, version: of the request line; the version is 1.0 or 1.1.
        require_host: refuse an HTTP/1.1 request without `Host`.
        lines: the fields `REQUEST_DECIDERS`, as `name:value`.

    Raises:
        RemoteProtocolError: the request must not be acted on; `status_hint` says what to answer.
    """
    hosts = 0
    upgrade_offered = expects_continue = False
    content_length: int | None = None
    options: list[bytes] = []
    codings: list[bytes] = []
    known_method = _METHODS.get(method)
    if known_method is None:
        raise RemoteProtocolError("Parse Error: not an HTTP method", code="HPE_INVALID_METHOD")
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            hosts += 1
            if hosts > 1 or not _HOST.fullmatch(value):
                raise RemoteProtocolError(
                    "Parse Error: more than one Host, or not a valid one", code="HPE_INVALID_HOST"
                )
        elif name == b"content-length":
            content_length = _length(value, content_length)
        elif name == b"transfer-encoding":
            codings += _list_members(value)
        elif name == b"upgrade":
            upgrade_offered = True
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise RemoteProtocolError(
                    "only the expectation 100-continue can be met", code="HPE_USER", status_hint=417
                )
            expects_continue = version == "1.1"  # in 1.0 it is to be ignored
        else:
            options += _list_members(value)

    if not hosts and require_host and version == "1.1":
        raise RemoteProtocolError("Parse Error: an HTTP/1.1 request needs a Host", code="HPE_INVALID_HOST")
    if codings:
        _judge_codings(codings, content_length)
    keep_alive = b"close" not in options and (version == "1.1" or b"keep-alive" in options)
    if codings and version == "1.0":
        keep_alive = False  # RFC 9112 section 6.1: such framing is not to be trusted any further
    return RequestFraming(
        method,
        known_method,
        version,
        keep_alive=keep_alive,
        content_length=content_length,
        chunked=bool(codings),
        upgrade=method == b"CONNECT" or (upgrade_offered and b"upgrade" in options),
        expects_continue=expects_continue,
    )


#: The fields that decide something in a request.
REQUEST_DECIDERS = deciding_lines(
    ("host", "connection", "proxy-connection", "content-length", "transfer-encoding", "upgrade", "expect")
)


class ResponseFraming:
    """What a status line and the fields that decide something mean. Shared by responses that are alike."""

    __slots__ = (
        "bodiless",
        "chunked",
        "content_length",
        "final",
        "idle_timeout",
        "keep_alive",
        "persists",
        "plain_length",
        "reason",
        "status",
        "until_close",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        version: str,
        status: int,
        reason: str,
        *,
        keep_alive: bool,
        content_length: int | None,
        chunked: bool,
        until_close: bool,
        idle_timeout: float | None = None,
    ) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.content_length = content_length
        self.chunked = chunked
        self.upgrade = status == 101
        #: Whether the exchange ends with it, unlike with an interim answer.
        self.final = status >= 200
        #: Whether no body follows, whatever was asked or because `HEAD` was.
        self.bodiless = not self.final or status in (204, 304)
        #: Seconds that the server keeps an idle connection open, if it says so (`Keep-Alive: timeout=`).
        self.idle_timeout = idle_timeout
        #: Whether a body, if there is one, ends with the connection.
        self.until_close = until_close
        #: Whether the fields allow another message after it; and whether its body does, too.
        self.persists = keep_alive
        self.keep_alive = keep_alive and (self.bodiless or not until_close)
        plain = self.final and not self.bodiless and self.keep_alive and content_length is not None
        #: Bytes of the body, in the case to be fast in: a known length, and the connection is kept; else -1.
        self.plain_length = content_length if plain and content_length is not None else -1

    def without_body(self) -> ResponseFraming:
        """The same, as the answer to `HEAD`."""
        framing = copy.copy(self)
        framing.bodiless = True
        framing.keep_alive = self.persists
        return framing


class ResponseHead(_Head):
    """One status line with its fields, and what they mean."""

    __slots__ = ("framing",)

    def __init__(self, framing: ResponseFraming, raw: bytes, body: bytes | None) -> None:
        self.framing = framing
        self.raw = raw
        self.body = body
        self.complete = body is not None

    def __repr__(self) -> str:
        return f"<ResponseHead HTTP/{self.framing.version} {self.framing.status}>"


@lru_cache(maxsize=256)
def judge_response(version: bytes, status: bytes, reason: bytes, *lines: bytes) -> ResponseFraming:
    """What a response means (RFC 9112 sections 6.3 and 9.3).

    Args:
        version, status, reason: of the status line.
        lines: the fields `RESPONSE_DECIDERS`, as `name:value`.

    Raises:
        RemoteProtocolError: where the body ends is in doubt.
    """
    hint: re.Match[bytes] | None = None
    content_length: int | None = None
    options: list[bytes] = []
    codings: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            content_length = _length(value, content_length)
        elif name == b"transfer-encoding":
            codings += _list_members(value)
        elif name == b"keep-alive":
            hint = _IDLE_TIMEOUT.search(value)
        else:
            options += _list_members(value)
    keep_alive = b"close" not in options and (version == b"1.1" or b"keep-alive" in options)
    if codings:
        _judge_codings(codings, content_length)
        keep_alive = keep_alive and version == b"1.1"  # RFC 9112 section 6.1, as for requests
    return ResponseFraming(
        version.decode("ascii"),
        int(status),
        reason.decode("latin-1"),
        keep_alive=keep_alive,
        content_length=content_length,
        chunked=bool(codings),
        until_close=not codings and content_length is None,
        idle_timeout=float(hint[1]) if hint is not None else None,
    )


#: The fields that decide something in a response.
RESPONSE_DECIDERS = deciding_lines(
    ("connection", "keep-alive", "proxy-connection", "content-length", "transfer-encoding")
)


def _length(value: bytes, known: int | None) -> int:
    if known is not None:
        raise RemoteProtocolError("Parse Error: more than one Content-Length", code="HPE_UNEXPECTED_CONTENT_LENGTH")
    if not _DIGITS.fullmatch(value):
        raise RemoteProtocolError("Parse Error: Content-Length is not a number", code="HPE_INVALID_CONTENT_LENGTH")
    return int(value)


def _list_members(value: bytes) -> list[bytes]:
    return [member.strip(b" \t") for member in value.lower().split(b",")]


def _judge_codings(codings: Sequence[bytes], content_length: int | None) -> None:
    if content_length is not None:
        raise RemoteProtocolError(
            "Parse Error: Content-Length beside Transfer-Encoding", code="HPE_INVALID_TRANSFER_ENCODING"
        )
    if codings[-1] != b"chunked" or b"chunked" in codings[:-1]:
        raise RemoteProtocolError(
            "Parse Error: Transfer-Encoding does not end with one chunked", code="HPE_INVALID_TRANSFER_ENCODING"
        )
    if len(codings) > 1:
        raise RemoteProtocolError(
            "no transfer coding but chunked is understood", code="HPE_INVALID_TRANSFER_ENCODING", status_hint=501
        )
