"""A connection: uvicorn's, with limits on what a client may send and on how long it may take.

uvicorn bounds neither a request's head nor the time for it, parses what is sent behind a request however many answers
are still to come, and takes connections until no file can be opened.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..errors import FeatureStoreError, RequestError
from ..limits import HttpLimits
from ..protocol import encode_error, error_headers
from .refused import not_http, too_large, too_many, too_slow
from .transport import Link

LEFT = 499  # what nginx counts a request as whose client has gone
LINGER_SECONDS = 2.0  # for which what a refused client still sends is read, lest a reset takes the answer from it
LINGER_PAUSE_SECONDS = 0.01  # between such reads: dropping what comes as fast as it comes would hold up others
LATE_SECONDS = 1.0  # where a deadline is noticed later than that, what came meanwhile has not been read
TAKEN_BYTES = 1 << 16  # of an answer, to be taken within the time for it
UNREAD_BYTES = 1 << 18  # of a body behind its answer: more ends the connection
PIECE_BYTES = 8192  # parsed at a time: several requests may be in one piece
TURN_SECONDS = 0.002  # of parsing, after which others have their turn: a piece may have thousands of chunks
_IDLE, _HEAD, _BODY, _ANSWER, _LINGER, _END = "idle", "head", "body", "answer", "linger", "end"
_BLANK = "blank"  # lines before a request
_NAME = "feature_server.connection"
_HOP_BY_HOP = (b"connection", b"upgrade", b"http2-settings", b"expect")


def connections(limits: HttpLimits, most: int, on_refused: Callable[[int], None]) -> type["Connection"]:
    """The protocol class for uvicorn, `most` of which are open at a time.

    `on_refused` is told the status of what the application never sees.
    """
    given = {"limits": limits, "most": most, "on_refused": staticmethod(on_refused)}
    return type("Connection", (Connection,), given)


def counted_as(scope: Mapping[str, Any], status: int) -> int:
    """The status to count a request with: another one where its client no longer waits for the answer."""
    connection: Connection = scope["extensions"][_NAME]
    return connection.ended_as if connection.link.is_closing() else status


class Connection(HttpToolsProtocol):
    """Made by uvicorn for each connection; `link` is its transport.

    At any time one thing is awaited, for so long and no longer: a request's head or body, that the client takes its
    answer, that an idle client asks again, that a closed one ends.
    """

    limits: HttpLimits
    most: int
    on_refused: Callable[[int], None]
    link: Link

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.ended_as = LEFT
        self._part: str | None = None  # of a request, that is arriving
        self._messages = 0  # requests begun
        self._seen = 0  # bytes before and of a head, or of a body's framing since its last data; a piece too many
        self._unread = 0  # bytes of a body behind its answer
        self._piece = 0  # size of what is being parsed
        self._held = b""  # what came while requests wait: parsed when they are answered
        self._refused: RequestError | None = None  # told when what came before is answered
        self._awaited: tuple[str, int] | None = None  # and of which request
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes of answers, when last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.link = Link(transport, self._end)
        super().connection_made(self.link)  # type: ignore[arg-type]
        if len(self.connections) > self.most:
            error = too_many(self.most)
            self.on_refused(error.status)
            self._answer(error)
            self.link.close()
            return
        link = transport.get_extra_info("socket")
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.answer_seconds * 1000))
        self._await(_IDLE, self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self.link.end = None
        super().connection_lost(exc)
        self._held = b""
        self.pipeline.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.link.is_closing():
            self.link.pause_reading()
            self.loop.call_later(LINGER_PAUSE_SECONDS, self.link.resume_reading)
        elif self._refused is not None:
            self.link.pause_reading()
        elif self._held or self.pipeline:
            self._hold(data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        if len(data) <= PIECE_BYTES:
            self._parse_piece(data)
        else:
            whole, until = memoryview(data), time.perf_counter() + TURN_SECONDS
            for at in range(0, len(data), PIECE_BYTES):
                if self._refused is not None or self.link.is_closing():
                    return
                if self.pipeline:
                    self._hold(data[at:])
                    break
                if time.perf_counter() > until:
                    self._hold(data[at:])
                    self.loop.call_soon(self._parse_on)
                    break
                self._parse_piece(whole[at : at + PIECE_BYTES])
        self._watch()

    def _parse_piece(self, data: bytes | memoryview) -> None:
        self._piece = len(data)
        self._seen += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            told = error.__context__
            if isinstance(told, AttributeError):  # uvicorn's, of a URL as http://host
                self._refuse(not_http("a URL without a path"))
            else:
                self._refuse(told if isinstance(told, RequestError) else not_http(str(told or error)))
        else:
            if self._seen > self.limits.head_bytes + PIECE_BYTES:
                self._refuse(self._too_large(self._seen))

    def _hold(self, data: bytes) -> None:
        self._held += data
        self.link.held = True
        self.link.pause_reading()

    def _parse_on(self) -> None:
        """What was left for a later turn."""
        if self.pipeline or self._refused is not None or self.link.is_closing():
            return
        if self._parse_held() and not self.flow.read_paused:
            self.link.resume_reading()

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read the request as if it had not asked for another protocol, as RFC 9110 has it: with its body.

        The parser takes what follows for that other protocol: a new one is told the same head without the offer.
        """
        self._part, self._seen = _BODY, 0
        self.cycle.more_body = True
        method, headers = self.cycle.scope["method"].encode(), self.cycle.scope["headers"]
        if method == b"CONNECT":
            self._refuse(not_http("CONNECT"))
            return
        head = [b"%b %b HTTP/%b" % (method, self.url, self.cycle.scope["http_version"].encode())]
        head += [b"%b: %b" % header for header in headers if header[0] not in _HOP_BY_HOP]
        self.parser = httptools.HttpRequestParser(_Rest(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse_piece(b"\r\n".join([*head, b"", b""]))
        if rest and self._refused is None:
            self._parse_piece(rest)

    def _should_upgrade(self) -> bool:
        return False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_NAME: self}  # type: ignore[dict-item]
        self._part, self._seen = _HEAD, self._piece
        self._messages += 1

    def on_headers_complete(self) -> None:
        if self._seen > self.limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.limits.head_bytes:
                raise self._too_large(size)
        super().on_headers_complete()
        self._part, self._seen, self._unread = _BODY, 0, 0
        self.headers = []  # for trailers, which are no headers

    def on_body(self, body: bytes) -> None:
        self._seen = 0
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > UNREAD_BYTES:
                self.link.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._part, self._seen = None, 0

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.link.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused is not None:
            self._tell_refusal()
            return
        if not self.pipeline:
            self._read_on()
        self._watch()

    def _read_on(self) -> None:
        if self._parse_held():
            self.flow.read_paused = False
            self.link.resume_reading()

    def _parse_held(self) -> bool:
        """Parse what came before its turn, and say whether that was all."""
        data, self._held, self.link.held = self._held, b"", False
        if data:
            self._parse(data)
        return not self._held

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def _watch(self) -> None:
        """Await what the connection's state wants."""
        if self.link.is_closing():
            return
        if self.flow.write_paused:
            self._await(_ANSWER, self.limits.answer_seconds)
        elif self._part is not None and not self.pipeline and self._refused is None:
            self._await(self._part, self._seconds(self._part))
        elif self._unanswered():
            self._awaited = None
        elif self._seen:
            self._await(_BLANK, self.limits.head_seconds)
        else:
            self._await(_IDLE, self.limits.idle_seconds)

    def _unanswered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _seconds(self, part: str) -> float:
        return self.limits.head_seconds if part == _HEAD else self.limits.body_seconds

    def _await(self, part: str, seconds: float) -> None:
        """Unless it is awaited already; the timer is set anew only where it would come too late."""
        awaited = (part, self._messages)
        if awaited == self._awaited:
            return
        self._awaited, self._due = awaited, self.loop.time() + seconds
        if part in (_ANSWER, _END):
            self._unsent = self.link.unsent()
        if self._timer is not None:
            if self._timer.when() <= self._due:
                return
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Whether what is awaited has been awaited long enough."""
        self._timer = None
        if self._awaited is None:
            return
        late = self.loop.time() - self._due
        if late > LATE_SECONDS:
            self._due += late + LATE_SECONDS
            late = -LATE_SECONDS
        if late < 0:
            self._timer = self.loop.call_later(-late, self._look)
            return
        part, _ = self._awaited
        self._awaited = None
        if part in (_IDLE, _BLANK):
            self.link.close()
        elif part == _LINGER:
            self._finish()
        elif part in (_ANSWER, _END):
            self._go_on_sending(part)
        else:
            self._refuse(too_slow(part, self._seconds(part)))

    def _go_on_sending(self, part: str) -> None:
        """Wait on for a client that takes its answer, and for no other."""
        if 0 < self.link.unsent() <= self._unsent - TAKEN_BYTES:
            self._await(part, self.limits.answer_seconds)
        else:
            self.link.transport.abort()

    def _too_large(self, size: int) -> RequestError:
        return too_large(self._part or _HEAD, size, self.limits.head_bytes)

    def _refuse(self, error: RequestError) -> None:
        """Answer with the error, after what was asked before, and read no further."""
        self._refused = error
        if self._part == _BODY and self.pipeline:
            self.pipeline.popleft()  # the request that the error is about: the newest
            self._part = None
        if not self.pipeline and (self._part == _BODY or not self._unanswered()):
            self._tell_refusal()

    def _tell_refusal(self) -> None:
        error = self._refused
        assert error is not None
        self.ended_as = error.status
        asked = self._part == _BODY  # the application has the request, and counts it
        if not asked:
            self.on_refused(error.status)
        if not asked or not self.cycle.response_started:
            self._answer(error)
        if asked and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._part = self._part or _HEAD  # the client may be sending on
        self.link.close()

    def _answer(self, error: FeatureStoreError) -> None:
        """As the last of this connection."""
        body = encode_error(error)
        headers = {"content-type": "application/json", "connection": "close", "content-length": str(len(body))}
        lines = [f"{name}: {told}\r\n" for name, told in (headers | error_headers(error)).items()]
        self.link.write(b"%b%b\r\n%b" % (STATUS_LINE[error.status], "".join(lines).encode(), body))

    def _end(self) -> None:
        """Close, once what was written is taken, and the client has seen it."""
        if self._part is None:
            self._finish()
        else:
            self.link.held = False
            self.link.transport.write_eof()
            self.link.resume_reading()
            self._await(_LINGER, LINGER_SECONDS)

    def _finish(self) -> None:
        self.link.transport.close()
        if self.link.unsent():
            self._await(_END, self.limits.answer_seconds)


class _Rest:
    """Tells a connection what a parser finds behind the head, which the connection knows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._behind = False

    def on_headers_complete(self) -> None:
        if self._behind:
            self._connection.on_headers_complete()
        self._behind = True

    def __getattr__(self, name: str) -> Callable[..., None]:
        tell = getattr(self._connection, name)
        return lambda *what: tell(*what) if self._behind else None
