"""Flask, Django, Falcon and Bottle behind `WSGIServer`, asked by `requests` and by curl: requests and short answers.

The applications are in `tests/stacks`; each runs in a process of its own. Streams and files: `test_wsgi_stacks_bodies`.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from .stacks.served import LIMIT, Client, Requests, Stack, curl, needs_curl
from .stacks.served import client as client
from .stacks.served import stack as stack
from .stacks.served import stacks as stacks
from .support import eventually

GREEN = "gr\u00fcn \u2713 100%&=+;"  # beyond latin-1, and what forms and queries must escape
LARGE = bytes(range(256)) * 8 * 1024  # 2 MiB: curl asks for 100 Continue from 1 MiB on

with_session = pytest.mark.parametrize("stack", ["flask", "django"], indirect=True)
with_chunks = pytest.mark.parametrize("stack", ["flask", "falcon"], indirect=True)


def summary(data: bytes, **more: object) -> dict[str, object]:
    """What the applications tell of a body."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}


# --- the head of a request ---


def test_every_method_reaches_the_view(stack: Stack, client: Client) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = client.ask(f"{stack.url}/echo", method)

        assert (answer.status, answer.json()["method"]) == (200, method)


def test_head_has_the_length_of_get_and_no_body(stack: Stack, client: Client) -> None:
    got, head = (client.ask(f"{stack.url}/only-get", method) for method in ("GET", "HEAD"))

    assert (got.status, got["Content-Length"], got.body) == (200, "3", b"got")
    assert (head.status, head["Content-Length"], head.body) == (200, "3", b"")


def test_an_escaped_query_is_decoded_once_and_repeated_fields_are_kept_in_order(stack: Stack, client: Client) -> None:
    pairs = [("a", GREEN), ("b", "1"), ("b", "2"), ("c", "%41")]

    answer = client.ask(f"{stack.url}/echo?{urlencode(pairs)}")

    assert answer.json()["query"] == {"a": [GREEN], "b": ["1", "2"], "c": ["%41"]}


def test_an_escaped_path_is_decoded_once_as_utf_8(stack: Stack, client: Client) -> None:
    for rest in ("\u00fcber/\u6771\u4eac.txt", "a b", "%41", "a+b"):
        assert client.ask(f"{stack.url}/echo/{quote(rest)}").json()["rest"] == rest


def test_a_header_arrives_as_it_was_sent(stack: Stack, client: Client) -> None:
    value = 'a, b; c="d e"'

    assert client.ask(f"{stack.url}/echo", headers={"X-Header": value}).json()["header"] == value


# --- forms and documents ---


def test_an_urlencoded_form_is_decoded(stack: Stack, client: Client) -> None:
    form = [("name", GREEN), ("b", "1"), ("b", "2"), ("empty", "")]

    answer = client.ask(f"{stack.url}/form", "POST", form=form)

    assert answer.status == 200
    assert answer.json() == {"fields": {"name": [GREEN], "b": ["1", "2"], "empty": [""]}, "files": []}


def test_a_multipart_form_brings_its_fields_and_its_files(stack: Stack, client: Client, tmp_path: Path) -> None:
    small, large, empty = (tmp_path / name for name in ("small", "large", "empty"))
    small.write_bytes(b"\r\n--text\r\n")  # as like a delimiter as it may be
    large.write_bytes(LARGE)
    empty.write_bytes(b"")
    answer = client.ask(
        f"{stack.url}/form",
        "POST",
        parts=[("name", GREEN), ("b", "1"), ("b", "2"), ("lines", "one\r\ntwo")],
        files=[
            ("file", small, "gr\u00f6\u00dfe \u6771.txt", "text/plain"),
            ("file", large, "large.bin", "application/octet-stream"),
            ("other", empty, "empty", "image/png"),
        ],
    )

    told = answer.json()
    for file in told["files"]:
        path = file[3].pop("path", None)  # Django's file on disk
        assert path is None or Path(path).parent == stack.uploads
    assert told["fields"] == {"name": [GREEN], "b": ["1", "2"], "lines": ["one\r\ntwo"]}
    assert told["files"] == [
        ["file", "gr\u00f6\u00dfe \u6771.txt", "text/plain", summary(small.read_bytes())],
        ["file", "large.bin", "application/octet-stream", summary(LARGE)],
        ["other", "empty", "image/png", summary(b"")],
    ]
    eventually(lambda: not any(stack.uploads.iterdir()), "the end of the files on disk")  # after the answer


def test_a_json_document_goes_there_and_back(stack: Stack, client: Client) -> None:
    document = {"name": GREEN, "list": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    headers = {"Content-Type": "application/json"}

    answer = client.ask(f"{stack.url}/json", "POST", headers=headers, body=json.dumps(document).encode())

    assert (answer.status, answer.json(), answer["X-Count"]) == (201, document, "3")
    assert (answer["Content-Type"] or "").startswith("application/json")


def test_a_raw_body_arrives_whole(stack: Stack, client: Client) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    for body in (b"", b"x", LARGE):
        answer = client.ask(f"{stack.url}/raw", "PUT", headers=headers, body=body)

        assert answer.json() == summary(body, encoding=None)


def test_a_compressed_body_reaches_the_view_as_it_was_sent(stack: Stack, client: Client) -> None:
    body = gzip.compress(b"greenhttp" * 1000)
    headers = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}

    answer = client.ask(f"{stack.url}/raw", "POST", headers=headers, body=body)

    assert answer.json() == summary(body, encoding="gzip")


# --- bodies in chunks, and those that wait for 100 Continue ---


@with_chunks
def test_a_body_in_chunks_is_read_to_its_end(stack: Stack, client: Client) -> None:
    headers = {"Content-Type": "application/octet-stream"}

    answer = client.ask(f"{stack.url}/raw", "POST", headers=headers, body=LARGE, chunked=True)

    assert answer.json() == summary(LARGE, encoding=None)


def test_wsgi_input_has_a_body_in_chunks_whole_whatever_the_framework_makes_of_it(stack: Stack, client: Client) -> None:
    """Django 5.2 and Falcon's media take a body without a length for an empty one (Django's ticket 35838); Bottle 0.13
    decodes the chunks a second time, which is a 400 (its issue 700). It is so under gunicorn and under pywsgi too."""
    for _ in range(2):
        headers = {"Content-Type": "application/octet-stream"}
        answer = client.ask(f"{stack.url}/input", "POST", headers=headers, body=LARGE, chunked=True)

        assert (answer.status, answer.json()) == (200, summary(LARGE))


@pytest.mark.parametrize("stack", ["flask"], indirect=True)
def test_flask_decodes_forms_and_documents_in_chunks(stack: Stack, client: Client) -> None:
    boundary = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + LARGE + b"\r\n--b--\r\n"
    kinds = [
        ("form", "application/x-www-form-urlencoded", b"a=1&a=2&b=%C3%BC"),
        ("form", "multipart/form-data; boundary=b", boundary),
        ("json", "application/json", b'{"a": "1"}'),
    ]
    form, multipart, document = (
        client.ask(f"{stack.url}/{path}", "POST", headers={"Content-Type": kind}, body=body, chunked=True).json()
        for path, kind, body in kinds
    )

    assert form["fields"] == {"a": ["1", "2"], "b": ["\u00fc"]}
    assert multipart["files"][0][3] == summary(LARGE)
    assert document == {"a": "1"}


def test_a_client_that_asks_for_100_continue_gets_it_before_it_sends(stack: Stack) -> None:
    needs_curl()
    upload = ("-H", "Content-Type: application/octet-stream", "--expect100-timeout", "60", "--data-binary", "@-")

    done = curl("-v", *upload, f"{stack.url}/raw", data=LARGE)

    assert json.loads(done.stdout) == summary(LARGE, encoding=None)
    assert b"< HTTP/1.1 100 Continue" in done.stderr


def test_a_refused_upload_is_not_sent_at_all(stack: Stack, tmp_path: Path) -> None:
    needs_curl()
    upload = ("--expect100-timeout", "60", "--data-binary", "@-", "-o", str(tmp_path / "page"))

    done = curl(*upload, "-w", "%{http_code} %{size_upload}", f"{stack.url}/nowhere", data=LARGE)

    assert done.stdout == b"404 0"


# --- cookies and sessions ---


def test_several_cookies_come_back_with_the_next_request(stack: Stack, client: Client) -> None:
    first, second, third = (client.ask(f"{stack.url}/visits", "POST").json() for _ in range(3))

    assert first == {"visits": 1, "theme": None, "lang": None}
    assert second == {"visits": 2, "theme": "dark blue", "lang": "de"}
    assert third == {"visits": 3, "theme": "dark blue", "lang": "de"}


@with_session
def test_a_session_belongs_to_one_client(stack: Stack, client: Client) -> None:
    client.ask(f"{stack.url}/visits", "POST")
    stranger = Requests()

    assert stranger.ask(f"{stack.url}/visits", "POST").json()["visits"] == 1
    assert client.ask(f"{stack.url}/visits", "POST").json()["visits"] == 2
    stranger.close()


# --- statuses, redirects and errors ---


def test_a_redirect_is_followed_to_its_end(stack: Stack, client: Client) -> None:
    told = client.ask(f"{stack.url}/redirect")
    followed = client.ask(f"{stack.url}/redirect", follow=True)

    assert (told.status, (told["Location"] or "").removeprefix(stack.url)) == (302, "/echo?by=redirect")
    assert followed.json()["query"] == {"by": ["redirect"]}


def test_a_308_has_the_client_send_its_body_again(stack: Stack, client: Client) -> None:
    headers = {"Content-Type": "application/octet-stream"}

    answer = client.ask(f"{stack.url}/moved", "POST", headers=headers, body=b"again", follow=True)

    assert answer.json() == summary(b"again", encoding=None)


def test_a_status_arrives_with_its_body(stack: Stack, client: Client) -> None:
    for code in (202, 226, 400, 418, 451, 503):
        answer = client.ask(f"{stack.url}/status/{code}")

        assert (answer.status, answer.body) == (code, f"status {code}".encode())


def test_a_status_of_the_applications_own_arrives_with_its_phrase(stack: Stack, client: Client) -> None:
    answer = client.ask(f"{stack.url}/odd")

    assert (answer.status, answer.reason, answer.body) == (599, "Odd Thing", b"odd")


def test_204_has_no_body(stack: Stack, client: Client) -> None:
    answer = client.ask(f"{stack.url}/status/204")

    assert (answer.status, answer.body) == (204, b"")


def test_the_pages_for_404_and_405_are_the_frameworks(stack: Stack, client: Client) -> None:
    missing = client.ask(f"{stack.url}/nowhere")
    refused = client.ask(f"{stack.url}/only-get", "DELETE")

    assert (missing.status, missing["Content-Length"]) == (404, str(len(missing.body)))
    assert refused.status == 405
    assert "GET" in (refused["Allow"] or "").split(", ")


def test_a_view_that_raises_is_the_frameworks_500_and_its_traceback_is_on_stderr(stack: Stack, client: Client) -> None:
    before = stack.log.count("ZeroDivisionError: planned")

    answer = client.ask(f"{stack.url}/broken")

    assert (answer.status, answer["Content-Length"]) == (500, str(len(answer.body)))
    assert b"planned" not in answer.body
    assert stack.log.count("ZeroDivisionError: planned") == before + 1


# --- the connection ---


def test_a_session_of_requests_keeps_one_connection_whatever_is_answered(stack: Stack) -> None:
    asker = Requests()
    ports = []
    for method, path in [
        ("HEAD", "/only-get"), ("GET", "/status/204"), ("GET", "/nowhere"), ("DELETE", "/only-get"),
        ("GET", "/redirect"), ("GET", "/odd"), ("GET", "/broken"), ("POST", "/visits"), ("GET", "/static/file.bin"),
    ]:  # fmt: skip
        asker.ask(f"{stack.url}{path}", method)
        ports.append(asker.ask(f"{stack.url}/echo").json()["port"])
    asker.close()

    assert len(ports) == 9
    assert len(set(ports)) == 1


def test_curl_asks_for_several_urls_over_one_connection(stack: Stack) -> None:
    needs_curl()
    urls = [f"{stack.url}/echo?number={number}" for number in range(3)]

    lines = curl("-w", "\n%{num_connects}\n", *urls).stdout.splitlines()

    answers = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert [line for line in lines if line.isdigit()] == [b"1", b"0", b"0"]
    assert [answer["query"]["number"] for answer in answers] == [["0"], ["1"], ["2"]]
    assert len({answer["port"] for answer in answers}) == 1


def test_after_an_upload_that_was_not_read_a_connection_that_is_said_to_be_kept_is_kept(stack: Stack) -> None:
    """RFC 9112 section 9.6: who is going to close says so. Otherwise a POST on the kept connection fails, and a client
    may not repeat it by itself."""
    with closing(http.client.HTTPConnection(stack.url.removeprefix("http://"), timeout=LIMIT)) as connection:
        connection.request("POST", "/nowhere", body=LARGE[:300_000])
        refused = connection.getresponse()
        refused.read()

        assert refused.status == 404
        if not refused.will_close:
            connection.request("POST", "/echo")
            assert connection.getresponse().read() != b""
