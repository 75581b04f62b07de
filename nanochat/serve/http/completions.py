"""OpenAI's chat completions: the replies to a request as text, whole or as server-sent events.

`content` is what the assistant says. Code that it ran and its output are no part of OpenAI's format: a message carries them, in
order with the text, in `parts`, and a delta in `part`. If a session's focus has moved, a delta has it in `focus`. Clients that
do not know these ignore them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import Piece, Reply, joined
from nanochat.infer.request import Finish, ReplyRequest, TokenEvent
from nanochat.serve.admission import Busy
from nanochat.serve.backend import Backend, Stopped
from nanochat.serve.http.errors import ApiError, session_refusal
from nanochat.serve.http.streaming import event, from_threads


@dataclass
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        """The `usage` object of OpenAI's API."""
        return vars(self) | {"total_tokens": self.prompt_tokens + self.completion_tokens}


@dataclass(frozen=True)
class Delta:
    """New text of reply `index`, the new focus of its session if it has moved, and at the end the finish reason: `stop` or `length`."""

    index: int
    pieces: list[Piece] = field(default_factory=list)
    finish: Finish | None = None
    focus: dict[str, Any] | None = None


class Generation:
    """The replies to `request`, as text that ends before any of `stops`.

    `close` must be called, whatever happens: it frees the places of unfinished replies. Raises `ApiError` if the server has no place.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, request: ReplyRequest, stops: Sequence[str]) -> None:
        self._backend, self._request = backend, request
        self._replies = {row: Reply(tokenizer, stops) for row in range(request.rows)}
        self._events, deliver = from_threads()
        self.usage = Usage(len(request.prompt))
        try:
            backend.submit(request, deliver)
        except Busy as busy:
            raise _too_busy(busy) from None
        except Stopped as stopped:
            raise ApiError(503, str(stopped), code="model_stopped", headers={"retry-after": "5"}) from None

    @property
    def max_tokens(self) -> int:
        """The longest that a reply can get."""
        return self._request.sampling.max_tokens

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """Yields the new deltas until all replies have ended. Raises `ApiError` if the deadline passes before the first token."""
        while self._replies:
            events: list[TokenEvent] = await self._events.get()
            while not self._events.empty():  # a slow reader gets more at a time
                events = events + self._events.get_nowait()
            yield [delta for event in events if event.row in self._replies if (delta := self._read(event)) is not None]

    def close(self) -> None:
        """Cancels the unfinished replies."""
        if self._replies:
            self._backend.cancel(self._request.id)
            self._replies = {}

    def _read(self, event: TokenEvent) -> Delta | None:
        if event.news is not None:
            if "error" in event.news:
                raise session_refusal(event.news)
            return Delta(event.row, focus=event.news["focus"])
        if event.finish == "error":
            raise ApiError(503, "the model could not continue", code="model_stopped")
        if event.finish == "time" and self.usage.completion_tokens == 0:
            raise _too_busy(Busy(1))
        reply, pieces = self._replies[event.row], []
        if event.token is not None and event.token not in self._request.stop and not reply.stopped:
            self.usage.completion_tokens += 1
            pieces = reply.feed(event.token)
            if reply.stopped and event.finish is None:
                self._backend.finish(self._request.id, event.row)  # the last event says whether a session has saved the turn
        if event.finish is None:
            return Delta(event.row, pieces) if pieces else None
        del self._replies[event.row]
        pieces = pieces + reply.close()
        return Delta(event.row, pieces, "stop" if event.finish == "stop" or reply.stopped else "length")


class ChatCompletion:
    """The objects that answer one request. They share id, time and model."""

    def __init__(self, model: str) -> None:
        self._common = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model, "system_fingerprint": model}

    def whole(self, replies: Sequence[Sequence[Piece]], finishes: Sequence[Finish], usage: Usage) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choices = [
            {"index": index, "message": _message(pieces), "logprobs": None, "finish_reason": finish}
            for index, (pieces, finish) in enumerate(zip(replies, finishes, strict=True))
        ]
        return {**self._common, "object": "chat.completion", "choices": choices, "usage": usage.to_json()}

    def opening(self, index: int, usage_follows: bool) -> bytes:
        """The first event of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None, usage_follows)

    def events(self, new: Delta, usage_follows: bool) -> bytes:
        """The events of a delta."""
        deltas: list[dict[str, Any]] = [
            {"content": piece.text} if piece.kind == "text" else {"part": _part(piece)} for piece in joined(new.pieces)
        ]
        if new.focus is not None:
            deltas.append({"focus": new.focus})
        out = [self._chunk(new.index, delta, None, usage_follows) for delta in deltas]
        if new.finish is not None:
            out.append(self._chunk(new.index, {}, new.finish, usage_follows))
        return b"".join(out)

    def usage(self, usage: Usage) -> bytes:
        """The event with the numbers of tokens."""
        return event({**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage.to_json()})

    def _chunk(self, index: int, delta: dict[str, Any], finish: Finish | None, usage_follows: bool) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if usage_follows else {}
        return event({**self._common, "object": "chat.completion.chunk", "choices": [choice], **usage})


def _message(pieces: Sequence[Piece]) -> dict[str, Any]:
    text = "".join(piece.text for piece in pieces if piece.kind == "text")
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if any(piece.kind != "text" for piece in pieces):
        message["parts"] = [_part(piece) for piece in joined(pieces)]
    return message


def _part(piece: Piece) -> dict[str, str]:
    return {"type": piece.kind, "text": piece.text}


def _too_busy(busy: Busy) -> ApiError:
    return ApiError(429, str(busy), code="server_busy", headers={"retry-after": str(busy.retry_after_seconds)})
