"""Views of a session for the chat server, as JSON values: its focus, its text, its last messages."""

from __future__ import annotations

import codecs
from typing import Any

import numpy as np
from torch import Tensor

from mc.layout.draw import at_most, runs
from mc.layout.tiling import Tiling
from mc.session.base_session import Session
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import BOUNDARIES, Reply, joined

MOST_SPANS = 1024
TEXT_CHARACTERS = 2_000
MESSAGE_TOKENS = 16_384  # at the end of a session, searched for its last messages
MESSAGE_CHARACTERS = 8_000  # shown of a longer message, at its end


def focus_view(session: Session, with_scores: bool = False) -> dict[str, Any]:
    """The Working Context as runs of one level, `spans` of `[level, first token, end, entries]`, and its figures.

    `scores` has LensNet's mean score of each span's entries, if requested. More than `MOST_SPANS` spans are merged into fewer.
    """
    spans = _spans(session, session.scores() if with_scores else np.zeros(len(session.context), dtype=np.float32))
    entries = int(spans[:, 3].sum())
    spec, figures = session.tree.spec, session.figures
    view = {
        "tokens": session.length,
        "entries": entries,
        "budget": session.budget.most,
        "residency": round(entries / session.budget.most, 4),
        "swap_rate": round(figures.swap_rate, 4),
        "refocuses": figures.refocuses,
        "levels": spec.max_lod,
        "block_size": spec.geometry.block_size,
        "recent": session.budget.recent,
        "spans": spans[:, :4].astype(np.int64).tolist(),
    }
    return view | ({"scores": [round(float(total / count), 3) for count, total in spans[:, 3:]]} if with_scores else {})


def _spans(session: Session, scores: np.ndarray) -> np.ndarray:
    """Runs of the session's layout (`mc.layout.draw`), including tokens that were read but not laid out yet."""
    lod, start = session.context.tiling
    raw = session.length - session.tree.length
    lod = np.append(lod, np.zeros(raw, dtype=np.int64))
    start = np.append(start, np.arange(session.tree.length, session.length))
    return at_most(runs(Tiling(lod, start), session.length, np.append(scores, np.zeros(raw, dtype=np.float32))), MOST_SPANS)


def text_view(session: Session, tokenizer: Tokenizer, start: int, end: int) -> dict[str, Any]:
    """Text of the tokens `start … end−1` that exist, at most `TEXT_CHARACTERS` of it; `cut` is True if there is more.

    Incomplete characters at the ends are left out. Raises `ValueError` if `start` is not before `end`.
    """
    if not 0 <= start < end:
        raise ValueError(f"start is {start} and end {end}; they must be tokens, start before end")
    start, end = min(start, session.tree.length), min(end, session.tree.length)
    upto = min(end, start + TEXT_CHARACTERS)
    text = whole_characters(tokenizer.decode_bytes(session.tree.tokens(start, upto).numpy()))
    return {"start": start, "end": end, "text": text[:TEXT_CHARACTERS], "cut": upto < end or len(text) > TEXT_CHARACTERS}


def whole_characters(data: bytes) -> str:
    """Decodes `data` without the incomplete characters at its ends; other invalid UTF-8 becomes U+FFFD."""
    begin = 0
    while begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
        begin += 1
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(data[begin:])


def messages_view(session: Session, tokenizer: Tokenizer, most: int) -> dict[str, Any]:
    """The last messages, at most `most`, as `{"role", "parts", "cut"}`; `earlier` is True if there are others before them.

    Messages with `cut` are longer: they are given up to `MESSAGE_CHARACTERS` and the last `MESSAGE_TOKENS`, at their end.
    """
    end = session.tree.length
    begin = max(0, end - MESSAGE_TOKENS)
    messages = _messages(session.tree.tokens(begin, end), tokenizer, begin > 0)
    return {"messages": messages[-most:], "earlier": begin > 0 or len(messages) > most}


def _messages(tokens: Tensor, tokenizer: Tokenizer, cut: bool) -> list[dict[str, Any]]:
    """Messages in `tokens`; `cut`: there are tokens before them, so the first message may be incomplete."""
    special = tokenizer.special_tokens
    starts = {special["<|user_start|>"]: "user", special["<|assistant_start|>"]: "assistant"}
    ends = {special["<|user_end|>"]: "user", special["<|assistant_end|>"]: "assistant"}
    edges = set(special.values()) - {special[name] for name in BOUNDARIES}
    ids = tokens.tolist()
    first = next((token for token in ids if token in starts or token in ends), None)
    # The end of a message that began earlier tells its role; one without an end is so long that it is a document.
    role = None if not cut or first in starts else ends.get(first, "user")
    cut = cut and role is not None
    found: list[dict[str, Any]] = []
    reply, pieces = Reply(tokenizer), []
    for token in [*ids, None]:
        if token is not None and token not in edges:
            pieces += reply.feed(token)
            continue
        parts, whole = _shortened([{"type": piece.kind, "text": piece.text} for piece in joined([*pieces, *reply.close()])])
        if role is not None and parts:
            found.append({"role": role, "parts": parts, "cut": cut or not whole})
        role, cut, reply, pieces = starts.get(token), False, Reply(tokenizer), []
    return found


def _shortened(parts: list[dict[str, str]]) -> tuple[list[dict[str, str]], bool]:
    """The last `MESSAGE_CHARACTERS` of the parts, and True if that is all of them."""
    left, kept = MESSAGE_CHARACTERS, []
    for part in reversed(parts):
        if left <= 0:
            return kept[::-1], False
        kept.append({**part, "text": part["text"][-left:]})
        if len(part["text"]) > left:
            return kept[::-1], False
        left -= len(part["text"])
    return kept[::-1], True
