"""Hands bytes to a parser piece by piece and writes down, a line for each thing, what it made of them.

The corpus keeps these lines in `*.expect`; what several pieces of a body were is not told, only their sum.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise, repeat
from typing import TypeVar

from greenhttp.errors import RemoteProtocolError
from greenhttp.framing import RequestFraming, RequestHead, ResponseFraming, ResponseHead
from greenhttp.headers import flat_fields
from greenhttp.parser import End, ParserLimits, RequestParser, ResponseLimits, ResponseParser, _MessageParser

__all__ = ["by_byte", "by_line", "cuts", "drive", "drive_on", "drive_responses", "pieces_at", "random_cuts"]

Head = TypeVar("Head", RequestHead, ResponseHead)


def drive(pieces: Iterable[bytes], limits: ParserLimits | None = None) -> list[str]:
    """What a `RequestParser` reports for `pieces`."""
    return drive_on(RequestParser(limits or ParserLimits()), pieces)


def drive_on(parser: RequestParser, pieces: Iterable[bytes]) -> list[str]:
    """The same for a parser that may have seen requests before."""
    upgraded = False

    def head_lines(head: RequestHead) -> list[str]:
        nonlocal upgraded
        upgraded = head.framing.upgrade
        return _request_lines(head)

    report, fault = _events(parser, pieces, head_lines)
    return [*report, *_ending(parser, fault, upgraded)]


def drive_responses(
    pieces: Iterable[bytes], limits: ResponseLimits | None = None, methods: Iterable[str] = ()
) -> list[str]:
    """What a `ResponseParser` reports for `pieces`, after which the connection ends.

    `methods` are those of the requests that are answered, one after another; all others are `GET`.
    """
    parser = ResponseParser(limits or ResponseLimits())
    asked = chain(methods, repeat("GET"))
    parser.method = next(asked)
    upgraded = False

    def head_lines(head: ResponseHead) -> list[str]:
        nonlocal upgraded
        framing = head.framing
        upgraded = framing.upgrade or (framing.final and parser.method == "CONNECT")
        if framing.final:
            parser.method = next(asked)
        return _response_lines(head)

    report, fault = _events(parser, pieces, head_lines)
    report += _ending(parser, fault, upgraded)
    end = parser.end_of_input()
    assert parser.end_of_input() is None, "the connection ends twice"
    return report if end is None else [*report, "end with the connection"]


def _events(
    parser: _MessageParser[Head], pieces: Iterable[bytes], head_lines: Callable[[Head], list[str]]
) -> tuple[list[str], RemoteProtocolError | None]:
    """Lines for all events; after a fault the parser gets the rest too and has to repeat the fault."""
    report: list[str] = []
    body: list[bytes] = []
    fault: RemoteProtocolError | None = None
    for piece in pieces:
        if isinstance(parser, RequestParser) and (known := parser.known(piece)) is not None:  # as a connection does
            _flush(report, body)
            report += head_lines(known)
            continue
        parser.receive(piece)
        before, fault = fault, None
        try:
            while (event := parser.next_event()) is not None:
                if isinstance(event, bytes):
                    assert event, "an empty piece of a body"
                    body.append(event)
                    continue
                _flush(report, body)
                report += _end_lines(event) if isinstance(event, End) else head_lines(event)
        except RemoteProtocolError as error:
            fault = error
        assert before is None or fault is before, "another fault than the first, or it was forgotten"
    _flush(report, body)
    return report, fault


def _ending(parser: RequestParser | ResponseParser, fault: RemoteProtocolError | None, upgraded: bool) -> list[str]:
    if fault is not None:
        return [f"fault {fault.status_hint} {fault.code}"]
    if upgraded:
        return [f"rest {parser.take_rest()!r}"]
    return ["mid-head"] if parser.mid_head else []


def _flush(report: list[str], body: list[bytes]) -> None:
    if body:
        report.append(f"body {b''.join(body)!r}")
        body.clear()


def _request_lines(head: RequestHead) -> list[str]:
    framing = head.framing
    flags = [name for name in ("chunked", "upgrade", "expects_continue") if getattr(framing, name)]
    return _head_lines(head, repr(head)[1:-1].replace("RequestHead", "request"), framing, flags)


def _response_lines(head: ResponseHead) -> list[str]:
    framing = head.framing
    flags = [name for name in ("chunked", "upgrade", "bodiless") if getattr(framing, name)]
    flags += ["until_close"] if framing.until_close and not framing.bodiless else []
    flags += [] if framing.final else ["interim"]
    line = repr(head)[1:-1].replace("ResponseHead", "response")
    return _head_lines(head, f"{line} {framing.reason!r}", framing, flags)


def _head_lines(
    head: RequestHead | ResponseHead, line: str, framing: RequestFraming | ResponseFraming, flags: list[str]
) -> list[str]:
    means = ["keep-alive" if framing.keep_alive else "close"]
    if framing.content_length is not None:
        means.append(f"length {framing.content_length}")
    means += flags
    if head.complete and not head.body:
        means.append("complete")
    lines = [f"{line} = {', '.join(means)}", *_field_lines(head.fields)]
    return lines if not head.body else [*lines, f"body {head.body!r}", "end"]


def _end_lines(end: End) -> list[str]:
    return ["end", *_field_lines(end.fields)]


def _field_lines(fields: list[bytes]) -> list[str]:
    flat = flat_fields(fields)
    return [f"  {name}: {value}".rstrip(" ") for name, value in zip(flat[::2], flat[1::2], strict=True)]


def by_line(raw: bytes) -> list[bytes]:
    """Cut after every LF."""
    return pieces_at(raw, [index + 1 for index, byte in enumerate(raw) if byte == 10])


def by_byte(raw: bytes) -> list[bytes]:
    """Cut everywhere."""
    return [raw[index : index + 1] for index in range(len(raw))]


def pieces_at(raw: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut before the bytes with these numbers."""
    bounds = [0, *sorted(place for place in set(places) if 0 < place < len(raw)), len(raw)]
    return [raw[start:end] for start, end in pairwise(bounds) if start < end]


def random_cuts(raw: bytes, seed: int) -> list[bytes]:
    """Cut at places that `seed` decides, the same in every run."""
    chance = random.Random(seed)
    count = chance.randint(1, 1 + len(raw) // 4)
    return pieces_at(raw, [chance.randrange(len(raw)) for _ in range(count)])


def cuts(raw: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Every way in which a case of the corpus goes in, with a name."""
    yield "whole", [raw]
    yield "by line", by_line(raw)
    yield "by byte", by_byte(raw)
    for seed in range(8):
        yield f"random cuts, seed {seed}", random_cuts(raw, seed)
