"""The contender urllib3, on gevent."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import urllib3

from . import greenlets
from .tally import Task

if __name__ == "__main__":
    task = Task.from_command_line()
    pool = urllib3.PoolManager(maxsize=task.concurrency, block=True)

    def ask() -> tuple[int, bytes]:
        res = pool.request("GET", task.url, retries=False)  # an error must show
        return res.status, res.data

    greenlets.run(task, ask, f"urllib3 {urllib3.__version__}")
