"""Connections: time limits on what HTTP libraries wait for, and problems for what is not HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from samclip.server.settings import Limits

TICKS = 4  # looks at a connection in the time that a header may take
# Returns status, headers and body of the answer to a client's bytes that are not HTTP, with the
# status that the parser proposes and its reason.
Refuse = Callable[[str, int, str], tuple[int, Mapping[str, str], bytes]]


class HttpConnection(H11Protocol):
    """Uvicorn's protocol, with problem details for what is not HTTP."""

    def __init__(self, *, refuse: Refuse, **options: Any) -> None:
        super().__init__(**options)
        self._refuse = refuse

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request, and close; uvicorn calls it where the parser raised.

        Where an answer has begun already, its end is all that can be said.
        """
        error = sys.exc_info()[1]
        client = self.client[0] if self.client else ""
        status = getattr(error, "error_status_hint", 400)
        status, headers, body = self._refuse(client, status, str(error or msg))
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            fields = [(name.encode(), text.encode()) for name, text in headers.items()]
            for event in (
                h11.Response(status_code=status, headers=fields),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class GuardedConnection(asyncio.Protocol):
    """A protocol around uvicorn's: it ends connections whose client neither asks nor reads.

    That is, whose header is not complete after `header_seconds`, or who reads nothing of an answer
    for `body_seconds`.
    """

    def __init__(self, inner: Any, limits: Limits) -> None:
        self._inner = inner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._header_since: float | None = None
        self._unread, self._unread_since = 0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's is one
        self._transport = transport
        self._header_since = self._loop.time()
        self._inner.connection_made(transport)
        self._look_later()

    def data_received(self, data: bytes) -> None:
        """Pass data on; a header begins where no request is under way."""
        self._inner.data_received(data)
        if self._is_busy():
            self._header_since = None
        elif self._header_since is None:
            self._header_since = self._loop.time()

    def eof_received(self) -> bool | None:
        """Pass the end of the client's data on."""
        result: bool | None = self._inner.eof_received()
        return result

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the client reads slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._inner.resume_writing()

    def _is_busy(self) -> bool:
        cycle = self._inner.cycle
        return cycle is not None and not cycle.response_complete

    def _look_later(self) -> None:
        wait = min(self._limits.header_seconds, self._limits.body_seconds) / TICKS
        self._timer = self._loop.call_later(wait, self._look)

    def _look(self) -> None:
        if self._transport is None:
            return
        now = self._loop.time()
        unread = self._transport.get_write_buffer_size()
        if not unread or unread < self._unread:
            self._unread_since = now
        self._unread = unread
        if self._is_busy():
            self._header_since = None
        slow_header = (
            self._header_since is not None
            and now - self._header_since > self._limits.header_seconds
        )
        slow_reader = unread > 0 and now - self._unread_since > self._limits.body_seconds
        if slow_header or slow_reader:
            self._transport.abort()
            return
        self._look_later()


def guarded(limits: Limits, refuse: Refuse) -> Callable[..., GuardedConnection]:
    """Return what makes guarded connections, to take the place of uvicorn's class of protocols."""

    def protocol(**options: Any) -> GuardedConnection:
        return GuardedConnection(HttpConnection(refuse=refuse, **options), limits)

    return protocol
