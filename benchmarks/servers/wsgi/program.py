"""What the WSGI servers' programs share: which application they serve, and the two lines that they print."""

from __future__ import annotations

import importlib
import platform
import sys
from importlib.metadata import version
from typing import Any, TextIO

__all__ = ["about", "announce", "application", "target"]

_FRAMEWORKS = {"hello": (), "flask": ("flask",)}  # the packages that an application needs


def target() -> str:
    """The application as `module:name`, for servers that import it in their worker."""
    return f"{__package__}.{sys.argv[1]}_app:application"


def application() -> Any:
    """The application itself; on gevent, `monkey.patch_all()` comes before."""
    module, _, name = target().partition(":")
    return getattr(importlib.import_module(module), name)


def about(*server: str) -> str:
    """The versions. Called before anything is started: what is not installed is named.

    Args:
        server: the packages that the server is made of.
    """
    packages = (*server, *_FRAMEWORKS[sys.argv[1]])
    return ", ".join([*(f"{name} {version(name)}" for name in packages), f"Python {platform.python_version()}"])


def announce(port: int | None, versions: str, stream: TextIO = sys.stdout) -> None:
    print(f"{port}\n{versions}", file=stream, flush=True)
