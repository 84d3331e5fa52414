"""`judge_request` and `judge_response`: what the fields of a head mean, in tables.

The bytes of whole messages are in `test_wire.py` and `test_wire_responses.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenhttp.errors import RemoteProtocolError
from greenhttp.framing import (
    REQUEST_DECIDERS,
    RESPONSE_DECIDERS,
    RequestFraming,
    ResponseFraming,
    judge_request,
    judge_response,
)


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def judged(*lines: str, method: str = "POST", version: str = "1.1", host: bool = True) -> RequestFraming:
    fields = [line.encode("latin-1") for line in ["Host: a", *lines][not host :]]
    return judge_request(method.encode(), version, True, *fields)


def refused(*lines: str, version: str = "1.1", host: bool = True) -> tuple[int, str | None]:
    with pytest.raises(RemoteProtocolError) as caught:
        judged(*lines, version=version, host=host)
    return caught.value.status_hint, caught.value.code


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        ("1.1", [], True),
        ("1.0", [], False),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["connection:CLOSE"], False),
        ("1.1", ["Connection: x, close ,y"], False),
        ("1.1", ["Connection: keep-alive", "Connection: close"], False),
        ("1.1", ["Connection: close", "Connection: keep-alive"], False),
        ("1.1", ["Connection: closed"], True),
        ("1.1", ["Connection: x"], True),
        ("1.1", ["Connection:"], True),
        ("1.1", ["Proxy-Connection: close"], False),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["Connection: Keep-Alive, x"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
        ("1.0", ["Connection: keep-alive", "Transfer-Encoding: chunked"], False),
        ("1.1", ["Transfer-Encoding: chunked"], True),
    ],
)
def test_whether_the_connection_persists(version: str, lines: list[str], keep_alive: bool):
    """Point 6 of "What httptools leaves to us"."""
    assert judged(*lines, version=version).keep_alive is keep_alive


def test_only_lines_of_the_deciding_fields_are_looked_at():
    head = b"GET / HTTP/1.1\r\nhOsT: a\r\nX-Connection: close\r\nX: Upgrade: x\r\nCONNECTION:y\r\nHostile: b\r\n\r\n"
    assert REQUEST_DECIDERS.findall(head) == [b"hOsT: a", b"CONNECTION:y"]


@pytest.mark.parametrize(
    ("value", "length"), [("0", 0), (" 0 ", 0), ("5", 5), ("\t5\t", 5), ("0005", 5), ("9" * 18, 10**18 - 1)]
)
def test_content_length(value: str, length: int):
    """Behaviour 3.7: a blank after the digit is fine."""
    head = judged("Content-Length:" + value)
    assert (head.content_length, head.chunked) == (length, False)


@pytest.mark.parametrize(
    "value", ["", " ", "-1", "+1", "1.0", "0x1", "1,1", "1, 1", "1 1", "five", "\xb2", "1_0", "9" * 19]
)
def test_a_content_length_that_is_no_number_is_refused(value: str):
    assert refused("Content-Length:" + value) == (400, "HPE_INVALID_CONTENT_LENGTH")


def test_more_than_one_content_length_is_refused_even_with_equal_values():
    """Behaviour 9.6."""
    assert refused("Content-Length: 0", "content-length: 0") == (400, "HPE_UNEXPECTED_CONTENT_LENGTH")
    assert refused("Content-Length: 1", "Content-Length: 2") == (400, "HPE_UNEXPECTED_CONTENT_LENGTH")


def test_content_length_beside_transfer_encoding_is_refused_in_either_order():
    """Behaviour 9.5."""
    lines = ["Content-Length: 0", "Transfer-Encoding: chunked"]
    for version in ("1.0", "1.1"):
        assert refused(*lines, version=version) == (400, "HPE_INVALID_TRANSFER_ENCODING")
        assert refused(*reversed(lines), version=version) == (400, "HPE_INVALID_TRANSFER_ENCODING")


@pytest.mark.parametrize("lines", [["chunked"], ["Chunked"], [" \tchunked\t"]])
def test_chunked_alone_is_understood(lines: list[str]):
    head = judged(*["Transfer-Encoding:" + line for line in lines])
    assert (head.chunked, head.content_length) == (True, None)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        (["gzip, chunked"], 501),
        (["gzip", "chunked"], 501),
        (["gzip"], 400),
        (["identity"], 400),
        ([""], 400),
        (["chunked,"], 400),
        (["chunked, gzip"], 400),
        (["chunked, chunked"], 400),
        (["chunked", "chunked"], 400),
        (["chunked", "identity"], 400),
        (["xchunked"], 400),
        (["chunked;q=1"], 400),
        (["\x0bchunked"], 400),
        (["chunked\xa0"], 400),
    ],
)
def test_other_transfer_codings_are_refused(values: list[str], status: int):
    """RFC 9112 section 6.1: 501 for a coding that is not understood, 400 where the end of the body is in doubt."""
    lines = ["Transfer-Encoding:" + value for value in values]
    assert refused(*lines) == (status, "HPE_INVALID_TRANSFER_ENCODING")


@pytest.mark.parametrize(
    "host",
    ["a", "A.b-c_d~e", "a:80", "a:", "127.0.0.1", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]", "a%20b", "!$&'()*+,;="],
)
def test_a_valid_host(host: str):
    assert judged("Host:" + host, host=False).method == "POST"
    assert judged("Host:  " + host + "\t", host=False).method == "POST"


@pytest.mark.parametrize(
    "host",
    [
        "a/b",
        "u@a",
        "a b",
        "a:b",
        "a:1:2",
        "[::1",
        "::1",
        "[g]",
        "a?b",
        "a#b",
        "a\\b",
        "http://a",
        "\xe9",
        "a\n",
        '"a"',
        "<a>",
    ],
)
def test_an_invalid_host_is_refused_in_1_0_too(host: str):
    """Behaviour 9.7. Point 1 of "What httptools leaves to us"."""
    for version in ("1.0", "1.1"):
        assert refused("Host:" + host, version=version, host=False) == (400, "HPE_INVALID_HOST")


def test_exactly_one_host():
    """Behaviour 9.7: HTTP/1.0 may lack it."""
    assert refused(host=False) == (400, "HPE_INVALID_HOST")
    assert refused("Host: a") == (400, "HPE_INVALID_HOST")
    assert refused("hOST: b", version="1.0") == (400, "HPE_INVALID_HOST")
    assert judged(version="1.0", host=False).keep_alive is False
    assert judge_request(b"GET", "1.1", False).keep_alive


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        (["Connection: Upgrade", "Upgrade: x"], True),
        (["Upgrade: x", "Connection: keep-alive, UPGRADE"], True),
        (["Connection: upgrade"], False),
        (["Upgrade: x"], False),
        (["Connection: upgrades", "Upgrade: x"], False),
    ],
)
def test_an_upgrade_needs_both_fields(lines: list[str], upgrade: bool):
    assert judged(*lines).upgrade is upgrade


def test_connect_is_always_an_upgrade():
    assert judged(method="CONNECT").upgrade


@pytest.mark.parametrize(("version", "expects"), [("1.1", True), ("1.0", False)])
def test_expect_100_continue_counts_in_1_1_only(version: str, expects: bool):
    assert judged("Expect: 100-Continue", version=version).expects_continue is expects


@pytest.mark.parametrize("value", ["", "x", "100-continue, x", "100-continue;q", "200-ok"])
def test_another_expectation_gets_417(value: str):
    assert refused("Expect:" + value) == (417, "HPE_USER")


NAMES = st.sampled_from(["Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Host", "X", "te"])
VALUES = st.sampled_from(["chunked", "gzip", "1", "0", "close", "upgrade", "100-continue", "a", ","]) | st.text(
    st.characters(max_codepoint=255), max_size=6
)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.sampled_from(["1.0", "1.1"]))
def test_any_fields_give_one_framing_or_remote_protocol_error(lines: list[tuple[str, str]], version: str):
    fields = [":".join(line).encode("latin-1") for line in lines if line[0] not in ("X", "te")]
    try:
        head = judge_request(b"POST", version, True, *fields)
    except RemoteProtocolError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert refusal.status_hint in (400, 417, 501)
        return
    names = [name for name, _ in lines]
    assert not (head.chunked and head.content_length is not None)
    assert head.chunked == ("Transfer-Encoding" in names)
    assert (head.content_length is not None) == ("Content-Length" in names)
    assert names.count("Content-Length") <= 1
    assert names.count("Host") == 1 or (version == "1.0" and "Host" not in names)


# --- responses ---


def answered(*lines: str, status: int = 200, version: str = "1.1") -> ResponseFraming:
    fields = [line.encode("latin-1") for line in lines]
    return judge_response(version.encode(), b"%d" % status, b"Any", *fields)


def refused_answer(*lines: str, status: int = 200, version: str = "1.1") -> str | None:
    with pytest.raises(RemoteProtocolError, match=r"Parse Error|understood") as caught:
        answered(*lines, status=status, version=version)
    return caught.value.code


LENGTH, CHUNKED, CLOSE = "Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close"


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        ("1.1", [LENGTH], True),
        ("1.1", [CHUNKED], True),
        ("1.1", [], False),
        ("1.1", ["Connection: keep-alive"], False),
        ("1.1", [LENGTH, CLOSE], False),
        ("1.1", [CHUNKED, "connection:x, CLOSE"], False),
        ("1.1", [LENGTH, "Connection: keep-alive", CLOSE], False),
        ("1.1", [LENGTH, "Connection: closed"], True),
        ("1.1", [LENGTH, "Proxy-Connection: close"], False),
        ("1.0", [LENGTH], False),
        ("1.0", [LENGTH, "Connection: Keep-Alive"], True),
        ("1.0", [LENGTH, "Connection: keep-alive, close"], False),
        ("1.0", [CHUNKED, "Connection: keep-alive"], False),
        ("0.9", [LENGTH], False),
    ],
)
def test_whether_the_connection_persists_after_an_answer(version: str, lines: list[str], keep_alive: bool):
    """RFC 9112 section 9.3; in 1.0 a chunked body is not to be trusted any further (section 6.1)."""
    assert answered(*lines, version=version).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "until_close"),
    [
        ([], None, False, True),
        ([LENGTH], 5, False, False),
        (["Content-Length: 0"], 0, False, False),
        (["content-length:\t0005 "], 5, False, False),
        ([CHUNKED], None, True, False),
        (["transfer-encoding: Chunked"], None, True, False),
        ([CLOSE], None, False, True),
    ],
)
def test_how_the_end_of_an_answer_is_found(lines: list[str], length: int | None, chunked: bool, until_close: bool):
    """RFC 9112 section 6.3."""
    framing = answered(*lines)
    assert (framing.content_length, framing.chunked, framing.until_close) == (length, chunked, until_close)
    assert not framing.bodiless


@pytest.mark.parametrize(
    ("status", "final", "bodiless", "upgrade"),
    [
        (100, False, True, False),
        (101, False, True, True),
        (103, False, True, False),
        (199, False, True, False),
        (200, True, False, False),
        (204, True, True, False),
        (205, True, False, False),
        (304, True, True, False),
        (426, True, False, False),
        (999, True, False, False),
    ],
)
@pytest.mark.parametrize("lines", [[], [LENGTH], [CHUNKED]])
def test_what_the_status_alone_decides(status: int, final: bool, bodiless: bool, upgrade: bool, lines: list[str]):
    framing = answered(*lines, status=status)
    assert (framing.status, framing.final, framing.bodiless, framing.upgrade) == (status, final, bodiless, upgrade)
    assert framing.keep_alive is (bodiless or lines != [])


@pytest.mark.parametrize("lines", [[], [LENGTH], [CHUNKED], [CLOSE], [LENGTH, CLOSE]])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_answer_to_head_is_the_same_without_body(version: str, lines: list[str]):
    framing = answered(*lines, version=version)
    bare = framing.without_body()
    assert (framing.bodiless, bare.bodiless) == (False, True)
    assert bare.keep_alive is (version == "1.1" and CLOSE not in lines)
    assert (bare.status, bare.content_length, bare.chunked) == (200, framing.content_length, framing.chunked)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([LENGTH, LENGTH], "HPE_UNEXPECTED_CONTENT_LENGTH"),
        ([LENGTH, "content-length: 6"], "HPE_UNEXPECTED_CONTENT_LENGTH"),
        (["Content-Length: 5, 5"], "HPE_INVALID_CONTENT_LENGTH"),
        (["Content-Length:"], "HPE_INVALID_CONTENT_LENGTH"),
        (["Content-Length: -1"], "HPE_INVALID_CONTENT_LENGTH"),
        (["Content-Length: \xb2"], "HPE_INVALID_CONTENT_LENGTH"),
        (["Content-Length: " + "9" * 19], "HPE_INVALID_CONTENT_LENGTH"),
        ([LENGTH, CHUNKED], "HPE_INVALID_TRANSFER_ENCODING"),
        ([CHUNKED, LENGTH], "HPE_INVALID_TRANSFER_ENCODING"),
        ([CHUNKED, CHUNKED], "HPE_INVALID_TRANSFER_ENCODING"),
        (["Transfer-Encoding: gzip"], "HPE_INVALID_TRANSFER_ENCODING"),
        (["Transfer-Encoding: gzip, chunked"], "HPE_INVALID_TRANSFER_ENCODING"),
        (["Transfer-Encoding: identity"], "HPE_INVALID_TRANSFER_ENCODING"),
        (["Transfer-Encoding:"], "HPE_INVALID_TRANSFER_ENCODING"),
    ],
)
@pytest.mark.parametrize("status", [200, 204, 304])
def test_an_answer_whose_end_is_in_doubt_is_refused(lines: list[str], code: str, status: int):
    """Behaviour 9.6, and as for requests."""
    for version in ("1.0", "1.1"):
        assert refused_answer(*lines, status=status, version=version) == code


def test_only_lines_of_the_fields_that_decide_in_a_response_are_looked_at():
    head = b"HTTP/1.1 200 Host: a\r\nHost: a\r\ncOnNection: x\r\nX-Content-Length: 5\r\nCONTENT-LENGTH:0\r\n\r\n"
    assert RESPONSE_DECIDERS.findall(head) == [b"cOnNection: x", b"CONTENT-LENGTH:0"]


def test_the_words_of_the_status_line_are_kept():
    framing = judge_response(b"1.0", b"302", b"Moved \xe9")
    assert (framing.version, framing.status, framing.reason) == ("1.0", 302, "Moved \xe9")


ANSWER_FIELD = st.tuples(st.sampled_from(["Content-Length", "Transfer-Encoding", "Connection"]), VALUES)


@settings(deadline=None)
@given(st.lists(ANSWER_FIELD, max_size=4), st.sampled_from([100, 101, 200, 204, 304]), st.sampled_from(["1.0", "1.1"]))
def test_any_fields_of_an_answer_give_one_framing_or_remote_protocol_error(
    lines: list[tuple[str, str]], status: int, version: str
):
    try:
        framing = answered(*[":".join(line) for line in lines], status=status, version=version)
    except RemoteProtocolError:
        assert [name for name, _ in lines if name != "Connection"]
        return
    names = [name for name, _ in lines]
    assert [framing.chunked, framing.content_length is not None, framing.until_close].count(True) == 1
    assert framing.chunked == ("Transfer-Encoding" in names)
    assert names.count("Content-Length") <= 1
    assert not (framing.keep_alive and framing.until_close and not framing.bodiless)
