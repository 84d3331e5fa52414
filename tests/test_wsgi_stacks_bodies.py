"""Flask, Django, Falcon and Bottle behind `WSGIServer`, asked by `requests` and by curl: streams, files, 200 MB.

The applications are in `tests/stacks`; each runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from .stacks.served import CONTENT, LARGE_SIZE, LIMIT, NAMES, Client, Requests, Stack, curl, needs_curl
from .stacks.served import client as client
from .stacks.served import own_stack as own_stack
from .stacks.served import stack as stack
from .stacks.served import stacks as stacks
from .support import eventually

MEBIBYTE = 1024 * 1024
SIZE = len(CONTENT)
RANGES = ["flask", "falcon", "bottle"]  # Django 5.2 knows no ranges: a whole answer to each (RFC 9110 section 14.2)

with_ranges = pytest.mark.parametrize("stack", RANGES, indirect=True)
django = pytest.mark.parametrize("stack", ["django"], indirect=True)


def paths(*names: str) -> pytest.MarkDecorator:
    """The test runs for `/static/file.bin` of each stack, and for `/file/file.bin` of those that have it too."""
    cases = [(name, kind) for name in names for kind in ("static", "file") if (name, kind) != ("falcon", "file")]
    return pytest.mark.parametrize(("stack", "kind"), cases, indirect=["stack"])


# --- streams ---


def test_a_piece_reaches_the_client_before_the_next_is_made(stack: Stack, client: Client) -> None:
    name = stack.name_stream()

    with client.lines(f"{stack.url}/stream/{name}") as lines:
        assert next(lines) == b"first\n"
        stack.go(name)
        assert next(lines) == b"second\n"
        assert list(lines) == []
    assert stack.closed(name)


def test_curl_that_speaks_http_1_0_gets_a_stream_that_ends_with_the_connection(stack: Stack) -> None:
    needs_curl()
    name = stack.name_stream()
    stack.go(name)

    assert curl("--http1.0", f"{stack.url}/stream/{name}").stdout == b"first\nsecond\n"


@pytest.mark.parametrize("stack", ["flask"], indirect=True)
def test_stream_with_context_still_has_the_request_at_its_end(stack: Stack, client: Client) -> None:
    name = stack.name_stream()
    stack.go(name)

    assert client.ask(f"{stack.url}/stream/{name}?last=%C3%BC").body == "first\nsecond\n\u00fc".encode()


def test_events_are_sent_as_they_happen_until_the_listener_leaves(stack: Stack, client: Client) -> None:
    name = stack.name_stream()

    with client.lines(f"{stack.url}/events/{name}") as lines:
        assert [next(lines), next(lines)] == [b": welcome\n", b"\n"]
        for number in range(3):
            stack.go(name)
            event = [f"id: {number}\n".encode(), f"data: gr\u00fcn {number}\n".encode(), b"\n"]
            assert [next(lines) for _ in event] == event
    assert stack.closed(name)  # although no further event would have told the application


def test_a_body_is_closed_when_its_client_leaves_in_the_middle(stack: Stack, client: Client) -> None:
    name = stack.name_stream()

    with client.lines(f"{stack.url}/endless/{name}") as lines:
        assert next(lines) == b"more\n"
    assert stack.closed(name)
    assert client.ask(f"{stack.url}/only-get").body == b"got"


def test_a_stalled_reader_stops_its_stream_and_nobody_else(stack: Stack) -> None:
    name, asker = stack.name_stream(), Requests()

    with asker.lines(f"{stack.url}/endless/{name}") as lines:
        assert next(lines) == b"more\n"
        assert asker.ask(f"{stack.url}/only-get").body == b"got"
        before = stack.memory("VmRSS")
        for _ in range(50):
            asker.ask(f"{stack.url}/static/file.bin")
        assert stack.memory("VmRSS") - before < 16 * MEBIBYTE
    asker.close()
    assert stack.closed(name)


# --- files ---


@paths(*NAMES)
def test_a_file_comes_whole_and_its_head_has_the_length(stack: Stack, client: Client, kind: str) -> None:
    url = f"{stack.url}/{kind}/file.bin"

    got, head = client.ask(url), client.ask(url, "HEAD")

    assert (got.status, got["Content-Length"], got.body) == (200, str(SIZE), CONTENT)
    assert (head.status, head["Content-Length"], head.body) == (200, str(SIZE), b"")
    assert client.ask(url).body == CONTENT


@paths(*RANGES)
def test_a_range_comes_as_206(stack: Stack, client: Client, kind: str) -> None:
    tail = SIZE - 10
    for wanted, start, end in [
        ("100-199", 100, 200), ("-50", SIZE - 50, SIZE), (f"{tail}-", tail, SIZE), (f"{tail}-999999", tail, SIZE),
    ]:  # fmt: skip
        answer = client.ask(f"{stack.url}/{kind}/file.bin", headers={"Range": f"bytes={wanted}"})

        assert (answer.status, answer.body) == (206, CONTENT[start:end])
        assert answer["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert answer["Content-Length"] == str(end - start)


@with_ranges
def test_a_range_beyond_the_end_is_a_416(stack: Stack, client: Client) -> None:
    answer = client.ask(f"{stack.url}/static/file.bin", headers={"Range": f"bytes={SIZE}-"})

    assert answer.status == 416
    assert answer["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("stack", "status", "body"),
    [("flask", 416, None), ("falcon", 400, None), ("bottle", 206, CONTENT[:2]), ("django", 200, CONTENT)],
    indirect=["stack"],
)
def test_of_two_ranges_comes_what_the_framework_makes_of_them(
    stack: Stack, client: Client, status: int, body: bytes | None
) -> None:
    answer = client.ask(f"{stack.url}/static/file.bin", headers={"Range": "bytes=0-1,5-6"})

    assert answer.status == status
    assert body is None or answer.body == body


@paths("django")
def test_django_answers_a_range_with_the_whole_file(stack: Stack, client: Client, kind: str) -> None:
    answer = client.ask(f"{stack.url}/{kind}/file.bin", headers={"Range": "bytes=100-199"})

    assert (answer.status, answer.body) == (200, CONTENT)


@with_ranges
def test_curl_resumes_a_download(stack: Stack, tmp_path: Path) -> None:
    needs_curl()
    part = tmp_path / "part"
    part.write_bytes(CONTENT[:100_000])

    done = curl("-C", "-", "-o", str(part), "-w", "%{http_code} %{size_download}", f"{stack.url}/static/file.bin")

    assert done.stdout == f"206 {SIZE - 100_000}".encode()
    assert part.read_bytes() == CONTENT


@with_ranges
def test_a_file_that_the_client_has_is_a_304_by_its_etag(stack: Stack, client: Client) -> None:
    url = f"{stack.url}/static/file.bin"
    etag = client.ask(url)["ETag"]
    assert etag is not None

    same = client.ask(url, headers={"If-None-Match": etag})
    other = client.ask(url, headers={"If-None-Match": '"another"'})

    assert (same.status, same.body, same["ETag"]) == (304, b"", etag)
    assert (other.status, other.body) == (200, CONTENT)


def test_a_304_by_date_has_no_body_and_the_connection_goes_on(stack: Stack) -> None:
    asker, url = Requests(), f"{stack.url}/static/file.bin"
    modified = asker.ask(url)["Last-Modified"]
    assert modified is not None
    before = asker.ask(f"{stack.url}/echo").json()["port"]

    same = asker.ask(url, headers={"If-Modified-Since": modified})
    older = asker.ask(url, headers={"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"})

    assert (same.status, same.body) == (304, b"")
    assert (older.status, older.body) == (200, CONTENT)
    assert asker.ask(f"{stack.url}/echo").json()["port"] == before
    asker.close()


def test_curl_fetches_a_file_again_only_if_it_is_newer(stack: Stack, tmp_path: Path) -> None:
    needs_curl()
    url, copy = f"{stack.url}/static/file.bin", tmp_path / "copy"
    curl("-R", "-o", str(copy), url)
    assert copy.read_bytes() == CONTENT

    again = curl("-z", str(copy), "-o", str(tmp_path / "again"), "-w", "%{http_code} %{size_download}", url)

    assert again.stdout == b"304 0"


def test_a_file_is_closed_when_its_client_leaves_in_the_middle(stack: Stack) -> None:
    with requests.get(f"{stack.url}/static/large.bin", stream=True, timeout=LIMIT) as answer:
        assert answer.headers["Content-Length"] == str(LARGE_SIZE)
        assert len(answer.raw.read(1000)) == 1000
        assert stack.has_open("large.bin")
    eventually(lambda: not stack.has_open("large.bin"), "the end of the file")


def test_a_file_that_is_not_there_or_not_in_the_folder_is_not_served(stack: Stack, client: Client) -> None:
    assert client.ask(f"{stack.url}/static/missing").status == 404
    assert client.ask(f"{stack.url}/static/..%2F..%2F..%2F..%2Fetc%2Fpasswd").status in (400, 403, 404)


# --- 200 MB ---


def pieces() -> Iterator[bytes]:
    """200 MiB, no two pieces of it alike."""
    rest = random.Random(200).randbytes(MEBIBYTE - 8)
    for number in range(200):
        yield number.to_bytes(8, "big") + rest


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file of 200 MiB, and its digest."""
    path, sha256 = tmp_path / "upload", hashlib.sha256()
    with open(path, "wb") as file:
        for piece in pieces():
            file.write(piece)
            sha256.update(piece)
    yield path, sha256.hexdigest()
    path.unlink()


@pytest.mark.parametrize("own_stack", ["flask"], indirect=True)
def test_200_mb_pass_through_the_stream_of_flask_in_flat_memory(own_stack: Stack, upload: tuple[Path, str]) -> None:
    path, sha256 = upload
    url, headers = f"{own_stack.url}/raw", {"Content-Type": "application/octet-stream"}
    with requests.Session() as session:
        assert session.put(url, b"warm", headers=headers, timeout=LIMIT).json()["size"] == 4
        before = own_stack.memory("VmRSS")
        for chunked in (False, True):
            with open(path, "rb") as file:
                body = iter(partial(file.read, 64 * 1024), b"") if chunked else file
                told = session.put(url, body, headers=headers, timeout=60).json()

            assert told == {"size": 200 * MEBIBYTE, "sha256": sha256, "encoding": None}
    assert own_stack.memory("VmHWM") - before < 16 * MEBIBYTE


@pytest.mark.parametrize("own_stack", ["django"], indirect=True)
def test_200_mb_go_to_disk_through_the_upload_handler_of_django_in_flat_memory(
    own_stack: Stack, upload: tuple[Path, str]
) -> None:
    needs_curl()
    path, sha256 = upload
    url = f"{own_stack.url}/form"
    curl("-F", "file=@-;filename=warm", url, data=b"warm")
    before = own_stack.memory("VmRSS")

    told = json.loads(curl("-m", "60", "-F", "name=value", "-F", f"file=@{path}", url).stdout)

    assert told["fields"] == {"name": ["value"]}
    (file,) = told["files"]
    assert (file[0], file[1], file[3]["size"], file[3]["sha256"]) == ("file", "upload", 200 * MEBIBYTE, sha256)
    assert Path(file[3]["path"]).parent == own_stack.uploads
    eventually(lambda: not any(own_stack.uploads.iterdir()), "the end of the files on disk")  # after the answer
    assert own_stack.memory("VmHWM") - before < 16 * MEBIBYTE


# --- without assertions ---


@pytest.mark.parametrize("own_stack", [f"{name} -OO" for name in NAMES], indirect=True)
def test_everything_holds_where_python_drops_assertions_and_docstrings(own_stack: Stack, tmp_path: Path) -> None:
    asker, url, name = Requests(), own_stack.url, own_stack.name_stream()
    headers = {"Content-Type": "application/octet-stream"}
    (tmp_path / "sent").write_bytes(CONTENT)

    form = asker.ask(f"{url}/form", "POST", parts=[("a", "1")], files=[("f", tmp_path / "sent", "sent", "a/b")])
    assert (form.json()["fields"], form.json()["files"][0][3]["size"]) == ({"a": ["1"]}, SIZE)
    assert asker.ask(f"{url}/input", "POST", headers=headers, body=CONTENT, chunked=True).json()["size"] == SIZE
    assert asker.ask(f"{url}/broken").status == 500
    assert asker.ask(f"{url}/static/file.bin").body == CONTENT
    with asker.lines(f"{url}/stream/{name}") as lines:
        assert next(lines) == b"first\n"
        own_stack.go(name)
        assert list(lines) == [b"second\n"]
    with asker.lines(f"{url}/endless/{name}") as lines:
        assert next(lines) == b"more\n"
    assert own_stack.closed(name)
    asker.close()
