"""One connection of a server: the owner of its socket, its parser and its queue of exchanges.

Requests may be answered in any order; their answers leave in the order of the requests. The response in front has its
turn on the socket, those behind it hold their bytes. Everything here runs in the hub or in the greenlet whose call
caused it, never blocks, and enters workers for all user code.
"""

from __future__ import annotations

import enum
import time
from functools import lru_cache
from typing import Any, Protocol

import gevent
from gevent.pool import Pool

from .deadlines import NEVER
from .errors import ConnectionLostError, HTTPError, PeerTimeoutError, RemoteProtocolError
from .events import Listener
from .framing import RequestHead
from .incoming import IncomingMessage, aborted_error
from .outgoing import BODY
from .pace import SendPace
from .parser import End, ParserLimits, RequestParser
from .rate import RateMeter
from .response import ServerResponse
from .sockets import LINGER_BYTES, Socket
from .status import SAFE_METHODS, STATUS_CODES
from .workers import ENDINGS, Workers, deliver, log

__all__ = ["ConnectionServer", "ServerConnection"]

MAX_PIPELINED = 64  # exchanges of one connection under way; the rest waits as bytes
MAX_DRAIN = 64 * 1024  # bytes of an unread body thrown away so that the connection can be kept
KEEP_ALIVE_GRACE = 1.0  # seconds an idle connection stays open longer than was announced


class ConnectionServer(Protocol):
    """What a connection asks of its server."""

    closing: bool
    headers_timeout: float
    http_allow_half_open: bool
    ignore_upgrade: bool
    max_requests_per_socket: int
    min_data_rate: float
    parser_limits: ParserLimits
    pool: Pool | None
    request_timeout: float

    @property
    def idle_timeout(self) -> float: ...
    def emit(self, event: str, *args: Any) -> bool: ...
    def listener_count(self, event: str) -> int: ...
    def listeners(self, event: str) -> tuple[Listener, ...]: ...
    def may_handle(self, connection: ServerConnection) -> bool: ...
    def pool_has_room(self) -> None: ...
    def connection_closed(self, connection: ServerConnection) -> None: ...


class Phase(enum.IntEnum):
    """Where a connection stands."""

    NEW = 0  # no byte of a request yet
    IDLE = 1  # between requests
    HEAD = 2  # a head is under way
    BUSY = 3  # at least one exchange is
    LEAVING = 4  # no more requests; the last bytes go out, or the socket was given away


NEW, IDLE, HEAD, BUSY, LEAVING = Phase


@lru_cache(maxsize=64)
def _keep_alive_lines(seconds: int, more: int) -> bytes:
    if not seconds and not more:
        return b"Connection: keep-alive\r\n"
    hints = [f"timeout={seconds}"] if seconds else []
    if more:
        hints.append(f"max={more}")
    return f"Connection: keep-alive\r\nKeep-Alive: {', '.join(hints)}\r\n".encode("ascii")


def _ended_in_a_head() -> RemoteProtocolError:
    return RemoteProtocolError("Parse Error: the connection ended in a head", code="HPE_INVALID_EOF_STATE")


class ServerConnection:
    """Serves one client until its end."""

    __slots__ = (
        "_behind",
        "_drain_left",
        "_front",
        "_idle_limit",
        "_parser",
        "_peer_ended",
        "_phase",
        "_rate",
        "_receiving",
        "_refusal",
        "_requests",
        "_send_pace",
        "_since",
        "_upgrade",
        "_workers",
        "persistence",
        "persists",
        "server",
        "socket",
    )

    def __init__(self, server: ConnectionServer, socket: Socket) -> None:
        self.server = server
        self.socket = socket
        self._workers: Workers = socket.workers
        self._parser = RequestParser(server.parser_limits)
        self._phase = NEW
        self._since = socket.last_activity  # when the phase began; of BUSY: when the head of its body's request did
        self._front: ServerResponse | None = None  # whose turn it is
        self._behind: list[ServerResponse] | None = None  # whose turn comes, in order
        self._receiving: IncomingMessage | None = None  # whose body is on its way
        self._drain_left = -1  # bytes of that body still thrown away; negative: it is delivered
        self._requests = 0
        self._refusal: HTTPError | None = None  # why no more requests are read; told after the answers due
        self._upgrade: IncomingMessage | None = None  # waits for the answers before it
        self._peer_ended = False
        self._rate: RateMeter | None = None  # of the body that is received
        self._send_pace: SendPace | None = None  # once the client was too slow to take an answer at once
        self._idle_limit = server.idle_timeout + KEEP_ALIVE_GRACE if server.idle_timeout else NEVER
        self.persists = not server.max_requests_per_socket
        self.persistence = _keep_alive_lines(int(server.idle_timeout), server.max_requests_per_socket)
        socket.owner = self
        self._schedule(socket.last_activity)

    def __repr__(self) -> str:
        return f"<ServerConnection {self._phase.name.lower()} {self.describe()}>"

    def describe(self) -> str:
        """Who, and what it is at, for a log line."""
        peer = f"{self.socket.remote_address}:{self.socket.remote_port}" if self.socket.remote_address else "unix"
        if self._front is None:
            return peer
        return f"{peer} {self._front.req.method} {self._front.req.url}"

    @property
    def closing(self) -> bool:
        """Whether the server is closing."""
        return self.server.closing

    # --- in: called by the socket, in the hub ---

    def data_received(self, data: bytes) -> None:
        """In the hub, bytes of requests (b'': there is room again): take events out of the parser while there is
        room for them."""
        parser = self._parser
        socket = self.socket
        if self._front is None and not socket.queued:
            known = parser.known(data)
            if known is not None and (self.server.pool is None or self.server.may_handle(self)):
                self._open_exchange(known)
                return
        if parser.buffered:
            parser.receive(data)
        else:
            parser.buffered = data
        while self._phase is not LEAVING:
            if (self._front is not None or socket.queued or self.server.pool is not None) and not self._has_room():
                socket.pause_reading()
                break
            if self._front is not None and self._must_run_alone():
                if len(parser.buffered) > socket.high_water_mark:
                    socket.pause_reading()  # else reading goes on, so that the client's end is seen
                break
            try:
                event = parser.next_event()
            except RemoteProtocolError as error:
                self._refuse(error)
                break
            if type(event) is RequestHead:
                if not event.complete:
                    self._open_exchange(event)
                elif parser.buffered:
                    socket.corked = True  # the answers to pipelined requests leave together
                    self._open_exchange(event)
                else:
                    self._open_exchange(event)
                    break
            elif event is None:
                if self._receiving is not None and self._rate is None:
                    self._time_body()
                break
            elif type(event) is End:
                self._body_ended(event)
            else:
                self._body_received(event)  # type: ignore[arg-type]
        if socket.corked:
            socket.uncork()
        if self._front is None and (parser.buffered or self._phase is HEAD):
            self._settle()
            if self._peer_ended and parser.mid_head:
                self._refuse(_ended_in_a_head())

    def _time_body(self) -> None:
        """More of a body is awaited: from now on the client must keep to the least data rate."""
        socket, request = self.socket, self._receiving
        assert request is not None
        self._rate = RateMeter(self.server.min_data_rate, socket.last_activity, socket.bytes_read)
        if request.head.framing.expects_continue:
            self._rate.pause(socket.last_activity, socket.bytes_read)  # the client waits for our 100
        self._schedule(socket.last_activity)

    def _has_room(self) -> bool:
        behind = self._behind
        if self._refusal is not None or self._upgrade is not None:
            return False
        if self._front is not None and self._front.is_last:
            return False
        if behind is not None and len(behind) >= MAX_PIPELINED - 1:
            return False
        if self.socket.queued > self.socket.high_water_mark:
            return False
        receiving = self._receiving
        if receiving is not None:
            inflow = receiving.inflow
            return inflow is None or self._drain_left >= 0 or inflow.size < inflow.mark
        most = self.server.max_requests_per_socket
        if most and self._requests >= most:
            return False
        return self.server.may_handle(self)

    def _must_run_alone(self) -> bool:
        """Whether the next request has to wait for those under way, because it or the last of them may have effects
        (RFC 9112 section 9.3.2)."""
        following = self._parser.next_method if self._receiving is None else ""
        if not following:
            return False
        last = self._behind[-1] if self._behind else self._front
        assert last is not None
        return last.req.method not in SAFE_METHODS or following not in SAFE_METHODS

    def _settle(self) -> None:
        """No exchange is under way: is a head, or is the connection idle?"""
        if self._phase not in (NEW, IDLE, HEAD):
            return
        now = self.socket.last_activity
        if self._parser.mid_head:
            if self._phase is not HEAD:
                if self._phase is NEW:
                    now = self._since  # the first head is timed from the connect
                self._phase, self._since = HEAD, now
                self._schedule(now)
        elif self._phase is HEAD:
            self._phase = IDLE

    def _open_exchange(self, head: RequestHead) -> None:
        """In the hub: a request has begun; a worker will run its handler."""
        socket = self.socket
        if self._phase is not HEAD:
            self._since = socket.last_activity
        self._phase = BUSY
        self._requests += 1
        request = IncomingMessage(head, self, socket)
        event = "request"
        if not head.framing.ordinary:
            if head.framing.upgrade and not self._ignores_upgrade(head):
                self._upgrade = request
                if self._front is None:
                    self._hand_over()
                return
            if head.framing.expects_continue and self.server.listener_count("check_continue"):
                event = "check_continue"
        if not head.complete:
            self._receiving = request
            self._drain_left = -1
            request.open_body()
        response = ServerResponse(request, self, socket)
        if self._front is None:
            self._front = response
        else:
            response.hold()
            if self._behind is None:
                self._behind = []
            self._behind.append(response)
        workers = self._workers
        if self.server.pool is not None:
            workers.enter(self._run_pooled, event, response)  # now, for it counts
        elif socket.corked or not head.complete:
            # now, for answers that leave together, and for a handler that may answer whatever becomes of the body
            workers.enter(self._run_handler, event, response)
        else:
            workers.soon(self._run_handler, event, response)

    def _ignores_upgrade(self, head: RequestHead) -> bool:
        """Whether to answer an upgrade request as if it were none.

        `h2c` is an offer of clients that are content with HTTP/1.1 (curl --http2); nobody here could accept it.
        """
        if head.framing.method == "CONNECT":
            return False
        if not self.server.ignore_upgrade:
            fields = head.fields
            offers = [v.lower() for n, v in zip(fields[::2], fields[1::2], strict=True) if n.lower() == b"upgrade"]
            if offers != [b"h2c"] or self.server.listener_count("upgrade"):
                return False
        self._parser.ignore_upgrade(head)
        return True

    def _body_received(self, data: bytes) -> None:
        request = self._receiving
        if request is None:
            return
        if self._drain_left >= 0:
            self._drain_left -= len(data)
            if self._drain_left < 0:
                self._leave()
            return
        assert request.inflow is not None
        if not request.inflow.push(data):
            self.socket.pause_reading()
            if self._rate is not None:
                self._rate.pause(time.monotonic(), self.socket.bytes_read)

    def _body_ended(self, end: End) -> None:
        request, self._receiving = self._receiving, None
        self._rate = None
        if request is None:
            return
        drained = self._drain_left >= 0
        self._drain_left = -1
        request.finish(end.fields)
        if self._front is None:
            if not drained:
                request.exchange_over()
            if self._phase is not LEAVING:
                self._to_idle()

    def before_end(self) -> None:
        """In the hub: the client has ended its side, or is gone. A handler that waits for its turn begins before that
        is known."""
        self._workers.turn()

    def eof_received(self) -> None:
        """The client has ended its side."""
        self._peer_ended = True
        self.persists = False
        if self._phase is LEAVING:
            return
        if self._parser.mid_head:
            self._refuse(_ended_in_a_head())
            return
        nothing_due = self._front is None and self._upgrade is None
        if nothing_due or not self.server.http_allow_half_open or self._receiving is not None:
            self._leave()

    # --- a request's way through the workers ---

    def _run_handler(self, event: str, response: ServerResponse) -> None:
        """In a worker."""
        if response.req._fate:
            return  # the client went away before its turn came: no listener would hear of that
        try:
            for listener in self.server.listeners(event):  # `emit` would add 1 KB to the stack of a blocked handler
                listener(response.req, response)
        except ENDINGS:
            self._fail_exchange(response)
            raise
        except BaseException:
            log.exception("the %r listener raised on %s %s", event, response.req.method, response.req.url)
            self._fail_exchange(response)
        if response._listeners is not None:
            response.tell_finish()
        if self._receiving is None:
            return
        request = response.req
        if (
            self._receiving is request
            and self._drain_left < 0
            and response.writable_ended
            and self._phase is not LEAVING
        ):
            inflow = request.inflow
            if inflow is not None and not inflow.has_reader:
                self._discard_body(request)  # the handler has read a part of it, and left

    def _run_pooled(self, event: str, response: ServerResponse) -> None:
        """In a worker: with a place in the server's pool."""
        pool = self.server.pool
        worker: Any = gevent.getcurrent()
        assert pool is not None
        pool.add(worker)  # there is room: `may_handle` said so, in this turn
        try:
            self._run_handler(event, response)
        finally:
            pool.discard(worker)  # the server hears of it

    def _fail_exchange(self, response: ServerResponse) -> None:
        """User code raised: `500` if nothing was sent yet, else the client sees that the body is cut."""
        if response.writable_ended or response.destroyed or self.socket.destroyed:
            return
        if response.drop_unsent():
            response.status_code = 500
            response.status_message = None
            response.set_header("Content-Type", "text/plain; charset=utf-8")
            response.set_header("Connection", "close")
            response.end("Internal Server Error")
        else:
            self.socket.destroy()

    def listener_failed(self, message: Any) -> None:
        """In a worker: a `'data'` or `'end'` listener of a request raised."""
        for response in (self._front, *(self._behind or ())):
            if response is not None and response.req is message:
                self._fail_exchange(response)

    def message_heard(self, message: IncomingMessage) -> None:
        """Somebody listens to a request: nothing follows."""

    def message_read(self, message: IncomingMessage) -> None:
        """A request was read to its end: nothing follows."""

    def message_dropped(self, message: IncomingMessage, error: Exception | None) -> None:
        """The handler destroys a request."""
        self.socket.destroy(error)

    def read_interrupted(self, message: IncomingMessage) -> None:
        """A read was given up: nothing follows, another may go on."""

    def write_failed(self, error: OSError) -> None:
        """The client takes no more."""
        self.socket.destroy(error)

    def leave_agent(self) -> None:
        """No agent is here."""

    def body_wanted(self, message: IncomingMessage) -> None:
        """A reader waits for the body of `message`."""
        if message is not self._receiving:
            return
        front = self._front
        if (
            message.head.framing.expects_continue
            and front is not None
            and front.req is message
            and not front.headers_sent
        ):
            message.continue_sent()
            self.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._rate is not None:
            self._rate.resume(time.monotonic(), self.socket.bytes_read)
        if not self.socket.reading_on:
            self.resume_soon()

    def resume_soon(self) -> None:
        """From any greenlet: there may be room again."""
        self._workers.hub.loop.run_callback(self._resume)

    def _resume(self) -> None:
        """In the hub."""
        if self._phase is not LEAVING and not self.socket.destroyed:
            if not self._peer_ended:
                self.socket.resume_reading()
            self.data_received(b"")
        pool = self.server.pool
        if pool is not None and not pool.full():
            self.server.pool_has_room()  # the room was not used here: wake the next

    # --- out: called by responses ---

    def may_persist(self, response: ServerResponse, *, last: bool) -> bool:
        """Whether the connection may be kept after `response`, as far as we know when its head is written.

        Args:
            response: one of this connection's.
            last: whether it ends with what is sent next.
        """
        server = self.server
        framing = response.req.head.framing
        if not framing.keep_alive or framing.expects_continue:
            return False  # a client that waits for a 100 may send its body, or may not: who knows what comes next
        if last and self._leaves_too_much(response.req):
            return False
        if self.persists:
            return True
        if server.closing or self._peer_ended:
            behind = self._behind
            if not behind or behind[-1] is response:
                return False  # else those behind it are still to be delivered
        return not server.max_requests_per_socket or self._number(response) < server.max_requests_per_socket

    def _leaves_too_much(self, request: IncomingMessage) -> bool:
        """Whether the rest of its body is unread, and is more than is thrown away for the next request, or may be."""
        if request is not self._receiving:
            return False
        inflow, coming = request.inflow, self._parser.body_left
        assert inflow is not None
        return not inflow.asked and (coming is None or inflow.size + coming > MAX_DRAIN)

    def _number(self, response: ServerResponse) -> int:
        """The place of `response` among all of the connection, from 1."""
        queue = [self._front, *(self._behind or ())]
        return self._requests - (len(queue) - 1 - queue.index(response)) if response in queue else self._requests

    def response_given(self, response: ServerResponse) -> None:
        """All bytes of the response in front are with the socket: whose turn is it?"""
        if response is not self._front or self._phase is LEAVING:
            return
        request = response.req
        if response.is_last:
            self._front = None
            self._close_request(request)
            self._leave()
            return
        receiving = self._receiving is request
        if receiving:
            inflow = request.inflow
            assert inflow is not None
            if not inflow.asked and not self._discard_body(request):
                return
        elif self.socket.queued:
            self._close_request(request)
        else:
            request.exchange_over()
        behind = self._behind
        if behind:
            self._front = behind.pop(0)
            self._front.take_turn()
            return
        self._front = None
        if self._refusal is not None:
            self._refuse_now()
        elif self._upgrade is not None:
            self._workers.hub.loop.run_callback(self._hand_over)
        elif not receiving:
            self._to_idle()

    def _discard_body(self, request: IncomingMessage) -> bool:
        """Nobody reads the rest of a body: make way for the next request, unless it is too much. Returns whether."""
        inflow = request.inflow
        assert inflow is not None
        self._drain_left = MAX_DRAIN - inflow.size
        inflow.chunks.clear()
        inflow.size = 0
        self._close_request(request)
        if self._rate is not None:  # now it is the client again that we wait for
            self._rate.resume(time.monotonic(), self.socket.bytes_read)
        if self._drain_left < 0:
            self._front = None
            self._leave()
            return False
        self.resume_soon()
        return True

    def _close_request(self, request: IncomingMessage) -> None:
        """The answer was given to the socket: the exchange is over when the kernel has it."""
        if not self.socket.queued:
            request.exchange_over()
        else:
            self.socket.when_sent(lambda error: request.abort(aborted_error()) if error else request.exchange_over())

    def _to_idle(self) -> None:
        if self._peer_ended and (self._parser.mid_head or not self._parser.buffered):
            self._leave()  # no more to answer
            return
        socket = self.socket
        self._phase = IDLE
        self._since = socket.last_activity
        deadline = self._since + self._idle_limit
        if deadline < socket.due:
            socket.deadlines.schedule(socket, deadline)
        if self._parser.buffered or not socket.reading_on:
            self.resume_soon()

    def write_blocked(self) -> None:
        """The client does not take what is sent: from now on it must keep to the least data rate."""
        if self._send_pace is None:
            given = self._front.body_size if self._front is not None else 0
            head_start = max(0, given - self.socket.queued)
            self._send_pace = SendPace(self.socket, self.server.min_data_rate, head_start)
        else:
            self._send_pace.resume()

    def drained(self) -> None:
        """The socket's queue is empty."""
        if self._send_pace is not None:
            self._send_pace.pause()
            if self._front is None:
                self._send_pace = None
        if self._front is not None:
            self._front.drained()
        if not self.socket.reading_on and not self.socket.corked:
            self.resume_soon()

    # --- refusals ---

    def _refuse(self, error: HTTPError) -> None:
        """No more is read: `error` is told to the client after the answers that are still due."""
        if self._refusal is not None or self._phase == LEAVING:
            return
        self._refusal = error
        self.socket.pause_reading()
        request, self._receiving = self._receiving, None
        if request is not None:
            queue = [self._front, *(self._behind or ())]
            for response in queue:
                if response is not None and response.req is request:
                    self._supersede(response)  # first, or what a reader makes of the error would be the answer
                    request.abort(error)
                    return
            request.abort(error)
            self._leave()  # its answer was given already: there can be no second one
            return
        if self._front is None:
            self._refuse_now()

    def _supersede(self, response: ServerResponse) -> None:
        """The body of a request was bad: the refusal takes the place of its response, if that has not begun."""
        if response is self._front:
            begun = response._stage >= BODY
            self._front = None
            response.lost(aborted_error())
            if begun:
                self._leave()
            else:
                self._refuse_now()
        else:
            assert self._behind is not None
            self._behind.remove(response)
            response.lost(aborted_error())

    def _refuse_now(self) -> None:
        error = self._refusal
        assert error is not None
        socket = self.socket
        if self.server.listener_count("client_error"):
            self._phase = LEAVING
            socket.owner = None
            socket.lingers = LINGER_BYTES  # what follows is thrown away, so that the peer's end is seen
            socket.resume_reading()
            self._workers.dispatch(self._tell_client_error, error)
            self._forget()
            return
        status = getattr(error, "status_hint", 400)
        socket.send(f"HTTP/1.1 {status} {STATUS_CODES[status]}\r\nConnection: close\r\n\r\n".encode("ascii"))
        self._leave()
        if self.server.listener_count("refused"):
            self._workers.dispatch(deliver, self.server, "refused", error, socket)

    def _tell_client_error(self, error: Exception) -> None:
        """In a worker."""
        if not deliver(self.server, "client_error", error, self.socket):
            self.socket.destroy()

    # --- another protocol ---

    def _hand_over(self) -> None:
        """In the hub: the socket goes to the listener of 'upgrade' or 'connect', or is closed."""
        request = self._upgrade
        if request is None or self._phase == LEAVING:
            return
        event = "connect" if request.method == "CONNECT" else "upgrade"
        socket = self.socket
        rest = self._parser.take_rest()
        self._phase = LEAVING
        if not self.server.listener_count(event):
            request.exchange_over()
            self._forget()
            if socket.queued:
                self.write_blocked()
            socket.close_gently()
            return
        socket.owner = None
        self._forget()
        if self._peer_ended:
            socket._reading().finish()
        else:
            socket.resume_reading()
        self._workers.enter(self._run_upgrade, event, request, rest)

    def _run_upgrade(self, event: str, request: IncomingMessage, rest: bytes) -> None:
        """In a worker."""
        try:
            self.server.emit(event, request, self.socket, rest)
        except ENDINGS:
            self.socket.destroy()
            raise
        except BaseException:
            log.exception("the %r listener raised on %s %s", event, request.method, request.url)
            self.socket.destroy()

    # --- the end ---

    def wind_down(self) -> None:
        """The server closes: nothing may follow what is under way."""
        self.persists = False

    def close_if_idle(self, before: float = NEVER) -> None:
        """Close the connection if nothing has moved on it since `before`, and no request is under way or unread."""
        if self._phase not in (NEW, IDLE) or self._parser.buffered:
            return
        if self.socket.last_activity <= before and self.socket.is_quiet():
            self._leave()

    def _leave(self) -> None:
        """No more requests: what was given to the socket goes out, then it closes. What is unfinished is aborted."""
        if self._phase is LEAVING:
            return
        self._phase = LEAVING
        self._abort_exchanges(aborted_error())
        socket = self.socket
        socket.when_sent(lambda _: self._forget())  # until then the server waits for it in `close()`
        if socket.queued:
            self.write_blocked()  # it will not hear of that again: it lets go of the socket
        if self._peer_ended:
            socket.owner = None
            socket.end()
            socket.when_sent(lambda _: socket.destroy())
        else:
            socket.close_gently()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        if self._phase is LEAVING:
            return
        self._phase = LEAVING
        mid_exchange = self._front is not None or self._receiving is not None
        self._abort_exchanges(error if isinstance(error, ConnectionLostError) else aborted_error())
        if isinstance(error, OSError) and mid_exchange and self.server.listener_count("client_error"):
            self._workers.dispatch(self._tell_client_error, error)
        self._forget()

    def _abort_exchanges(self, error: Exception) -> None:
        front, behind, receiving = self._front, self._behind, self._receiving
        self._front = self._behind = self._receiving = None
        for response in (front, *(behind or ())):
            if response is not None:
                response.req.abort(error)
                response.lost(error)
        if receiving is not None:
            receiving.abort(error)
        if self._upgrade is not None:
            self._upgrade.abort(error)

    def _forget(self) -> None:
        """The connection serves no more."""
        self.server.connection_closed(self)

    # --- time ---

    def _schedule(self, now: float) -> None:
        deadline = self.check_deadlines(now, strike=False)
        if self.socket.timeout:
            deadline = min(deadline, self.socket.last_activity + self.socket.timeout)
        if deadline < self.socket.due:
            self.socket.deadlines.schedule(self.socket, deadline)

    def check_deadlines(self, now: float, *, strike: bool = True) -> float:
        """In the hub: act on what is over (if `strike`), and tell when to look again."""
        if self._phase is LEAVING:
            return NEVER
        server = self.server
        phase = self._phase
        deadline = NEVER
        if phase == IDLE and self._parser.buffered:
            self._since = now  # its next request is here: that time is ours, not the client's
        elif phase != BUSY and not self.socket.reading_on and not self.socket.queued:
            self._since = now  # it waits for the pool: ours too
        if phase == IDLE:
            deadline = self._since + self._idle_limit
            if strike and deadline <= now:
                self._leave()
                return NEVER
            return deadline
        if phase in (NEW, HEAD):
            if server.headers_timeout:
                deadline = self._since + server.headers_timeout
                if strike and deadline <= now:
                    self._refuse(PeerTimeoutError("the head took too long", code="ERR_HTTP_REQUEST_TIMEOUT"))
                    return NEVER
            return deadline
        if self._receiving is not None:
            if server.request_timeout:
                deadline = self._since + server.request_timeout
                if strike and deadline <= now:
                    self._refuse(PeerTimeoutError("the request took too long", code="ERR_HTTP_REQUEST_TIMEOUT"))
                    return NEVER
            if self._rate is not None:
                deadline = min(deadline, self._rate.next_check(now))
                if strike and self._rate.too_slow(now, self.socket.bytes_read):
                    self._refuse(PeerTimeoutError("the body came too slowly", code="ERR_HTTP_REQUEST_TIMEOUT"))
                    return NEVER
        return deadline

    def timed_out(self) -> bool:
        """In the hub, nothing was sent or received for the socket's timeout. Returns whether somebody hears of it."""
        heard = [
            emitter
            for emitter in (self._receiving, self._front, self.server)
            if emitter is not None and emitter.listener_count("timeout")
        ]
        if heard and self.socket.is_new_silence():
            for emitter in heard:
                self._workers.enter(deliver, emitter, "timeout", self.socket)
        # an idle connection has a time limit of its own, a little longer than announced
        return bool(heard) or self._phase == IDLE
