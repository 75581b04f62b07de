"""Replies to requests as text that grows: what the batcher decodes, ready for any API's format."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import Piece, Reply
from nanochat.infer.request import Finish, ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.infer.token_scores import TokenScore
from nanochat.serve.admission import Busy
from nanochat.serve.backend import Backend, Stopped
from nanochat.serve.http.compatibility import ClientFlags, IgnoredNames
from nanochat.serve.http.errors import ApiError, session_refusal
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.metrics import Metrics
from nanochat.serve.http.streaming import from_threads
from nanochat.serve.key_sessions import backend_of


class Serving(Protocol):
    """The server, as far as routes know it; see `nanochat.serve.http.app.ChatServer`."""

    backend: Backend
    tokenizer: Tokenizer
    model_name: str
    context_tokens: int
    defaults: Sampling
    limits: WebLimits
    clients: ClientFlags
    ignored: IgnoredNames
    metrics: Metrics


def longest_reply(server: Serving, prompt_tokens: int, where: str, least: int = 1) -> int:
    """The longest reply to a prompt, the parameter `where`, in tokens. Raises `ApiError` if there is room for fewer than `least`."""
    room = server.context_tokens - prompt_tokens
    if room < least:
        message = f"the {where} has {prompt_tokens} tokens; this model takes {server.context_tokens} together with its reply"
        raise ApiError(400, message, "messages" if where == "conversation" else where, "context_length_exceeded")
    return min(room, server.limits.max_reply_tokens)


@dataclass
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        """The `usage` object of OpenAI's API."""
        return vars(self) | {"total_tokens": self.prompt_tokens + self.completion_tokens}


@dataclass
class Delta:
    """New parts of reply `index`: text, the scores of its tokens, those of the prompt, the new focus of its session if it has moved,
    and at the end the finish reason: `stop` or `length`."""

    index: int
    pieces: list[Piece] = field(default_factory=list)
    finish: Finish | None = None
    focus: dict[str, Any] | None = None
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore] | None = None

    def add(self, new: Delta) -> None:
        """Adds what is newer in the same reply."""
        self.pieces += new.pieces
        self.scores += new.scores
        self.finish = new.finish or self.finish
        self.prompt_scores = self.prompt_scores or new.prompt_scores

    @property
    def text(self) -> str:
        """The text of all pieces."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def said(self) -> str:
        """The text without code and its output."""
        return "".join(piece.text for piece in self.pieces if piece.kind == "text")


@dataclass
class _Row:
    """A reply that is being read, with the scores of tokens whose text is held back, each with the text's length before it."""

    index: int
    reply: Reply
    released: int = 0
    tokens: int = 0
    began: float = field(default_factory=time.monotonic)
    first: float | None = None  # time of the first token
    held: list[tuple[int, TokenScore]] = field(default_factory=list)


class Generation:
    """The replies to `requests`, which have the same settings, as text that ends before any of `stops`.

    Row j of request i is reply `i · rows + j`. `key`: name of the client's key. `raw`: all tokens have scores, not only those of what
    is said. `silent`: tokens are decoded, but not shown. `close` must be called, whatever happens: it frees the places of unfinished
    replies. Raises `ApiError` if the server has no place.
    """

    def __init__(
        self,
        server: Serving,
        requests: Sequence[ReplyRequest],
        stops: Sequence[str],
        *,
        key: str = "",
        raw: bool = False,
        silent: bool = False,
    ) -> None:
        self._backend, self._metrics, self._raw, self._silent = backend_of(server.backend, key), server.metrics, raw, silent
        tokenizer = server.tokenizer
        self.max_tokens = requests[0].sampling.max_tokens  # the longest that a reply can get
        self._stop = frozenset(requests[0].stop)
        self._special = frozenset(tokenizer.special_tokens.values())
        self._rows: dict[tuple[int, int], _Row] = {}  # unfinished, by request and row
        for i, request in enumerate(requests):
            for row in range(request.rows):
                self._rows[request.id, row] = _Row(i * request.rows + row, Reply(tokenizer, stops))
        self.replies = len(self._rows)
        self._events, deliver = from_threads()
        self.usage = Usage(sum(len(request.prompt) for request in requests))
        try:
            for request in requests:
                self._backend.submit(request, deliver)
        except Busy as busy:
            self.close()
            raise _too_busy(busy) from None
        except Stopped as stopped:
            self.close()
            raise ApiError(503, str(stopped), code="model_stopped", headers={"retry-after": "5"}) from None

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """Yields the new deltas until all replies have ended. Raises `ApiError` if the deadline passes before the first token."""
        while self._rows:
            events: list[TokenEvent] = await self._events.get()
            while not self._events.empty():  # a slow reader gets more at a time
                events = events + self._events.get_nowait()
            yield [delta for event in events if (delta := self._read(event)) is not None]

    def close(self) -> None:
        """Cancels the unfinished replies."""
        for id in {id for id, _ in self._rows}:
            self._backend.cancel(id)
        self._rows = {}

    def _read(self, event: TokenEvent) -> Delta | None:
        row = self._rows.get((event.id, event.row))
        if row is None:
            return None
        if event.news is not None:
            if "error" in event.news:
                raise session_refusal(event.news)
            self._metrics.refocused(event.news["focus"]["refocus_ms"])
            return Delta(row.index, focus=event.news["focus"])
        if event.finish == "error":
            raise ApiError(503, "the model could not continue", code="model_stopped")
        if event.finish == "time" and self.usage.completion_tokens == 0:
            raise _too_busy(Busy(1))
        new = Delta(row.index, prompt_scores=event.prompt_scores and [TokenScore(*score) for score in event.prompt_scores])
        if event.token is not None and not row.reply.stopped:
            row.first, row.tokens = row.first or time.monotonic(), row.tokens + 1
            if not self._silent:
                self._feed(row, event, new)
        if event.finish is not None:
            del self._rows[event.id, event.row]
            self._metrics.ended(row.began, row.first, row.tokens)
            new.pieces += row.reply.close()
            new.finish = "stop" if event.finish == "stop" or row.reply.stopped else "length"
        row.released += len(new.text)
        is_whole = new.finish is not None and not row.reply.stopped
        new.scores = [score for start, score in row.held if is_whole or start < row.released]
        row.held = row.held[len(new.scores) :]
        return new if new.finish or new.pieces or new.scores or new.prompt_scores else None

    def _feed(self, row: _Row, event: TokenEvent, new: Delta) -> None:
        """Adds the token of `event` to its reply, and to `new` what that releases."""
        if event.score is not None and self._is_scored(row.reply, event):
            row.held.append((row.reply.characters, TokenScore(*event.score)))
        if event.token in self._stop:
            return
        self.usage.completion_tokens += 1
        new.pieces = row.reply.feed(event.token)
        if row.reply.stopped and event.finish is None:
            self._backend.finish(event.id, event.row)  # the last event says whether a session has saved the turn

    def _is_scored(self, reply: Reply, event: TokenEvent) -> bool:
        return self._raw or (reply.kind == "text" and not event.forced and event.token not in self._special)


def _too_busy(busy: Busy) -> ApiError:
    return ApiError(429, str(busy), code="server_busy", headers={"retry-after": str(busy.retry_after_seconds)})
