"""`ResponseParser` as such: limits, bodies that end with the connection, what connections share, and what holds for any
bytes. Corpus: `test_wire_responses.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenhttp.errors import RemoteProtocolError
from greenhttp.framing import ResponseHead
from greenhttp.headers import flat_fields
from greenhttp.parser import MAX_HEADER_SIZE, End, ResponseLimits, ResponseParser

from .wire.driver import by_byte, cuts, drive_responses, pieces_at

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"
ABC = OK + b"Content-Length: 3\r\n\r\nabc"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
OVERFLOW = "fault 431 HPE_HEADER_OVERFLOW"


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def fault(raw: bytes, limits: ResponseLimits | None = None) -> str:
    """The fault that `raw` ends in, the same whole and in a few pieces."""
    report = drive_responses([raw], limits)
    assert drive_responses(pieces_at(raw, range(0, len(raw), 1000)), limits) == report
    assert drive_responses(pieces_at(raw, range(7, len(raw), 1460)), limits) == report
    return report[-1]


def padded_head(size: int) -> bytes:
    """A head of exactly `size` bytes, without body."""
    head = EMPTY[:-2] + b"X-Pad: \r\n\r\n"
    return EMPTY[:-2] + b"X-Pad: " + b"x" * (size - len(head)) + b"\r\n\r\n"


def fed(raw: bytes, method: str = "GET", limits: ResponseLimits | None = None) -> ResponseParser:
    parser = ResponseParser(limits or ResponseLimits())
    parser.method = method
    parser.receive(raw)
    return parser


def next_head(parser: ResponseParser) -> ResponseHead:
    head = parser.next_event()
    assert isinstance(head, ResponseHead)
    return head


def refusal(parser: ResponseParser) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        parser.next_event()
    return caught.value


# --- limits ---


@pytest.mark.parametrize(
    ("what", "raw", "answer"),
    [
        ("a phrase over the limit", OK[:-2] + b"x" * MAX_HEADER_SIZE, "fault 414 HPE_HEADER_OVERFLOW"),
        ("one value over the limit", OK + b"X: " + b"x" * MAX_HEADER_SIZE, OVERFLOW),
        ("one name over the limit", OK + b"x" * MAX_HEADER_SIZE, OVERFLOW),
        ("many fields over the limit", OK + b"X-Y: 1\r\n" * 3000 + b"\r\n", OVERFLOW),
        ("a head one byte over the limit", padded_head(MAX_HEADER_SIZE + 1), OVERFLOW),
        ("more than 1000 fields", OK + b"X: 1\r\n" * 1001 + b"\r\n", OVERFLOW),
        ("an interim head over it", b"HTTP/1.1 103 Hints\r\nX: " + b"x" * MAX_HEADER_SIZE, OVERFLOW),
        ("trailers far over the limit", CHUNKED + b"0\r\n" + b"X-Y: 1\r\n" * 9000, OVERFLOW),
        ("trailers just over it", CHUNKED + b"0\r\nX: " + b"x" * MAX_HEADER_SIZE + b"\r\n\r\n", OVERFLOW),
        ("extensions of one chunk", CHUNKED + b"1;" + b"x" * 20_000, "fault 413 HPE_CHUNK_EXTENSIONS_OVERFLOW"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and "fault" not in value else "",
)
def test_beyond_a_limit_the_response_ends_in_a_fault(what: str, raw: bytes, answer: str):
    """Behaviours 9.1, 9.2 and 9.8, for the client."""
    assert fault(raw) == answer


@pytest.mark.parametrize("size", [99, 100, 101, 102])
def test_the_limit_is_exact_however_the_head_is_cut(size: int):
    """Behaviour 9.2: only above it."""
    expected = drive_responses([padded_head(size)], ResponseLimits(100))
    assert expected[-1].startswith("fault") == (size > 100)
    for how, pieces in cuts(padded_head(size)):
        assert drive_responses(pieces, ResponseLimits(100)) == expected, how


@pytest.mark.parametrize(
    ("count", "limit", "passes"), [(1000, 1000, True), (1001, 1000, False), (2000, 0, True), (2, 1, False)]
)
def test_max_headers_count_is_the_largest_number_allowed_and_0_is_none(count: int, limit: int, passes: bool):
    """Behaviour 9.1."""
    raw = EMPTY[:-2] + b"X: 1\r\n" * (count - 1) + b"\r\n"
    report = drive_responses([raw], ResponseLimits(max_headers_count=limit))
    assert len(report) == 1 + count if passes else report == [OVERFLOW]


def test_a_remembered_head_is_judged_by_limits_that_have_changed():
    limits = ResponseLimits()
    parser = fed(padded_head(200) * 2, limits=limits)
    assert next_head(parser).complete
    limits.max_header_size = 199
    assert refusal(parser).code == "HPE_HEADER_OVERFLOW"


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r"])
def test_thousands_of_empty_lines_before_a_head_are_skipped(line: bytes):
    assert drive_responses([line * 20_000 + ABC])[2:] == ["body b'abc'", "end"]
    assert drive_responses([ABC, line * 20_000, ABC])[6:] == ["body b'abc'", "end"]


# --- bodies ---


def test_a_body_without_framing_ends_with_the_connection():
    """Behaviour 3.14."""
    parser = fed(b"HTTP/1.0 200 OK\r\n\r\nI AM ")
    head = next_head(parser)
    assert (head.complete, head.body, head.framing.until_close) == (False, None, True)
    assert parser.next_event() == b"I AM "
    assert parser.next_event() is None
    parser.receive(b"THE WALRUS")
    assert parser.next_event() == b"THE WALRUS"
    end = parser.end_of_input()
    assert isinstance(end, End)
    assert end.fields == []
    assert parser.end_of_input() is None
    assert parser.next_event() is None


@pytest.mark.parametrize("raw", [b"", b"\r\n", ABC, ABC[:-1], CHUNKED + b"3\r\nabc\r\n", OK, b"H", UPGRADED])
def test_only_a_body_without_framing_ends_with_the_connection(raw: bytes):
    """Behaviour 3.19: elsewhere it is cut off."""
    parser = fed(raw)
    while parser.next_event() is not None:
        pass
    assert parser.end_of_input() is None


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        (b"HTTP/1.1 302 Moved Temporarily\r\n", "Moved Temporarily"),
        (b"HTTP/1.1 302 \r\n", ""),
        (b"HTTP/1.1 302\r\n", ""),
        (b"HTTP/1.0 302 a\tb\xe9\r\n", "a\tb\xe9"),
        (b"HTTP/0.9 302 OK\r\n", "OK"),
    ],
)
def test_the_status_line(line: bytes, phrase: str):
    """Behaviours 3.1 and 3.13."""
    head = next_head(fed(line + b"\r\n"))
    assert (head.framing.status, head.framing.reason) == (302, phrase)
    assert head.framing.version == line[5:8].decode()
    assert head.fields == []
    assert repr(head) == f"<ResponseHead HTTP/{line[5:8].decode()} 302>"


def test_a_status_line_that_is_garbage():
    error = refusal(fed(b"bad http = should trigger parse error\r\n\r\n"))
    assert str(error).startswith("Parse Error")
    assert error.code == "HPE_INVALID_CONSTANT"


def test_more_than_one_content_length():
    """Behaviour 9.6."""
    error = refusal(fed(OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"))
    assert str(error).startswith("Parse Error")
    assert error.code == "HPE_UNEXPECTED_CONTENT_LENGTH"


def test_trailers_come_with_the_end():
    """Behaviour 3.10."""
    parser = fed(CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert flat_fields(next_head(parser).fields) == ["Transfer-Encoding", "chunked"]
    assert parser.next_event() == b"a"
    end = parser.next_event()
    assert isinstance(end, End)
    assert end.fields == [b"X-Sum", b"1"]


def test_the_body_before_a_fault_is_reported_before_the_fault_which_is_repeated():
    parser = fed(CHUNKED + b"2\r\nhi\r\nzzz\r\n")
    assert not next_head(parser).complete
    assert parser.next_event() == b"hi"
    first = refusal(parser)
    parser.receive(ABC)
    assert refusal(parser) is first
    assert parser.end_of_input() is None


@pytest.mark.parametrize("split", range(1, len(ABC)))
def test_a_body_comes_with_its_head_if_it_is_here(split: int):
    parser = fed(ABC[:split])
    head = parser.next_event()
    parser.receive(ABC[split:])
    if head is None:
        assert next_head(parser).body == b"abc"
    else:
        assert isinstance(head, ResponseHead)
        assert (head.body, head.complete) == (None, False)
        assert isinstance([*iter(parser.next_event, None)][-1], End)


# --- the method of the request ---


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_the_answer_to_head_has_no_body_and_keeps_the_connection(framing: bytes):
    parser = fed((OK + framing + b"\r\n") * 2, "HEAD")
    for _ in range(2):
        head = next_head(parser)
        assert (head.complete, head.body, head.framing.bodiless, head.framing.keep_alive) == (True, b"", True, True)
    assert parser.end_of_input() is None


def test_a_head_equal_to_the_last_is_framed_by_the_method_of_its_own_request():
    same = OK + b"Content-Length: 3\r\n\r\n"
    parser = fed(same + same + b"abc" + same + same + b"def" + same + b"\x00rest", "HEAD")
    bodies = []
    for parser.method in ("HEAD", "GET", "HEAD", "POST"):
        head = next_head(parser)
        bodies.append((head.body, head.framing.bodiless))
    assert bodies == [(b"", True), (b"abc", False), (b"", True), (b"def", False)]
    parser.method = "CONNECT"
    assert next_head(parser).body is None
    assert parser.next_event() is None
    assert parser.take_rest() == b"\x00rest"


@pytest.mark.parametrize(
    ("raw", "method"),
    [
        (UPGRADED, "GET"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "CONNECT"),
        (OK + b"Content-Length: 3\r\n\r\n", "CONNECT"),
        (b"HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\n", "CONNECT"),
    ],
)
def test_the_bytes_after_an_upgrade_leave_the_parser_untouched(raw: bytes, method: str):
    """Behaviours 7.4 and 7.8."""
    parser = fed(b"HTTP/1.1 100 Continue\r\n\r\n" + raw + b"\x00\x01\r\n\r\n", method)
    assert not next_head(parser).framing.final
    assert not next_head(parser).complete
    assert parser.next_event() is None
    parser.receive(b"more")
    assert parser.next_event() is None
    assert parser.take_rest() == b"\x00\x01\r\n\r\nmore"
    assert parser.take_rest() == b""


def test_interim_answers_come_before_the_final_one():
    parser = fed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ABC)
    heads = [next_head(parser) for _ in range(3)]
    assert [(head.framing.status, head.framing.final) for head in heads] == [(100, False), (103, False), (200, True)]
    assert heads[-1].body == b"abc"


# --- what connections share ---

LEAVES_A_BODY_OPEN = [
    OK + b"Content-Length: 50000\r\n\r\n",
    OK + b"Transfer-Encoding: gzip\r\n\r\n",
    OK + b"Content-Length: 50000\r\n" + b"X:\r\n" * 1001 + b"\r\n",
    b"HTTP/1.1 200 O\x00K\r\nContent-Length: 50000\r\n\r\n",
    b"HTTP/1.1 099 Odd\r\nContent-Length: 50000\r\n\r\n",
    b"RTSP/1.0 200 OK\r\nContent-Length: 50000\r\n\r\n",
    CHUNKED,
    OK + b"\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    UPGRADED,
    b"junk\r\n\r\n",
]


@pytest.mark.parametrize("before", LEAVES_A_BODY_OPEN)
@pytest.mark.parametrize("raw", [ABC, CHUNKED + b"1\r\na\r\n0\r\n\r\n", EMPTY, OK + b"X: a\nY: \x00\r\n\r\n"])
def test_what_another_connection_received_never_disturbs_this_one(before: bytes, raw: bytes):
    """Neither is a good head refused, nor a bad one taken for the rest of a body."""
    limits = ResponseLimits()
    drive_responses([before], limits)
    assert drive_responses([raw], limits) == drive_responses([raw])


RESPONSES = st.sampled_from([ABC, EMPTY, CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", *LEAVES_A_BODY_OPEN])
RESPONSES |= st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.0 304 No\r\n\r\n"])
CONNECTION = st.tuples(st.lists(RESPONSES, max_size=4).map(b"".join), st.lists(st.integers(0, 300), max_size=6))


@settings(deadline=None)
@given(connections=st.lists(CONNECTION, min_size=2, max_size=4), data=st.data())
def test_connections_that_take_turns_read_the_same_as_alone(
    connections: list[tuple[bytes, list[int]]], data: st.DataObject
):
    limits = ResponseLimits()
    queues = [pieces_at(raw, places) for raw, places in connections]
    parsers = [ResponseParser(limits) for _ in queues]
    seen: list[list[str]] = [[] for _ in queues]
    while any(queues):
        turn = data.draw(st.sampled_from([index for index, queue in enumerate(queues) if queue]))
        parsers[turn].receive(queues[turn].pop(0))
        seen[turn] += events_of(parsers[turn])
    for (raw, places), report in zip(connections, seen, strict=True):
        alone, parser = list[str](), ResponseParser(ResponseLimits())
        for piece in pieces_at(raw, places):
            parser.receive(piece)
            alone += events_of(parser)
        assert report == alone


def events_of(parser: ResponseParser) -> list[str]:
    """What there is now, the fault too."""
    events: list[str] = []
    try:
        while (event := parser.next_event()) is not None:
            framing = event.framing if isinstance(event, ResponseHead) else None
            body = event.body if isinstance(event, ResponseHead) else None
            events.append(f"{event!r} {body!r} {framing and (framing.keep_alive, framing.reason)}")
    except RemoteProtocolError as error:
        events.append(f"{error} {error.code}")
    return events


# --- invariants ---

ALPHABET = [b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"abc", b"3\r\n", b"0\r\n", b";e=f"]
ALPHABET += [b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 304 ", b"HTTP/0.9 ", b"HTTP/2.0 200 OK", b"099 ", OK, ABC]
ALPHABET += [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"X: y\r\n"]
ALPHABET += [b"Connection: upgrade\r\n", b"Upgrade: x\r\n", b"Connection: keep-alive\r\n", CHUNKED, UPGRADED, EMPTY]
ALPHABET += [b"HTTP/1.1 100 Continue\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"HTTP/1.1 101 S\r\n", b"\x00", b"\xff"]
LIKE_HTTP = st.lists(st.one_of(st.sampled_from(ALPHABET), st.binary(max_size=3)), max_size=16).map(b"".join)


@settings(deadline=None)
@example(raw=b"HTTP/1.1 101 S\r\n\r\nabc", places=[16], limit=16384, methods=["CONNECT"])
@example(raw=b"\r\n\r\n" * 1500 + ABC, places=[], limit=40, methods=[])
@given(
    raw=st.one_of(LIKE_HTTP, st.binary()),
    places=st.lists(st.integers(0, 400)),
    limit=st.sampled_from([40, 80, 16384]),
    methods=st.lists(st.sampled_from(["GET", "HEAD", "CONNECT"]), max_size=3),
)
def test_any_bytes_however_cut_give_events_or_remote_protocol_error_and_the_same_whatever_the_cuts(
    raw: bytes, places: list[int], limit: int, methods: list[str]
):
    whole = drive_responses([raw], ResponseLimits(limit), methods)
    assert drive_responses(pieces_at(raw, places), ResponseLimits(limit), methods) == whole
    assert drive_responses(by_byte(raw), ResponseLimits(limit), methods) == whole


@settings(deadline=None)
@given(raws=st.lists(RESPONSES, min_size=2, max_size=5))
def test_a_sequence_of_responses_gives_the_same_as_each_on_a_fresh_parser(raws: list[bytes]):
    """The remembered head of a connection never changes a verdict."""
    parser = ResponseParser(ResponseLimits())
    for raw in raws:
        parser.receive(raw)
        seen = events_of(parser)
        assert seen == events_of(fed(raw))
        last = drive_responses([raw, EMPTY])
        if last[-2:] != drive_responses([EMPTY]) or len(last) < 3:
            return  # the connection has ended, or the body goes on
