"""OpenAI's chat completions: the replies to a request as text, whole or as server-sent events.

`content` is what the assistant says. Code that it ran and its output are no part of OpenAI's format: a message carries them, in
order with the text, in `parts`, and a delta in `part`. If a session's focus has moved, a delta has it in `focus`. Clients that
do not know these ignore them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanochat.infer.reply import Piece, joined
from nanochat.serve.http.api.generation import Delta, Serving, Usage
from nanochat.serve.http.api.replies import OpenAIFormat
from nanochat.serve.http.api.schema import ChatRequest
from nanochat.serve.http.api.score_formats import chat_logprobs
from nanochat.serve.http.api.tool_calls import ToolCalling


class ChatCompletion(OpenAIFormat):
    """The objects that answer one request; see `nanochat.serve.http.api.replies.Format`."""

    def __init__(self, server: Serving, asked: ChatRequest, tools: ToolCalling) -> None:
        super().__init__("chatcmpl", "chat.completion.chunk", server, asked)
        self._tokenizer, self._scored, self._tools = server.tokenizer, bool(asked.logprobs), tools
        self._code: dict[int, list[Piece]] = {}  # by reply: what a stream holds back because it becomes a call

    def whole(self, replies: Sequence[Delta], usage: Usage) -> dict[str, Any]:
        """See `Format`."""
        choices = []
        for reply in replies:
            message, finish = _message(reply), reply.finish
            if calls := self._tools.calls(reply.pieces, reply.finish):
                said = "".join(piece.text for piece in reply.pieces if not self._is_call(piece))
                message, finish = {"role": "assistant", "content": said or None, "refusal": None, "tool_calls": calls}, "tool_calls"
            choices.append({"index": reply.index, "message": message, "logprobs": self._logprobs(reply), "finish_reason": finish})
        return {**self._common, "object": "chat.completion", "choices": choices, "usage": usage.to_json()}

    def opening(self, index: int) -> bytes:
        """See `Format`."""
        return self._choice(index, {"role": "assistant", "content": ""})

    def events(self, new: Delta) -> bytes:
        """See `Format`."""
        held = self._code.setdefault(new.index, [])
        held += [piece for piece in new.pieces if self._is_call(piece)]
        said = [piece for piece in new.pieces if not self._is_call(piece)]
        calls = self._tools.calls(held, new.finish)
        if new.finish is not None and not calls:
            said = held + said  # it was cut off and calls nothing
        deltas: list[dict[str, Any]] = [
            {"content": piece.text} if piece.kind == "text" else {"part": _part(piece)} for piece in joined(said)
        ]
        deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(calls)]
        if new.focus is not None:
            deltas.append({"focus": new.focus})
        if new.scores and "content" not in (deltas[0] if deltas else {}):
            deltas.insert(0, {"content": ""})
        logprobs = [self._logprobs(new)] + [None] * len(deltas)  # all with the first
        out = [self._choice(new.index, delta, logprobs[i]) for i, delta in enumerate(deltas)]
        if new.finish is not None:
            out.append(self._choice(new.index, {}, finish="tool_calls" if calls else new.finish))
        return b"".join(out)

    def _is_call(self, piece: Piece) -> bool:
        """True for what becomes a call of the client's function."""
        return self._tools.demanded or (self._tools.own_code and piece.kind == "python")

    def _logprobs(self, new: Delta) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, new.scores) if self._scored else None

    def _choice(self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None) -> bytes:
        return self._event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])


def _message(reply: Delta) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.said, "refusal": None}
    if any(piece.kind != "text" for piece in reply.pieces):
        message["parts"] = [_part(piece) for piece in joined(reply.pieces)]
    return message


def _part(piece: Piece) -> dict[str, str]:
    return {"type": piece.kind, "text": piece.text}
