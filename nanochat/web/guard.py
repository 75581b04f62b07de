"""What every request passes before anything reads it: who may ask, and what the browser is told to keep to.

With a token, who has it. Without one, this machine alone: a page of another site can make a browser send requests here. It
cannot read the answers, since CORS is off, and is stopped by its Origin; where it has pointed its own name at 127.0.0.1 (DNS
rebinding), by the Host.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.common import is_loopback
from nanochat.web.errors import ApiError

PROTECTED = ("/v1/", "/stats")  # by the token; the page's files and /health say nothing about anyone

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
    """ASGI middleware around `app`; see this module."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._bearer = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                added = SECURITY_HEADERS | {"cache-control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in added.items() if name.encode() not in there),
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
                raise ApiError(403, "the Host of this request is not this machine; use http://127.0.0.1 or http://localhost")
            if origin is not None and _authority(origin) != host.lower():
                raise ApiError(403, "pages of other sites may not use this server")
        elif path.startswith(PROTECTED):
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._bearer):
                challenge = {"www-authenticate": "Bearer"}
                raise ApiError(401, "a valid token is needed: Authorization: Bearer …", None, "invalid_api_key", challenge)


def _authority(origin: str) -> str | None:
    """`host:port` of an origin, None where it has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _names_this_machine(host: str) -> bool:
    """Whether the Host header `host` is a name of the loopback interface, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
