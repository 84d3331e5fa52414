"""The contender greenhttp: `greenhttp.wsgi.WSGIServer`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import greenhttp
from greenhttp.wsgi import WSGIServer

from .program import about, announce, application

if __name__ == "__main__":
    versions = f"greenhttp {greenhttp.__version__}, {about('gevent')}"  # this tree's, installed or not
    server = WSGIServer(("127.0.0.1", 0), application(), log=None)
    server.start()
    announce(server.server_port, versions)
    server.serve_forever()
