"""Row loader for fine-tuning: whole conversations, rendered and packed once, kept on disk.

Only what the assistant says is learned (`chat_template`). Padding comes first, so that a row ends with a reply: a memory is judged
on the end of its rows. A conversation that is longer than a row is cut after the last turn of the assistant that fits; one
without such a turn, or with nothing to learn, is left out. Both are counted.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common import UserError, base_dir, digest, read_json, write_json
from nanochat.data.chat_template import render_whole_turns
from nanochat.data.dataloader import permute
from nanochat.data.make_once import make_once, new_folder
from nanochat.data.packing import pack_whole, ranges
from nanochat.data.rows import Loader, masked, masked_rows
from nanochat.data.tokenizer import Tokenizer

VERSION = 2  # of the rows; it changes with the order of the data
PROGRESS_SECONDS = 10.0
_KEPT = ("tokens", "first_token", "first_piece")


class Conversations(Sequence[Mapping[str, Any]]):
    """Conversations by number, with a fingerprint that changes when any of them does."""

    fingerprint: str


class ConversationLoader(Loader):
    """All rows of a mixture; each epoch has its own order. `counts`: statistics of the conversations.

    Raises `UserError` if no conversation fits a row.
    """

    def __init__(
        self,
        conversations: Conversations,
        tokenizer: Tokenizer,
        seq_len: int,
        seed: int = 0,
        shuffle: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        if seq_len < 1:
            raise ValueError(f"invalid seq_len {seq_len}: must be at least 1")
        self.seq_len, self.seed, self.shuffle = seq_len, seed, shuffle
        self._padding = tokenizer.bos_id
        key = digest(VERSION, conversations.fingerprint, tokenizer.fingerprint, seq_len)
        folder = base_dir() / "tokens" / f"chat-{key}"
        make_once(folder, lambda: _make(folder, conversations, tokenizer, seq_len, say), proof="counts.json")
        self.counts: dict[str, int] = read_json(folder / "counts.json")
        self._tokens, self._first_token, self._first_piece = (_open(folder / f"{name}.npy") for name in _KEPT)
        self.rows_per_epoch = len(self._first_piece) - 1
        self.fingerprint = digest(key, seed if shuffle else None)
        self._order = lru_cache(maxsize=2)(self._epoch)

    def rows(self, a: int, b: int) -> np.ndarray:
        """See `Loader`."""
        if not 0 <= a <= b:
            raise ValueError(f"invalid row range {a}..{b}")
        numbers, width = np.arange(a, b), self.seq_len + 1
        epochs, places = np.divmod(numbers, self.rows_per_epoch)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            places[here] = self._order(int(epoch))[places[here]]
        pieces = self._first_piece[places + 1] - self._first_piece[places]
        piece = ranges(self._first_piece[places], pieces)
        length = self._first_token[piece + 1] - self._first_token[piece]
        before = np.cumsum(length) - length  # tokens of these rows before each piece
        row = np.repeat(np.arange(len(places)), pieces)
        begin = np.searchsorted(row, np.arange(len(places) + 1))
        ends = np.append(before, length.sum())[begin[1:]]  # of the rows, in tokens
        target = row * width + width + before - ends[row]  # the place of each piece
        out = masked_rows(b - a, self.seq_len, self._padding)
        out.reshape(-1)[ranges(target, length)] = self._tokens[ranges(self._first_token[piece], length)]
        return out

    def _epoch(self, epoch: int) -> np.ndarray:
        rows = np.arange(self.rows_per_epoch)
        return permute(rows, self.rows_per_epoch, f"{self.seed}:{epoch}") if self.shuffle else rows


def _make(folder: Path, conversations: Conversations, tokenizer: Tokenizer, seq_len: int, say: Callable[[str], None]) -> None:
    """Renders and packs all conversations into `folder`."""
    begin = last = time.monotonic()
    pieces: list[np.ndarray] = []
    counts = dict.fromkeys(("conversations", "cut", "too_long", "nothing_to_learn", "rows", "tokens", "learned_tokens"), 0)
    for i in range(len(conversations)):
        try:
            ids, mask, messages_cut = render_whole_turns(tokenizer, conversations[i], seq_len + 1)
        except ValueError as error:
            raise UserError(f"conversation {i} of the mixture: {error}; fix the data or leave it out") from error
        counts["conversations"] += 1
        if not ids:
            counts["too_long"] += 1
        elif not any(mask):
            counts["nothing_to_learn"] += 1
        else:
            counts["cut"] += messages_cut > 0
            counts["learned_tokens"] += sum(mask)
            pieces.append(masked(ids, mask))
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            say(f"rendered {i + 1:,} of {len(conversations):,} conversations")
    if not pieces:
        raise UserError(
            f"none of the {len(conversations):,} conversations has a turn of the assistant that fits a row of {seq_len} tokens; "
            "use longer rows (a model trained with a larger --max-seq-len) or other data"
        )
    length = np.array([len(piece) for piece in pieces])
    row, piece = pack_whole(length, seq_len + 1)
    counts |= {"rows": int(row[-1]) + 1, "tokens": int(length.sum())}
    arrays = {
        "tokens": np.concatenate([pieces[i] for i in piece.tolist()]),
        "first_token": np.array([0, *itertools.accumulate(length[piece].tolist())]),
        "first_piece": np.append(np.flatnonzero(np.diff(row, prepend=-1)), len(row)),
    }
    with new_folder(folder) as temporary:
        for name in _KEPT:
            np.save(temporary / f"{name}.npy", arrays[name], allow_pickle=False)
        write_json(temporary / "counts.json", counts)
    filled = counts["tokens"] / (counts["rows"] * (seq_len + 1))
    say(
        f"conversations: {counts['conversations']:,} in {counts['rows']:,} rows of {seq_len}, {filled:.1%} filled; "
        f"{counts['cut']:,} cut, {counts['too_long']:,} too long, {counts['nothing_to_learn']:,} with nothing to learn; "
        f"{time.monotonic() - begin:.1f} s"
    )


def _open(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); delete its folder and it is made again") from error
