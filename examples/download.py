"""Downloads a URL to a file, and shows its progress on stderr. The file is there when it is whole.

Try it:
    python examples/download.py http://127.0.0.1:8000/ [file]
"""

from gevent import monkey

monkey.patch_all()

import os
import sys

import greenhttp

PATIENCE = 30  # seconds without a byte


def download(url, name):
    with greenhttp.get(url, timeout=PATIENCE).get_response() as res:
        if res.status_code != 200:
            raise OSError(f"{res.status_code} {res.status_message}")
        size, done = int(res.headers.get("content-length", 0)), 0
        with open(f"{name}.part", "wb") as file:
            for chunk in res:  # waits for the server; the body is never held as a whole
                file.write(chunk)
                done += len(chunk)
                show(done, size)
    os.replace(f"{name}.part", name)


def show(done, size):
    share = f" ({done / size:.0%})" if size else ""
    print(f"{done:,} bytes{share}", end="\r", file=sys.stderr, flush=True)


def main(url, name=None):
    name = name or os.path.basename(url.partition("?")[0]) or "index.html"
    try:
        download(url, name)
    except (OSError, ValueError) as error:  # every error of greenhttp that is not a mistake of ours is one of these
        sys.exit(f"{url}: {error}")
    print(file=sys.stderr)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
