"""Header fields: which may stand on the wire, how they are encoded, and how received ones are read."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import greenhttp
from greenhttp.errors import InvalidHeaderError
from greenhttp.headers import (
    OutgoingHeaders,
    field_line,
    field_pairs,
    flat_fields,
    incoming_headers,
    validate_header_name,
    validate_header_value,
)

GOOD_NAMES = ["TCN", "Set_Cookie", "foo`bar^", "~foobar", "$et-Cookie", "%%Test%%", "It's_fun", "2*3", "0", "!#&+-.|"]
BAD_NAMES = [
    "",
    ":",
    "@@",
    "中文",
    "\xe9",
    "((",
    "[a",
    "{a",
    "a:",
    "a,b",
    'a"b',
    "a b",
    " a",
    "a ",
    "a\t",
    "a\r",
    "a\n",
    "a\r\n",
]
BAD_NAMES += ["a\0", "a\x7f", "a/b", "a;b", "a<b", "a=b", "a?b", "a\\b", "a\u010d"]
GOOD_VALUES = ["", "a", "a b", "\t", "~", "\x80", "\xff", "caf\xe9", "(),/:;<=>?@[\\]{}\"'", 0, 1, -1, 1.5, True]
BAD_VALUES = [
    "\r",
    "\n",
    "a\r\nb",
    "a\n",
    "\0",
    "\x01",
    "\x08",
    "\x0b",
    "\x1b",
    "\x1f",
    "\x7f",
    "\u0100",
    "ж",
    "\U0001f600",
]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Pure code opens and logs nothing; to look for it after each of these many cases would take a minute."""


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_token_is_a_good_name(name: str):
    """Behaviour 9.9."""
    validate_header_name(name)
    assert field_line(name, "x") == name.encode() + b": x\r\n"


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_anything_but_a_token_is_refused_as_a_name(name: str):
    """Behaviour 9.9."""
    for value in ("x", "x" * 300, 1, ["x"]):
        with pytest.raises(InvalidHeaderError) as caught:
            field_line(name, value)
        assert caught.value.code == "ERR_INVALID_HTTP_TOKEN"
    with pytest.raises(ValueError, match="not a token"):
        greenhttp.validate_header_name(name)


@pytest.mark.parametrize("name", [None, 1, b"Host", ("a",)])
def test_a_name_that_is_no_str_is_a_type_error(name: object):
    headers = OutgoingHeaders()
    for call in (validate_header_name, headers.value, headers.remove, lambda bad: headers.set(bad, "x")):
        with pytest.raises(TypeError, match="must be a str"):
            call(name)
    with pytest.raises(TypeError, match="must be a str"):
        headers.add(name, "x")
    assert headers.encode() == b""


@pytest.mark.parametrize("value", GOOD_VALUES, ids=ascii)
def test_a_good_value_is_sent_as_latin_1(value: object):
    """Behaviour 9.10."""
    validate_header_value("x", value)
    assert field_line("x", value) == b"x: " + str(value).encode("latin-1") + b"\r\n"


@pytest.mark.parametrize("value", BAD_VALUES, ids=ascii)
def test_a_control_character_or_one_above_ff_is_refused_in_a_value(value: str):
    """Behaviour 9.10."""
    for bad in (value, "x" * 300 + value, [value], ["x", value], ("x", value)):
        with pytest.raises(InvalidHeaderError) as caught:
            field_line("x", bad)
        assert caught.value.code == "ERR_INVALID_CHAR"
    with pytest.raises(ValueError, match="invalid character"):
        greenhttp.validate_header_value("x", value)


@pytest.mark.parametrize("character", ["\u010d", "\u010a", "\u0d0a", "\u280a"], ids=ascii)
def test_a_character_whose_low_byte_is_cr_or_lf_is_refused_and_nothing_of_it_is_kept(character: str):
    """Behaviour 9.11."""
    headers = OutgoingHeaders()
    headers.set("A", "1")
    for call in (headers.set, headers.add):
        with pytest.raises(ValueError, match="invalid character"):
            call("A", "x" + character + "Evil: 1")
    with pytest.raises(ValueError, match="invalid character"):
        headers.merge({"B": "2", "A": character})
    with pytest.raises(ValueError, match="invalid character"):
        headers.merge([("B", "2"), ("A", character)])
    assert headers.encode() == b"A: 1\r\n"


def test_none_is_no_value():
    with pytest.raises(InvalidHeaderError) as caught:
        field_line("x", None)
    assert caught.value.code == "ERR_HTTP_INVALID_HEADER_VALUE"


def test_what_is_judged_is_what_is_sent():
    """An object's `__format__`, or a member of a `str` enum, cannot slip past the check."""

    class Sly(str, enum.Enum):  # `format()` gives its value before Python 3.12
        A = "x\r\nEvil: 1"

    class Slyer:
        def __str__(self) -> str:
            return "fine"

        def __format__(self, spec: str) -> str:
            return "x\r\nEvil: 1"

    assert field_line("X", Sly.A) == b"X: Sly.A\r\n"
    assert field_line("X", Slyer()) == b"X: fine\r\n"


@settings(deadline=None)
@given(name=st.text(max_size=5), value=st.one_of(st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3)))
def test_whatever_is_set_no_line_but_its_own_comes_out_or_a_value_error(name: str, value: str | list[str]):
    lines = 1 if isinstance(value, str) else len(value)
    try:
        line = field_line(name, value)
    except ValueError:
        return
    assert line.count(b"\r\n") == line.count(b"\n") == line.count(b"\r") == lines
    assert b"\0" not in line


# --- fields in their forms ---


@pytest.mark.parametrize(
    ("headers", "pairs"),
    [
        ({"A": "1", "b": 2}, [("A", "1"), ("b", 2)]),
        ([("A", "1"), ("A", "2")], [("A", "1"), ("A", "2")]),
        ([["A", "1"]], [("A", "1")]),
        (["A", "1", "B", "2"], [("A", "1"), ("B", "2")]),
        (iter([("A", "1")]), [("A", "1")]),
        ({}, []),
        ([], []),
    ],
)
def test_headers_may_be_a_mapping_or_pairs_or_a_flat_list(headers: object, pairs: list[tuple[str, object]]):
    assert field_pairs(headers) == pairs


@pytest.mark.parametrize("headers", [["A"], ["A", "1", "B"]])
def test_a_flat_list_of_odd_length_is_a_value_error(headers: list[str]):
    with pytest.raises(ValueError, match="a value for each name"):
        field_pairs(headers)


@pytest.mark.parametrize("headers", [[("A",)], [("A", "1", "2")], [("A", "1"), "B1"], 1, [1]])
def test_other_shapes_are_a_type_error(headers: object):
    with pytest.raises(TypeError):
        field_pairs(headers)


# --- outgoing ---


def test_names_are_found_in_any_case_and_keep_place_and_last_spelling():
    headers = OutgoingHeaders()
    headers.set("content-type", "a")
    headers.set("X", "1")
    headers.set("Content-TYPE", "b")
    assert headers.value("CONTENT-type") == "b"
    assert headers.encode() == b"Content-TYPE: b\r\nX: 1\r\n"
    assert "content-type" in headers
    assert len(headers) == 2


def test_a_value_comes_back_as_it_was_set():
    headers = OutgoingHeaders()
    headers.set("A", 5)
    headers.set("B", ["x", "y"])
    assert (headers.value("a"), headers.value("b"), headers.value("c")) == (5, ["x", "y"], None)
    assert headers.encode() == b"A: 5\r\nB: x\r\nB: y\r\n"


def test_remove_and_clear():
    headers = OutgoingHeaders()
    headers.merge({"A": 1, "B": 2, "C": 3})
    headers.remove("b")
    headers.remove("unknown")
    assert headers.encode() == b"A: 1\r\nC: 3\r\n"
    headers.clear()
    assert (headers.encode(), len(headers)) == (b"", 0)


def test_add_puts_one_more_line_under_those_of_the_name():
    headers = OutgoingHeaders()
    headers.add("A", 1)
    headers.set("B", 2)
    headers.add("a", 3)
    headers.add("A", "4")
    assert headers.encode() == b"A: 1\r\na: 3\r\nA: 4\r\nB: 2\r\n"
    assert headers.value("A") == [1, 3, "4"]


def test_a_name_twice_in_one_update_gives_two_lines_and_replaces_what_was_there():
    headers = OutgoingHeaders()
    headers.set("Set-Cookie", "old")
    headers.merge([("Set-Cookie", "a"), ("set-cookie", "b")])
    assert headers.encode() == b"Set-Cookie: a\r\nset-cookie: b\r\n"


def test_a_mapping_replaces_name_by_name():
    headers = OutgoingHeaders()
    headers.merge({"A": 1, "B": 2})
    headers.merge({"a": 3})
    assert headers.encode() == b"a: 3\r\nB: 2\r\n"


# --- incoming ---


def received(*lines: tuple[str, str]) -> dict[str, object]:
    return incoming_headers([text.encode("latin-1") for line in lines for text in line])


@pytest.mark.parametrize(
    "name",
    """accept accept-charset accept-encoding accept-language connection dav link pragma proxy-authenticate
    sec-websocket-extensions sec-websocket-protocol via www-authenticate x-forwarded-for x-unknown unknown""".split(),
)
def test_lines_of_one_name_are_joined_with_a_comma(name: str):
    """Behaviour 3.3."""
    assert received((name.title(), "a"), (name, "b"), (name.upper(), "c")) == {name: "a, b, c"}


@pytest.mark.parametrize(
    "name",
    """content-type user-agent referer authorization proxy-authorization if-modified-since if-unmodified-since from
    location max-forwards age etag expires last-modified retry-after server""".split(),
)
def test_of_a_name_with_one_value_the_first_line_wins(name: str):
    """Behaviour 3.4: in `headers`, not in `raw_headers`."""
    assert received((name.title(), "a"), (name, "b")) == {name: "a"}
    assert flat_fields([name.encode(), b"a", name.encode(), b"b"]) == [name, "a", name, "b"]


def test_set_cookie_is_always_a_list_and_cookies_are_joined_with_a_semicolon():
    """Behaviour 3.5."""
    assert received(("Set-Cookie", "a=1")) == {"set-cookie": ["a=1"]}
    assert received(("Set-Cookie", "a=1"), ("set-cookie", "b=2")) == {"set-cookie": ["a=1", "b=2"]}
    assert received(("Cookie", "a=1"), ("Cookie", "b=2"), ("cookie", "c")) == {"cookie": "a=1; b=2; c"}


def test_raw_fields_keep_order_spelling_and_duplicates_without_blanks_around_values():
    """Behaviour 3.2: `X-Filler:   42` gives `'42'`."""
    fields = [b"X-Filler", b"   42", b"x-B", b"\t1 2 \t", b"X-Filler", b""]
    assert flat_fields(fields) == ["X-Filler", "42", "x-B", "1 2", "X-Filler", ""]
    assert incoming_headers(fields) == {"x-filler": "42, ", "x-b": "1 2"}


def test_received_values_are_read_as_latin_1_and_only_blanks_are_removed():
    """Behaviour 9.10. U+00A0 and U+0085 are blanks to `str.strip()`, not to HTTP."""
    fields = [b"X", b" \xa0caf\xe9\x85 "]
    assert incoming_headers(fields) == {"x": "\xa0caf\xe9\x85"}
    assert flat_fields(fields) == ["X", "\xa0caf\xe9\x85"]


def test_2000_lines_are_all_in_the_mapping():
    """Behaviour 9.1."""
    headers = received(*[(f"X-{number}", str(number)) for number in range(2000)])
    assert headers == {f"x-{number}": str(number) for number in range(2000)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["Host", "X", "Set-Cookie", "cookie"]), st.binary(max_size=9)), max_size=9))
def test_any_values_are_read_without_an_error(lines: list[tuple[str, bytes]]):
    fields = [part for name, value in lines for part in (name.encode(), value)]
    assert set(incoming_headers(fields)) == {name.lower() for name, _ in lines}
    assert len(flat_fields(fields)) == len(fields)
