"""Security of the HTTP server: middleware for key, Host and Origin checks and security headers, and limits of connections.

With keys, any client that presents one may use the server; without, only this machine: a page of another site can make a browser
send requests here. It cannot read the answers, since CORS is off, and is refused by its Origin; if it points its own name at
127.0.0.1 (DNS rebinding), by the Host.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat.common import is_loopback
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.keys import BackOff, bearer, name_of, network

OPEN = ("/health", "/page/")  # without a key: they hold nothing confidential
HOST = re.compile(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"

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
    """ASGI middleware around `app`: checks each request before anything reads it, and adds the headers.

    `keys` are the names of clients by their keys, None for a server that only this machine reaches; then pages of `origins` may use
    it too. The name of the key that a request has is in its scope as `key`. HEAD is answered as GET, without the body.
    """

    def __init__(self, app: ASGIApp, keys: Mapping[str, str] | None, origins: Collection[str] = ()) -> None:
        self._app, self._keys, self._origins, self._back_off = app, keys, origins, BackOff()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = SECURITY_HEADERS | {"cache-control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in added.items() if name.encode() not in present),
                ]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            name = self._check(scope, Headers(scope=scope))
        except ApiError as error:
            await error.response()(scope, receive, send_with_headers)
        else:
            await self._app({**scope, "method": "GET" if head else scope["method"], "key": name}, receive, send_with_headers)

    def _check(self, scope: Scope, headers: Headers) -> str:
        """The name of the request's key, "" if it needs none. Raises `ApiError` if it is refused."""
        if "transfer-encoding" in headers and ("content-length" in headers or scope["http_version"] == "1.0"):
            # A proxy may take another of the two for the body's end than we do, and so one request for two.
            raise ApiError(400, "a request has a Content-Length or a Transfer-Encoding, not both", headers={"connection": "close"})
        host, origin = headers.get("host", ""), headers.get("origin")
        if not HOST.fullmatch(host):
            raise ApiError(400, "invalid Host header; expected a name or an address, with or without a port")
        if self._keys is not None:
            return self._name(scope, headers) if _needs_key(scope["path"]) else ""
        if not _names_this_machine(host):
            raise ApiError(403, "the Host header does not name this machine; use http://127.0.0.1 or http://localhost")
        if origin is not None and origin not in self._origins and _authority(origin) != host.lower():
            raise ApiError(403, "pages of other sites may not use this server")
        return ""

    def _name(self, scope: Scope, headers: Headers) -> str:
        challenge = {"www-authenticate": "Bearer"}
        key = bearer(headers.get("authorization", ""))
        if key is None:
            raise ApiError(401, "this server needs a token; send Authorization: Bearer …", None, "invalid_api_key", challenge)
        name = name_of(key, self._keys or {})
        if seconds := math.ceil(self._back_off.pause((scope.get("client") or ("",))[0], name)):
            message = f"too many wrong tokens from this address; try again in {seconds} s"
            raise ApiError(429, message, None, "too_many_wrong_keys", {"retry-after": str(seconds)})
        if name is None:
            raise ApiError(401, "the token is wrong; ask whoever runs the server for the right one", None, "invalid_api_key", challenge)
        return name


def _needs_key(path: str) -> bool:
    return path != "/" and not path.startswith(OPEN)


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


def impatient(seconds: float, most_connections: int) -> type[H11Protocol]:
    """h11 protocol with limits: closes a connection if no request head is complete within `seconds`, at first or after an answer.

    Plain uvicorn waits forever for a client that sends nothing, or a byte now and then (slow loris). An address has at most
    `most_connections`; more are refused at once.
    """
    held: Counter[str] = Counter()  # connections by address

    class ImpatientProtocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None
        _address: str | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = network(self.client[0] if self.client else "")
            held[self._address] += 1
            if held[self._address] > most_connections:
                transport.write(TOO_MANY)
                transport.close()
            self._expect_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._end_patience()
            held[self._address] -= 1
            if not held[self._address]:
                del held[self._address]

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
