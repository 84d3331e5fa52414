"""A contender's server program: started on its core, measured, and stopped by its pid whatever happens."""

from __future__ import annotations

import functools
import os
import select
import ssl
import subprocess
import tempfile
from types import TracebackType

from . import procfs, tls
from .contenders import ROOT, Contender
from .process import last_words, stop
from .results import VoidRunError

__all__ = ["Server"]

START_TIMEOUT = 15.0  # seconds until the port must be known; importing takes well under one


class Server:
    """A context manager: inside, `port` answers on 127.0.0.1; over TLS if `context`, of a client, is not None.

    Raises:
        VoidRunError: on entering, if the program cannot be started or ends before it has told its port.
    """

    def __init__(self, contender: Contender, core: int) -> None:
        self._contender, self._core = contender, core
        self.port = 0
        self.context: ssl.SSLContext | None = None
        self.about = ""  # versions, in the server's own words

    def __enter__(self) -> Server:
        command = self._contender.command
        if self._contender.secure:
            ours = tls.identity()
            command = (*command, "--cert", str(ours.cert), "--key", str(ours.key))
            self.context = ours.context
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it; and its workers are known by it
                preexec_fn=functools.partial(os.sched_setaffinity, 0, {self._core}),
            )
        except OSError as error:
            self._errors.close()
            raise VoidRunError(f"{command[0]}: {error.strerror}") from error
        try:
            self._read_port()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def must_be_alive(self) -> None:
        """Raises VoidRunError with the server's last words if it has died."""
        if (status := self._process.poll()) is not None:
            raise VoidRunError(f"the server died with exit status {status}: {self._last_words()}")

    def cpu_seconds(self) -> float:
        """User and system time of the server so far, its workers included."""
        try:
            return sum(map(procfs.cpu_seconds, procfs.session(self._process.pid)))
        except OSError as error:
            raise VoidRunError("the server, or a worker of it, has died") from error

    def resident_memory(self) -> int:
        return procfs.resident_memory(self._process.pid)

    def reset_peak(self) -> int:
        """Forget earlier peaks. Returns the bytes resident now, by the counter that `peak_memory()` reads."""
        procfs.reset_peak(self._process.pid)
        return self.peak_memory()

    def peak_memory(self) -> int:
        return procfs.peak_memory(self._process.pid)

    def _read_port(self) -> None:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], START_TIMEOUT)[0]:
            raise VoidRunError(f"no port after {START_TIMEOUT:.0f} s")
        port = self._process.stdout.readline().strip()
        if not port.isdecimal():
            raise VoidRunError(f"its first line is not a port: {port}" if port else self._last_words())
        self.port = int(port)
        self.about = self._process.stdout.readline().strip()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return last_words(self._errors.read().decode(errors="replace"))

    def _stop(self) -> None:
        try:
            stop(self._process, procfs.session(self._process.pid))
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._errors.close()
