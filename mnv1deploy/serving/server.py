"""The application behind a socket, until a signal: uvicorn, with limits on what it leaves open."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mnv1deploy.errors import MnvError
from mnv1deploy.serving.limits import Limits, RefusedError, busy

HEAD_BYTES = 1 << 16
HEADERS = 100
"""Of a request's head: uvicorn's parser has no limits of its own."""

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Server:
    """A socket that is bound, and answers when :meth:`run` is called.

    Args:
        app: the ASGI application.
        host: a name or address to listen at.
        port: 0 for any that is free.
        limits: of requests and connections.

    Raises:
        MnvError: if that cannot be had.
    """

    def __init__(
        self, app: ASGIApp, *, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self._socket = _bound(host, port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_protocol(limits),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=int(limits.seconds) + 1,
            )
        )

    @property
    def address(self) -> str:
        """As a URL."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Answers until SIGTERM, SIGINT or :meth:`stop`; then finishes what it has accepted, and returns."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again when all is done, which then is not to end the process
            previous = {number: signal.signal(number, _ignore) for number in STOPPING}
        try:
            self._server.run([self._socket])
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """What a signal does, from any thread."""
        self._server.should_exit = True


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # one at a time, at the same port again at once; what is accepted is told to be quick by asyncio and uvloop
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or MnvError.reason(error)
        raise MnvError(
            f"{host}, port {port}, cannot be listened at: {reason}.", "Name others with --host and --port."
        ) from error


def _protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's, which by itself waits for ever for a head, and takes one of any size."""

    class Protocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _head: int | None = 0  # bytes, while one is read
        _refusal: RefusedError | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse(busy("there are too many connections"))
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._head is not None:
                self._head += len(data)
            super().data_received(data)
            if self._head is not None and self._head > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(_LARGE_HEAD)

        def on_message_begin(self) -> None:
            self._head = self._head or 0
            if self._timer is None:
                self._wait()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
            if len(self.headers) > HEADERS or size > HEAD_BYTES:
                self._refusal = _LARGE_HEAD
                raise _LARGE_HEAD  # which the parser turns into an error of its own
            self._head = None
            self._wait_no_more()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._head = 0

        def eof_received(self) -> bool:  # type: ignore[override]
            """A client that has said all it has to say may still listen; uvicorn hangs up on it."""
            if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
                return False
            self.cycle.keep_alive = False
            return True

        def shutdown(self) -> None:
            if self.cycle and not self.cycle.response_started:  # else a client sends its next request into the void
                self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
            super().shutdown()

        def send_400_response(self, msg: str) -> None:
            self._refuse(self._refusal or RefusedError(400, "This is no HTTP."))

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():  # somebody does not take what was answered
                self.transport.abort()
            super().timeout_keep_alive_handler()

        def _wait(self) -> None:
            self._timer = self.loop.call_later(limits.seconds, self._give_up)

        def _wait_no_more(self) -> None:
            if self._timer:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self._refuse(RefusedError(408, f"The request did not come to its end in {limits.seconds:g} seconds."))

        def _refuse(self, refusal: RefusedError) -> None:
            body = json.dumps({"error": str(refusal)}).encode()
            headers: dict[str, Any] = {
                "content-type": "application/json",
                "content-length": len(body),
                "connection": "close",
                **refusal.headers,
            }
            lines = [f"HTTP/1.1 {refusal.status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
            self.transport.write("\r\n".join([*lines, "\r\n"]).encode() + body)
            self.transport.close()

    return Protocol


_LARGE_HEAD = RefusedError(431, f"The head of a request has at most {HEADERS} headers and {HEAD_BYTES:,} bytes.")
