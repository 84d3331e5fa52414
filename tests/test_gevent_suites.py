"""The suites that gevent has for `pywsgi` run with `greenhttp.wsgi.WSGIServer` in the place of its server.

As a script this file runs one of them and writes what came out; the tests judge that. Each suite has a process of its
own: one of them patches the standard library, and the other insists that nobody has.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import greenhttp

PYWSGI = "gevent.tests.test__pywsgi"
SERVER = "gevent.tests.test__server_pywsgi"
SUITES = [PYWSGI, SERVER]
LIMIT = 25.0  # seconds for one suite; they take about three
FEWEST = 20  # tests of each that pass

FRAMING = "Transfer-Encoding with Content-Length is refused with 400 (RFC 9112 section 6.1 lets us)"
SWITCHING = "an application cannot answer 101; the connection of an upgrade is environ['gunicorn.socket']"
NOT_MODIFIED = "a 304 may have a Content-Length (RFC 9110 section 8.6), and a body for it is dropped: no AssertionError"
SPAWN = "replaces BaseServer._spawn"
HANDLE = "asks for BaseServer.set_handle, and for what stands in its repr"
NO_ANSWER = "an application that never calls start_response gets a 500, where pywsgi sends nothing"
RESOLVER = "a name, here localhost, is resolved without blocking the hub, so the server listens a few turns later"
SPAWNS = ["TestDefaultSpawn", "TestPoolSpawn", "TestRawSpawn"]

#: What we answer otherwise.
ON_PURPOSE = {
    "ChunkedInputTests.test_chunked_readline": FRAMING,
    "ChunkedInputTests.test_close_before_finished": "a client that goes away is not reported",
    "ChunkedInputTests.test_dirt": "a NUL in a chunk extension is refused",
    "ChunkedInputTests.test_short_read_with_content_length": FRAMING,
    "ChunkedInputTests.test_short_read_with_zero_content_length": FRAMING,
    "Expect100ContinueTests.test_continue": "a final answer in the place of the 100 ends the connection: the client "
    "may send its body or not, so what comes next is not known (RFC 9110 section 10.1.1)",
    "TestBody304.test_err": NOT_MODIFIED,
    "TestChunkedPost.test_229_incorrect_chunk_token_ext_too_long": "too many chunk extensions are a 413, not a 400",
    "TestConnectionUpgrades.test_connection_upgrade": SWITCHING,
    "TestConnectionUpgrades.test_upgrade_websocket": SWITCHING,
    "TestContentLength304.test_err": NOT_MODIFIED,
    "TestEmptyYield.test_err": "a body that turns out empty before the head left has Content-Length: 0, no chunks",
    "TestMultiLineHeader.test_multiline_116": "obs-fold is refused (RFC 9112 section 5.2)",
    "TestNonLatin1HeaderFromApplication.test": "bytes as a header's value are a TypeError, not a UnicodeError",
    "TestWrite304.test_err": NOT_MODIFIED,
    **{f"{name}.test_server_closes_client_sockets": NO_ANSWER for name in SPAWNS},
    **{f"{name}.test_serve_forever": RESOLVER for name in SPAWNS},
}

#: Of pywsgi's own insides.
INTERNALS = {
    "TestEnviron.test_environ_is_secure_by_default": "asks for pywsgi.SecureEnviron as the environ",
    "TestHandlerSubclass.test": "overrides WSGIHandler.read_requestline",
    "TestSSLGetCertificate.test_wrap_socket_and_handle_wrap_failure": "calls BaseServer._handle",
    **{f"{name}.test_error_in_spawn": SPAWN for name in SPAWNS},
    **{f"{name}.test_server_repr_when_handle_is_instancemethod": HANDLE for name in SPAWNS},
}

#: These talk to no server: they would pass whatever is in its place. Not run.
NO_SERVER = {
    "TestEnviron.test_copy_still_secure": "is about the class pywsgi.SecureEnviron",
    "TestEnviron.test_default_secure_repr": "is about the class pywsgi.SecureEnviron",
    "TestEnviron.test_override_class_defaults": "is about the class pywsgi.SecureEnviron",
    "TestEnviron.test_pickle_copy_returns_dict": "is about the class pywsgi.SecureEnviron",
}

#: gevent itself skips these.
SKIPPED = {"test_006_reject_long_urls": "gevent: Not sure", "TestSSLSocketNotAllowed.test": "gevent: no socket.ssl"}

FAILING = ON_PURPOSE | INTERNALS


# --- in the other process ---


def replace_server(pywsgi: ModuleType) -> None:
    """Put our server, and what it wraps a logger in, where gevent's are."""
    import gevent

    from greenhttp import wsgi
    from greenhttp.wsgi_log import ToLogger

    class Errors(io.TextIOBase):
        """Passes what the server reports to the hub, as pywsgi does: there these suites look for it."""

        def write(self, text: str) -> int:
            if sys.exc_info()[0] is not None:
                gevent.get_hub().handle_error(pywsgi.SecureEnviron(), *sys.exc_info())
            return len(text)

    class DropIn(wsgi.WSGIServer):
        """The drop-in, that reports errors so, and is content without `Host`, which many of these tests do not send."""

        def __init__(self, *args: Any, handler_class: object = None, **options: Any) -> None:
            options["error_log"] = Errors()
            options["require_host_header"] = False
            options["max_header_size"] = pywsgi.MAX_REQUEST_LINE // 2  # an unfinished trailer is counted in slices
            super().__init__(*args, **options)

    def no_handler(*_: object) -> None:
        raise AssertionError("gevent's own handler was made")

    pywsgi.WSGIServer = DropIn  # type: ignore[attr-defined]
    pywsgi.LoggingLogAdapter = ToLogger  # type: ignore[attr-defined]
    pywsgi.WSGIHandler.__init__ = no_handler
    pywsgi.Input = make_input  # type: ignore[attr-defined]


def make_input(stream: Any, content_length: int | None = None, chunked_input: bool = False) -> Any:
    """The `wsgi.input` of a request with such a body, that a client has sent and then gone silent."""
    from gevent import socket
    from gevent.event import AsyncResult, Event

    from greenhttp.wsgi import WSGIServer

    found = AsyncResult()

    def app(environ: Any, start_response: Any) -> Any:
        found.set(environ["wsgi.input"])
        Event().wait()  # the body can be read as long as the application has not returned

    server = WSGIServer(("127.0.0.1", 0), app, log=None, http_allow_half_open=True)
    server.start()
    client = socket.create_connection(server.address[:2])
    framing = "Transfer-Encoding: chunked" if chunked_input else f"Content-Length: {content_length}"
    client.sendall(f"POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n".encode() + stream.read())
    client.shutdown(socket.SHUT_WR)
    kept.append((server, client))
    return found.get()


kept: list[Any] = []  # alive to the end


class Outcomes(unittest.TestResult):
    """What came out, by `Class.test`: `'passed'`, `'skipped'`, or the traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def addSuccess(self, test: Any) -> None:
        self.found[short_name(test)] = "passed"

    def addSkip(self, test: Any, reason: str) -> None:
        self.found[short_name(test)] = "skipped"

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self.found[short_name(test)] = self.errors[-1][1]

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self.found[short_name(test)] = self.failures[-1][1]


def short_name(test: Any) -> str:
    return ".".join(test.id().split(".")[-2:])


def each_test(suite: Any) -> Any:
    if isinstance(suite, unittest.TestSuite):
        for part in suite:
            yield from each_test(part)
    else:
        yield suite


def run(name: str, report: Path) -> None:
    if name == PYWSGI:
        from gevent import monkey

        monkey.patch_all()
    replace_server(importlib.import_module("gevent.pywsgi"))
    suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name))
    outcomes = Outcomes()
    for test in each_test(suite):
        if short_name(test) not in NO_SERVER:
            test.run(outcomes)
    report.write_text(json.dumps(outcomes.found))


# --- here ---


@pytest.fixture(scope="module", params=SUITES)
def outcomes(request: Any, tmp_path_factory: Any) -> dict[str, str]:
    """What each test of one suite gave."""
    if importlib.util.find_spec("gevent.tests") is None or importlib.util.find_spec(request.param) is None:
        pytest.skip(f"THIS GEVENT DOES NOT SHIP {request.param}: the drop-in is not tested against it")
    report = tmp_path_factory.mktemp("gevent") / "report.json"
    done = subprocess.run(
        [sys.executable, __file__, request.param, str(report)],
        env={**os.environ, "PYTHONPATH": str(Path(greenhttp.__file__).parents[1])},  # the same package as here
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, str] = json.loads(report.read_text())
    return found


def test_exactly_the_listed_tests_fail(outcomes):
    """Given a suite of gevent's, when it runs with our server, then all tests pass but those that are listed."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome not in ("passed", "skipped")}
    unlisted = {name: outcome for name, outcome in failed.items() if name not in FAILING}
    assert not unlisted, "\n".join(f"--- {name}\n{outcome}" for name, outcome in unlisted.items())
    mended = outcomes.keys() & FAILING.keys() - failed.keys()
    assert not mended, f"these pass now, and should not be listed: {sorted(mended)}"


def test_gevent_skips_no_others(outcomes):
    """Given a suite of gevent's, when it runs, then only what gevent itself skips is skipped."""
    skipped = [name for name, outcome in outcomes.items() if outcome == "skipped"]
    assert all(name in SKIPPED or name.partition(".")[2] in SKIPPED for name in skipped), skipped


def test_the_suite_is_whole(outcomes):
    """Given a suite of gevent's, when it runs, then it has not shrunk to nothing."""
    assert list(outcomes.values()).count("passed") >= FEWEST


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
