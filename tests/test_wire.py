"""The corpus of raw requests in `wire/`: what the parser makes of each, however the bytes are cut.

`valid/NAME.http` and `invalid/NAME.http` are the bytes of a connection, `NAME.expect` beside it what the parser
reports: one line for each thing, as `wire/driver.py` writes them. A bug in parsing is closed by a new pair of files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from greenhttp.errors import RemoteProtocolError
from greenhttp.parser import ParserLimits, RequestParser

from .wire.driver import cuts, drive

WIRE = Path(__file__).parent / "wire"
VALID = sorted((WIRE / "valid").glob("*.http"))
INVALID = sorted((WIRE / "invalid").glob("*.http"))
CODES = {
    "HPE_CR_EXPECTED",
    "HPE_INVALID_CHUNK_SIZE",
    "HPE_INVALID_CONSTANT",
    "HPE_INVALID_CONTENT_LENGTH",
    "HPE_INVALID_HEADER_TOKEN",
    "HPE_INVALID_HOST",
    "HPE_INVALID_METHOD",
    "HPE_INVALID_TRANSFER_ENCODING",
    "HPE_INVALID_URL",
    "HPE_INVALID_VERSION",
    "HPE_LF_EXPECTED",
    "HPE_UNEXPECTED_CONTENT_LENGTH",
    "HPE_USER",
}
NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"
NEXT_REPORT = ["request GET /next HTTP/1.1 = keep-alive, complete", "  Host: next"]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def expected(case: Path) -> list[str]:
    return case.with_suffix(".expect").read_text("utf-8").splitlines()


def names(cases: list[Path]) -> list[str]:
    return [case.stem for case in cases]


def is_open(report: list[str]) -> bool:
    """Whether the connection is between two requests at the end of this report."""
    heads = [line for line in report if line.startswith("request ")]
    if not heads:
        return not report
    if " = close" in heads[-1] or "upgrade" in heads[-1]:
        return False
    return heads[-1].endswith("complete") or "end" in report[report.index(heads[-1]) :]


def test_the_corpus_is_there_and_every_case_has_its_expectation():
    assert len(VALID) >= 40
    assert len(INVALID) >= 60
    assert {case.with_suffix(".expect") for case in [*VALID, *INVALID]} == {
        *WIRE.glob("valid/*.expect"),
        *WIRE.glob("invalid/*.expect"),
    }


@pytest.mark.parametrize("case", VALID, ids=names(VALID))
def test_a_valid_request_gives_what_is_expected_however_it_is_cut(case: Path):
    """Behaviour 3.9: every split of the input gives the same."""
    for how, pieces in cuts(case.read_bytes()):
        assert drive(pieces) == expected(case), how


@pytest.mark.parametrize("case", INVALID, ids=names(INVALID))
def test_an_invalid_request_ends_in_the_same_fault_however_it_is_cut(case: Path):
    report = expected(case)
    assert report[-1].startswith("fault ")
    for how, pieces in cuts(case.read_bytes()):
        assert drive(pieces) == report, how


@pytest.mark.parametrize("case", INVALID, ids=names(INVALID))
def test_nothing_after_an_invalid_request_is_looked_at(case: Path):
    raw = case.read_bytes()
    assert drive([raw + NEXT]) == expected(case)
    assert drive([raw, NEXT]) == expected(case)


@pytest.mark.parametrize("case", VALID, ids=names(VALID))
def test_after_a_valid_request_the_next_one_begins_at_the_right_byte(case: Path):
    raw, report = case.read_bytes(), expected(case)
    if is_open(report):
        assert drive([raw + NEXT]) == report + NEXT_REPORT
        assert drive([raw, NEXT]) == report + NEXT_REPORT
    else:
        assert NEXT_REPORT[0] not in drive([raw + NEXT])


@pytest.mark.parametrize("case", INVALID, ids=names(INVALID))
def test_a_fault_says_what_was_wrong_and_what_to_answer(case: Path):
    parser = RequestParser(ParserLimits())
    parser.receive(case.read_bytes())
    with pytest.raises(RemoteProtocolError, match=r"\w+ \w+") as caught:
        list(iter(parser.next_event, None))
    assert caught.value.status_hint in (400, 413, 414, 417, 431, 501, 505)
    assert caught.value.code in CODES


def stems(part: str) -> list[Path]:
    return [case for case in INVALID if part in case.stem]


def test_a_bare_lf_or_cr_in_a_head_is_refused():
    """Behaviour 9.4."""
    cases = [case for case in stems("bare-") if not case.stem.startswith(("chunk", "trailer"))]
    assert len(cases) >= 8
    for case in cases:
        assert [line[:9] for line in drive([case.read_bytes()])] == ["fault 400"], case.stem


def test_a_continuation_line_is_refused():
    """Behaviour 3.6."""
    assert len(stems("obs-fold")) >= 5
    for case in stems("obs-fold"):
        assert drive([case.read_bytes()])[-1].startswith("fault 400 "), case.stem


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_version_is_that_of_the_first_line(version: str):
    """Behaviour 3.1, as far as the parser goes."""
    assert f" HTTP/{version} =" in drive([f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode()])[0]


@pytest.mark.parametrize("case", [*VALID, *INVALID], ids=names([*VALID, *INVALID]))
def test_a_connection_that_shares_its_limits_with_any_other_reads_the_same(case: Path):
    """One llhttp judges the heads of all connections of a server: whatever came before leaves no trace in it."""
    limits = ParserLimits()
    for other in [case, *INVALID[::4], *VALID[::4]]:
        drive([other.read_bytes()], limits)
        assert drive([case.read_bytes()], limits) == expected(case), other.stem
