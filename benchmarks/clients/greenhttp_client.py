"""The contender greenhttp. The other clients do what this one does."""

from __future__ import annotations

import greenhttp
from greenhttp import Agent, get

from . import greenlets
from .tally import Task

if __name__ == "__main__":
    task = Task.from_command_line()
    agent = Agent(keep_alive=True, max_sockets=task.concurrency)

    def ask() -> tuple[int | None, bytes]:
        res = get(task.url, agent=agent).get_response()
        return res.status_code, res.read()

    greenlets.run(task, ask, f"greenhttp {greenhttp.__version__}")
