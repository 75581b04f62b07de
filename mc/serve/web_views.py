"""A session as a chat server shows it: where its focus is, what its text says, what was said last. All of it is what JSON can say."""

from __future__ import annotations

import codecs
from typing import Any

import numpy as np
from torch import Tensor

from mc.layout.draw import at_most, runs
from mc.layout.tiling import Tiling
from mc.session.session import MCSession
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import BOUNDARIES, Reply, joined

MOST_SPANS = 1024
TEXT_CHARACTERS = 2_000
MESSAGE_TOKENS = 16_384  # of the end of a session, in which its last messages are looked for
MESSAGE_CHARACTERS = 8_000  # of the end of a longer message


def focus_view(session: MCSession, with_scores: bool = False) -> dict[str, Any]:
    """The Working Context as spans `[level, first token, end, entries]`, neighbours of one level being one, and its figures.

    `scores` has LensNet's mean score of each span's entries, where asked for. What would be more than `MOST_SPANS` spans is drawn
    in less detail.
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


def _spans(session: MCSession, scores: np.ndarray) -> np.ndarray:
    """The runs of the session's layout (`mc.layout.draw`), of what has been read and is not yet laid out too."""
    lod, start = session.context.tiling
    raw = session.length - session.tree.length
    lod = np.append(lod, np.zeros(raw, dtype=np.int64))
    start = np.append(start, np.arange(session.tree.length, session.length))
    return at_most(runs(Tiling(lod, start), session.length, np.append(scores, np.zeros(raw, dtype=np.float32))), MOST_SPANS)


def text_view(session: MCSession, tokenizer: Tokenizer, start: int, end: int) -> dict[str, Any]:
    """The text of the tokens `start … end−1`, as far as there are any, and at most `TEXT_CHARACTERS` of it: `cut` says so.

    Characters of which a byte lies outside are left out. Raises `ValueError` where `start` is not before `end`.
    """
    if not 0 <= start < end:
        raise ValueError(f"start is {start} and end {end}; they must be tokens, the first before the last")
    start, end = min(start, session.tree.length), min(end, session.tree.length)
    upto = min(end, start + TEXT_CHARACTERS)
    text = whole_characters(tokenizer.decode_bytes(session.tree.tokens(start, upto).numpy()))
    return {"start": start, "end": end, "text": text[:TEXT_CHARACTERS], "cut": upto < end or len(text) > TEXT_CHARACTERS}


def whole_characters(data: bytes) -> str:
    """`data` as text, without the characters at its ends that are not all there; what else is no UTF-8 becomes U+FFFD."""
    begin = 0
    while begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
        begin += 1
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(data[begin:])


def messages_view(session: MCSession, tokenizer: Tokenizer, most: int) -> dict[str, Any]:
    """The last messages, `most` at most, as `{"role", "parts", "cut"}`; `earlier` says whether there are others before them.

    `cut` messages are longer: `MESSAGE_CHARACTERS` of their end are given, or what the last `MESSAGE_TOKENS` have of them.
    """
    end = session.tree.length
    begin = max(0, end - MESSAGE_TOKENS)
    messages = _messages(session.tree.tokens(begin, end), tokenizer, begin > 0)
    return {"messages": messages[-most:], "earlier": begin > 0 or len(messages) > most}


def _messages(tokens: Tensor, tokenizer: Tokenizer, cut: bool) -> list[dict[str, Any]]:
    """The messages in `tokens`; `cut`: there are tokens before them, so that the first message may have begun before."""
    special = tokenizer.special_tokens
    starts = {special["<|user_start|>"]: "user", special["<|assistant_start|>"]: "assistant"}
    ends = {special["<|user_end|>"]: "user", special["<|assistant_end|>"]: "assistant"}
    edges = set(special.values()) - {special[name] for name in BOUNDARIES}
    ids = tokens.tolist()
    first = next((token for token in ids if token in starts or token in ends), None)
    # Whose the message is that began before says its end; one without an end here is so long that it is a document.
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
    """The end of the parts, and whether that is all of them."""
    left, kept = MESSAGE_CHARACTERS, []
    for part in reversed(parts):
        if left <= 0:
            return kept[::-1], False
        kept.append({**part, "text": part["text"][-left:]})
        if len(part["text"]) > left:
            return kept[::-1], False
        left -= len(part["text"])
    return kept[::-1], True
