"""A Flask application: readers of /news wait for what is posted there, and the server notices when one leaves. A
WebSocket at /echo sends back what it gets.

Try it:
    pip install flask flask-sock
    python examples/wsgi_flask.py [port]
    curl -N http://127.0.0.1:8000/news &
    curl -d fresh http://127.0.0.1:8000/news
"""

from gevent import monkey

monkey.patch_all()

import sys

from flask import Flask, Response, request
from flask_sock import Sock
from gevent.queue import Queue

from greenhttp.wsgi import WSGIServer

app = Flask(__name__)
sock = Sock(app)
readers = set()


@app.get("/")
def hello():
    return "Hello from Flask\n"


@app.post("/news")
def post():
    for reader in readers:
        reader.put(request.get_data(as_text=True))
    return f"told {len(readers)}\n"


@app.get("/news")
def news():
    queue = Queue()
    readers.add(queue)
    closed = request.environ["greenhttp.closed"]  # set when the client has gone away
    request.environ["greenhttp.request"].on("close", lambda: queue.put(None))  # the same, as an event

    def lines():
        try:
            yield "\n"  # the head leaves with the first bytes
            while (line := queue.get()) is not None:
                yield f"{line}\n"
        finally:
            readers.discard(queue)
            if closed.is_set():
                print("a reader has gone", flush=True)

    return Response(lines(), mimetype="text/plain")


@sock.route("/echo")
def echo(ws):
    while True:  # until one side closes
        ws.send(ws.receive())


def main(port=8000):
    server = WSGIServer(("127.0.0.1", port), app, log=None)
    server.start()
    print("http://{}:{}/".format(*server.address), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
