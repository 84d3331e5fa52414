"""`RequestParser` as such: limits, upgrades, bookkeeping, and what holds for any bytes. Corpus: `test_wire.py`.

The points 1 to 9 named here are those of DESIGN.md, "What httptools leaves to us".
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenhttp.errors import RemoteProtocolError
from greenhttp.framing import RequestHead
from greenhttp.headers import field_line, flat_fields
from greenhttp.parser import MAX_HEADER_SIZE, MAX_SHARED_HEADS, End, ParserLimits, RequestParser

from .wire.driver import by_byte, cuts, drive, drive_on, pieces_at

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def fault(raw: bytes, limits: ParserLimits | None = None) -> str:
    """The fault that `raw` ends in, the same whole and in a few pieces."""
    report = drive([raw], limits)
    assert drive(pieces_at(raw, range(0, len(raw), 1000)), limits) == report
    assert drive(pieces_at(raw, range(7, len(raw), 1460)), limits) == report
    return report[-1]


def padded_head(size: int) -> bytes:
    """A head of exactly `size` bytes."""
    head = GET + b"X-Pad: \r\n\r\n"
    return GET + b"X-Pad: " + b"x" * (size - len(head)) + b"\r\n\r\n"


def events_of(parser: RequestParser) -> list[RequestHead | bytes | End]:
    events = []
    while (event := parser.next_event()) is not None:
        events.append(event)
    return events


def fed(raw: bytes, limits: ParserLimits | None = None) -> RequestParser:
    parser = RequestParser(limits or ParserLimits())
    parser.receive(raw)
    return parser


# --- the table of limits ---


@pytest.mark.parametrize(
    ("what", "raw", "answer"),
    [
        ("target over the limit", b"GET /" + b"x" * MAX_HEADER_SIZE, "fault 414 HPE_HEADER_OVERFLOW"),
        (
            "target over it, whole",
            b"GET /" + b"x" * MAX_HEADER_SIZE + GET[5:] + b"\r\n",
            "fault 414 HPE_HEADER_OVERFLOW",
        ),
        ("one value over the limit", GET + b"X: " + b"x" * MAX_HEADER_SIZE, "fault 431 HPE_HEADER_OVERFLOW"),
        ("one name over the limit", GET + b"x" * MAX_HEADER_SIZE, "fault 431 HPE_HEADER_OVERFLOW"),
        ("many fields over the limit", GET + b"X-Y: 1\r\n" * 3000 + b"\r\n", "fault 431 HPE_HEADER_OVERFLOW"),
        ("a head one byte over the limit", padded_head(MAX_HEADER_SIZE + 1), "fault 431 HPE_HEADER_OVERFLOW"),
        ("more than 1000 fields", GET + b"X: 1\r\n" * 1000 + b"\r\n", "fault 431 HPE_HEADER_OVERFLOW"),
        ("trailers far over the limit", CHUNKED + b"0\r\n" + b"X-Y: 1\r\n" * 9000, "fault 431 HPE_HEADER_OVERFLOW"),
        (
            "trailers just over it",
            CHUNKED + b"0\r\nX: " + b"x" * MAX_HEADER_SIZE + b"\r\n\r\n",
            "fault 431 HPE_HEADER_OVERFLOW",
        ),
        ("extensions of one chunk", CHUNKED + b"1;" + b"x" * 20_000, "fault 413 HPE_CHUNK_EXTENSIONS_OVERFLOW"),
        (
            "extensions of many chunks",
            CHUNKED + (b"1;" + b"x" * 10_000 + b"\r\na\r\n") * 8,
            "fault 413 HPE_CHUNK_EXTENSIONS_OVERFLOW",
        ),
        ("another expectation", GET + b"Expect: tea\r\n\r\n", "fault 417 HPE_USER"),
        (
            "another coding",
            GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            "fault 501 HPE_INVALID_TRANSFER_ENCODING",
        ),
        ("another version", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "fault 505 HPE_INVALID_VERSION"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n", "fault 400 HPE_INVALID_HOST"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and "fault" not in value else "",
)
def test_beyond_a_limit_the_fault_names_the_answer(what: str, raw: bytes, answer: str):
    """Behaviour 9.2: 431 above `max_header_size`. Behaviour 9.8: 413 for chunk extensions. Point 1."""
    assert fault(raw) == answer


def test_a_head_of_exactly_the_limit_passes():
    """Behaviour 9.2: only above it."""
    assert drive([padded_head(MAX_HEADER_SIZE)])[0] == "request GET / HTTP/1.1 = keep-alive, complete"
    assert drive([padded_head(500)], ParserLimits(500))[0] == "request GET / HTTP/1.1 = keep-alive, complete"
    assert drive([padded_head(501)], ParserLimits(500)) == ["fault 431 HPE_HEADER_OVERFLOW"]


@pytest.mark.parametrize("size", [99, 100, 101, 102])
def test_the_limit_is_exact_however_the_head_is_cut(size: int):
    expected = drive([padded_head(size)], ParserLimits(100))
    assert expected[-1].startswith("fault") == (size > 100)
    for how, pieces in cuts(padded_head(size)):
        assert drive(pieces, ParserLimits(100)) == expected, how


@pytest.mark.parametrize("size", [100, 101])
def test_empty_lines_before_a_head_are_not_counted_however_they_are_cut(size: int):
    raw = b"\r\n" + padded_head(size)
    for how, pieces in cuts(raw):
        assert drive(pieces, ParserLimits(100))[-1].startswith("fault") == (size > 100), how


def test_the_limit_counts_for_each_request_anew():
    assert len(drive([padded_head(100) * 20], ParserLimits(100))) == 20 * 3


def test_a_fault_within_the_limit_comes_before_the_limit_however_it_is_cut():
    raw = GET + b"X : bad\r\nY: " + b"y" * 200 + b"\r\n\r\n"
    for how, pieces in cuts(raw):
        assert drive(pieces, ParserLimits(100)) == ["fault 400 HPE_INVALID_HEADER_TOKEN"], how


@pytest.mark.parametrize("size", range(90, 112))
def test_the_limit_for_trailers_is_exact_however_they_are_cut(size: int):
    """Behaviour 9.2: trailers too. `size` counts the lines of the trailers and the empty one."""
    raw = CHUNKED + b"0\r\nX: " + b"x" * (size - 7) + b"\r\n\r\n"
    expected = ["fault 431 HPE_HEADER_OVERFLOW"] if size > 100 else ["end", "  X: " + "x" * (size - 7)]
    for how, pieces in cuts(raw):
        assert drive(pieces, ParserLimits(100))[3:] == expected, how


@pytest.mark.parametrize(
    ("count", "limit", "passes"), [(1000, 1000, True), (1001, 1000, False), (2000, 0, True), (2, 1, False)]
)
def test_max_headers_count_is_the_largest_number_allowed_and_0_is_none(count: int, limit: int, passes: bool):
    """Behaviour 9.1: 2000 lines, 0 sets no limit."""
    raw = GET + b"X: 1\r\n" * (count - 1) + b"\r\n"
    report = drive([raw], ParserLimits(max_headers_count=limit))
    assert len(report) == 1 + count if passes else report == ["fault 431 HPE_HEADER_OVERFLOW"]


def test_256_equal_headers_are_all_kept():
    """Behaviour 3.11: 512 entries, with `Host` two more."""
    (head,) = events_of(fed(GET + b"X: 1\r\n" * 256 + b"\r\n"))
    assert isinstance(head, RequestHead)
    assert flat_fields(head.fields) == ["Host", "a", *["X", "1"] * 256]


def test_10000_bytes_of_extensions_on_each_of_three_chunks_are_fine():
    """Behaviour 9.8: the count starts anew with each chunk."""
    raw = CHUNKED + (b"1;" + b"x" * 10_000 + b"\r\na\r\n") * 3 + b"0\r\n\r\n"
    for pieces in ([raw], pieces_at(raw, range(0, len(raw), 100)), by_byte(raw)):
        assert drive(pieces)[3:] == ["body b'aaa'", "end"]


def test_a_large_body_in_tiny_chunks_has_no_extensions():
    raw = CHUNKED + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n"
    assert drive([raw])[3:] == [f"body {b'a' * 20_000!r}", "end"]


def test_require_host_lets_only_a_missing_one_pass():
    """Behaviour 9.7, and `require_host_header=False`."""
    lenient = ParserLimits(require_host=False)
    assert drive([b"GET / HTTP/1.1\r\n\r\n"], lenient) == ["request GET / HTTP/1.1 = keep-alive, complete"]
    assert drive([GET + b"Host: a\r\n\r\n"], lenient) == ["fault 400 HPE_INVALID_HOST"]
    assert drive([b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"], lenient) == ["fault 400 HPE_INVALID_HOST"]


# --- heads that come again ---


def test_the_same_bytes_on_any_connection_are_given_the_head_that_was_read_before():
    limits = ParserLimits()
    parser = RequestParser(limits)
    once = fed(NEXT, limits).next_event()
    assert isinstance(once, RequestHead)
    assert not once.shared, "it may never come again"
    assert parser.known(NEXT) is None
    parser.receive(NEXT)
    twice = parser.next_event()
    assert isinstance(twice, RequestHead)
    assert twice.shared

    assert parser.known(NEXT) is twice
    assert RequestParser(limits).known(NEXT) is twice
    assert RequestParser(ParserLimits()).known(NEXT) is None, "another server may have other limits"
    again = fed(NEXT, limits).next_event()
    assert isinstance(again, RequestHead)
    assert not again.shared, "there is only one of them"


@pytest.mark.parametrize("before", [b"GET / HT", CHUNKED, CHUNKED + b"5\r\nab", GET + b"Connection: close\r\n\r\n"])
def test_bytes_are_no_known_head_where_something_else_is_due(before: bytes):
    limits = ParserLimits()
    drive([NEXT, NEXT], limits)
    assert RequestParser(limits).known(NEXT) is not None
    parser = fed(before, limits)
    events_of(parser)
    assert parser.known(NEXT) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        CHUNKED + b"0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        GET + b"Connection: close\r\n\r\n",
        GET + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n",
        GET + b"Expect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        padded_head(257),
        NEXT + NEXT,
    ],
)
def test_only_a_small_head_that_decides_nothing_and_comes_alone_is_shared(raw: bytes):
    limits = ParserLimits()
    for _ in range(3):
        head = fed(raw, limits).next_event()
        assert isinstance(head, RequestHead)
        assert not head.shared
    assert RequestParser(limits).known(raw) is None


def test_a_head_that_was_read_before_meets_new_limits():
    limits = ParserLimits()
    assert drive([NEXT], limits) == drive([NEXT], limits)
    assert RequestParser(limits).known(NEXT) is not None
    limits.max_header_size = len(NEXT) - 1
    assert RequestParser(limits).known(NEXT) is None
    assert drive([NEXT], limits) == ["fault 431 HPE_HEADER_OVERFLOW"]
    limits.max_header_size, limits.max_headers_count = MAX_HEADER_SIZE, 1
    assert drive([GET + b"A: b\r\n\r\n"], limits) == ["fault 431 HPE_HEADER_OVERFLOW"]


def test_heads_that_never_come_again_are_not_all_kept():
    limits = ParserLimits()
    parser = RequestParser(limits)
    for number in range(3 * MAX_SHARED_HEADS):
        parser.receive(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        head = parser.next_event()
        assert isinstance(head, RequestHead)
        assert head.target == b"/%d" % number
    assert len(limits.heads) <= MAX_SHARED_HEADS


# --- what comes out, and when ---


def test_the_events_of_a_chunked_request_in_order():
    """Behaviour 3.10: trailers come with the end, never among the headers. Point 5."""
    head, body, end = events_of(fed(CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\nHost: evil\r\n\r\n"))
    assert isinstance(head, RequestHead)
    assert (head.framing.method, head.target, head.framing.version) == ("POST", b"/", "1.1")
    assert flat_fields(head.fields) == ["Host", "a", "Transfer-Encoding", "chunked"]
    assert body == b"ab"
    assert isinstance(end, End)
    assert end.fields == [b"Host", b"evil"]
    assert repr(end) == "<End 1 trailers>"
    assert repr(head) == "<RequestHead POST / HTTP/1.1>"


def test_a_flood_of_pipelined_requests_stays_bytes_until_each_has_its_turn():
    """Point 7: the second head, at fault, is not looked at before the first was taken."""
    parser = fed(GET + b"\r\n" + b"FAULT\r\n\r\n")
    assert isinstance(parser.next_event(), RequestHead)
    with pytest.raises(RemoteProtocolError) as first:
        parser.next_event()
    parser.receive(GET + b"\r\n")
    with pytest.raises(RemoteProtocolError) as second:
        parser.next_event()
    assert second.value is first.value


def test_3640_pipelined_requests_in_one_piece_all_come_out():
    """Point 7."""
    assert len(events_of(fed((GET + b"\r\n") * 3640))) == 3640


def test_a_fault_that_llhttp_finds_after_the_head_leaves_no_head():
    """Point 4."""
    parser = fed(GET + b"Transfer-Encoding: gzip\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="Transfer-Encoding"):
        parser.next_event()


def test_the_body_before_a_fault_is_reported_before_the_fault():
    parser = fed(CHUNKED + b"2\r\nhi\r\nzzz\r\n")
    assert isinstance(parser.next_event(), RequestHead)
    assert parser.next_event() == b"hi"
    with pytest.raises(RemoteProtocolError):
        parser.next_event()


def test_a_target_in_pieces_is_put_together():
    """Behaviour 3.12. Point 8: `on_url` comes in pieces."""
    target = b"/foo/bar/baz?quux=42#1337"
    parser = RequestParser(ParserLimits())
    for piece in by_byte(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"):
        parser.receive(piece)
    (head,) = events_of(parser)
    assert isinstance(head, RequestHead)
    assert head.target == target


@pytest.mark.parametrize(
    ("raw", "mid_head"),
    [
        (b"", False),
        (b"\r\n", False),
        (b"G", True),
        (GET, True),
        (GET + b"\r\n", False),
        (GET + b"\r\n\r\n", False),
        (GET + b"\r\nG", True),
    ],
)
def test_mid_head_tells_whether_a_head_has_begun(raw: bytes, mid_head: bool):
    for pieces in ([raw], by_byte(raw)):
        parser = RequestParser(ParserLimits())
        for piece in pieces:
            parser.receive(piece)
            events_of(parser)
        assert parser.mid_head is mid_head


def test_a_get_with_5_mib_of_body_delivers_them_intact():
    """Behaviour 3.15."""
    body = bytes(range(256)) * (5242880 // 256)
    raw = GET + b"Content-Length: 5242880\r\n\r\n" + body
    parser = RequestParser(ParserLimits())
    events: list[RequestHead | bytes | End] = []
    for piece in pieces_at(raw, range(0, len(raw), 65_536)):
        parser.receive(piece)
        events += events_of(parser)
    assert b"".join([event for event in events if isinstance(event, bytes)]) == body
    assert isinstance(events[-1], End)


@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 1023, 1024, 1025, 5000])
def test_chunked_decoding_works_for_every_split(size: int):
    """Behaviour 3.9: byte by byte included; the pieces concatenate to the body."""
    body = (b"\r\n\r\n0\r\n\r\n" * (size // 9 + 1))[:size]
    raw = CHUNKED + (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\n\r\n"
    for how, pieces in cuts(raw):
        assert drive(pieces)[3:] == ([f"body {body!r}"] if size else []) + ["end"], how


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r"])
def test_thousands_of_empty_lines_before_a_head_are_skipped(line: bytes):
    raw = line * 20_000 + NEXT
    assert drive([raw]) == drive([NEXT])
    assert drive([NEXT, raw]) == drive([NEXT, NEXT])


# --- what is remembered, and what connections share ---

REMEMBERED = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /other HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET /a%20b HTTP/1.1\r\nHost:a\r\n\r\n",
    b"GET  /two-blanks HTTP/1.1\r\nHost:a\r\n\r\n",
    b"GET /two-blanks  HTTP/1.1\r\nHost:a\r\n\r\n",
    b"GET HTTP/1.1\r\nHost:a\r\n\r\n",
    b"GET  HTTP/1.1\r\nHost:a\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost:a\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GETX / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\nabc",
    CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    CHUNKED + b"0\r\nX: y\r\n\r\n",
    CHUNKED + b"z\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\nX: \x00\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\nContent-Length: 50000\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost:a\r\n\r\n",
    b"CONNECT HTTP/1.1\r\nHost:a\r\n\r\n",
    b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 3000 + b"\r\n\r\n",
]


def is_open_after(raw: bytes) -> bool:
    """Whether a connection that began with `raw` is at the beginning of a request now."""
    return drive([raw, NEXT]) == [*drive([raw]), *drive([NEXT])]


OPEN_AFTER = [raw for raw in REMEMBERED if is_open_after(raw)]


@pytest.mark.parametrize("first", OPEN_AFTER)
def test_the_fields_remembered_of_one_request_never_change_the_verdict_on_the_next(first: bytes):
    for second in REMEMBERED:
        alone = drive([second])
        for pieces in ([second], pieces_at(second, [len(second) - 3]), pieces_at(second, range(1, 99))):
            parser = fed(first)
            assert isinstance(parser.next_event(), RequestHead)
            assert drive_on(parser, pieces)[-len(alone) :] == alone, pieces
        assert drive([first + second]) == [*drive([first]), *alone]


@settings(deadline=None)
@given(firsts=st.lists(st.sampled_from(OPEN_AFTER), max_size=5), last=st.sampled_from(REMEMBERED))
def test_requests_on_one_connection_give_the_same_as_each_on_a_fresh_parser(firsts: list[bytes], last: bytes):
    raws = [*firsts, last]
    alone = [line for raw in raws for line in drive([raw])]
    assert drive(raws) == alone
    assert drive([b"".join(raws)]) == alone


def test_a_connect_whose_upgrade_was_ignored_is_not_remembered_as_a_target():
    parser = fed(b"CONNECT a:1 HTTP/1.1\r\nHost:a\r\n\r\n")
    head = parser.next_event()
    assert isinstance(head, RequestHead)
    parser.ignore_upgrade(head)
    without_a_target = b"CONNECT HTTP/1.1\r\nHost:a\r\n\r\n"
    assert drive_on(parser, [without_a_target]) == drive([without_a_target])
    assert drive([without_a_target])[-1].startswith("fault ")


@pytest.mark.parametrize("before", REMEMBERED)
def test_what_another_connection_received_never_disturbs_this_one(before: bytes):
    """Neither is a good head refused, nor a bad one taken for the rest of a body."""
    for raw in REMEMBERED:
        limits = ParserLimits()
        drive([before], limits)
        assert drive([raw], limits) == drive([raw]), raw


def test_a_head_over_a_limit_leaves_the_heads_of_others_to_be_checked():
    limits = ParserLimits()
    drive([GET + b"Content-Length: 50000\r\n" + b"X:\r\n" * 1001 + b"\r\n"], limits)
    assert drive([GET + b"X: a\nY: \x00\r\n\r\n"], limits) == ["fault 400 HPE_CR_EXPECTED"]


CONNECTION = st.tuples(
    st.lists(st.sampled_from(REMEMBERED), max_size=4).map(b"".join), st.lists(st.integers(0, 300), max_size=6)
)


@settings(deadline=None)
@given(connections=st.lists(CONNECTION, min_size=2, max_size=4), data=st.data())
def test_connections_that_take_turns_read_the_same_as_alone(
    connections: list[tuple[bytes, list[int]]], data: st.DataObject
):
    limits = ParserLimits()
    queues = [pieces_at(raw, places) for raw, places in connections]
    parsers = [RequestParser(limits) for _ in queues]
    seen: list[list[str]] = [[] for _ in queues]
    while any(queues):
        turn = data.draw(st.sampled_from([index for index, queue in enumerate(queues) if queue]))
        seen[turn] += drive_on(parsers[turn], [queues[turn].pop(0)])
    for (raw, places), report in zip(connections, seen, strict=True):
        parser = RequestParser(ParserLimits())
        assert report == [line for piece in pieces_at(raw, places) for line in drive_on(parser, [piece])]


# --- upgrades ---

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n"


@pytest.mark.parametrize(
    ("how", "framing", "body", "report"),
    [
        ("none", b"", b"", []),
        ("length 0", b"Content-Length: 0\r\n", b"", []),
        ("length", b"Content-Length: 31\r\n", b"GET /evil HTTP/1.1\r\nHost: e\r\n\r\n", ["body", "end"]),
        ("chunks", b"Transfer-Encoding: chunked\r\n", b"5\r\nGET /\r\n0\r\nX: 1\r\n\r\n", ["body", "end", "  X: 1"]),
        ("empty chunks", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", ["end"]),
    ],
)
def test_an_ignored_upgrade_still_frames_its_body(how: str, framing: bytes, body: bytes, report: list[str]):
    """Point 3: the announced body is never parsed as a request."""
    for pieces in ([UPGRADE + framing + b"\r\n" + body + NEXT], by_byte(UPGRADE + framing + b"\r\n" + body + NEXT)):
        parser = RequestParser(ParserLimits())
        events: list[RequestHead | bytes | End] = []
        for piece in pieces:
            parser.receive(piece)
            while (event := parser.next_event()) is not None:
                events.append(event)
                if isinstance(event, RequestHead) and event.framing.upgrade:
                    parser.ignore_upgrade(event)
        seen: list[str] = []
        for event in events[1:-1]:
            if isinstance(event, bytes):
                seen += ["body"] if "body" not in seen else []
            elif isinstance(event, End):
                seen += ["end", *(["  X: 1"] if event.fields == [b"X", b"1"] else [])]
        last = events[-1]
        assert seen == report
        assert isinstance(last, RequestHead)
        assert (last.target, last.complete) == (b"/next", True)


def test_an_ignored_upgrade_in_1_0_ends_the_connection():
    """Point 3: in 1.0 too."""
    parser = fed(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + NEXT)
    head = parser.next_event()
    assert isinstance(head, RequestHead)
    assert (head.framing.upgrade, head.framing.keep_alive) == (True, False)
    parser.ignore_upgrade(head)
    assert head.complete
    assert parser.next_event() is None


def test_the_bytes_after_an_upgrade_leave_the_parser_untouched():
    parser = fed(UPGRADE + b"\r\n" + b"\x00\x01\r\n\r\n")
    assert isinstance(parser.next_event(), RequestHead)
    assert parser.next_event() is None
    parser.receive(b"more")
    assert parser.next_event() is None
    assert parser.take_rest() == b"\x00\x01\r\n\r\nmore"
    assert parser.take_rest() == b""


# --- invariants ---

ALPHABET = [
    b"\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b"GET / HTTP/1.1",
    b"POST /x HTTP/1.0",
    b"Host: a\r\n",
]
ALPHABET += [
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
]
ALPHABET += [
    b"Connection: upgrade\r\n",
    b"Upgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
    b"abc",
    b"3\r\n",
    b"0\r\n",
    b";e=f",
]
ALPHABET += [
    GET,
    CHUNKED,
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"RTSP/1.0",
    b"\x00",
    b"\xff",
]
LIKE_HTTP = st.lists(st.one_of(st.sampled_from(ALPHABET), st.binary(max_size=3)), max_size=16).map(b"".join)


@settings(deadline=None)
@example(raw=b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", places=[15], limit=16384)
@given(
    raw=st.one_of(LIKE_HTTP, st.binary()), places=st.lists(st.integers(0, 400)), limit=st.sampled_from([40, 80, 16384])
)
def test_any_bytes_however_cut_give_events_or_remote_protocol_error_and_the_same_whatever_the_cuts(
    raw: bytes, places: list[int], limit: int
):
    """Point 9 as well: whatever a callback raises comes out as what it is."""
    whole = drive([raw], ParserLimits(limit))
    assert drive(pieces_at(raw, places), ParserLimits(limit)) == whole
    assert drive(by_byte(raw), ParserLimits(limit)) == whole


TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12).map("X-".__add__)
VALUE = st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"]) | st.just("\t"), max_size=40)


@settings(deadline=None)
@given(fields=st.lists(st.tuples(TOKEN, VALUE), max_size=20), seed=st.integers(0, 99))
def test_what_field_line_encodes_parses_back_the_same(fields: list[tuple[str, str]], seed: int):
    """Behaviour 3.2: in order, names as spelled, duplicates kept, blanks around a value removed."""
    raw = GET + b"".join([field_line(name, value) for name, value in fields]) + b"\r\n"
    parser = RequestParser(ParserLimits())
    for piece in pieces_at(raw, range(seed, len(raw), seed + 1)):
        parser.receive(piece)
    (head,) = events_of(parser)
    assert isinstance(head, RequestHead)
    assert flat_fields(head.fields)[2:] == [text for name, value in fields for text in (name, value.strip(" \t"))]


CHUNK = st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from([b"", b";a", b';a="b"']), st.booleans())


@settings(deadline=None)
@given(chunks=st.lists(CHUNK, max_size=8), places=st.lists(st.integers(0, 600)))
def test_what_is_cut_into_chunks_comes_out_in_one_body(chunks: list[tuple[bytes, bytes, bool]], places: list[int]):
    """Behaviour 3.9: upper- or lower-case sizes, however the bytes are cut."""
    raw = CHUNKED
    for data, extension, upper in chunks:
        size = b"%X" % len(data) if upper else b"%x" % len(data)
        raw += size + extension + b"\r\n" + data + b"\r\n"
    raw += b"0\r\n\r\n"
    body = b"".join([data for data, _, _ in chunks])
    assert drive(pieces_at(raw, places))[3:] == ([f"body {body!r}"] if body else []) + ["end"]


OPTION = st.sampled_from(
    [b"close", b"keep-alive", b"upgrade", b"CLOSE", b"Keep-Alive", b"closed", b"x", b"", b"keep-alivex", b"close x"]
)
OPTIONS_FIELD = st.tuples(
    st.sampled_from([b"Connection", b"Proxy-Connection"]),
    st.lists(st.tuples(OPTION, st.sampled_from([b",", b", ", b" , ", b",\t"])), max_size=4),
).map(lambda field: field[0] + b": " + b"".join([option + comma for option, comma in field[1]]) + b"\r\n")


@settings(deadline=None)
@given(version=st.sampled_from([b"1.0", b"1.1"]), fields=st.lists(OPTIONS_FIELD, max_size=3), chunked=st.booleans())
def test_the_head_says_keep_alive_exactly_if_the_next_request_is_looked_at(
    version: bytes, fields: list[bytes], chunked: bool
):
    """Point 6: llhttp's own idea of whether the connection persists does not come through."""
    framing = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" if chunked else b"Content-Length: 1\r\n\r\na"
    raw = b"POST / HTTP/" + version + b"\r\nHost: a\r\n" + b"".join(fields) + framing
    events = events_of(fed(raw + NEXT))
    head = events[0]
    assert isinstance(head, RequestHead)
    targets = [event.target for event in events if isinstance(event, RequestHead)]
    assert targets == ([b"/", b"/next"] if head.framing.keep_alive else [b"/"])
