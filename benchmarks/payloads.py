"""The bodies that servers answer with.

The Python servers import them; `node_server.js` has a copy, and the check before each run finds any difference.
"""

from __future__ import annotations

__all__ = ["CHUNK", "DOWNLOAD", "HELLO", "MIB", "PAGE"]

MIB = 1024 * 1024  # bytes

HELLO = b"Hello, World!"
_PATTERN = b"0123456789abcdef"  # not one repeated byte: a shifted or doubled piece must show
CHUNK = _PATTERN * 1024  # 16 KiB, what a streaming handler writes at a time
DOWNLOAD = CHUNK * 64  # 1 MiB, sent in one piece with Content-Length, or in 64 chunks
PAGE = DOWNLOAD[: 100 * 1024]  # 100 KiB, what clients get
