"""Conversations whose history is a session: each turn adds to it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mc.session.base_session import Session
from mc.session.disk_tree import DiskTree
from mc.session.files import Unfinished, read_unfinished, write_unfinished
from nanochat.common import UserError
from nanochat.data.chat_template import closing, render_around, render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.conversation import check_text, ending, reply_pieces
from nanochat.infer.engine import Engine
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.reply import Piece
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from nanochat.runtime.signals import between, held_back

SCANNED_AT_ONCE = 1 << 20  # tokens


class Turn:
    """A turn in progress: a prompt and the reply to it, which `close` makes part of the session's history.

    The decoder passes each token of the reply to `add`, and calls `close` at the end or when interrupted. A cache appends what it
    reads to the session, which is all but the last token, or less if interrupted; `close` appends the rest.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer, prompt: list[int], chat: bool = True) -> None:
        """`prompt` are the tokens before the reply. Turns left open by a killed process are ended first."""
        self._session, self._tokenizer, self._chat = session, tokenizer, chat
        if chat:
            end_turns(session, tokenizer)
        else:
            forget_unfinished(session)
        self.prompt, self._begin = list(prompt), session.length
        self._tokens = list(prompt)
        session.hooks.turn_begins(session)

    def add(self, token: int) -> None:
        """Records the next token of the reply, stop tokens excluded."""
        self._tokens.append(token)

    def close(self) -> None:
        """Completes the turn in the session, and saves it. Raises `UserError` if the disk fails."""
        missing = self._tokens[self._session.length - self._begin :]
        self._session.append(torch.tensor(missing, dtype=torch.int64))
        if self._chat:
            end_turns(self._session, self._tokenizer)
        self._session.save()
        self._session.hooks.turn_ends(self._session, len(self._tokens) - len(self.prompt))


class SessionConversation:
    """`nanochat.infer.conversation.ChatSession` on `session`, which may be replaced by another of the same model.

    A base model continues the session's text.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer, sampling: Sampling, base: bool, tools: Tools | None = None) -> None:
        self.session, self.tokenizer, self.sampling, self.base = session, tokenizer, sampling, base
        model = session.memory.model
        step = DecodeStep(model)
        self._engine = Engine(model, lambda rows, tokens: MemoryKVCache(model, [self.session], step=step), None if base else tools)

    def say(self, text: str) -> Iterator[Piece]:
        """See `ChatSession`. The session then holds whole turns, even if the reply was stopped, and is saved."""
        check_text(text)
        first = self.session.length == 0
        if self.base:
            prompt = self.tokenizer.encode(text, bos=first)
            yield Piece("text", text)
        else:
            prompt = render_prompt(self.tokenizer, {"messages": [{"role": "user", "content": text}]}, first)
        if not prompt:
            raise UserError("the prompt is empty; give some text to continue")
        self.session.check_room(len(prompt) + self.sampling.max_tokens)
        stop = ending(self.tokenizer, self.base)
        turn = Turn(self.session, self.tokenizer, prompt, chat=not self.base)
        try:
            yield from reply_pieces(self.tokenizer, self._decoded(turn, stop), stop)
        finally:
            with held_back():
                turn.close()

    def _decoded(self, turn: Turn, stop: tuple[int, ...]) -> Iterator[int]:
        for (token,) in between(self._engine.stream([turn.prompt], self.sampling, stop)):
            if token not in stop:
                turn.add(token)
            yield token


def end_turns(session: Session, tokenizer: Tokenizer) -> None:
    """Closes the turns that are open at the end of the history, which is read backwards to the last special token.

    A document of which a killed process read a part is answered as one that was read in part.
    """
    first_special = min(tokenizer.special_tokens.values())
    newest, end = None, session.tree.length
    while newest is None and end > 0:
        begin = max(0, end - SCANNED_AT_ONCE)
        tokens = session.tree.tokens(begin, end)
        special = tokens[tokens >= first_special]
        newest, end = int(special[-1]) if len(special) else None, begin
    document = unfinished(session)
    if document is not None and newest == tokenizer.special_tokens["<|user_start|>"]:
        session.append(torch.tensor(answer_to_document(tokenizer, document.name, whole=False)))
    elif ids := closing(tokenizer, newest):
        session.append(torch.tensor(ids))
    forget_unfinished(session)


def answer_to_document(tokenizer: Tokenizer, name: str, whole: bool) -> list[int]:
    """Tokens after the text of the document `name`: the end of its turn, and the answer."""
    return render_around(tokenizer, "", f"I have read {'' if whole else 'the beginning of '}{name}.")[1]


def unfinished(session: Session) -> Unfinished | None:
    """The document of which a killed process read a part into `session`."""
    document = read_unfinished(session.tree.folder) if isinstance(session.tree, DiskTree) else None
    return document if document is not None and session.length <= document.end else None


def forget_unfinished(session: Session) -> None:
    """Removes the mark of a document that was read in part."""
    if isinstance(session.tree, DiskTree):
        write_unfinished(session.tree.folder, None)
