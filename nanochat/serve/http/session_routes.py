"""The routes of sessions: what there is, making and deleting them, documents, and where the focus is."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from nanochat.serve.backend import Answer, Backend, Stopped
from nanochat.serve.http.completions import DONE, event
from nanochat.serve.http.errors import ApiError, json_response, session_refusal
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.schema import MAX_NAME_CHARACTERS, parse_session
from nanochat.serve.http.streaming import EventStream, body, read_json, unless_gone

UPLOADS_AT_ONCE = 4  # each takes up to `max_document_bytes` of the disk for temporary files
READ_HOURS = 24  # at most, for a document


def add_session_routes(app: FastAPI, backend: Backend, limits: WebLimits, there_are: bool) -> None:
    """Adds what is below `/v1/sessions`; where there are no sessions, all of it is refused."""
    uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def answer(operation: str, **arguments: Any) -> Answer:
        if not there_are:
            raise ApiError(404, "this server keeps no sessions; it must be started with --mc", "session", "unsupported_parameter")
        return await ask(backend, limits.max_seconds, operation, **arguments)

    @app.get("/v1/sessions")
    async def sessions() -> Response:
        return json_response({"object": "list", "data": (await answer("list"))["sessions"]})

    @app.post("/v1/sessions")
    async def create(request: Request) -> Response:
        asked = parse_session(await read_json(request, limits))
        if asked.fork_of is not None:
            return json_response(await answer("fork", session=asked.fork_of, new=asked.name), 201)
        return json_response(await answer("create", session=asked.name), 201)

    @app.delete("/v1/sessions/{name}")
    async def delete(name: str) -> Response:
        return json_response(await answer("delete", session=name))

    @app.get("/v1/sessions/{name}/focus")
    async def focus(name: str) -> Response:
        return json_response(await answer("focus", session=name))

    @app.get("/v1/sessions/{name}/messages")
    async def messages(name: str) -> Response:
        return json_response(await answer("messages", session=name))

    @app.get("/v1/sessions/{name}/text")
    async def text(request: Request, name: str) -> Response:
        start, end = (_token(request, each) for each in ("start", "end"))
        return json_response(await answer("text", session=name, start=start, end=end))

    @app.post("/v1/sessions/{name}/documents")
    async def documents(request: Request, name: str) -> Response:
        title = request.query_params.get("name", "")
        if not 1 <= len(title) <= MAX_NAME_CHARACTERS:
            raise ApiError(
                400, f"name must be 1 to {MAX_NAME_CHARACTERS} characters: it is the document's, as in …/documents?name=a.txt", "name"
            )
        await answer("check", session=name)
        if uploads.locked():
            raise ApiError(429, "the server takes other documents; try again", None, "server_busy", {"retry-after": "5"})
        async with uploads:
            folder = tempfile.TemporaryDirectory(prefix="document-")
            try:
                path = Path(folder.name) / "document"
                await _store(request, path, limits)
                inquiry = SessionCall(backend, "ingest", session=name, path=str(path), title=title)
                try:
                    return await _progress(request, inquiry, folder)
                except BaseException:
                    inquiry.close()
                    raise
            except BaseException:
                folder.cleanup()
                raise


async def _store(request: Request, path: Path, limits: WebLimits) -> None:
    """Writes the body of a request to `path`. Raises `ApiError` where it is too large, too slow in coming, or the disk full."""
    try:
        with open(path, "wb") as file:
            async with asyncio.timeout(limits.max_send_seconds) as patience:
                async for part in body(request, limits.max_document_bytes):
                    file.write(part)
                    patience.reschedule(asyncio.get_running_loop().time() + limits.max_send_seconds)
    except TimeoutError:
        raise ApiError(408, f"nothing of the document came for {limits.max_send_seconds:g} s") from None
    except OSError as error:
        raise ApiError(507, f"the document cannot be stored: {error.strerror}", code="storage_failed") from error


async def _progress(request: Request, inquiry: SessionCall, folder: tempfile.TemporaryDirectory) -> EventStream:
    """How far the document has been read, as events. One that is refused is an answer with a status of its own."""

    async def first_answer() -> Answer | None:
        while (answer := await inquiry.next()) is not None and answer.get("stage") == "check":
            pass
        return answer

    first = await unless_gone(request, first_answer())

    async def events() -> AsyncIterator[bytes]:
        answer = first
        try:
            while answer is not None:
                yield event(answer)
                answer = await inquiry.next()
        except ApiError as error:
            yield event(error.body())
            return
        yield DONE

    def close() -> None:
        inquiry.close()
        folder.cleanup()

    return EventStream(events(), close, READ_HOURS * 3600)


def _token(request: Request, name: str) -> int:
    """The number of a token in the query."""
    value = request.query_params.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise ApiError(400, f"{name} must be the number of a token, as in …/text?start=0&end=100", name)
    return int(value)


class SessionCall:
    """An operation of `nanochat.serve.backend.Sessions`. Whatever happens, `close` must be called: it ends what is still going on."""

    def __init__(self, backend: Backend, operation: str, **arguments: Any) -> None:
        self._backend, self._done = backend, False
        self._coming: asyncio.Queue[Answer] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(answer: Answer) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
                loop.call_soon_threadsafe(self._coming.put_nowait, answer)

        try:
            self._question = backend.ask(operation, arguments, deliver)
        except Stopped:
            raise ApiError(503, "the model has stopped; the server must be started again", code="model_stopped") from None

    async def next(self) -> Answer | None:
        """The next answer, None behind the last. Raises `ApiError` where the operation is refused."""
        if self._done:
            return None
        answer = await self._coming.get()
        self._done = "error" in answer or bool(answer.get("done"))
        if "error" in answer:
            raise session_refusal(answer)
        answer = {key: value for key, value in answer.items() if key != "done"}
        return answer or None

    def close(self) -> None:
        """Ends an operation that has not come to its end; there are no more answers."""
        if not self._done:
            self._backend.drop(self._question)
            self._done = True


async def ask(backend: Backend, seconds: float, operation: str, **arguments: Any) -> Answer:
    """The answer of an operation that takes a moment. Raises `ApiError` where it is refused, or does not come within `seconds`."""
    inquiry = SessionCall(backend, operation, **arguments)
    try:
        async with asyncio.timeout(seconds):
            return await inquiry.next() or {}
    except TimeoutError:
        raise ApiError(429, "the server is busy; try again", None, "server_busy", {"retry-after": "1"}) from None
    finally:
        inquiry.close()
