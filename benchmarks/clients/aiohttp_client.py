"""The contender aiohttp, on asyncio's own loop, without the cookies and the timeout that Node's client has not."""

from __future__ import annotations

import asyncio

import aiohttp  # type: ignore[import-not-found, unused-ignore]

from .tally import Tally, Task


async def run(task: Task) -> None:
    tally = Tally(task)
    connector = aiohttp.TCPConnector(limit=task.concurrency)
    jar, timeout = aiohttp.DummyCookieJar(), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=timeout) as session:

        async def work() -> None:
            try:
                while tally.running:
                    async with session.get(task.url) as res:
                        tally.count(res.status, await res.read())
            except Exception as error:
                tally.fail(error)

        workers = [asyncio.create_task(work()) for _ in range(task.concurrency)]
        await asyncio.sleep(task.warm_up)
        tally.start()
        await asyncio.sleep(task.seconds)
        tally.stop()
        await asyncio.gather(*workers)
    tally.report(f"aiohttp {aiohttp.__version__}")


if __name__ == "__main__":
    asyncio.run(run(Task.from_command_line()))
