"""Long polling: a GET waits until somebody POSTs news, which then goes to everyone who waits.

Try it:
    python examples/long_poll.py [port]
    curl http://127.0.0.1:8000/ &
    curl -d 'the news' http://127.0.0.1:8000/
"""

from gevent import monkey

monkey.patch_all()

import sys

from gevent.event import Event

import greenhttp

PATIENCE = 25  # seconds; balancers give up on a silent server after 30 to 60

waiting = {}  # Event -> the news that set it


def publish(req, res):
    news = req.read()
    told = len(waiting)
    for event in waiting:  # no greenlet switch in this loop: nobody comes or goes meanwhile
        waiting[event] = news
        event.set()
    res.end(f"told {told}\n")


def poll(req, res):
    event = Event()
    waiting[event] = None
    req.on("close", event.set)  # the client has gone: do not wait for nothing
    try:
        event.wait(PATIENCE)  # parks this greenlet; thousands may park here
    finally:
        news = waiting.pop(event)
    if res.destroyed:
        return
    if news is None:
        res.status_code = 204  # nothing happened; ask again
    res.end(news)


def handle(req, res):
    (publish if req.method == "POST" else poll)(req, res)


def main(port=8000):
    server = greenhttp.create_server(handle)
    server.listen(port, "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
