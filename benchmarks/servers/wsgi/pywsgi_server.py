"""The contender gevent.pywsgi, with TCP_NODELAY."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import socket

from gevent.pywsgi import WSGIServer

from .program import about, announce, application

if __name__ == "__main__":
    versions = about("gevent")
    server = WSGIServer(("127.0.0.1", 0), application(), log=None)
    server.start()
    server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # on Linux, accepted sockets inherit it
    announce(server.server_port, versions)
    server.serve_forever()
