"""Replies in the form of OpenAI's chat completions, whole or as server-sent events.

`content` is what the assistant says. Code that it ran and what came out of it are no part of OpenAI's format: a message
carries them, in order with the text, in `parts`, and a delta in `part`. Where a session's focus has moved, a delta has it in
`focus`. Clients that do not know these ignore them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import Piece, Reply, joined, stop_tokens
from nanochat.infer.sampling import Sampling
from nanochat.serve.admission import Busy
from nanochat.serve.backend import Backend, Stopped, Update
from nanochat.serve.http.errors import ApiError, session_refusal

FinishReason = Literal["stop", "length"]


class Completion:
    """What all objects of one request share: id, time and model."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._common = {"id": self.id, "created": int(time.time()), "model": model, "system_fingerprint": model}

    def whole(self, replies: Sequence[Sequence[Piece]], finishes: Sequence[FinishReason], usage: Usage) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choices = [
            {"index": index, "message": _message(pieces), "logprobs": None, "finish_reason": finish}
            for index, (pieces, finish) in enumerate(zip(replies, finishes, strict=True))
        ]
        return {**self._common, "object": "chat.completion", "choices": choices, "usage": usage.to_json()}

    def opening(self, index: int, usage_follows: bool) -> bytes:
        """The first event of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None, usage_follows)

    def events(self, news: News, usage_follows: bool) -> bytes:
        """The events that say `news`."""
        deltas: list[dict[str, Any]] = [
            {"content": piece.text} if piece.kind == "text" else {"part": _part(piece)} for piece in joined(news.pieces)
        ]
        if news.focus is not None:
            deltas.append({"focus": news.focus})
        out = [self._chunk(news.index, delta, None, usage_follows) for delta in deltas]
        if news.finish is not None:
            out.append(self._chunk(news.index, {}, news.finish, usage_follows))
        return b"".join(out)

    def usage(self, usage: Usage) -> bytes:
        """The event that says how many tokens there were."""
        return event({**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage.to_json()})

    def _chunk(self, index: int, delta: dict[str, Any], finish: FinishReason | None, usage_follows: bool) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if usage_follows else {}
        return event({**self._common, "object": "chat.completion.chunk", "choices": [choice], **usage})


DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """`value` as a server-sent event."""
    return f"data: {json.dumps(value)}\n\n".encode()


def _message(pieces: Sequence[Piece]) -> dict[str, Any]:
    text = "".join(piece.text for piece in pieces if piece.kind == "text")
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if any(piece.kind != "text" for piece in pieces):
        message["parts"] = [_part(piece) for piece in joined(pieces)]
    return message


def _part(piece: Piece) -> dict[str, str]:
    return {"type": piece.kind, "text": piece.text}


@dataclass
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        """As OpenAI's API says it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True)
class News:
    """What came of reply `index`: pieces of it, where a session's focus has moved to, and at its end why it ended."""

    index: int
    pieces: list[Piece] = field(default_factory=list)
    finish: FinishReason | None = None
    focus: dict[str, Any] | None = None


class Generation:
    """`choices` replies to `prompt`, one where that goes on with a `session`.

    Whatever happens, `close` must be called: it frees the places of what still runs.

    Raises `ApiError` where the server has no place for it.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampling: Sampling,
        choices: int,
        stops: Sequence[str],
        session: str | None = None,
    ) -> None:
        self._backend = backend
        self._stop_ids = frozenset(stop_tokens(tokenizer))
        self._replies = {row: Reply(tokenizer, stops) for row in range(choices)}
        self._updates: asyncio.Queue[list[Update]] = asyncio.Queue()
        self.usage = Usage(len(prompt))
        loop = asyncio.get_running_loop()

        def deliver(updates: list[Update]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending, nobody reads any more
                loop.call_soon_threadsafe(self._updates.put_nowait, updates)

        try:
            self._ticket = backend.submit(prompt, sampling, self._stop_ids, choices, deliver, session)
        except Busy as busy:
            raise _too_busy(busy.retry_after_seconds) from None
        except Stopped:
            raise ApiError(503, "the model has stopped; the server must be started again", code="model_stopped") from None

    async def news(self) -> AsyncIterator[list[News]]:
        """What is new, until all replies are at their end. Raises `ApiError` where time ran out before the first token."""
        while self._replies:
            updates = await self._updates.get()
            while not self._updates.empty():  # a slow reader gets more at a time
                updates = updates + self._updates.get_nowait()
            yield [news for update in updates if update.row in self._replies if (news := self._read(update)) is not None]

    def close(self) -> None:
        """Ends what still runs."""
        if self._replies:
            self._backend.cancel(self._ticket)
            self._replies = {}

    def _read(self, update: Update) -> News | None:
        reply, pieces = self._replies[update.row], []
        if update.news is not None and "error" in update.news:
            raise session_refusal(update.news)
        if update.news is not None:
            return News(update.row, focus=update.news["focus"])
        if update.finish == "error":
            raise ApiError(503, "the model could not go on", code="model_stopped")
        if update.finish == "time" and self.usage.completion_tokens == 0:
            raise _too_busy(1)
        ended = update.token in self._stop_ids
        if update.token is not None and not ended:
            self.usage.completion_tokens += 1
            pieces = reply.feed(update.token)
        if reply.stopped:
            if update.finish is None:
                self._backend.cancel(self._ticket, update.row)
            del self._replies[update.row]
            return News(update.row, pieces, "stop")
        if update.finish is None:
            return News(update.row, pieces) if pieces else None
        del self._replies[update.row]
        pieces = pieces + reply.close()
        return News(update.row, pieces, "stop" if update.finish == "stop" or reply.stopped else "length")


def _too_busy(seconds: int) -> ApiError:
    message = f"the server is busy; try again in {seconds} s"
    return ApiError(429, message, code="server_busy", headers={"retry-after": str(seconds)})
