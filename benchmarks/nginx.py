"""nginx, the server that clients ask: one process, on the core that we are on."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from .payloads import HELLO, PAGE
from .process import last_words, stop
from .results import VoidRunError

__all__ = ["Nginx"]

_START_TIMEOUT = 5.0  # seconds until it must accept; it takes well under one

# One process is the worker itself: it runs as our user, so it may read our directory, and has no child to outlive it.
# All that it writes is in that directory, which is its prefix.
_CONFIGURATION = """
daemon off;
master_process off;
error_log stderr warn;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type text/plain;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16;
    keepalive_requests 1000000000;
    keepalive_timeout 120s;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        root files;
        location = /hello {{ return 200 "{hello}"; }}
    }}
}}
"""


class Nginx:
    """A context manager: inside, 127.0.0.1:`port` answers `/hello` from memory and `/page` from a file.

    Raises:
        VoidRunError: on entering, if nginx does not start.
    """

    def __enter__(self) -> Nginx:
        self.port = _free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="benchmarks-nginx-")
        self._errors = tempfile.TemporaryFile()
        try:
            self._start(Path(self._directory.name))
        except BaseException:
            self._clean_up()
            raise
        try:
            self._await_port()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, directory: Path) -> None:
        configuration = directory / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(port=self.port, hello=HELLO.decode()))
        (directory / "files").mkdir()
        (directory / "files" / "page").write_bytes(PAGE)
        self._process = subprocess.Popen(
            ("nginx", "-e", "stderr", "-p", str(directory), "-c", str(configuration)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
        )

    def _await_port(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            if (status := self._process.poll()) is not None:
                raise VoidRunError(f"nginx ended with exit status {status}: {self._last_words()}")
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise VoidRunError(f"nginx does not accept: {error!r}") from error
            time.sleep(0.01)

    def _last_words(self) -> str:
        self._errors.seek(0)
        return last_words(self._errors.read().decode(errors="replace"))

    def _stop(self) -> None:
        try:
            stop(self._process)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        self._errors.close()
        self._directory.cleanup()


def _free_port() -> int:
    """nginx cannot choose one itself."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
