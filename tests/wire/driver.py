"""Hands bytes to a `RequestParser` piece by piece and writes down, a line for each thing, what it made of them.

The corpus keeps these lines in `*.expect`; what several pieces of a body were is not told, only their sum.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

from greenhttp.errors import RemoteProtocolError
from greenhttp.framing import RequestHead
from greenhttp.headers import flat_fields
from greenhttp.parser import End, ParserLimits, RequestParser

__all__ = ["by_byte", "by_line", "cuts", "drive", "pieces_at", "random_cuts"]


def drive(pieces: Iterable[bytes], limits: ParserLimits | None = None) -> list[str]:
    """What the parser reports for `pieces`; after a fault it gets the rest too and has to repeat the fault."""
    parser = RequestParser(limits or ParserLimits())
    report: list[str] = []
    body: list[bytes] = []
    fault: RemoteProtocolError | None = None
    upgraded = False
    for piece in pieces:
        parser.receive(piece)
        known, fault = fault, None
        try:
            while (event := parser.next_event()) is not None:
                if isinstance(event, bytes):
                    assert event, "an empty piece of a body"
                    body.append(event)
                    continue
                _flush(report, body)
                if isinstance(event, RequestHead):
                    upgraded = event.framing.upgrade
                    report += _head_lines(event)
                else:
                    report += _end_lines(event)
        except RemoteProtocolError as error:
            fault = error
        assert known is None or fault is known, "another fault than the first, or it was forgotten"
    _flush(report, body)
    if fault is not None:
        report.append(f"fault {fault.status_hint} {fault.code}")
    elif upgraded:
        report.append(f"rest {parser.take_rest()!r}")
    elif parser.mid_head:
        report.append("mid-head")
    return report


def _flush(report: list[str], body: list[bytes]) -> None:
    if body:
        report.append(f"body {b''.join(body)!r}")
        body.clear()


def _head_lines(head: RequestHead) -> list[str]:
    means = ["keep-alive" if head.framing.keep_alive else "close"]
    if head.framing.content_length is not None:
        means.append(f"length {head.framing.content_length}")
    for name in ("chunked", "upgrade", "expects_continue"):
        if getattr(head.framing, name):
            means.append(name)
    if head.complete and not head.body:
        means.append("complete")
    line = f"{repr(head)[1:-1].replace('RequestHead', 'request')} = {', '.join(means)}"
    lines = [line, *_field_lines(head.fields)]
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
