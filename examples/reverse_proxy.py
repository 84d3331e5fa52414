"""Passes requests on to another server, and its answers back: both ways as they come, in constant memory.

Try it:
    python examples/reverse_proxy.py [port [http://host:port]]
    curl -T some-file http://127.0.0.1:8000/
"""

from gevent import monkey

monkey.patch_all()

import sys
from urllib.parse import urlsplit

import greenhttp

# What concerns one connection only (RFC 9110 section 7.6.1). `100 Continue` is sent here, when the upload is read.
HOP_BY_HOP = set("connection expect keep-alive proxy-connection te trailer transfer-encoding upgrade".split())

agent = greenhttp.Agent(keep_alive=True)


def end_to_end(message, *others):
    """The headers of `message` that are to be passed on, as pairs."""
    named = {name.strip().lower() for name in message.headers.get("connection", "").split(",")}
    dropped = HOP_BY_HOP.union(named, others)
    raw = message.raw_headers
    return [pair for pair in zip(raw[::2], raw[1::2], strict=True) if pair[0].lower() not in dropped]


def forward(req, res, origin):
    headers = [*end_to_end(req, "host"), ("Host", origin.netloc), ("X-Forwarded-For", req.socket.remote_address)]
    chunked = "transfer-encoding" in req.headers  # a body of unknown length
    if chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    where = {"host": origin.hostname, "port": origin.port, "path": req.url, "method": req.method}
    with greenhttp.request(where, headers=headers, agent=agent, timeout=120) as upstream:
        req.on("close", upstream.destroy)  # the client has gone: no need for the rest
        if chunked or "content-length" in req.headers:
            upstream.flush_headers()
            req.pipe(upstream)  # beside us: the origin may answer before it has everything
        else:
            upstream.end()
        try:
            answer = upstream.get_response()
        except OSError as error:
            res.write_head(502, {"Content-Type": "text/plain"})
            res.end(f"The server behind this one cannot be reached: {error}\n")
            return
        res.write_head(answer.status_code, answer.status_message, end_to_end(answer))
        try:
            for chunk in answer:
                res.write(chunk)  # waits for a slow client, and the origin waits for us
            res.end()
        except OSError:  # the origin broke off, or the client did: no short answer may look whole
            res.destroy()


def main(port=8000, origin="http://127.0.0.1:8001"):
    server = greenhttp.create_server(lambda req, res: forward(req, res, urlsplit(origin)))
    server.listen(int(port), "127.0.0.1")
    print("http://{}:{}/".format(*server.address()), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:3])
