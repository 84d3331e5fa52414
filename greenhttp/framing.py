"""What the fields of a request head mean for its framing and its connection.

Pure: bytes come in, a decision goes out. llhttp has checked the syntax by then; what it leaves to us stands here.
Refuse, never mend: what two readers could understand in two ways ends the connection.
Source: RFC 9112 sections 2.3, 3.2, 6 and 9.3; RFC 9110 sections 7.2, 7.8 and 10.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from .errors import RemoteProtocolError

__all__ = ["RequestHead", "judge_request"]

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~%!$&'()*+,;=]+)(?::[0-9]*)?")  # RFC 9112 section 3.2
_DIGITS = re.compile(rb"[0-9]{1,18}")  # 18 digits stay below 2**63


class RequestHead:
    """One request line with its fields, and what they mean. `complete`: the message has no body, and is all here."""

    __slots__ = (
        "chunked",
        "complete",
        "content_length",
        "expects_continue",
        "fields",
        "keep_alive",
        "method",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: str, fields: list[bytes]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields  # name, value, name, value, ... as received
        self.keep_alive = version == "1.1"
        self.content_length: int | None = None
        self.chunked = False
        self.upgrade = method == "CONNECT"
        self.expects_continue = False
        self.complete = False

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.target.decode('latin-1')} HTTP/{self.version}>"


# The fields that decide something, by their lower-case names.
_DECIDING = frozenset(
    (
        b"host",
        b"connection",
        b"proxy-connection",
        b"content-length",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    )
)


@lru_cache(maxsize=256)  # a server hears few hosts, and these often
def _valid_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def judge_request(head: RequestHead, require_host: bool) -> None:
    """Fill in what the fields of `head` mean.

    Args:
        head: changed in place.
        require_host: refuse an HTTP/1.1 request without `Host`.

    Raises:
        RemoteProtocolError: the head must not be acted on; `status_hint` says what to answer.
    """
    hosts = 0
    upgrade_offered = False
    options: list[bytes] | None = None
    codings: list[bytes] | None = None
    fields = head.fields
    for index in range(0, len(fields), 2):
        name = fields[index].lower()
        if name not in _DECIDING:
            continue
        value = fields[index + 1].strip(b" \t")
        if name == b"host":
            hosts += 1
            if hosts > 1 or not _valid_host(value):
                raise RemoteProtocolError(
                    "Parse Error: more than one Host, or not a valid one", code="HPE_INVALID_HOST"
                )
        elif name == b"content-length":
            if head.content_length is not None:
                raise RemoteProtocolError(
                    "Parse Error: more than one Content-Length", code="HPE_UNEXPECTED_CONTENT_LENGTH"
                )
            if not _DIGITS.fullmatch(value):
                raise RemoteProtocolError(
                    "Parse Error: Content-Length is not a number", code="HPE_INVALID_CONTENT_LENGTH"
                )
            head.content_length = int(value)
        elif name == b"transfer-encoding":
            codings = (codings or []) + _list_members(value)
        elif name == b"upgrade":
            upgrade_offered = True
        elif name == b"expect":
            _judge_expectation(head, value)
        else:
            options = (options or []) + _list_members(value)

    if not hosts and require_host and head.version == "1.1":
        raise RemoteProtocolError("Parse Error: an HTTP/1.1 request needs a Host", code="HPE_INVALID_HOST")
    if options:
        if b"close" in options:
            head.keep_alive = False
        elif b"keep-alive" in options:
            head.keep_alive = True
        if upgrade_offered and b"upgrade" in options:
            head.upgrade = True
    if codings:
        _judge_codings(head, codings)


def _list_members(value: bytes) -> list[bytes]:
    return [member.strip(b" \t") for member in value.lower().split(b",")]


def _judge_expectation(head: RequestHead, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise RemoteProtocolError("only the expectation 100-continue can be met", code="HPE_USER", status_hint=417)
    head.expects_continue = head.version == "1.1"  # in 1.0 it is to be ignored


def _judge_codings(head: RequestHead, codings: Sequence[bytes]) -> None:
    if head.content_length is not None:
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
    head.chunked = True
    if head.version == "1.0":
        head.keep_alive = False  # RFC 9112 section 6.1: such framing is not to be trusted any further
