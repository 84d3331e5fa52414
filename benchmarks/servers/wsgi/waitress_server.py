"""The contender waitress."""

from __future__ import annotations

import logging

from waitress.server import create_server  # type: ignore[import-not-found, import-untyped, unused-ignore]

from .program import about, announce, application

if __name__ == "__main__":
    versions = about("waitress")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # or it tells of every request that has to queue
    server = create_server(application(), host="127.0.0.1", port=0)
    announce(server.effective_port, versions)
    server.run()
