"""The contender geventhttpclient."""

from __future__ import annotations

import geventhttpclient
from geventhttpclient import HTTPClient
from geventhttpclient.url import URL

from . import greenlets
from .tally import Task

if __name__ == "__main__":
    task = Task.from_command_line()
    url = URL(task.url)
    client = HTTPClient.from_url(url, concurrency=task.concurrency)

    def ask() -> tuple[int, bytes]:
        res = client.get(url.request_uri)
        return res.status_code, res.read()

    greenlets.run(task, ask, f"geventhttpclient {geventhttpclient.__version__}")
