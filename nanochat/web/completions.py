"""Replies in the form of OpenAI's chat completions, whole or as server-sent events.

`content` is what the assistant says. Code that it ran and what came out of it are no part of OpenAI's format: a message
carries them, in order with the text, in `parts`, and a delta in `part`. Where a session's focus has moved, a delta has it in
`focus`. Clients that do not know these ignore them.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from nanochat.infer.reply import Piece, joined
from nanochat.web.generation import FinishReason, News, Usage


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
