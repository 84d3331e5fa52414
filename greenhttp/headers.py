"""Header fields: what may stand in one, how lines become bytes, and how received lines become a mapping.

Pure: no socket, no clock, no greenlet. This is the file where the `str` of users and the bytes of the wire meet:
both ways it is latin-1 (RFC 9110 section 5.5). Our own callers' fields are judged as strictly as a peer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .errors import InvalidHeaderError

__all__ = [
    "HeaderList",
    "Headers",
    "ListedHeaders",
    "OutgoingHeaders",
    "field_line",
    "field_pairs",
    "flat_fields",
    "incoming_headers",
    "validate_header_name",
    "validate_header_value",
]

HeaderList = list[str]
Headers = Mapping[str, Any] | Iterable[tuple[str, Any]] | Sequence[Any]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # token, RFC 9110 section 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # field-value, RFC 9110 section 5.5
_BLANKS = b" \t"  # OWS, RFC 9110 section 5.6.3

_CACHED_VALUE = 256  # characters; longer values are rarely the same twice

# Of these, the first line counts; a list of them would mean nothing.
_SINGLE = frozenset(
    """age authorization content-length content-type etag expires from host if-modified-since if-unmodified-since
    last-modified location max-forwards proxy-authorization referer retry-after server user-agent""".split()
)


def validate_header_name(name: str) -> None:
    """Check that `name` is a token (RFC 9110 section 5.1; reference: `validate_header_name`).

    Raises:
        TypeError: `name` is not a `str`.
        ValueError: it is empty or holds a character that a token must not (`ERR_INVALID_HTTP_TOKEN`).
    """
    if not isinstance(name, str):
        raise TypeError(f"a header name must be a str, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise InvalidHeaderError(f"invalid header name {name!r}: not a token", code="ERR_INVALID_HTTP_TOKEN")


def validate_header_value(name: str, value: object) -> None:
    """Check that `value` may be sent as the value of `name` (RFC 9110 section 5.5).

    Raises:
        ValueError: it is None (`ERR_HTTP_INVALID_HEADER_VALUE`), or holds CR, LF, NUL, another control character
            or a character above U+00FF (`ERR_INVALID_CHAR`).
    """
    if value is None:
        raise InvalidHeaderError(f"header {name!r} needs a value, not None", code="ERR_HTTP_INVALID_HEADER_VALUE")
    if not _VALUE.fullmatch(str(value)):
        raise InvalidHeaderError(f"invalid character in the value of header {name!r}", code="ERR_INVALID_CHAR")


@lru_cache(maxsize=1024)  # names and values repeat from response to response
def _checked_line(name: str, value: str) -> bytes:
    validate_header_name(name)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"the value of header {name!r} must be text or a number, not bytes")
    validate_header_value(name, value)
    return f"{name}: {value}\r\n".encode("latin-1")


def field_line(name: str, value: object) -> bytes:
    """The line, or for a list or tuple the lines, that `name` and `value` make on the wire.

    Raises:
        TypeError, ValueError: as the two validators do.
    """
    if type(value) is str:
        if len(value) > _CACHED_VALUE:
            return _checked_line.__wrapped__(name, value)
        return _checked_line(name, value)
    if isinstance(value, (list, tuple)):
        validate_header_name(name)
        return b"".join([field_line(name, item) for item in value])
    validate_header_name(name)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"the value of header {name!r} must be text or a number, not bytes")
    validate_header_value(name, value)
    return f"{name}: {value!s}\r\n".encode("latin-1")  # not what a `__format__` gives: that was not judged


def field_pairs(headers: Headers) -> list[tuple[str, Any]]:
    """The fields of a mapping, of an iterable of pairs, or of a flat list `[name, value, name, value, ...]`.

    Raises:
        ValueError: a flat list of odd length.
        TypeError: something else.
    """
    if isinstance(headers, Mapping):
        return list(headers.items())
    fields = list(headers)
    if fields and isinstance(fields[0], str):
        if len(fields) % 2:
            raise InvalidHeaderError("a flat list of headers needs a value for each name", code="ERR_INVALID_ARG_VALUE")
        return list(zip(fields[::2], fields[1::2], strict=True))
    pairs = []
    for field in fields:
        if isinstance(field, str) or len(field) != 2:
            raise TypeError(f"headers must be a mapping, pairs or a flat list; {field!r} is not a pair")
        pairs.append((field[0], field[1]))
    return pairs


_Field = tuple[str, Any, bytes]  # name, value, line


def _field(name: str, value: object) -> tuple[str, _Field]:
    line = field_line(name, value)
    return name.lower(), (name, value, line)


_cached_field = lru_cache(maxsize=1024)(_field)


class OutgoingHeaders(dict[str, _Field]):
    """The fields of one head that is still to be sent: in the order set, found in any letter case.

    A name keeps the spelling of whoever set it last (reference: `set_header`, `write_head`).
    """

    __slots__ = ()  # a dict by lower-case name: there is one in every response

    def set(self, name: str, value: object) -> None:
        """Set, or set anew in its old place. Raises as `field_line` does; nothing has changed then."""
        if type(value) is str and len(value) <= _CACHED_VALUE:
            lower, field = _cached_field(name, value)
        else:
            lower, field = _field(name, value)
        self[lower] = field

    def add(self, name: str, value: object) -> None:
        """Set, or put one more line under those of the same name."""
        known = self.get(name.lower()) if isinstance(name, str) else None
        if known is None:
            self.set(name, value)
        else:
            values = [*known[1]] if isinstance(known[1], (list, tuple)) else [known[1]]
            line = known[2] + field_line(name, value)
            self[name.lower()] = (known[0], [*values, value], line)

    def value(self, name: str) -> Any:
        """The value as it was set, or None."""
        field = self.get(_required_name(name))
        return field[1] if field is not None else None

    def remove(self, name: str) -> None:
        """Forget `name`."""
        self.pop(_required_name(name), None)

    def merge(self, headers: Headers) -> None:
        """Set all of `headers`; a name that comes twice within them gives two lines, as in Node.

        Raises:
            TypeError, ValueError: a field is invalid; nothing has changed.
        """
        if type(headers) is dict:  # the common case: no name twice, unless in two letter cases
            self.update([_field(name, value) for name, value in headers.items()])
            return
        fresh = OutgoingHeaders()
        for name, value in field_pairs(headers):
            fresh.add(name, value)
        self.update(fresh)

    def encode(self) -> bytes:
        """The lines, each with its CRLF."""
        lines = []
        for field in self.values():  # a comprehension would be a call of its own, before Python 3.12
            lines.append(field[2])
        return b"".join(lines)


class ListedHeaders(OutgoingHeaders):
    """Headers that were given as a list: they are sent in its order, unless one is changed later."""

    __slots__ = ("lines",)

    def merge(self, headers: Headers) -> None:
        """Set all of `headers`, as long as there are no others. Raises as `OutgoingHeaders.merge` does."""
        pairs = field_pairs(headers)
        super().merge(pairs)
        self.lines: bytes | None = b"".join([field_line(name, value) for name, value in pairs])

    def set(self, name: str, value: object) -> None:
        """As `OutgoingHeaders.set`."""
        super().set(name, value)
        self.lines = None

    def remove(self, name: str) -> None:
        """As `OutgoingHeaders.remove`."""
        super().remove(name)
        self.lines = None

    def encode(self) -> bytes:
        """The lines, each with its CRLF."""
        return super().encode() if self.lines is None else self.lines


def _required_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a header name must be a str, not {type(name).__name__}")
    return name.lower()


def flat_fields(fields: Sequence[bytes]) -> HeaderList:
    """Received names and values as text, blanks around the values removed (reference: `raw_headers`)."""
    flat = [field.decode("latin-1") for field in fields]
    flat[1::2] = [value.strip(" \t") for value in flat[1::2]]
    return flat


def incoming_headers(fields: Sequence[bytes]) -> dict[str, Any]:
    """Received fields as the mapping that users see (reference: `message.headers`).

    Keys are lower-case. Lines of one name are joined with `', '`, those of `cookie` with `'; '`; `set-cookie` is always
    a list; for names that can only have one value the first counts.
    """
    headers: dict[str, Any] = {}
    for index in range(0, len(fields), 2):
        name = fields[index].decode("latin-1").lower()
        value = fields[index + 1].strip(_BLANKS).decode("latin-1")
        if name == "set-cookie":
            headers.setdefault(name, []).append(value)
        elif name not in headers:
            headers[name] = value
        elif name not in _SINGLE:
            headers[name] += ("; " if name == "cookie" else ", ") + value
    return headers
