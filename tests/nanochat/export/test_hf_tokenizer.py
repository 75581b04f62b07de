"""Our tokenizer in Hugging Face's format: the same ids, by `tokenizers` alone."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import rustbpe
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.export.hf_tokenizer import character_classes, merges, tokenizer_json
from tests.helpers.odd_strings import odd_strings
from tests.helpers.tiny_model import tiny_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed; ./mc_setup --dev installs it")


def theirs(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """`tokenizer` as the library reads it; text that spells a special token is text."""
    read = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer), ensure_ascii=False))
    read.encode_special_tokens = True
    return read


def pieces(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    """The text as it is split before merging. Few merges in a vocabulary would hide what is split otherwise."""
    return [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_ids_are_ours_on_odd_strings_and_the_text_comes_back() -> None:
    ours = tiny_tokenizer(330)
    read = theirs(ours)
    for text in [*odd_strings(0, 1000), " " * 10_000 + "x", "a" * 10_000]:
        assert pieces(read, text) == rustbpe.split(text), ascii(text)
        assert ids(read, text) == ours.encode(text), ascii(text)
        assert read.decode(ids(read, text), skip_special_tokens=False) == text


def test_every_class_has_the_bounds_of_ours() -> None:
    """A character that Unicode took in between two versions would be at the end of a range."""
    read = theirs(tiny_tokenizer())
    edges = {int(end) + by for points in character_classes() for run in runs(points) for end in (run[0], run[-1]) for by in (-1, 0, 1)}
    assert len(edges) > 2000
    text = "".join(f"x{chr(c)}1{chr(c)}!{chr(c)}\n" for c in sorted(edges) if c >= 0 and not 0xD800 <= c < 0xE000)
    assert pieces(read, text) == rustbpe.split(text)


def runs(points: np.ndarray) -> list[np.ndarray]:
    """Neighbours in a row."""
    return np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)


@pytest.mark.parametrize("seed", range(12))
def test_any_vocabulary_gives_our_ids(seed: int) -> None:
    """Random merges: a token is often spelled by other pairs than the one that made it."""
    rng = random.Random(seed)
    letters = rng.choice(["a", "ab", "abc"])
    tokens, pairs, usable = [bytes([i]) for i in range(256)], [], [*map(ord, letters)]
    for _ in range(150):
        left, right = rng.choice(usable), rng.choice(usable)
        if tokens[left] + tokens[right] not in tokens and len(tokens[left] + tokens[right]) < 40:
            usable.append(len(tokens))
            tokens.append(tokens[left] + tokens[right])
            pairs.append((left, right))
    ours = Tokenizer(pairs)
    assert len(list(merges(tokens))) > len(pairs)
    read = theirs(ours)
    for _ in range(20):
        text = "".join(rng.choices(letters, k=rng.randrange(1, 300)))
        assert ids(read, text) == ours.encode(text)
    for i in usable:  # a token is itself, even where no merges lead to it
        assert ids(read, ours.decode([i])) == [i]


def test_special_tokens_have_our_ids_and_bos_comes_first() -> None:
    ours = tiny_tokenizer()
    read = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(ours)))
    assert {name: read.token_to_id(name) for name in SPECIAL_TOKENS} == ours.special_tokens
    assert read.get_vocab_size() == ours.vocab_size
    assert read.encode("hi").ids == ours.encode("hi", bos=True)
    assert read.encode("hi", "ho").ids == ours.encode("hi", bos=True) + ours.encode("ho")
    assert read.decode([ours.bos_id, *ours.encode("hi")], skip_special_tokens=False) == ours.decode([ours.bos_id, *ours.encode("hi")])
