"""The contender geventhttpclient, reading pieces of 16 KiB: its 4 KiB cost half as much again for large bodies."""

from __future__ import annotations

import geventhttpclient  # type: ignore[import-not-found, unused-ignore]
from geventhttpclient import HTTPClient
from geventhttpclient.url import URL  # type: ignore[import-not-found, unused-ignore]

from . import greenlets
from .tally import Task

if __name__ == "__main__":
    task = Task.from_command_line()
    url = URL(task.url)
    client = HTTPClient.from_url(url, concurrency=task.concurrency, block_size=16 * 1024)

    def ask() -> tuple[int, bytes]:
        res = client.get(url.request_uri)
        return res.status_code, res.read()

    greenlets.run(task, ask, f"geventhttpclient {geventhttpclient.__version__}")
