"""`python -m tests.stacks NAME`: serve the application of a framework; prints two ports, the second is `control`'s."""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import importlib
import sys

from greenhttp.wsgi import WSGIServer


def main(name: str) -> None:
    """Serve until somebody kills us."""
    parts = importlib.import_module("tests.stacks.parts")
    app = importlib.import_module(f"tests.stacks.{name}_app").app
    servers = [WSGIServer(("127.0.0.1", 0), served, log=None) for served in (app, parts.control)]
    for server in servers:
        server.start()
    print(*(server.address[1] for server in servers), flush=True)
    servers[0].serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
