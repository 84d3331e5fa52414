"""Takes an upload of any size, chunk by chunk, and answers with its length and SHA-256.

Try it:
    python examples/echo_upload.py [port]
    curl --data-binary @some-file http://127.0.0.1:8000/
"""

from gevent import monkey

monkey.patch_all()

import hashlib
import sys

import greenhttp


def handle(req, res):
    count, digest = 0, hashlib.sha256()
    for chunk in req:  # waits for the client; the body is never held as a whole
        count += len(chunk)
        digest.update(chunk)
    res.end(f"{count} {digest.hexdigest()}\n")


def main(port=8000):
    server = greenhttp.create_server(handle)
    server.listen(port, "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
