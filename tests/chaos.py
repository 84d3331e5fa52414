"""Many requests to a server that closes its connections at the worst moments: `python -m tests.chaos 100000`.

Every seventh use of a connection ends with its close: before the answer, in its head, in its body, right after it, or
a little later, while the client takes it for idle. Each answer says whose it is, in its header and in its body.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

import greenhttp

from .support import bounded, eventually

SOCKETS = 50  # of the agent
AT_A_TIME = 120  # requests; so most of them wait for a socket
EVERY = 7  # which use of a connection ends it
POINTS = ("before", "head", "body", "after", "idle")


class ChaosServer:
    """Answers, and closes every seventh time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.uses = 0
        self.connections = 0
        self.closes: Counter[str] = Counter()
        self.received: Counter[str] = Counter()  # how often each request came
        self._server = StreamServer(("127.0.0.1", 0), self._serve, backlog=1000, spawn=Pool())
        self._server.start()
        self.port = int(self._server.server_port)

    def stop(self) -> None:
        """Close the listener; what serves a connection ends with it."""
        self._server.stop(timeout=1)

    def _serve(self, sock: Any, _: object) -> None:
        self.connections += 1
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = sock.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                while len(buffer) < length:
                    data = sock.recv(65536)
                    if not data:
                        return
                    buffer += data
                body, buffer = buffer[:length], buffer[length:]
                identity = head.split(b" ")[1][1:].decode()
                assert not body or body == identity.encode() * (length // len(identity))
                self.received[identity] += 1
                if not self._answer(sock, identity):
                    return
        except OSError:  # the client gave up
            pass
        finally:
            sock.close()

    def _answer(self, sock: Any, identity: str) -> bool:
        """Answer, or not. Returns whether the connection goes on."""
        self.uses += 1
        chance = self.random
        point = chance.choice(POINTS) if self.uses % EVERY == 0 else ""
        kind = chance.choice(("length", "length", "chunks", "chunks", "close"))
        head, body = response(identity, kind, chance)
        if point:
            self.closes[point] += 1
        elif kind == "close":
            self.closes["by its kind"] += 1
        if point == "before":
            whole = b""
        elif point == "head":
            whole = head[: chance.randrange(1, len(head) - 1)]
        elif point == "body":
            whole = head + body[: chance.randrange(len(body))]
        else:
            whole = head + body
        cut = chance.randrange(len(whole) + 1) if chance.random() < 0.5 else 0
        for part in (whole[:cut], whole[cut:]):
            if part:
                sock.sendall(part)
                gevent.sleep(0)
        if point == "idle":
            gevent.sleep(chance.random() * 0.005)
        elif point in ("before", "body") and chance.random() < 0.5:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
        return not point and kind != "close"


def response(identity: str, kind: str, chance: random.Random) -> tuple[bytes, bytes]:
    """Head and body of an answer; the body is the identity, often."""
    body = identity.encode() * chance.choice((1, 1, 10, 1000, 20_000))
    head = f"HTTP/1.1 200 OK\r\nX-Id: {identity}\r\nX-Size: {len(body)}\r\n"
    if kind == "length":
        head += f"Content-Length: {len(body)}\r\n"
    elif kind == "chunks":
        head += "Transfer-Encoding: chunked\r\n"
        middle = chance.randrange(1, len(body))
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:], b"") if part)
        body += b"0\r\n\r\n"
    else:
        head += "Connection: close\r\n"
    return f"{head}\r\n".encode(), body


@dataclass
class Report:
    """How the requests ended."""

    requests: int
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    closes: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    repeated: int = 0  # requests that came to the server twice
    wrong: list[str] = field(default_factory=list)  # what must not happen, in words

    @property
    def forgotten(self) -> int:
        """Requests that nobody waited for."""
        return self.outcomes["forgotten"]


class _Driver:
    def __init__(self, count: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = ChaosServer(seed + 1)
        self.agent = greenhttp.Agent(keep_alive=True, max_sockets=SOCKETS, max_free_sockets=SOCKETS)
        self.report = Report(count)
        self._methods: dict[str, str] = {}

    def run(self) -> Report:
        """Make all requests, and look at what is left."""
        began = time.perf_counter()
        pool = Pool(AT_A_TIME)
        for number in range(self.report.requests):
            # fixed length, so that an identity is never the beginning of another
            pool.spawn(self._guarded, f"{number:07d}{self.random.randrange(10**6):06d}")
        with bounded("the end of the last requests", 30):
            pool.join()
        report = self.report
        report.seconds = time.perf_counter() - began
        self._settle()
        report.closes, report.connections = self.server.closes, self.server.connections
        for identity, times in self.server.received.items():
            report.repeated += times > 1
            if times > (1 if self._methods[identity] == "POST" else 2):
                report.wrong.append(f"{self._methods[identity]} {identity} came {times} times")
        self.server.stop()
        return report

    def _settle(self) -> None:
        agent = self.agent
        eventually(lambda: not agent.sockets and not agent.requests and not agent._dialing, f"rest of {agent}")
        agent.destroy()
        eventually(lambda: not agent.pool, "the end of the agent's greenlets")
        eventually(lambda: not any(agent._deadlines._groups.values()), "the end of all deadlines")
        if agent.free_sockets:
            self.report.wrong.append(f"{agent} after its end")

    def _guarded(self, identity: str) -> None:
        try:
            with bounded(f"the end of request {identity}", 20):
                outcome = self._one(identity)
        except AssertionError as error:
            outcome = "hang or wrong answer"
            self.report.wrong.append(str(error))
        self.report.outcomes[outcome] += 1

    def _one(self, identity: str) -> str:
        chance = self.random
        method = self._methods[identity] = chance.choice(("GET", "GET", "GET", "PUT", "POST"))
        timeout = chance.choice((0, 30))  # which never strikes, and must not stay
        url = f"http://127.0.0.1:{self.server.port}/{identity}"
        request = greenhttp.request(url, method=method, agent=self.agent, timeout=timeout)
        body = identity.encode() * chance.choice((1, 10, 3000)) if method != "GET" else b""
        style = chance.random()
        if style < 0.35:
            return self._with_events(request, body, identity)
        request.end(body)
        if style < 0.37:
            return "forgotten"
        if style < 0.40:
            return self._interrupted(request, identity, chance.random() * 0.01)
        return self._waited_for(request, identity)

    def _waited_for(self, request: Any, identity: str) -> str:
        try:
            response = request.get_response()
        except OSError:
            return "error"
        try:
            body = response.read()
        except OSError:
            return "cut"
        self._compare(response, body, identity)
        return "response"

    def _interrupted(self, request: Any, identity: str, seconds: float) -> str:
        try:
            with gevent.Timeout(seconds):
                return self._waited_for(request, identity)
        except gevent.Timeout:
            return "interrupted"

    def _with_events(self, request: Any, body: bytes, identity: str) -> str:
        heard: list[str] = []
        chunks: list[bytes] = []
        closed = Event()

        def responded(response: Any) -> None:
            heard.append("response")
            response.on("data", chunks.append)
            response.on("aborted", lambda: heard.append("aborted"))
            response.on("end", lambda: (heard.append("end"), self._compare(response, b"".join(chunks), identity)))

        request.on("response", responded)
        request.on("error", lambda error: heard.append("error"))
        request.on("close", lambda: (heard.append("close"), closed.set()))
        request.end(body)
        closed.wait()
        gevent.sleep(0)  # anything after 'close' would be wrong
        outcome = {
            ("error", "close"): "error",
            ("response", "end", "close"): "response",
            ("response", "aborted", "close"): "cut",
            ("response", "close", "aborted"): "cut",
        }.get(tuple(heard))
        assert outcome is not None, f"{identity}: {heard}"
        return outcome

    def _compare(self, response: Any, body: bytes, identity: str) -> None:
        size = int(response.headers["x-size"])
        framed = "content-length" in response.headers or "transfer-encoding" in response.headers
        got = response.headers["x-id"]
        if got != identity or body != (identity.encode() * (size // len(identity)))[: None if framed else len(body)]:
            self.report.wrong.append(f"{identity} got an answer for {got}, {len(body)} of {size} bytes")


def run(count: int, seed: int = 7) -> Report:
    """Make `count` requests. Raises, or returns a report with what was `wrong`."""
    return _Driver(count, seed).run()


def main() -> None:
    """By hand."""
    logging.getLogger("greenhttp").addHandler(logging.NullHandler())
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    gevent.get_hub().threadpool.apply(int)
    before = len(os.listdir("/proc/self/fd"))
    report = run(count, int(sys.argv[2]) if len(sys.argv) > 2 else 7)
    gc.collect()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, "the end of all descriptors")
    print(
        f"{count} requests in {report.seconds:.1f} s on {report.connections} connections, {report.repeated} sent twice"
    )
    print(f"outcomes: {dict(report.outcomes)}")
    print(f"closed by the server: {dict(report.closes)}")
    print(f"wrong: {len(report.wrong)}", *report.wrong[:20], sep="\n  ")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
