"""The corpus of raw responses in `wire/`: what the parser makes of each, however the bytes are cut.

`responses-valid/NAME.http` and `responses-invalid/NAME.http` are the bytes of a connection up to its end, `NAME.expect`
beside it what the parser reports. A first line `asked HEAD GET` names the methods of the requests; without it they are
all `GET`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from greenhttp.errors import RemoteProtocolError
from greenhttp.parser import ResponseLimits, ResponseParser

from .wire.driver import cuts, drive_responses

WIRE = Path(__file__).parent / "wire"
VALID = sorted((WIRE / "responses-valid").glob("*.http"))
INVALID = sorted((WIRE / "responses-invalid").glob("*.http"))
CODES = {
    "HPE_CR_EXPECTED",
    "HPE_INVALID_CHUNK_SIZE",
    "HPE_INVALID_CONSTANT",
    "HPE_INVALID_CONTENT_LENGTH",
    "HPE_INVALID_HEADER_TOKEN",
    "HPE_INVALID_STATUS",
    "HPE_INVALID_TRANSFER_ENCODING",
    "HPE_INVALID_VERSION",
    "HPE_LF_EXPECTED",
    "HPE_UNEXPECTED_CONTENT_LENGTH",
}
NEXT = b"HTTP/1.1 404 Next\r\nContent-Length: 0\r\n\r\n"
NEXT_REPORT = ["response HTTP/1.1 404 'Next' = keep-alive, length 0, complete", "  Content-Length: 0"]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


def expectation(case: Path) -> tuple[list[str], list[str]]:
    """The methods of the requests, and the report."""
    lines = case.with_suffix(".expect").read_text("utf-8").splitlines()
    if lines and lines[0].startswith("asked "):
        return lines[0].split()[1:], lines[1:]
    return [], lines


def names(cases: list[Path]) -> list[str]:
    return [case.stem for case in cases]


def is_open(report: list[str]) -> bool:
    """Whether the connection is between two responses at the end of this report."""
    heads = [line for line in report if line.startswith("response ")]
    if not heads:
        return not report
    last = report.index(heads[-1])
    if (" = close" in heads[-1] and "interim" not in heads[-1]) or report[-1].startswith("rest "):
        return False
    return heads[-1].endswith("complete") or "end" in report[last:]


def test_the_corpus_is_there_and_every_case_has_its_expectation():
    assert len(VALID) >= 35
    assert len(INVALID) >= 30
    assert {case.with_suffix(".expect") for case in [*VALID, *INVALID]} == set(WIRE.glob("responses-*/*.expect"))


@pytest.mark.parametrize("case", VALID, ids=names(VALID))
def test_a_valid_response_gives_what_is_expected_however_it_is_cut(case: Path):
    """Behaviour 3.9: every split of the input gives the same."""
    methods, report = expectation(case)
    for how, pieces in cuts(case.read_bytes()):
        assert drive_responses(pieces, methods=methods) == report, how


@pytest.mark.parametrize("case", INVALID, ids=names(INVALID))
def test_an_invalid_response_ends_in_the_same_fault_however_it_is_cut(case: Path):
    methods, report = expectation(case)
    assert report[-1].startswith("fault ")
    for how, pieces in cuts(case.read_bytes()):
        assert drive_responses(pieces, methods=methods) == report, how


@pytest.mark.parametrize("case", INVALID, ids=names(INVALID))
def test_nothing_after_an_invalid_response_is_looked_at(case: Path):
    raw = case.read_bytes()
    methods, report = expectation(case)
    assert drive_responses([raw + NEXT], methods=methods) == report
    assert drive_responses([raw, NEXT], methods=methods) == report


@pytest.mark.parametrize("case", VALID, ids=names(VALID))
def test_after_a_valid_response_the_next_one_begins_at_the_right_byte(case: Path):
    raw = case.read_bytes()
    methods, report = expectation(case)
    if is_open(report):
        assert drive_responses([raw + NEXT], methods=methods) == report + NEXT_REPORT
        assert drive_responses([raw, NEXT], methods=methods) == report + NEXT_REPORT
    else:
        assert NEXT_REPORT[0] not in drive_responses([raw + NEXT], methods=methods)


@pytest.mark.parametrize("case", [*VALID, *INVALID], ids=names([*VALID, *INVALID]))
def test_a_connection_that_shares_its_limits_with_any_other_reads_the_same(case: Path):
    """One llhttp judges the heads of all connections of an agent: whatever came before leaves no trace in it."""
    methods, report = expectation(case)
    limits = ResponseLimits()
    for other in [case, *INVALID[::3], *VALID[::3]]:
        drive_responses([other.read_bytes()], limits, expectation(other)[0])
        assert drive_responses([case.read_bytes()], limits, methods) == report, other.stem


@pytest.mark.parametrize("case", INVALID, ids=names(INVALID))
def test_a_fault_says_what_was_wrong(case: Path):
    methods, _ = expectation(case)
    parser = ResponseParser(ResponseLimits())
    parser.method = methods[0] if methods else "GET"
    parser.receive(case.read_bytes())
    with pytest.raises(RemoteProtocolError, match=r"\w+ \w+") as caught:
        list(iter(parser.next_event, None))
    assert caught.value.code in CODES
