"""Rows of conversations: masks, cuts, packing, order, what is kept on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.data.chat_template import render_conversation, render_whole_turns
from nanochat.data.conversation_loader import ConversationLoader
from nanochat.data.packing import pack_whole
from nanochat.data.rows import count_targets, inputs_and_targets
from nanochat.data.tokenizer import Tokenizer
from nanochat.model.cross_entropy import IGNORE


class Listed(list):
    """Conversations from a list."""

    @property
    def fingerprint(self) -> str:
        return repr(self)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer([])


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def talk(*texts: Any) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


def learned(tokenizer: Tokenizer, row: np.ndarray) -> str:
    return tokenizer.decode(row[1:][row[1:] >= 0])


def test_only_what_the_assistant_says_is_learned(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "I count: "}, {"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    loader = ConversationLoader(Listed([talk("how much?", parts, "thanks", "bye")]), tokenizer, 127)
    (row,) = loader.rows(0, 1)
    assert learned(tokenizer, row) == "I count: <|python_start|>1+1<|python_end|><|assistant_end|>bye<|assistant_end|>"
    whole = tokenizer.decode(np.where(row < 0, ~row, row))
    assert whole.replace("<|bos|>", "").startswith("<|user_start|>how much?<|user_end|><|assistant_start|>I count: ")
    assert whole.endswith("bye<|assistant_end|>"), "padding comes first"
    assert "<|output_start|>2<|output_end|>" in whole
    tokens, targets = inputs_and_targets(torch.from_numpy(row[None].astype(np.int64)))
    assert tokens.min() >= 0 and (targets >= IGNORE).all()
    assert int((targets != IGNORE).sum()) == count_targets(row[None])[0] == loader.counts["learned_tokens"]
    at = torch.nonzero(targets[0] != IGNORE)[:-1, 0]
    assert (targets[0, at] == tokens[0, at + 1]).all(), "a target is the token that comes next"


def test_every_conversation_is_in_one_row_of_each_epoch_and_the_rest_is_padding(tokenizer: Tokenizer) -> None:
    talks = Listed([talk("q" * (i % 13), f"answer {i} " + "x" * (i % 29)) for i in range(200)])
    loader = ConversationLoader(talks, tokenizer, 99, seed=3)
    rendered = Counter(tuple(render_conversation(tokenizer, t, 100)[0]) for t in talks)
    orders = []
    for epoch in range(2):
        rows = loader.rows(epoch * loader.rows_per_epoch, (epoch + 1) * loader.rows_per_epoch)
        orders.append(rows)
        found: Counter[tuple[int, ...]] = Counter()
        for row in rows:
            tokens = np.where(row < 0, ~row, row)
            starts = [*np.flatnonzero(tokens == tokenizer.bos_id), len(row)]
            for begin, end in zip(starts, starts[1:], strict=False):
                if end - begin > 1:
                    found[tuple(tokens[begin:end].tolist())] += 1
                else:
                    assert row[begin] < 0, "padding is never learned"
        assert found == rendered
    assert not (orders[0] == orders[1]).all() and sorted(map(bytes, orders[0])) == sorted(map(bytes, orders[1]))
    assert (loader.rows(5, 9) == orders[0][5:9]).all()
    across = loader.rows(loader.rows_per_epoch - 2, loader.rows_per_epoch + 2)
    assert (across == np.concatenate([orders[0][-2:], orders[1][:2]])).all()
    assert loader.rows(4, 4).shape == (0, 100)
    again = ConversationLoader(talks, tokenizer, 99, seed=3, say=lambda text: pytest.fail(f"rendered again: {text}"))
    assert again.fingerprint == loader.fingerprint and (again.rows(0, 3) == orders[0][:3]).all()
    assert ConversationLoader(talks, tokenizer, 99, seed=4).fingerprint != loader.fingerprint


def test_what_does_not_fit_is_cut_at_a_turn_or_left_out_and_counted(tokenizer: Tokenizer) -> None:
    said: list[str] = []
    talks = Listed(
        [
            talk("hi", "hello", "tell me more", "y" * 200),  # the second answer does not fit
            talk("hi", "z" * 200),  # no answer fits
            talk("no answer"),  # nothing to learn
            talk("question", "fine", "left hanging"),  # the last turn teaches nothing
        ]
    )
    loader = ConversationLoader(talks, tokenizer, 63, shuffle=False, say=said.append)
    assert sorted(learned(tokenizer, row) for row in loader.rows(0, loader.rows_per_epoch)) in (
        ["fine<|assistant_end|>hello<|assistant_end|>"],
        ["hello<|assistant_end|>fine<|assistant_end|>"],
        ["fine<|assistant_end|>", "hello<|assistant_end|>"],
    )
    figures = loader.counts
    assert (figures["conversations"], figures["cut"], figures["too_long"], figures["nothing_to_learn"]) == (4, 2, 2, 0)
    assert "2 cut, 2 too long" in said[-1]
    assert render_whole_turns(tokenizer, talks[1], 64).ids == []
    with pytest.raises(UserError, match="none of the 1 conversations .* row of 15 tokens"):
        ConversationLoader(Listed(talks[1:2]), tokenizer, 15)
    with pytest.raises(UserError, match="conversation 1 of the mixture: message 0 has the role 'assistant'"):
        ConversationLoader(Listed([talk("a", "b"), {"messages": [{"role": "assistant", "content": "x"}]}]), tokenizer, 63)


def test_a_damaged_file_is_named(tokenizer: Tokenizer, base: Path) -> None:
    talks = Listed([talk("hi", "hello")])
    ConversationLoader(talks, tokenizer, 63)
    (path,) = base.glob("tokens/chat-*/tokens.npy")
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(UserError, match="tokens.npy is damaged"):
        ConversationLoader(talks, tokenizer, 63)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(40, 60))
def test_pieces_are_packed_whole_and_once(lengths: list[int], capacity: int) -> None:
    row, piece = pack_whole(np.array(lengths), capacity)
    assert sorted(piece.tolist()) == list(range(len(lengths)))
    assert (np.diff(row) >= 0).all() and set(row.tolist()) == set(range(row[-1] + 1))
    assert np.bincount(row, weights=np.array(lengths)[piece]).max() <= capacity
    filled = np.bincount(row, weights=np.array(lengths)[piece])
    assert all(a + b > capacity for a, b in zip(filled, filled[1:], strict=False)), "two rows in a row would fit into one"


def test_a_row_is_a_mix_of_pieces_as_they_come() -> None:
    """Rows of like lengths would be rows of one task each: what a batch teaches would depend on its rows."""
    lengths = np.random.default_rng(0).integers(2, 41, 4000)
    row, piece = pack_whole(lengths, 256)
    assert np.abs(np.diff(piece)).max() < 3 * 256 and (piece[row == 0][:5] == np.arange(5)).all()
    spread = [lengths[piece[row == r]].std() for r in range(row[-1])]
    assert min(spread) > 0.5 * lengths.std(), "long and short ones in every row"
    assert lengths.sum() > 0.99 * 256 * (row[-1] + 1), "and yet few are left to padding"
