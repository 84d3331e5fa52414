"""Where a `WSGIServer` logs to: text streams, loggers that pass for one, and nowhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["ToLogger", "as_stream"]


def as_stream(log: Any, level: int) -> Any:
    """A text stream for `log`."""
    if log == "default":
        return sys.stderr
    if log is None:
        return _Nowhere()
    if not hasattr(log, "write") and hasattr(log, "log"):
        return ToLogger(log, level)
    return log


class ToLogger:
    """A stream whose lines are records of a logger; in all else it is that logger (reference: `LoggingLogAdapter`)."""

    __slots__ = ("_level", "_logger")

    def __init__(self, logger: Any, level: int) -> None:
        object.__setattr__(self, "_logger", logger)
        object.__setattr__(self, "_level", level)

    def write(self, text: str) -> int:
        self._logger.log(self._level, text.removesuffix("\n"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """A record is out when it is written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._logger, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._logger, name)


class _Nowhere(io.TextIOBase):
    """Forgets what is written."""

    def write(self, text: str) -> int:
        return len(text)
