"""What `python -m greenhttp` serves when no handler is named: a few answers to try the server with."""

from __future__ import annotations

import gevent

from .incoming import IncomingMessage
from .response import ServerResponse

__all__ = ["handle"]

_PAGE = """<!doctype html>
<title>greenhttp</title>
<h1>greenhttp is running</h1>
<ul>
<li><a href="/hello">/hello</a>: a short answer
<li><a href="/stream">/stream</a>: ten lines, one every half second
<li><a href="/headers">/headers</a>: what you sent
<li>/echo: sends a request body back (<code>curl --data hello http://.../echo</code>)
</ul>
<p>Serve your own handler: <code>python -m greenhttp module:handler</code>
"""


def handle(req: IncomingMessage, res: ServerResponse) -> None:
    """Answer one request."""
    path = req.url.partition("?")[0]
    if path == "/":
        res.set_header("Content-Type", "text/html; charset=utf-8")
        res.end(_PAGE)
        return
    res.set_header("Content-Type", "text/plain; charset=utf-8")
    if path == "/hello":
        res.end("Hello, World!\n")
    elif path == "/stream":
        for number in range(1, 11):
            res.write(f"line {number} of 10\n")
            gevent.sleep(0.5)
        res.end()
    elif path == "/headers":
        raw = req.raw_headers
        res.end("".join(f"{name}: {value}\n" for name, value in zip(raw[::2], raw[1::2], strict=True)))
    elif path == "/echo":
        for chunk in req:
            res.write(chunk)
        res.end()
    else:
        res.status_code = 404
        res.end("There is nothing here. Try /\n")
