"""Fixtures: an application of `tests.stacks` in a process of its own, and two clients that ask it alike."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

NAMES = ("flask", "django", "falcon", "bottle")
LIMIT = 15.0  # seconds for anything
ROOT = Path(__file__).parent.parent.parent
CONTENT = random.Random(8).randbytes(300_000)  # of `/static/file.bin`
LARGE_SIZE = 100 * 1024 * 1024  # bytes of `/static/large.bin`; it is all hole, so that it needs no space


class Stack:
    """An application that is being served.

    Args:
        name: of the framework.
        folder: for the files that it serves, and for its log.
        options: of Python.
    """

    def __init__(self, name: str, folder: Path, *options: str) -> None:
        pytest.importorskip(name, reason=f"{name} IS NOT INSTALLED: greenhttp is NOT tested with it")
        self.name = name
        self._streams = 0
        self.uploads = folder / "uploads"
        self.uploads.mkdir()
        (folder / "file.bin").write_bytes(CONTENT)
        with open(folder / "large.bin", "wb") as large:
            large.truncate(LARGE_SIZE)
        self._log = folder / "log"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *options, "-m", "tests.stacks", name],
                cwd=ROOT,
                env={**os.environ, "STACKS_FOLDER": str(folder)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            assert self.process.stdout is not None
            with self.process.stdout as told:
                ports = told.readline().split()
            assert len(ports) == 2, self.log
        except BaseException:
            self.stop()
            raise
        self.url, self._control = (f"http://127.0.0.1:{port}" for port in ports)

    @property
    def log(self) -> str:
        """What the process has written to stderr, `wsgi.errors` among it."""
        return self._log.read_text()

    @property
    def unexpected(self) -> str:
        """The log, if there is a traceback in it that is not the one of `/broken`."""
        return self.log if self.log.count("Traceback") != self.log.count("ZeroDivisionError: planned") else ""

    def name_stream(self) -> str:
        """A name for a stream that no other test has."""
        self._streams += 1
        return f"s{self._streams}"

    def go(self, name: str) -> None:
        """Have the next piece of a stream made."""
        assert requests.get(f"{self._control}/go/{name}", timeout=LIMIT).text == "gone on"

    def closed(self, name: str) -> bool:
        """Whether a stream is closed; waits for it."""
        return requests.get(f"{self._control}/closed/{name}", timeout=LIMIT).text == "closed"

    def has_open(self, name: str) -> bool:
        """Whether the process has a descriptor of that file."""
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                if link.readlink().name == name:
                    return True
            except FileNotFoundError:  # closed meanwhile
                pass
        return False

    def memory(self, of: str) -> int:
        """Bytes of the process: `VmRSS` now, `VmHWM` at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{of}:")[2].split()[0]) * 1024

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def stacks() -> Iterator[dict[str, Stack]]:
    """Those that run already; stopped after the last test of a module."""
    running: dict[str, Stack] = {}
    yield running
    for served in running.values():
        served.stop()
    assert [served.unexpected for served in running.values() if served.unexpected] == []


@pytest.fixture(params=NAMES)
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Each of the applications in turn, or the one that a test names."""
    if request.param not in stacks:
        stacks[request.param] = Stack(request.param, tmp_path_factory.mktemp(request.param))
    return stacks[request.param]


@pytest.fixture
def own_stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """One that is named by its parameter, with options of Python, for one test."""
    name, *options = request.param.split()
    served = Stack(name, tmp_path, *options)
    yield served
    served.stop()
    assert served.unexpected == ""


@dataclass
class Ask:
    """A request."""

    url: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    form: list[tuple[str, str]] | None = None  # urlencoded
    parts: list[tuple[str, str]] | None = None  # of a multipart form
    files: list[tuple[str, Path, str, str]] = field(default_factory=list)  # of it: field, path, filename, type
    body: bytes | None = None
    chunked: bool = False
    follow: bool = False


@dataclass
class Answer:
    """What came."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class Requests:
    """`requests`, with one session."""

    def __init__(self) -> None:
        self._session = requests.Session()

    def ask(self, url: str, method: str = "GET", **more: Any) -> Answer:
        ask = Ask(url, method, **more)
        opened = [(name, (filename, path.read_bytes(), kind)) for name, path, filename, kind in ask.files]
        fields = [(name, (None, value)) for name, value in ask.parts or []]
        body = ask.body
        answer = self._session.request(
            method,
            url,
            headers=ask.headers,
            data=ask.form or (iter([body[:10], body[10:]]) if body and ask.chunked else body),
            files=[*fields, *opened] or None,  # type: ignore[arg-type]
            allow_redirects=ask.follow,
            timeout=LIMIT,
        )
        return Answer(answer.status_code, answer.reason, list(answer.headers.items()), answer.content)

    @contextmanager
    def lines(self, url: str) -> Iterator[Iterator[bytes]]:
        """The lines of an answer as they come; leaving the block is leaving the server."""
        with requests.get(url, stream=True, timeout=LIMIT) as answer:
            yield (line + b"\n" for line in answer.iter_lines(chunk_size=None))

    def close(self) -> None:
        self._session.close()


class Curl:
    """curl, a process for each request, with one jar of cookies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, url: str, method: str = "GET", **more: Any) -> Answer:
        ask = Ask(url, method, **more)
        options = ["-I"] if method == "HEAD" else ["-X", method] if not ask.follow else []
        options += [part for name, value in ask.headers.items() for part in ("-H", f"{name}: {value}")]
        options += [part for name, value in ask.form or [] for part in ("--data-urlencode", f"{name}={value}")]
        options += [part for name, value in ask.parts or [] for part in ("--form-string", f"{name}={value}")]
        for name, path, filename, kind in ask.files:
            options += ["-F", f"{name}=@{path};filename={filename};type={kind}"]
        options += [] if ask.body is None else ["-T", "-"] if ask.chunked else ["--data-binary", "@-"]
        options += ["-L"] if ask.follow else []
        jar, head, content = (self._folder / name for name in ("jar", "head", "content"))
        content.write_bytes(b"")
        curl("-b", str(jar), "-c", str(jar), "-D", str(head), "-o", str(content), *options, url, data=ask.body or b"")
        last = head.read_bytes().decode("latin-1").removesuffix("\r\n\r\n").split("\r\n\r\n")[-1]
        first, *lines = last.split("\r\n")
        _, status, reason = first.split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(status), reason, headers, b"" if method == "HEAD" else content.read_bytes())

    @contextmanager
    def lines(self, url: str) -> Iterator[Iterator[bytes]]:
        """The lines of an answer as they come; leaving the block is leaving the server."""
        command = ["curl", "-sSN", "-m", str(LIMIT), url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                yield process.stdout
            finally:
                process.kill()

    def close(self) -> None:
        """Nothing stays open."""


Client = Requests | Curl


def curl(*options: str, data: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run curl to its end; it must exit with `code`."""
    done = subprocess.run(["curl", "-sS", "-m", str(LIMIT), *options], input=data, capture_output=True)
    assert done.returncode == code, done.stderr.decode()
    return done


def needs_curl() -> None:
    """Skip loudly without it."""
    if shutil.which("curl") is None:
        pytest.skip("curl IS NOT INSTALLED: what it would ask is NOT tested")


@pytest.fixture(params=["requests", "curl"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """Both clients in turn."""
    if request.param == "curl":
        needs_curl()
    made: Client = Requests() if request.param == "requests" else Curl(tmp_path)
    yield made
    made.close()
