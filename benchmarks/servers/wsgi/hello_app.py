"""The application `hello`: the least that WSGI asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...payloads import HELLO

__all__ = ["application"]


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [HELLO]
