"""Server-sent events: the time, once a second, for as long as the client listens.

Try it:
    python examples/stream.py [port]
    curl -N http://127.0.0.1:8000/
"""

from gevent import monkey

monkey.patch_all()

import sys
import time

import greenhttp


def handle(req, res):
    # No length is known beforehand, so the body goes out in chunks, each as soon as it is written.
    res.write_head(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    while not (res.destroyed or req.closing):  # the client has gone, or the server wants to stop
        res.write(f"data: {time.strftime('%H:%M:%S')}\n\n")  # blocks while a slow client lags behind
        time.sleep(1)
    res.end()


def main(port=8000):
    server = greenhttp.create_server(handle)
    server.listen(port, "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
