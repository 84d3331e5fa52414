"""A protocol of one's own after `Upgrade: echo`: whatever the client sends comes back.

Try it:
    python examples/upgrade_echo.py [port]
"""

from gevent import monkey

monkey.patch_all()

import sys

import greenhttp

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def handle(req, res):
    res.write_head(426, {"Connection": "Upgrade", "Upgrade": "echo"})
    res.end("This server speaks the echo protocol only.\n")


def upgrade(req, socket, head):
    """The socket is ours from here on; `head` is what came in together with the request."""
    socket.write(SWITCH + head)
    for chunk in socket:
        socket.write(chunk)
    socket.end()


def main(port=8000):
    server = greenhttp.create_server(handle)
    server.on("upgrade", upgrade)
    server.listen(port, "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
