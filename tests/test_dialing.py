"""Opening connections: which errors, which of several addresses, and that nothing of an attempt is left."""

from __future__ import annotations

import errno
import gc
import socket as stdlib_socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

import greenhttp
from greenhttp import Agent
from greenhttp.dialing import ATTEMPT_DELAY, ConnectError, HostNotFoundError, dial, dial_path

from .blackhole import blackhole
from .origin import Origin, ok
from .support import Heard, bounded, eventually

Resolve = Callable[..., None]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 and ::1 where nobody listens."""
    with stdlib_socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        yield int(held.getsockname()[1])


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """`resolve((host, port), ...)`: what every name stands for from now on."""

    def give(*addresses: tuple[str, int]) -> None:
        def getaddrinfo(host: str, port: int, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
            found = []
            for where in addresses:
                of = stdlib_socket.AF_INET6 if ":" in where[0] else stdlib_socket.AF_INET
                if family in (0, of):
                    found.append((of, kind, 0, "", (*where, 0, 0) if ":" in where[0] else where))
            return found

        monkeypatch.setattr(gevent.socket, "getaddrinfo", getaddrinfo)

    return give


def listener(host: str) -> Any:
    """A listening socket on a free port."""
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    found = gevent.socket.socket(family)
    found.bind((host, 0))
    found.listen(1000)
    return found


def no_greenlets_left() -> None:
    """Wait until no attempt runs any more."""
    eventually(lambda: not living(), "the end of the attempts")


def living() -> list[Any]:
    """The attempts that have begun and not ended."""
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, gevent.Greenlet) and found.started and not found.dead and "_attempt" in repr(found)
    ]


# --- errors ---


def test_refused(closed_port: int):
    """Behaviour 4.16"""
    with pytest.raises(ConnectionRefusedError) as caught, bounded("the error"):
        greenhttp.get(f"http://127.0.0.1:{closed_port}/").get_response()
    assert isinstance(caught.value, ConnectError)
    assert (caught.value.code, caught.value.errno) == ("ECONNREFUSED", errno.ECONNREFUSED)
    assert f"127.0.0.1 port {closed_port}" in str(caught.value)


def test_refused_as_an_event(closed_port: int):
    """Behaviours 4.15, 4.16"""
    heard = Heard()
    request = greenhttp.get(f"http://127.0.0.1:{closed_port}/")
    heard.listen(request, "error", "close", "response")
    heard.wait_for("close")
    assert heard.names == ["error", "close"]
    assert heard[0][1].code == "ECONNREFUSED"


def test_an_unknown_host():
    """Behaviour 4.16"""
    with pytest.raises(stdlib_socket.gaierror, match=r"nowhere\.invalid") as caught:
        greenhttp.get("http://nowhere.invalid:8/").get_response()
    assert isinstance(caught.value, HostNotFoundError)
    assert "port 8" in str(caught.value)


@pytest.mark.parametrize(("number", "code"), [("EAI_NONAME", "ENOTFOUND"), ("EAI_AGAIN", "EAI_AGAIN")])
def test_what_the_resolver_says(monkeypatch: pytest.MonkeyPatch, number: str, code: str):
    """Behaviour 4.16"""

    def fails(*_: object) -> None:
        raise stdlib_socket.gaierror(getattr(stdlib_socket, number), "its words")

    monkeypatch.setattr(gevent.socket, "getaddrinfo", fails)
    with pytest.raises(stdlib_socket.gaierror, match="its words") as caught:
        dial("some.test", 80)
    assert isinstance(caught.value, HostNotFoundError)
    assert (caught.value.code, caught.value.errno) == (code, getattr(stdlib_socket, number))


@pytest.mark.parametrize("host", ["x" * 300, "a..b", "\u0130.\x00"])
def test_what_cannot_be_the_name_of_a_host(host: str):
    with pytest.raises(HostNotFoundError) as caught:
        dial(host, 80)
    assert caught.value.code == "ENOTFOUND"


@pytest.mark.parametrize("whose", ["agent", "request"])
def test_too_slow(whose: str):
    """Behaviour 4.16"""
    agent = Agent(timeout=0.05 if whose == "agent" else 0)
    options = {"timeout": 0.05} if whose == "request" else {}
    with blackhole() as port:
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught, bounded("the timeout"):
            greenhttp.get(f"http://127.0.0.1:{port}/", agent=agent, **options).get_response()
        assert 0.04 < time.monotonic() - began < 1
    assert isinstance(caught.value, greenhttp.PeerTimeoutError)
    assert caught.value.code == "ETIMEDOUT"
    assert f"127.0.0.1 port {port} within 0.05 s" in str(caught.value)


def test_a_timeout_of_the_caller_passes_through():
    with blackhole() as port, pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as limit:
        dial("127.0.0.1", port, timeout=5)
    assert caught.value is limit


# --- several addresses ---


@pytest.mark.parametrize(("dead", "alive"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_an_address_that_refuses_costs_no_time(resolve: Resolve, closed_port: int, dead: str, alive: str):
    with listener(alive) as server:
        where = server.getsockname()[:2]
        resolve((dead, closed_port), where)
        began = time.monotonic()
        sock = dial("both.test", 80)
        assert time.monotonic() - began < ATTEMPT_DELAY
        assert sock.getpeername()[:2] == where
        assert sock.gettimeout() == 0
        sock.close()


@pytest.mark.parametrize(("dead", "alive"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_an_address_that_says_nothing_costs_little_time_and_leaves_nothing(resolve: Resolve, dead: str, alive: str):
    with blackhole(dead) as hole, listener(alive) as server:
        where = server.getsockname()[:2]
        resolve((dead, hole), where)
        began = time.monotonic()
        sock = dial("both.test", 80)
        assert ATTEMPT_DELAY * 0.8 < time.monotonic() - began < 4 * ATTEMPT_DELAY
        assert sock.getpeername()[:2] == where
        sock.close()
        no_greenlets_left()


def test_an_unreachable_address_costs_no_time(resolve: Resolve):
    with listener("127.0.0.1") as server:
        where = server.getsockname()[:2]
        resolve(("255.255.255.255", 80), where)  # connecting there is an error at once
        began = time.monotonic()
        sock = dial("both.test", 80)
        assert time.monotonic() - began < ATTEMPT_DELAY
        assert sock.getpeername()[:2] == where
        sock.close()


def test_the_families_alternate_and_the_systems_first_choice_comes_first(resolve: Resolve):
    with blackhole("::1") as six, blackhole() as four, listener("127.0.0.1") as server:
        # were they tried as they stand, the one that answers would be the fourth
        resolve(("::1", six), ("::1", six), ("::1", six), server.getsockname()[:2], ("127.0.0.1", four))
        began = time.monotonic()
        sock = dial("many.test", 80)
        assert time.monotonic() - began < 2 * ATTEMPT_DELAY
        sock.close()
        no_greenlets_left()


def test_when_all_refuse_the_last_error_is_told(resolve: Resolve, closed_port: int):
    resolve(("::1", closed_port), ("127.0.0.1", closed_port))
    with pytest.raises(ConnectionRefusedError, match=r"both\.test port 80"), bounded("the error"):
        dial("both.test", 80)


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_several_that_win_at_the_same_time(resolve: Resolve, monkeypatch: pytest.MonkeyPatch, turns: int):
    """The losers are closed: a socket that is only dropped is an error here. They win `turns` of the loop later."""
    both_connected, connected = Event(), []

    class Late(gevent.socket.socket):
        def connect(self, where: Any) -> None:
            super().connect(where)
            connected.append(where)
            if len(connected) == 1:
                both_connected.wait()
            else:
                both_connected.set()
                for _ in range(turns):
                    gevent.sleep(0)

    with listener("127.0.0.1") as one, listener("127.0.0.1") as other:
        resolve(one.getsockname()[:2], other.getsockname()[:2])
        monkeypatch.setattr(gevent.socket, "socket", Late)
        sock = dial("many.test", 80)
        assert len(connected) == 2
        assert sock.getpeername()[:2] in connected
        sock.close()
        no_greenlets_left()
        gc.collect()


@pytest.mark.parametrize("count", [1, 3])
def test_a_dial_that_is_killed_leaves_nothing(resolve: Resolve, count: int):
    with blackhole() as hole:
        resolve(*[("127.0.0.1", hole)] * count)
        dialer = gevent.spawn(dial, "many.test", 80)
        gevent.sleep(ATTEMPT_DELAY * 1.2 if count > 1 else 0.01)  # that a second attempt runs has no event
        dialer.kill()
        no_greenlets_left()


def test_a_timeout_over_several_addresses_leaves_nothing(resolve: Resolve):
    with blackhole() as hole:
        resolve(*[("127.0.0.1", hole)] * 3)
        with pytest.raises(greenhttp.PeerTimeoutError, match=r"many\.test port 80"):
            dial("many.test", 80, timeout=ATTEMPT_DELAY * 1.5)
        no_greenlets_left()


def test_a_request_to_a_name_with_a_dead_first_address(origin: Origin, resolve: Resolve, closed_port: int):
    origin.script(ok(b"x"))
    resolve(("::1", closed_port), ("127.0.0.1", origin.port))
    began = time.monotonic()
    request = greenhttp.get(f"http://both.test:{origin.port}/")
    assert request.get_response().read() == b"x"
    assert time.monotonic() - began < ATTEMPT_DELAY
    assert origin.requests[0]["host"] == f"both.test:{origin.port}"


def test_localhost_is_found(origin: Origin):
    """By the system's own resolver, whatever families it has."""
    origin.script(ok(b"x"))
    assert greenhttp.get(f"http://localhost:{origin.port}/").get_response().read() == b"x"


# --- options ---


def test_local_address(origin: Origin):
    """Behaviour 11.5"""
    origin.script(ok())
    greenhttp.get(origin.url(), local_address="127.0.0.2").get_response()
    request = greenhttp.get(origin.url(), local_address="127.0.0.3", agent=Agent(keep_alive=True))
    request.get_response()
    peers = [peer.sock.getpeername()[0] for peer in origin.peers if not peer.sock.closed]
    assert peers[-1] == "127.0.0.3"
    assert request.socket.local_address[0] == "127.0.0.3"
    request.agent.destroy()


def test_local_address_chooses_the_family(resolve: Resolve, closed_port: int):
    with listener("127.0.0.1") as server:
        resolve(("::1", closed_port), server.getsockname()[:2])
        sock = dial("both.test", 80, local_address="127.0.0.2")
        assert sock.getsockname()[0] == "127.0.0.2"
        sock.close()
    resolve(("127.0.0.1", closed_port), ("::1", closed_port))
    with pytest.raises(ConnectionRefusedError):
        dial("both.test", 80, local_address="::1")


def test_a_local_address_that_is_not_ours(origin: Origin):
    with pytest.raises(ConnectError) as caught:
        greenhttp.get(origin.url(), local_address="192.0.2.1").get_response()
    assert caught.value.code == "EADDRNOTAVAIL"


@pytest.mark.parametrize(("family", "host"), [(4, "127.0.0.1"), (6, "::1")])
def test_family(resolve: Resolve, family: int, host: str):
    with listener("127.0.0.1") as four, listener("::1") as six:
        resolve(six.getsockname()[:2], four.getsockname()[:2])
        sock = dial("both.test", 80, family=family)
        assert sock.getpeername()[0] == host
        sock.close()


def test_an_address_of_the_other_family():
    with pytest.raises(HostNotFoundError):
        dial("127.0.0.1", 80, family=6)


def test_socket_path(tmp_path: Any):
    where = str(tmp_path / "socket")
    server = greenhttp.create_server(lambda req, res: res.end(req.headers["host"]))
    server.listen(where)
    agent = Agent(keep_alive=True)
    for reused in (False, True):
        request = greenhttp.get("http://name.test/", socket_path=where, agent=agent)
        assert request.get_response().read() == b"name.test"
        assert request.reused_socket is reused
    agent.destroy()
    server.close()
    assert server.join(5)


def test_socket_path_where_nobody_listens(tmp_path: Any):
    where = str(tmp_path / "socket")
    with pytest.raises(ConnectError) as caught:
        greenhttp.get("http://name.test/", socket_path=where).get_response()
    assert caught.value.code == "ENOENT"
    assert where in str(caught.value)
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as bound:
        bound.bind(where)
        with pytest.raises(ConnectionRefusedError) as refused:
            dial_path(where)
    assert isinstance(refused.value, ConnectError)
    assert refused.value.code == "ECONNREFUSED"


def test_a_unix_socket_that_is_full(tmp_path: Any):
    where = str(tmp_path / "socket")
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as full, stdlib_socket.socket(stdlib_socket.AF_UNIX) as filler:
        full.bind(where)
        full.listen(0)
        filler.connect(where)
        began = time.process_time()
        with pytest.raises(TimeoutError, match=r"within 0\.2 s") as caught, bounded("the timeout"):
            dial_path(where, timeout=0.2)
        assert isinstance(caught.value, greenhttp.PeerTimeoutError)
        assert time.process_time() - began < 0.1, "it waited busily"
        dialer = gevent.spawn(dial_path, where)
        gevent.sleep(0.01)
        full.accept()[0].close()
        dialer.get(timeout=5).close()
