"""The contender urllib3, on gevent. One host, so one pool: a PoolManager would look for it at each request."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from importlib.metadata import version

import urllib3  # type: ignore[import-not-found, unused-ignore]
from urllib3.util import parse_url  # type: ignore[import-not-found, unused-ignore]

from . import greenlets
from .tally import Task

if __name__ == "__main__":
    task = Task.from_command_line()
    path = parse_url(task.url).request_uri
    pool = urllib3.connection_from_url(task.url, maxsize=task.concurrency, block=True)

    def ask() -> tuple[int, bytes]:
        res = pool.request("GET", path, retries=False)  # an error must show
        return res.status, res.data

    greenlets.run(task, ask, f"urllib3 {version('urllib3')}")
