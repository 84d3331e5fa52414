"""One connection of a client: the owner of its socket and its parser, and of the exchange that it is at.

It serves one request after another, and goes back to its agent in between. Everything here runs in the hub or in the
greenlet whose call caused it, never blocks, and enters workers for all user code.
"""

from __future__ import annotations

import enum
import weakref
from time import monotonic
from typing import Any, Protocol

from .deadlines import NEVER
from .errors import ConnectionLostError, HTTPError, PeerTimeoutError, RemoteProtocolError
from .framing import ResponseHead
from .incoming import IncomingMessage, aborted_error
from .parser import End, ResponseLimits, ResponseParser
from .sockets import Socket
from .streams import Inflow, Progress, errno_code
from .workers import Workers, deliver

__all__ = ["ClientConnection", "ConnectionAgent", "Exchange", "hang_up"]

_SAFE_SIZE = 4000  # bytes of a head that cannot be over the usual limit of lines
MAX_DRAIN = 1024 * 1024  # bytes of a body that nobody wants, thrown away so that the connection can be kept
PEEK_AFTER = 1.0  # seconds of rest after which a free socket is looked at before it is used again
HINT_MARGIN = 1.0  # seconds before the end of the server's `Keep-Alive: timeout=` from which on it is not used again


class Exchange(Protocol):
    """What a connection asks of, and tells, its request. None of these blocks."""

    extras: Any
    method: str
    should_keep_alive: bool

    @property
    def destroyed(self) -> bool: ...
    @property
    def timeout(self) -> float: ...
    def too_many(self, head: ResponseHead) -> bool: ...
    @property
    def all_sent(self) -> bool: ...
    @property
    def may_leave(self) -> bool: ...
    @property
    def is_heard(self) -> bool: ...
    @property
    def is_awaited(self) -> bool: ...
    def assigned(self, connection: Any, *, reused: bool) -> None: ...
    def may_retry(self) -> bool: ...
    def informed(self, message: IncomingMessage) -> None: ...
    def responded(self, message: IncomingMessage) -> None: ...
    def handed_over(self, message: IncomingMessage, socket: Socket, rest: bytes) -> None: ...
    def drained(self) -> None: ...
    def failed(self, error: Exception) -> None: ...
    def completed(self, *, cut: bool = False) -> None: ...
    def listener_count(self, event: str) -> int: ...
    def emit(self, event: str, *args: Any) -> bool: ...


class ConnectionAgent(Protocol):
    """What a connection tells its agent. None of these blocks."""

    limits: ResponseLimits
    timeout: float

    def connection_free(self, connection: ClientConnection) -> None: ...
    def connection_gone(self, connection: ClientConnection, retry: Any = None) -> None: ...


class Phase(enum.IntEnum):
    """What a connection is at."""

    FREE = 0  # no request
    WAITING = 1  # for the head of the response
    BODY = 2  # of the response, on its way
    RECEIVED = 3  # the whole response is here; the request is not all sent, or the reader not at the end
    GONE = 4  # closed, or given away


FREE, WAITING, BODY, RECEIVED, GONE = Phase


class ClientConnection:
    """Serves the requests of one origin, one at a time.

    Args:
        agent: whose it is.
        origin: whom it leads to, in the agent's books.
        socket: connected.
    """

    __slots__ = (
        "_answered",
        "_drain_left",
        "_dropped",
        "_expires",
        "_held",
        "_idle_limit",
        "_inflow",
        "_keeps",
        "_leaves",
        "_message",
        "_parser",
        "_phase",
        "_request",
        "_reused",
        "_unclaimed",
        "_workers",
        "agent",
        "origin",
        "socket",
    )

    def __init__(self, agent: ConnectionAgent, origin: Any, socket: Socket) -> None:
        self.agent = agent
        self.origin = origin
        self.socket = socket
        self._workers: Workers = socket.workers
        self._parser = ResponseParser(agent.limits)
        self._phase = FREE
        self._request: Exchange | None = None
        # of a request that nobody waits for or listens to: its response is claimed later, or it goes unclaimed
        self._unclaimed: weakref.ref[Exchange] | None = None
        self._reused = False  # it has served a request before
        self._keeps = False  # it may serve another one after this
        self._leaves = False  # the agent is to forget it
        self._answered = False  # a byte of the response has come
        self._dropped = False  # it was the server that ended it
        self._inflow: Inflow | None = None  # of the body on its way
        # the response: it goes when nobody has it any more, unless its listeners need it
        self._message: weakref.ref[IncomingMessage] | None = None
        self._held: IncomingMessage | None = None
        self._drain_left = -1  # bytes of the body still thrown away; negative: it is delivered
        self._idle_limit = agent.timeout or NEVER  # seconds of rest, by the agent's or by the server's wish
        self._expires = NEVER
        socket.owner = self
        if socket.inflow is not None:  # it was a stream before, and has read ahead
            socket.pause_reading()  # first what has come before
            self._workers.hub.loop.run_callback(self._take_unread, socket.inflow)

    def _take_unread(self, inflow: Inflow) -> None:
        """In the hub."""
        if inflow.progress is Progress.OPEN:
            self.socket.resume_reading()
        while inflow.chunks and self._phase is not GONE:
            self.data_received(inflow.take())
        if inflow.progress is not Progress.OPEN and self._phase is not GONE:
            self.eof_received()

    def __repr__(self) -> str:
        return f"<ClientConnection {self.name} {self._phase.name.lower()}>"

    @property
    def name(self) -> str:
        """Of its origin, as `Agent.get_name` gives it."""
        name: str = self.origin.name
        return name

    @property
    def closing(self) -> bool:
        """No server closes here."""
        return False

    # --- out ---

    def start(self, request: Exchange) -> None:
        """Serve `request`; what it has written so far is sent."""
        self._phase = WAITING
        self._request = request
        self._answered = False
        self._parser.method = request.method
        if request.extras is not None:
            self.socket.set_timeout(request.timeout)
        request.assigned(self, reused=self._reused)

    def is_usable(self) -> bool:
        """Whether a free connection may be used again: the server has neither closed it nor is about to."""
        if self._phase is not FREE:
            return False
        now = monotonic()
        if now >= self._expires:
            return False
        # the hub may not have run since the server closed it
        return now - self.socket.last_activity < PEEK_AFTER or self.socket.is_quiet()

    def serves(self, request: Exchange) -> bool:
        """Whether it is at `request`."""
        return self._request is request or (self._unclaimed is not None and self._unclaimed() is request)

    def request_sent(self) -> None:
        """The operating system has all of the request."""
        if self._phase is RECEIVED:
            self._finish_if_read()
        elif self._phase is BODY:
            self._let_request_go()

    def leave_agent(self) -> None:
        """`'agent_remove'` on the socket: the request under way goes on, and is the last."""
        self._leaves = True
        self.agent.connection_gone(self)

    # --- in: called by the socket, in the hub ---

    def data_received(self, data: bytes) -> None:
        """Bytes of the response; of none, if the server talks unasked."""
        if self._phase is FREE:
            self.socket.destroy()
            return
        parser = self._parser
        self._answered = True
        if parser.buffered:
            parser.receive(data)
        else:
            parser.buffered = data
        if self._phase is RECEIVED:
            self.socket.pause_reading()  # nobody asked for this: the exchange in progress will be the last
        while self._phase is WAITING or self._phase is BODY:
            try:
                event = parser.next_event()
            except RemoteProtocolError as error:
                self.socket.destroy(error)
                return
            if event is None:
                return
            if type(event) is ResponseHead:
                self._head_received(event)
                if event.complete and event.framing.final:
                    return
            elif type(event) is End:
                self._body_ended(event)
            else:
                self._body_received(event)  # type: ignore[arg-type]

    def _head_received(self, head: ResponseHead) -> None:
        request = self._request
        assert request is not None
        framing = head.framing
        if (request.extras is not None or len(head.raw) > _SAFE_SIZE) and request.too_many(head):
            self.socket.destroy(
                RemoteProtocolError("Parse Error: number of headers over the limit", code="HPE_HEADER_OVERFLOW")
            )
            return
        message = IncomingMessage(head, self, self.socket)
        if framing.upgrade or (framing.final and request.method == "CONNECT"):
            if not request.may_leave:
                self.socket.destroy(
                    RemoteProtocolError("Parse Error: an upgrade that was not asked for", code="HPE_INVALID_STATUS")
                )
                return
            head.body, head.complete = b"", True  # what follows is not HTTP
            self._hand_over(request, message)
            return
        if not framing.final:
            request.informed(message)
            return
        self._keeps = request.should_keep_alive = request.should_keep_alive and framing.keep_alive
        if framing.idle_timeout is not None:
            self._idle_limit = min(self.agent.timeout or NEVER, framing.idle_timeout - HINT_MARGIN)
        if not head.complete:
            self._phase = BODY
            self._inflow = message.open_body()
            self._message = weakref.ref(message, self._nobody_reads)
            request.responded(message)
            self._let_request_go()
            return
        self._phase = RECEIVED
        if request.is_heard:
            self._message = weakref.ref(message)
            request.responded(message)
            self._finish_if_read()
        else:
            # a greenlet in `get_response()` goes on at once, and may want the connection for its next request
            self._finish_if_read()
            request.responded(message)

    def _let_request_go(self) -> None:
        """The body of a response that nobody listens for: when its request is dropped, and so the response, nobody can
        claim it any more."""
        request = self._request
        if request is not None and request.all_sent and not (request.is_heard or request.is_awaited):
            self._request, self._unclaimed = None, weakref.ref(request)

    def _body_received(self, data: bytes) -> None:
        inflow = self._inflow
        assert inflow is not None
        if self._drain_left >= 0:
            self._drain_left -= len(data)
            if self._drain_left < 0:
                self.socket.destroy()
        elif not inflow.push(data):
            self.socket.pause_reading()

    def _body_ended(self, end: End) -> None:
        inflow, self._inflow = self._inflow, None
        assert inflow is not None
        self._phase = RECEIVED
        self._drain_left = -1
        self._finish_if_read()  # before a reader goes on, who may want the connection for the next request
        inflow.finish(end.fields)

    def _finish_if_read(self) -> None:
        """The exchange is over when the request is sent, the response is here, and nobody listens for its end."""
        request = self._request
        if self._phase is not RECEIVED or self._held is not None or (request is not None and not request.all_sent):
            return
        message: IncomingMessage | None = None
        if self._message is not None:
            message = self._message()
            if request is None and self._unclaimed is not None:
                request = self._unclaimed()
            self._unclaimed = self._message = None
        self._request = None
        fault: RemoteProtocolError | None = None
        if self._parser.buffered:
            fault = self._fault_in(self._parser.take_rest())
            self.socket.destroy()
        elif self._keeps and not self._leaves:
            self.rest()
        else:
            self._phase = GONE
            self.agent.connection_gone(self)
            self.socket.owner = None
            self.socket.close_gently()
        if message is not None:
            message.exchange_over()
        if request is None:
            return
        if fault is not None:
            request.failed(fault)
        else:
            request.completed()

    def _let_go(self) -> None:
        self._request = self._unclaimed = self._message = self._held = None

    def rest(self) -> None:
        """Wait for the next request."""
        socket = self.socket
        self._phase = FREE
        self._reused = True
        if socket.timeout:
            socket.set_timeout(0)
        if self._idle_limit < NEVER:
            self._expires = monotonic() + self._idle_limit
            if self._expires < socket.due:
                socket.deadlines.schedule(socket, self._expires)
        if not socket.reading_on:
            socket.resume_reading()
        self.agent.connection_free(self)

    def _fault_in(self, rest: bytes) -> RemoteProtocolError | None:
        """What is wrong with bytes that nobody asked for; None if they are one more response."""
        parser = ResponseParser(self.agent.limits)
        parser.receive(rest)
        try:
            parser.next_event()
        except RemoteProtocolError as error:
            return error
        return None

    def _hand_over(self, request: Exchange, message: IncomingMessage) -> None:
        """The connection leaves HTTP: it is the listener's from now on."""
        socket = self.socket
        rest = self._parser.take_rest()
        self._phase = GONE
        self._let_go()
        socket.owner = None
        if socket.timeout:
            socket.set_timeout(0)  # it was the request's
        self.agent.connection_gone(self)
        request.handed_over(message, socket, rest)

    def before_end(self) -> None:
        """The server has ended its side, or is gone: nothing is begun before that is known."""

    def eof_received(self) -> None:
        """The server has ended its side."""
        end = self._parser.end_of_input() if self._phase is BODY else None
        if end is not None:
            self._body_ended(end)
        elif self._phase is not GONE:
            self._dropped = True
            self.socket.destroy()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        phase, self._phase = self._phase, GONE
        if phase is GONE:
            return
        request = self._request or (self._unclaimed() if self._unclaimed is not None else None)
        message = self._message() if self._message is not None else None
        self._let_go()
        inflow, self._inflow = self._inflow, None
        dropped = self._dropped
        if error is not None and not isinstance(error, HTTPError):
            error = _lost(error)
            dropped = True  # an error that is not ours comes from the network
        if phase is WAITING and request is not None:
            if self._reused and not self._answered and dropped and request.may_retry():
                self.agent.connection_gone(self, request)
            else:
                self.agent.connection_gone(self)
                request.failed(error or hang_up())
            return
        self.agent.connection_gone(self)
        if phase is BODY:
            lost = error or aborted_error()
            if message is not None:
                message.abort(lost)  # before a reader goes on
            if inflow is not None:
                inflow.fail(lost)
        elif message is not None:
            message.exchange_over()
        if request is not None:
            request.completed(cut=phase is BODY)

    def write_failed(self, error: OSError) -> None:
        """The server takes no more; its answer may be here all the same."""
        self._leaves = True  # it serves no other request
        self.socket.abandon_writing(error)
        self._workers.hub.loop.run_callback(self.socket.read_rest, error)

    def write_blocked(self) -> None:
        """The server does not take what is sent: nothing follows."""

    def drained(self) -> None:
        """The socket's queue is empty."""
        if self._request is not None:
            self._request.drained()

    # --- the reader of the response ---

    def _is_current(self, message: IncomingMessage) -> bool:
        return self._message is not None and self._message() is message

    def body_wanted(self, message: IncomingMessage) -> None:
        """A reader waits for the body of `message`."""
        if self._phase is BODY and self._is_current(message):
            self.socket.resume_reading()

    def message_heard(self, message: IncomingMessage) -> None:
        """Somebody listens to the response: it lives until its end."""
        if self._is_current(message):
            self._held = message

    def message_read(self, message: IncomingMessage) -> None:
        """The reader is at the end."""
        if self._is_current(message):
            self._held = None
            self._finish_if_read()
        else:
            message.exchange_over()  # it was here whole before anybody asked for it

    def message_dropped(self, message: IncomingMessage, error: Exception | None) -> None:
        """The user destroys the response."""
        if self._is_current(message):
            self.socket.destroy(error)

    def read_interrupted(self, message: IncomingMessage) -> None:
        """A read was given up half-way: nobody could tell any more where in the body the reader is."""
        self.message_dropped(message, None)

    def listener_failed(self, message: IncomingMessage) -> None:
        """In a worker: a listener of the response raised (it is logged): nobody will read the rest."""
        self.message_dropped(message, None)

    def _nobody_reads(self, _: object) -> None:
        """The response was dropped unread: make way for the next request, unless it is too much."""
        self._workers.hub.loop.run_callback(self._drain)

    def _drain(self) -> None:
        """In the hub."""
        if self._phase is BODY and (self._message is None or self._message() is None):
            self._drain_left = MAX_DRAIN
            self.socket.resume_reading()

    # --- time ---

    def check_deadlines(self, now: float) -> float:
        """In the hub: a connection at rest does not outlive what was agreed."""
        if self._phase is not FREE:
            return NEVER
        if self._expires <= now:
            self.socket.destroy()
            return NEVER
        return self._expires

    def timed_out(self) -> bool:
        """In the hub, nothing was sent or received for the request's timeout. Returns whether to go on."""
        request = self._request or (self._unclaimed() if self._unclaimed is not None else None)
        message = self._message() if self._message is not None else None
        request_listens = request is not None and request.listener_count("timeout") > 0
        message_listens = message is not None and message.listener_count("timeout") > 0
        if request_listens or message_listens:
            if self.socket.is_new_silence():
                if request_listens:
                    self._workers.enter(deliver, request, "timeout")
                if message_listens:
                    self._workers.enter(deliver, message, "timeout", self.socket)
            return True
        reader_waits = self._inflow is not None and self._inflow.waiter is not None
        if reader_waits or self.socket.writer_waits or (request is not None and request.is_awaited):
            # who waits without a listener would wait for ever
            self.socket.destroy(
                PeerTimeoutError(f"nothing came from {self.name} for {self.socket.timeout} s", code="ETIMEDOUT")
            )
        return request is not None or message is not None


def _lost(cause: Exception) -> ConnectionLostError:
    """An error of the operating system, in our words."""
    lost = ConnectionLostError(str(cause), code=errno_code(cause) or "ECONNRESET")
    lost.__cause__ = cause
    return lost


def hang_up() -> ConnectionLostError:
    """The error of a request whose connection closed before the response."""
    return ConnectionLostError("socket hang up", code="ECONNRESET")
