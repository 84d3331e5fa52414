"""The server's response: status line, headers, framing, trailers, and how it ends (behaviours, section 2)."""

from __future__ import annotations

import re

import gevent
import pytest
from gevent.event import Event

from greenhttp import STATUS_CODES

from .support import Heard, bounded, exchange, get

CLOSE = "Connection: close\r\n"


def answer(serve, connect, handler, request=None, **options):
    """The response of a server with `handler` to one request."""
    request = get() if request is None else request
    return connect(serve(handler, **options)).send(request).read_response(request.split()[0].decode())


# --- the status line ---


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_status_line_is_always_http_1_1(serve, connect, version):
    """Behaviour 2.1"""
    response = answer(serve, connect, lambda req, res: res.end(), get(version=version))
    assert response.head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("code", [200, 202, 300, 404, 500])
def test_write_head_sets_status_code_at_once_and_the_client_sees_it(serve, connect, code):
    """Behaviour 2.11"""
    seen = []

    def handler(req, res):
        res.write_head(code)
        seen.append(res.status_code)
        res.end()

    response = answer(serve, connect, handler)
    assert seen == [code]
    assert (response.status, response.message) == (code, STATUS_CODES[code])


@pytest.mark.parametrize(
    "code", [-1, 99, 1000, float("inf"), float("nan"), None, True, [], {}, "404 not really"], ids=repr
)
def test_an_invalid_status_raises_and_leaves_the_response_untouched(serve, connect, code):
    """Behaviour 2.12"""
    raised = []

    def handler(req, res):
        with pytest.raises(ValueError, match="invalid status code") as caught:
            res.write_head(code, {"X-Lost": "1"})
        raised.append(caught.value)
        assert not res.headers_sent
        res.status_code = 200
        res.end("fine")

    response = answer(serve, connect, handler)
    assert len(raised) == 1
    assert (response.status, response.body, response["x-lost"]) == (200, b"fine", None)


def test_a_status_as_digits_counts_as_the_number(serve, connect):
    """Behaviour 2.12"""
    assert answer(serve, connect, lambda req, res: res.write_head("404").end()).status == 404


def test_status_message_replaces_the_standard_phrase(serve, connect):
    """Behaviour 2.13"""

    def handler(req, res):
        res.status_message = "Custom Message"
        res.end()

    assert answer(serve, connect, handler).head.startswith(b"HTTP/1.1 200 Custom Message\r\n")


@pytest.mark.parametrize(("code", "phrase"), [(404, "Not Found"), (799, "unknown")])
def test_without_status_message_the_phrase_is_the_standard_one_or_unknown(serve, connect, code, phrase):
    """Behaviour 2.13"""

    def handler(req, res):
        res.status_code = code
        res.status_message = None
        res.end()

    assert answer(serve, connect, handler).message == phrase


def test_write_head_takes_the_phrase_before_the_headers(serve, connect):
    response = answer(serve, connect, lambda req, res: res.write_head(201, "Made", {"X-A": "1"}).end())
    assert (response.status, response.message, response["x-a"]) == (201, "Made", "1")


# --- headers ---


def test_user_headers_come_first_in_their_order_and_case_and_framing_comes_last(serve, connect):
    """Behaviour 2.2"""

    def handler(req, res):
        res.set_header("X-Second", "2")
        res.set_header("x-FIRST", "1")
        res.end("hi")

    names = [name for name, _ in answer(serve, connect, handler).headers]
    assert names == ["X-Second", "x-FIRST", "Date", "Connection", "Keep-Alive", "Content-Length"]


def test_date_is_added_in_the_fixed_form(serve, connect):
    """Behaviour 2.3"""
    date = answer(serve, connect, lambda req, res: res.end())["date"]
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)


def test_the_users_date_is_the_only_one(serve, connect):
    """Behaviour 2.3"""
    response = answer(serve, connect, lambda req, res: res.write_head(200, {"date": "yesterday"}).end())
    assert response.all("date") == ["yesterday"]


def test_no_date_when_send_date_is_false(serve, connect):
    """Behaviour 2.3"""

    def handler(req, res):
        res.send_date = False
        res.end()

    assert answer(serve, connect, handler)["date"] is None


def test_write_head_merges_with_set_header_and_wins_in_any_case(serve, connect):
    """Behaviour 2.14"""

    def handler(req, res):
        res.set_header("test", "1")
        res.set_header("kept", "yes")
        res.status_code = 500
        res.write_head(200, {"Test": "2"})
        res.end()

    response = answer(serve, connect, handler)
    assert [pair for pair in response.headers if pair[0].lower() == "test"] == [("Test", "2")]
    assert (response.status, response["kept"]) == (200, "yes")


def test_status_code_set_after_write_head_does_not_change_the_wire(serve, connect):
    """Behaviour 2.14"""

    def handler(req, res):
        res.write_head(201)
        res.status_code = 404
        res.end()

    assert answer(serve, connect, handler).status == 201


def test_write_head_twice_raises(serve, connect):
    """Behaviour 2.15"""
    codes = []

    def handler(req, res):
        res.write_head(200)
        with pytest.raises(RuntimeError) as caught:
            res.write_head(201)
        codes.append(caught.value.code)
        res.end()

    assert answer(serve, connect, handler).status == 200
    assert codes == ["ERR_HTTP_HEADERS_SENT"]


def test_header_names_are_case_insensitive_everywhere(serve, connect):
    """Behaviour 2.16"""
    seen = []

    def handler(req, res):
        res.set_header("X-TEST-HEADER2", "two")
        seen.append(res.get_header("x-test-header2"))
        res.set_header("X-Gone", "1")
        res.remove_header("x-gOnE")
        res.end()

    response = answer(serve, connect, handler)
    assert seen == ["two"]
    assert response["x-gone"] is None


def test_get_header_returns_the_value_as_set_before_and_after_sending(serve, connect):
    """Behaviour 2.17"""
    seen = []

    def handler(req, res):
        res.set_header("X-Number", 42)
        res.set_header("X-List", ["a", "b"])
        seen.append((res.get_header("x-number"), res.get_header("X-LIST"), res.get_header("nothing")))
        res.end()
        seen.append((res.get_header("x-number"), res.get_header("X-LIST"), res.get_header("nothing")))

    answer(serve, connect, handler)
    assert seen == [(42, ["a", "b"], None)] * 2


def test_a_list_value_makes_a_line_for_each_item(serve, connect):
    """Behaviour 2.18"""

    def handler(req, res):
        res.set_header("Set-Cookie", ["a=1", "b=2"])
        res.set_header("x-test-array-header", [1, 2, 3])
        res.end()

    response = answer(serve, connect, handler)
    assert response.all("set-cookie") == ["a=1", "b=2"]
    assert response.all("x-test-array-header") == ["1", "2", "3"]


@pytest.mark.parametrize(
    "call",
    [
        lambda res: res.set_header(),
        lambda res: res.set_header("X-A"),
        lambda res: res.set_header("X-A", None),
        lambda res: res.set_header(5, "1"),
        lambda res: res.get_header(),
        lambda res: res.remove_header(),
    ],
    ids=["set()", "set(name)", "set(name, None)", "set(5, value)", "get()", "remove()"],
)
def test_missing_names_and_values_raise(serve, connect, call):
    """Behaviour 2.19"""
    raised = []

    def handler(req, res):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(res)
        raised.append(caught.type)
        res.end("fine")

    response = answer(serve, connect, handler)
    assert response.body == b"fine"
    assert len(raised) == 1
    assert response["x-a"] is None


@pytest.mark.parametrize(
    "fix",
    [
        lambda res: res.write_head(200),
        lambda res: res.write("x"),
        lambda res: res.flush_headers(),
        lambda res: res.end(),
    ],
    ids=["write_head", "write", "flush_headers", "end"],
)
def test_headers_cannot_change_once_they_are_fixed(serve, connect, fix):
    """Behaviour 2.20"""
    seen, codes = [], []

    def handler(req, res):
        seen.append(res.headers_sent)
        fix(res)
        seen.append(res.headers_sent)
        for late in (
            lambda: res.set_header("X-Late", "1"),
            lambda: res.remove_header("X-Late"),
            lambda: res.write_head(201, {"X-Late": "1"}),
        ):
            with pytest.raises(RuntimeError) as caught:
                late()
            codes.append(caught.value.code)
        res.end()

    response = answer(serve, connect, handler)
    assert seen == [False, True]
    assert codes == ["ERR_HTTP_HEADERS_SENT"] * 3
    assert (response.status, response["x-late"]) == (200, None)


# --- framing ---


@pytest.mark.parametrize(("data", "length"), [(None, "0"), ("bye", "3"), ("å", "2"), (b"\x00\xff", "2")])
def test_end_as_the_only_body_call_gives_a_content_length_in_bytes(serve, connect, data, length):
    """Behaviour 2.4, 2.8"""
    response = answer(serve, connect, lambda req, res: res.end(data))
    assert response["content-length"] == length
    assert response["transfer-encoding"] is None
    assert response.body == (data.encode() if isinstance(data, str) else data or b"")


@pytest.mark.parametrize(
    "before",
    [
        lambda res: res.write_head(200, {"X-A": "1"}),
        lambda res: res.flush_headers(),
        lambda res: res.set_header("Trailer", "X-T"),
        lambda res: res.add_trailers({"X-T": "1"}),
    ],
    ids=["write_head", "flush_headers", "Trailer", "add_trailers"],
)
def test_what_comes_before_end_without_a_length_makes_it_chunked(serve, connect, before):
    """Behaviour 2.4"""

    def handler(req, res):
        before(res)
        res.end("bye")

    response = answer(serve, connect, handler)
    assert response["transfer-encoding"] == "chunked"
    assert response["content-length"] is None
    assert response.raw_body.startswith(b"3\r\nbye\r\n0\r\n")
    assert response.body == b"bye"


def test_each_write_makes_exactly_one_chunk(serve):
    """Behaviour 2.5"""

    def handler(req, res):
        res.write("Hello, ")
        res.write("world!")
        res.end()

    received = exchange(serve(handler), get(headers=CLOSE))
    assert received.partition(b"\r\n\r\n")[2] == b"7\r\nHello, \r\n6\r\nworld!\r\n0\r\n\r\n"


def test_chunk_sizes_are_lower_case_hexadecimal(serve, connect):
    """Behaviour 2.5"""

    def handler(req, res):
        res.write(b"x" * 0xAB)
        res.end()

    client = connect(serve(handler)).send(get())
    client.read_head()
    assert client.read_until(b"\r\n") == b"ab\r\n"


@pytest.mark.parametrize("empty", ["", b""])
def test_an_empty_write_sends_nothing_and_returns_true(serve, connect, empty):
    """Behaviour 2.6"""
    returned = []

    def handler(req, res):
        res.write("1\n")
        returned.append(res.write(empty))
        res.write("2\n")
        returned.append(res.write(empty))
        res.end("3\n")

    response = answer(serve, connect, handler)
    assert response.body == b"1\n2\n3\n"
    assert returned == [True, True]


def test_the_head_waits_for_the_body_and_leaves_in_one_packet_with_it(serve, connect):
    """Behaviour 2.7"""
    fixed, go = Event(), Event()
    written = []

    def handler(req, res):
        before = req.socket.bytes_written
        res.write_head(200, {"Content-Length": "2"})
        written.append(req.socket.bytes_written - before)
        fixed.set()
        go.wait()
        res.end("hi")

    client = connect(serve(handler)).send(get())
    assert fixed.wait(5)
    assert written == [0]
    go.set()
    received = client.sock.recv(65536)
    assert received.endswith(b"\r\n\r\nhi")


def test_flush_headers_sends_the_head_without_the_body(serve, connect):
    """Behaviour 2.7"""
    go = Event()

    def handler(req, res):
        res.flush_headers()
        go.wait()
        res.end("late")

    client = connect(serve(handler)).send(get())
    assert client.read_head().status == 200
    go.set()
    assert client.read_chunk() == b"late"


@pytest.mark.parametrize("bad", [["a"], 5, {"a": 1}, object()], ids=["list", "int", "dict", "object"])
@pytest.mark.parametrize("method", ["write", "end"])
def test_a_chunk_of_another_type_raises_and_the_response_stays_usable(serve, connect, method, bad):
    """Behaviour 2.8"""
    raised = []

    def handler(req, res):
        with pytest.raises(TypeError) as caught:
            getattr(res, method)(bad)
        raised.append(caught.value)
        res.end("fine")

    assert answer(serve, connect, handler).body == b"fine"
    assert len(raised) == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_like_chunks_are_sent_as_they_are(serve, connect, kind):
    """Behaviour 2.8"""

    def handler(req, res):
        res.write(kind(b"\x00a"))
        res.end(kind(b"b\xff"))

    assert answer(serve, connect, handler).body == b"\x00ab\xff"


def test_text_is_utf_8_unless_an_encoding_is_named(serve, connect):
    """Behaviour 2.8"""

    def handler(req, res):
        res.write("å")
        res.write("å", "latin-1")
        res.end("å", "utf-16-le")

    assert answer(serve, connect, handler).body == b"\xc3\xa5\xe5\xe5\x00"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_bodiless_answer_drops_what_is_written_and_the_connection_goes_on(serve, connect, method, status):
    """Behaviour 2.9, 2.10"""

    def handler(req, res):
        if req.url == "/next":
            return res.end("next")
        res.write_head(status)
        res.write("dropped")
        res.end("dropped too")

    client = connect(serve(handler))
    first = client.send(get(method=method)).read_response(method)
    assert first.status == status
    second = client.send(get("/next")).read_response()
    assert second.head.startswith(b"HTTP/1.1 200 OK")
    assert second.body == b"next"


def test_two_deletes_answered_with_204_share_a_connection(serve, connect):
    """Behaviour 2.10"""
    client = connect(serve(lambda req, res: res.write_head(204).end()))
    for _ in range(2):
        assert client.send(get(method="DELETE")).read_response().status == 204


def test_a_content_length_of_the_user_switches_chunking_off(serve, connect):
    """Behaviour 2.21"""

    def handler(req, res):
        res.set_header("content-length", 4)
        res.write("ab")
        res.end("cd")

    response = answer(serve, connect, handler)
    assert (response.all("content-length"), response["transfer-encoding"], response.body) == (["4"], None, b"abcd")


def test_a_transfer_encoding_of_the_user_makes_even_a_single_end_chunked(serve, connect):
    """Behaviour 2.21"""

    def handler(req, res):
        res.set_header("transfer-encoding", "chunked")
        res.end("hi")

    response = answer(serve, connect, handler)
    assert response.all("transfer-encoding") == ["chunked"]
    assert response.raw_body == b"2\r\nhi\r\n0\r\n\r\n"


def test_removed_automatic_headers_stay_removed_and_the_body_ends_with_the_connection(serve):
    """Behaviour 2.22"""

    def handler(req, res):
        for name in ("connection", "transfer-encoding", "content-length"):
            res.remove_header(name)
        res.remove_header("date")
        res.set_header("date", "coffee o clock")
        res.end("beep boop\n")

    assert exchange(serve(handler), get()) == b"HTTP/1.1 200 OK\r\ndate: coffee o clock\r\n\r\nbeep boop\n"


def test_a_body_longer_than_its_length_raises_and_the_surplus_is_not_sent(serve, connect):
    """Behaviour 2.23"""
    raised = []

    def handler(req, res):
        res.set_header("Content-Length", 5)
        res.write("abc")
        with pytest.raises(ValueError, match="longer than its Content-Length") as caught:
            res.write("defg")
        raised.append(caught.value)
        res.end()

    client = connect(serve(handler))
    assert client.send(get()).read_response().body == b"abcde"
    assert client.send(get()).read_response().body == b"abcde"
    assert len(raised) == 2


def test_a_body_shorter_than_its_length_closes_the_connection(serve, connect):
    """Behaviour 2.23"""

    def handler(req, res):
        res.set_header("Content-Length", 5)
        res.end("abc")

    client = connect(serve(handler)).send(get())
    assert client.read_head()["content-length"] == "5"
    assert client.read_exactly(3) == b"abc"
    assert client.closed()


# --- trailers ---


def test_trailers_follow_the_last_chunk(serve, connect):
    """Behaviour 2.24"""

    def handler(req, res):
        res.write("a")
        res.add_trailers({"x-foo": "bar"})
        res.end()

    assert answer(serve, connect, handler).raw_body == b"1\r\na\r\n0\r\nx-foo: bar\r\n\r\n"


def test_a_list_of_trailers_keeps_order_case_and_duplicates(serve, connect):
    """Behaviour 2.24"""
    pairs = [("X-Foo", "1"), ("a", "2"), ("x-foO", "3")]

    def handler(req, res):
        res.add_trailers(pairs)
        res.end("a")

    assert answer(serve, connect, handler).trailers == pairs


@pytest.mark.parametrize(("version", "length"), [("1.0", None), ("1.1", "1")])
def test_trailers_are_dropped_without_chunks(serve, version, length):
    """Behaviour 2.24"""

    def handler(req, res):
        if length:
            res.set_header("Content-Length", length)
        res.add_trailers({"x-foo": "bar"})
        res.end("a")

    received = exchange(serve(handler), get(version=version, headers=CLOSE))
    assert received.endswith(b"\r\n\r\na")
    assert b"x-foo" not in received


# --- HTTP/1.0 and Connection: close ---


def hello(req, res):
    res.send_date = False
    res.set_header("Content-Type", "text/plain")
    res.write("Hello, ")
    res.write("world!")
    res.end()


def test_http_1_0_gets_the_bare_body_and_the_end_of_the_connection(serve):
    """Behaviour 2.25"""
    assert exchange(serve(hello), b"GET / HTTP/1.0\r\n\r\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nHello, world!"
    )


def test_http_1_1_with_connection_close_gets_chunks_and_the_end_of_the_connection(serve):
    """Behaviour 2.26"""
    assert exchange(serve(hello), get(headers=CLOSE)) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"7\r\nHello, \r\n6\r\nworld!\r\n0\r\n\r\n"
    )


# --- how it ends ---


def test_write_callbacks_run_in_order_without_an_error(serve, connect):
    """Behaviour 2.27"""
    heard = Heard()

    def handler(req, res):
        for number in range(3):
            res.write("x", None, lambda *args, number=number: heard.note(f"write {number}", *args))
        res.end("y", None, lambda *args: heard.note("end", *args))

    answer(serve, connect, handler)
    heard.wait_for("end")
    assert list(heard) == [("write 0",), ("write 1",), ("write 2",), ("end",)]


def test_callbacks_of_a_lost_connection_get_the_error_and_finish_never_comes(serve, connect):
    """Behaviour 2.27, 2.30, 2.32"""
    heard, responses = Heard(), []

    def handler(req, res):
        responses.append(res)
        heard.listen(res, "finish", "close")
        res.write(b"x" * 8_000_000, None, lambda *args: heard.note("written", *args))
        res.end(None, None, lambda *args: heard.note("ended", *args))
        heard.note("queued")

    client = connect(serve(handler), receive_buffer=4096).send(get())
    heard.wait_for("queued")
    client.reset()
    heard.wait_for("close")
    (written,), (ended,) = heard.wait_for("written"), heard.wait_for("ended")
    assert isinstance(written, OSError)
    assert isinstance(ended, OSError)
    assert "finish" not in heard.names
    assert heard.names.count("close") == 1
    assert not responses[0].writable_finished


def test_finish_and_the_end_callback_come_together_after_the_flush(serve, connect):
    """Behaviour 2.29, 2.30"""
    heard = Heard()
    states = []

    def handler(req, res):
        res.on("finish", lambda: heard.note("finish", res.writable_finished, req.socket.queued))
        states.append((res.writable_ended, res.writable_finished))
        res.write(b"x" * 4_000_000)
        res.end("last", None, lambda: heard.note("callback", res.writable_finished, req.socket.queued))
        states.append((res.writable_ended, res.writable_finished))

    client = connect(serve(handler), receive_buffer=4096).send(get())
    client.read_head()
    assert heard == []
    client.read_until(b"last\r\n0\r\n\r\n")
    heard.wait_for("finish")
    assert sorted(heard) == [("callback", True, 0), ("finish", True, 0)]
    assert states == [(False, False), (True, False)]


def test_a_second_end_changes_nothing(serve, connect):
    """Behaviour 2.31"""
    heard, returned = Heard(), []

    def handler(req, res):
        res.end("once")
        returned.append(res.end())
        res.end(None, None, lambda error=None: heard.note("callback", error))

    client = connect(serve(handler))
    assert client.send(get()).read_response().body == b"once"
    (error,) = heard.wait_for("callback")
    assert returned == [False]
    assert error.code in ("ERR_STREAM_ALREADY_FINISHED", "ERR_STREAM_WRITE_AFTER_END")
    assert client.send(get()).read_response().body == b"once"


@pytest.mark.parametrize("late", [lambda res: res.end("late"), lambda res: res.write("late")], ids=["end", "write"])
def test_data_after_end_emits_an_error_and_is_not_sent(serve, connect, late):
    """Behaviour 2.31"""
    heard = Heard()

    def handler(req, res):
        heard.listen(res, "error")
        res.end("in time")
        late(res)

    client = connect(serve(handler))
    assert client.send(get()).read_response().body == b"in time"
    assert heard.wait_for("error")[0].code == "ERR_STREAM_WRITE_AFTER_END"
    assert client.send(get()).read_response().body == b"in time"


def test_after_close_write_and_end_are_harmless(serve, connect):
    """Behaviour 2.31, 2.32"""
    heard = Heard()
    returned = []

    def handler(req, res):
        heard.listen(res, "close", "finish", "error")
        res.write("begun")
        heard.note("begun")
        heard.wait_for("close")
        returned.append(res.write("late"))
        returned.append(res.end("late", None, lambda error=None: heard.note("callback", error)))

    client = connect(serve(handler)).send(get())
    heard.wait_for("begun")
    client.reset()
    (error,) = heard.wait_for("callback")
    assert error.code == "ERR_STREAM_DESTROYED"
    assert returned == [False, False]
    assert heard.names == ["begun", "close", "callback"]


def test_bytes_written_counts_in_finish_and_while_queued(serve, connect):
    """Behaviour 2.33"""
    heard = Heard()

    def handler(req, res):
        res.on("finish", lambda: heard.note("finish", req.socket.bytes_written))
        res.write(b"x" * 4_000_000)
        heard.note("queued", req.socket.bytes_written, req.socket.queued)
        res.end()

    client = connect(serve(handler), receive_buffer=4096).send(get())
    written, queued = heard.wait_for("queued")
    assert written >= 4_000_000
    assert queued > 0
    client.read_response()
    assert heard.wait_for("finish")[0] >= 4_000_000


def test_a_response_ended_after_the_handler_returned_is_complete(serve, connect):
    def handler(req, res):
        gevent.spawn(res.end, "later")

    with bounded("the answer"):
        assert answer(serve, connect, handler).body == b"later"


def test_the_request_of_a_response_that_is_still_queued_hears_of_the_lost_client(serve, connect):
    """Behaviour 3.20: the answer is in progress until the kernel has it, `end()` or not"""
    heard = Heard()

    def handler(req, res):
        heard.listen(req, "aborted", "close")
        res.end(b"x" * 8_000_000)
        heard.note("ended")

    client = connect(serve(handler), receive_buffer=4096).send(get())
    heard.wait_for("ended")
    client.reset()
    heard.wait_for("close")
    assert heard.names == ["ended", "aborted", "close"]


def test_a_pipelined_response_that_is_lost_gives_its_callbacks_the_error(serve, connect):
    """Behaviour 2.27, 2.30"""
    heard = Heard()

    def handler(req, res):
        if req.url == "/behind":
            heard.listen(res, "finish", "close")
            res.write("x", None, lambda *args: heard.note("written", *args))
            res.end(None, None, lambda *args: heard.note("ended", *args))

    client = connect(serve(handler)).send(get("/front") + get("/behind"))
    client.half_close()
    heard.wait_for("close")
    assert isinstance(heard.wait_for("ended")[0], OSError)
    assert isinstance(heard.wait_for("written")[0], OSError)
    assert "finish" not in heard.names
