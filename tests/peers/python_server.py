"""The standard library's own server, for the client to ask. It prints its port, and ends when its input does."""

from __future__ import annotations

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Of HTTP/1.1: it keeps connections, and sends `100 Continue` by itself; `/old` is answered as HTTP/1.0."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served = 0

    def do_GET(self) -> None:
        self.served += 1
        if self.path == "/old":  # without a length: the body ends with the connection
            self.protocol_version = "HTTP/1.0"
            self.answer(f"{'x' * 100_000}".encode(), length=None)
            self.close_connection = True
        elif self.path == "/short":  # a length that is not kept
            self.answer(b"half", length=8)
            self.close_connection = True
        else:
            self.answer(f"{self.served} {self.client_address[1]}".encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode())

    def answer(self, body: bytes, length: int | None = -1) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
