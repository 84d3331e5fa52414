"""A proxy for tunnels (CONNECT); given a host and its port, also a client that fetches `/` from there through it.

Try it:
    python examples/connect_proxy.py [port]
    curl -p -x http://127.0.0.1:8000 http://example.com/
    python examples/connect_proxy.py 0 example.com 80
"""

from gevent import monkey

monkey.patch_all()

import socket
import sys

import gevent

import greenhttp

ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
UNREACHABLE = b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n"


def handle(req, res):
    res.write_head(405, {"Allow": "CONNECT"})
    res.end("This proxy only has tunnels.\n")


def connect(req, client, head):
    """The socket is ours from here on; `head` is what the client sent after its request."""
    client.unread(head)
    host, _, port = req.url.rpartition(":")
    with client.detach() as client:  # an ordinary socket now
        try:
            origin = socket.create_connection((host.strip("[]"), int(port)), timeout=30)
        except (OSError, ValueError):
            client.sendall(UNREACHABLE)
            return
        with origin:
            origin.settimeout(None)
            client.sendall(ESTABLISHED)
            gevent.joinall([gevent.spawn(copy, client, origin), gevent.spawn(copy, origin, client)])


def copy(source, target):
    """Until the end of `source`, which `target` is told; an error ends both ways."""
    try:
        while data := source.recv(64 * 1024):
            target.sendall(data)  # waits for the slower side
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def fetch(proxy, host, port):
    """What `/` of `host` is, through the proxy at the port `proxy`."""

    def tunnel(_):
        req = greenhttp.request(host="127.0.0.1", port=proxy, method="CONNECT", path=f"{host}:{port}", agent=False)
        req.end()
        res = req.get_response()
        if res.status_code != 200:
            res.socket.destroy()
            raise OSError(f"the proxy says {res.status_code} {res.status_message}")
        return res.socket

    return greenhttp.get(host=host, port=port, create_connection=tunnel).get_response().read()


def main(port=8000, host=None, origin_port=80):
    server = greenhttp.create_server(handle)
    server.on("connect", connect)
    server.listen(int(port), "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    if host is None:
        server.serve_forever()
    else:
        print(fetch(server.address()[1], host, int(origin_port)).decode("utf-8", "replace"))


if __name__ == "__main__":
    main(*sys.argv[1:4])
