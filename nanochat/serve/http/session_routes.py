"""Session routes: list, create, fork and delete sessions, upload documents, read focus, messages and text.

The sessions live in the decoding thread, or in a worker's; a `SessionCall` reaches them from asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from nanochat.serve.backend import Answer, Backend, SessionRequest, Stopped
from nanochat.serve.http.api.schema import MAX_NAME_CHARACTERS, parse_session
from nanochat.serve.http.errors import ApiError, json_response, no_sessions, session_refusal
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.streaming import DONE, EventStream, body, event, from_threads, read_json, unless_gone
from nanochat.serve.http.uploads import remove_leftovers, upload_folder
from nanochat.serve.key_sessions import backend_of

UPLOADS_AT_ONCE = 4  # each takes up to `max_document_bytes` of the disk for temporary files
READ_HOURS = 24  # at most, for a document


class SessionCall:
    """An operation of `nanochat.serve.backend.Sessions`. `close` must be called, whatever happens: it cancels an unfinished operation."""

    def __init__(self, backend: Backend, operation: str, **arguments: Any) -> None:
        self._backend, self._request, self._done = backend, SessionRequest(operation, arguments), False
        self._answers, deliver = from_threads()
        try:
            backend.ask(self._request, deliver)
        except Stopped as stopped:
            raise ApiError(503, str(stopped), code="model_stopped", headers={"retry-after": "5"}) from None

    async def next(self) -> Answer | None:
        """The next answer, None after the last. Raises `ApiError` if the operation is refused."""
        if self._done:
            return None
        answer: Answer = await self._answers.get()
        self._done = "error" in answer or bool(answer.get("done"))
        if "error" in answer:
            raise session_refusal(answer)
        return {key: value for key, value in answer.items() if key != "done"} or None

    def close(self) -> None:
        """Cancels the operation if it has not finished; there are no more answers."""
        if not self._done:
            self._backend.drop(self._request.id)
            self._done = True


async def ask(backend: Backend, seconds: float, operation: str, **arguments: Any) -> Answer:
    """The answer of a short operation. Raises `ApiError` if it is refused, or does not come within `seconds`."""
    call = SessionCall(backend, operation, **arguments)
    try:
        async with asyncio.timeout(seconds):
            return await call.next() or {}
    except TimeoutError:
        raise ApiError(429, "the server is busy; try again", None, "server_busy", {"retry-after": "1"}) from None
    finally:
        call.close()


def add_session_routes(app: FastAPI, backend: Backend, limits: WebLimits, enabled: bool) -> None:
    """Adds the routes below `/v1/sessions`; all are refused unless `enabled`."""
    uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
    remove_leftovers()

    async def answer(request: Request, operation: str, **arguments: Any) -> Answer:
        if not enabled:
            raise no_sessions(404)
        return await ask(backend_of(backend, request.scope["key"]), limits.max_seconds, operation, **arguments)

    @app.get("/v1/sessions")
    async def sessions(request: Request) -> Response:
        return json_response({"object": "list", "data": (await answer(request, "list"))["sessions"]})

    @app.post("/v1/sessions")
    async def create(request: Request) -> Response:
        asked = parse_session(await read_json(request, limits))
        if asked.fork_of is not None:
            return json_response(await answer(request, "fork", session=asked.fork_of, new=asked.name), 201)
        return json_response(await answer(request, "create", session=asked.name), 201)

    @app.delete("/v1/sessions/{name}")
    async def delete(request: Request, name: str) -> Response:
        return json_response(await answer(request, "delete", session=name))

    @app.get("/v1/sessions/{name}/focus")
    async def focus(request: Request, name: str) -> Response:
        return json_response(await answer(request, "focus", session=name))

    @app.get("/v1/sessions/{name}/messages")
    async def messages(request: Request, name: str) -> Response:
        return json_response(await answer(request, "messages", session=name))

    @app.get("/v1/sessions/{name}/text")
    async def text(request: Request, name: str) -> Response:
        start, end = (_token(request, each) for each in ("start", "end"))
        return json_response(await answer(request, "text", session=name, start=start, end=end))

    @app.post("/v1/sessions/{name}/documents")
    async def documents(request: Request, name: str) -> Response:
        title = request.query_params.get("name", "")
        if not 1 <= len(title) <= MAX_NAME_CHARACTERS:
            raise ApiError(400, f"invalid document name: use 1 to {MAX_NAME_CHARACTERS} characters, as in …/documents?name=a.txt", "name")
        await answer(request, "check", session=name)
        if uploads.locked():
            raise ApiError(429, "other documents are being uploaded; try again", None, "server_busy", {"retry-after": "5"})
        async with uploads:
            with contextlib.ExitStack() as stack:
                path = stack.enter_context(upload_folder()) / "document"
                try:
                    await _store(request, path, limits)
                except ApiError as refusal:
                    if refusal.status in (413, 507):
                        await answer(request, "delete_empty", session=name)
                    raise
                call = SessionCall(backend_of(backend, request.scope["key"]), "ingest", session=name, path=str(path), title=title)
                stack.callback(call.close)
                return await _progress(request, call, stack)


async def _store(request: Request, path: Path, limits: WebLimits) -> None:
    """Writes the body of a request to `path`. Raises `ApiError` if it is too large or too slow, or if the disk is full."""
    try:
        with open(path, "wb") as file:
            async with asyncio.timeout(limits.max_send_seconds) as patience:
                async for part in body(request, limits.max_document_bytes):
                    file.write(part)
                    patience.reschedule(asyncio.get_running_loop().time() + limits.max_send_seconds)
    except TimeoutError:
        raise ApiError(408, f"no part of the document arrived for {limits.max_send_seconds:g} s") from None
    except OSError as error:
        raise ApiError(507, f"the document cannot be stored: {error.strerror}", code="storage_failed") from error


async def _progress(request: Request, call: SessionCall, open_until_sent: contextlib.ExitStack) -> EventStream:
    """The progress of reading a document, as events. A refusal before the first is an answer with a status of its own."""

    async def first_answer() -> Answer | None:
        while (answer := await call.next()) is not None and answer.get("stage") == "check":
            pass
        return answer

    first = await unless_gone(request, first_answer())

    async def events() -> AsyncIterator[bytes]:
        answer = first
        try:
            while answer is not None:
                yield event(answer)
                answer = await call.next()
        except ApiError as error:
            yield event(error.body())
            return
        yield DONE

    return EventStream(events(), open_until_sent.pop_all().close, READ_HOURS * 3600)


def _token(request: Request, name: str) -> int:
    """The token index `name` of the query."""
    value = request.query_params.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise ApiError(400, f"invalid {name}: expected the index of a token, as in …/text?start=0&end=100", name)
    return int(value)
