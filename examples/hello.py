"""The smallest server: one handler, one answer.

Try it:
    python examples/hello.py [port]
    python -m greenhttp examples.hello:handle
"""

from gevent import monkey

monkey.patch_all()

import sys

import greenhttp


def handle(req, res):
    res.set_header("Content-Type", "text/plain; charset=utf-8")
    res.end(f"Hello, {req.method} {req.url}\n")


def main(port=8000):
    server = greenhttp.create_server(handle)
    server.listen(port, "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
