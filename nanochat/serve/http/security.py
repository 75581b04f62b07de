"""Security of the HTTP server: middleware for token, Host and Origin checks and security headers, and a timeout for idle connections.

With a token, any client that presents it may use the server; without one, only this machine: a page of another site can make a browser
send requests here. It cannot read the answers, since CORS is off, and is refused by its Origin; if it points its own name at
127.0.0.1 (DNS rebinding), by the Host.
"""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat.common import is_loopback
from nanochat.serve.http.errors import ApiError

PROTECTED = ("/v1/", "/stats")  # by the token; the page's files and /health hold nothing confidential

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware around `app`: checks each request before anything reads it, and adds the headers."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._bearer = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = SECURITY_HEADERS | {"cache-control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in added.items() if name.encode() not in present),
                ]
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"])
        except ApiError as error:
            await error.response()(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check(self, headers: Headers, path: str) -> None:
        if self._bearer is None:
            host, origin = headers.get("host", ""), headers.get("origin")
            if not _names_this_machine(host):
                raise ApiError(403, "the Host header does not name this machine; use http://127.0.0.1 or http://localhost")
            if origin is not None and _authority(origin) != host.lower():
                raise ApiError(403, "pages of other sites may not use this server")
        elif path.startswith(PROTECTED):
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._bearer):
                challenge = {"www-authenticate": "Bearer"}
                raise ApiError(401, "invalid or missing token; send Authorization: Bearer …", None, "invalid_api_key", challenge)


def _authority(origin: str) -> str | None:
    """`host:port` of an origin, None if it has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _names_this_machine(host: str) -> bool:
    """True if the Host header `host` names the loopback interface, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def impatient(seconds: float) -> type[H11Protocol]:
    """h11 protocol with idle timeout: closes a connection if no request head is complete within `seconds`, at first or after an answer.

    Plain uvicorn waits forever for a client that sends nothing, or a byte now and then (slow loris).
    """

    class ImpatientProtocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._end_patience()

        def _expect_request(self) -> None:
            self._end_patience()
            if not self.transport.is_closing():
                self._patience = self.loop.call_later(seconds, self._give_up)

        def _end_patience(self) -> None:
            """Cancels the timer, which would keep a closed connection in memory until it fires."""
            if self._patience is not None:
                self._patience.cancel()

        def _give_up(self) -> None:
            # Otherwise a request is being answered, whose end restarts the timer.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return ImpatientProtocol
