"""The contender cheroot."""

from __future__ import annotations

from cheroot.wsgi import Server  # type: ignore[import-not-found, import-untyped, unused-ignore]

from .program import about, announce, application

if __name__ == "__main__":
    versions = about("cheroot")
    server = Server(("127.0.0.1", 0), application())
    server.prepare()
    announce(server.bind_addr[1], versions)
    server.serve()
