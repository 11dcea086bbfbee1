"""What stands around every request: limits of size and time, metrics, a line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnv1deploy.serving.limits import BODIES, FAILED, Limits, RefusedError, busy
from mnv1deploy.serving.logs import LOGGER, log
from mnv1deploy.serving.metrics import Metrics

LEFT = 499
"""The status in log and metrics of a request whose client did not wait for the answer; others log it so, too."""


class Guard:
    """An ASGI application around another, to which it lets nothing through that is too large or too slow.

    Args:
        app: the other; its endpoints' names become the metrics' routes.
        limits: of a request.
        metrics: told of each.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.bytes = 0
        """Of all bodies that are in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        try:
            async with _Timeout(self.limits.seconds) as timeout:
                await self.app(scope, exchange.receive, exchange.send)
            if timeout.expired:
                await exchange.time_out()
        except ClientDisconnect:
            exchange.status = LEFT
        except Exception:
            LOGGER.exception("error", extra={"facts": {"path": scope["path"]}})
            if not exchange.started:
                await exchange.refuse(FAILED)
        finally:
            exchange.end()


class _Timeout:
    """asyncio.timeout, which Python 3.10 has not, but for what is raised: nothing, and ``expired`` says so."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.expired = False

    async def __aenter__(self) -> _Timeout:
        task = asyncio.current_task()
        assert task
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> bool:
        self._timer.cancel()
        if not self.expired:
            return False
        if sys.version_info >= (3, 11):
            self._task.uncancel()
        return kind is asyncio.CancelledError


class _Exchange:
    """A request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._began = time.perf_counter()
        self._bytes = 0
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        self._length = int(length) if length.isdigit() else 0
        self._complete = not self._length and b"transfer-encoding" not in headers
        self.started = False
        self.status = 0

    async def receive(self) -> Message:
        """The next part of the body. Raises RefusedError beyond a limit."""
        limits = self._guard.limits
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        count = len(message.get("body", b""))
        self._bytes += count
        self._guard.bytes += count
        self._complete = self._complete or not message.get("more_body")
        if max(self._bytes, self._length) > limits.body:
            raise RefusedError(413, f"A request has at most {limits.body:,} bytes.", "Send smaller pictures, or fewer.")
        if self._guard.bytes > BODIES * limits.body:
            raise busy("other requests take all the memory there is for them")
        return message

    async def send(self, message: Message) -> None:
        """A part of the answer; after one to a request that was not read to its end the connection is closed."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            if not self._complete:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self._send(message)

    async def time_out(self) -> None:
        """Says so, unless the client does not even take what it was told."""
        seconds = self._guard.limits.seconds
        if self.started:
            self.status = LEFT
        elif self._complete:
            await self.refuse(busy(f"this took longer than {seconds:g} seconds"))
        else:
            await self.refuse(RefusedError(408, f"The request did not come to its end in {seconds:g} seconds."))

    async def refuse(self, refusal: RefusedError) -> None:
        """Answers with a sentence."""
        body = json.dumps({"error": str(refusal)}).encode()
        headers = {**refusal.headers, "content-type": "application/json", "content-length": str(len(body))}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": body})

    def end(self) -> None:
        """Gives back the memory, and tells metrics and log."""
        self._guard.bytes -= self._bytes
        seconds = time.perf_counter() - self._began
        endpoint: Any = self._scope.get("endpoint")
        route = getattr(endpoint, "__name__", "page" if endpoint else "none")
        self._guard.metrics.requests.labels(route, self.status).inc()
        self._guard.metrics.request_seconds.labels(route).observe(seconds)
        if LOGGER.isEnabledFor(logging.INFO):
            client = self._scope.get("client")
            log(
                logging.INFO,
                "request",
                client=client[0] if client else "",
                method=self._scope["method"],
                path=self._scope["path"],
                status=self.status,
                seconds=round(seconds, 6),
                bytes=self._bytes,
            )
