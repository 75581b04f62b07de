from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.data.tokenizer import FILE_NAME, MIN_VOCAB_SIZE, PATTERN, SPECIAL_TOKENS, Tokenizer, load_tokenizer

TEXT = Path(__file__).read_text(encoding="utf-8") + "Ünïcödé, 漢字と仮名 and 🎉🎉! I'll pay 1234567 €.\n\n\t  it's\n" * 30


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], 700)


def merges_by_definition(texts: list[str], number: int) -> list[tuple[int, int]]:
    """Counts all pairs anew for each merge; the most frequent first, the smaller ids where counts are equal."""
    words = Counter(piece for text in texts for piece in regex.findall(PATTERN, text))
    split = {word: list(word.encode()) for word in words}
    merges: list[tuple[int, int]] = []
    while len(merges) < number:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, ids in split.items():
            for pair in zip(ids, ids[1:], strict=False):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for word, ids in split.items():
            merged: list[int] = []
            for i in ids:
                if merged and (merged[-1], i) == best:
                    merged[-1] = 256 + len(merges)
                else:
                    merged.append(i)
            split[word] = merged
        merges.append(best)
    return merges


def test_training_follows_the_definition() -> None:
    texts = [TEXT, "aaaa aaa abab" * 5, "", "zz"]
    assert list(Tokenizer.train(texts, MIN_VOCAB_SIZE + 120).merges) == merges_by_definition(texts, 120)


def test_ties_go_to_the_smaller_pair() -> None:
    trained = Tokenizer.train(["bc", "ab", "ba", "ac"], MIN_VOCAB_SIZE + 3)
    assert [trained.decode([256 + i]) for i in range(3)] == ["ab", "ac", "ba"]


def test_training_reads_an_iterator_once_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [TEXT[i : i + 500] for i in range(0, len(TEXT), 500)]
    whole = Tokenizer.train(texts, 400)
    monkeypatch.setattr("nanochat.data.tokenizer.BATCH_CHARS", 1200)
    assert Tokenizer.train(iter(texts), 400).fingerprint == whole.fingerprint
    assert Tokenizer.train(pa.array(texts), 400).fingerprint == whole.fingerprint


def test_ids_are_bytes_then_merges_then_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 700
    assert [tokenizer.decode_bytes([i]) for i in range(256)] == [bytes([i]) for i in range(256)]
    assert list(tokenizer.special_tokens) == list(SPECIAL_TOKENS)
    assert list(tokenizer.special_tokens.values()) == list(range(700 - len(SPECIAL_TOKENS), 700))
    assert tokenizer.bos_id == tokenizer.special_tokens["<|bos|>"]
    assert tokenizer.decode([tokenizer.bos_id, 104, 105]) == "<|bos|>hi"


# --- encoding


def newer_than_tiktoken() -> set[str]:
    """Letters and numbers that the Unicode tables of the installed tiktoken do not have yet."""
    import tiktoken

    old = tiktoken.Encoding("letters", pat_str=r"[\p{L}\p{N}]", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={})
    known = [c for c in map(chr, range(0x110000)) if regex.match(r"[\p{L}\p{N}]", c)]
    return {c for c in known if not old.encode_ordinary(c)}


NEWER = newer_than_tiktoken()


@settings(max_examples=400, deadline=None)
@given(text=st.text(max_size=300) | st.text(st.sampled_from("abcdehilst '\n.019é漢🎉"), max_size=300))
def test_encode_gives_the_ids_of_tiktoken_and_the_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assume(NEWER.isdisjoint(text))
    assert ids == tokenizer.to_tiktoken().encode_ordinary(text)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 32), lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=4))
def test_any_vocabulary_gives_the_ids_of_tiktoken(seed: int, lengths: list[int]) -> None:
    """Random merges: tokens that training would never make, in an order it would never choose."""
    rng = random.Random(seed)
    tokens = [bytes([i]) for i in range(256)]
    merges: list[tuple[int, int]] = []
    usable = [97, 98, 99]
    for _ in range(200):
        left, right = rng.choice(usable), rng.choice(usable)
        if tokens[left] + tokens[right] not in tokens and len(tokens[left] + tokens[right]) < 40:
            usable.append(len(tokens))
            tokens.append(tokens[left] + tokens[right])
            merges.append((left, right))
    made = Tokenizer(merges)
    for length in lengths:
        text = "".join(rng.choices("abc", k=length))
        assert made.encode(text) == made.to_tiktoken().encode_ordinary(text)
    for i in usable:  # a token is itself, even where no merges lead to it
        assert made.encode(made.decode([i])) == [i]


def test_a_folder_of_an_earlier_version_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    """Its file has the name that Hugging Face uses for another format."""
    old, new = Tokenizer.train([TEXT], 300), Tokenizer.train([TEXT], 400)
    old.save(tmp_path)
    (tmp_path / "bpe.json").rename(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).fingerprint == old.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    new.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == new.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["bpe.json"]


def test_text_that_spells_a_special_token_is_ordinary_text(tokenizer: Tokenizer) -> None:
    text = "a<|bos|><|assistant_end|>"
    for ids in (tokenizer.encode(text), tokenizer.encode_bulk([text], bos=False)[0].tolist()):
        assert max(ids) < min(tokenizer.special_tokens.values())
        assert tokenizer.decode(ids) == text


def test_bos_comes_first_when_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hi", bos=True) == [tokenizer.bos_id, *tokenizer.encode("hi")]
    assert tokenizer.encode("", bos=True) == [tokenizer.bos_id]
    assert tokenizer.encode("") == []


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=12), bos=st.booleans(), threads=st.integers(0, 3))
def test_bulk_gives_the_same_ids_text_by_text(tokenizer: Tokenizer, texts: list[str], bos: bool, threads: int) -> None:
    ids, offsets = tokenizer.encode_bulk(iter(texts), bos=bos, threads=threads)
    assert (ids.dtype, offsets.dtype) == (np.uint16, np.int64)
    assert len(offsets) == len(texts) + 1 and offsets[0] == 0 and offsets[-1] == len(ids)
    assert [ids[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == [tokenizer.encode(t, bos) for t in texts]


COLUMNS: dict[str, Callable[[list[str]], pa.Array | pa.ChunkedArray]] = {
    "string": lambda t: pa.array(t, pa.string()),
    "large_string": lambda t: pa.array(t, pa.large_string()),
    "string_view": lambda t: pa.array(t, pa.string_view()),
    "slice": lambda t: pa.array(["before", *t, "after"])[1:-1],
    "dictionary": lambda t: pa.array(t).dictionary_encode(),
    "chunks": lambda t: pa.chunked_array([t[:2], [], t[2:]], pa.string()),
    "no chunks": lambda t: pa.chunked_array([], pa.string()) if not t else pa.chunked_array([t]),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("texts", [["one", "", "drei 3", "四四"], []], ids=["some", "none"])
def test_a_column_is_encoded_like_a_list(tokenizer: Tokenizer, kind: str, texts: list[str]) -> None:
    ids, offsets = tokenizer.encode_bulk(COLUMNS[kind](texts))
    expected_ids, expected_offsets = tokenizer.encode_bulk(texts)
    assert ids.dtype == expected_ids.dtype and ids.tolist() == expected_ids.tolist()
    assert offsets.tolist() == expected_offsets.tolist()


def test_batches_of_an_iterable_are_joined(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["some words"] * 10 + ["", "x" * 50, "end"]
    whole = tokenizer.encode_bulk(texts)
    monkeypatch.setattr("nanochat.data.tokenizer.BATCH_CHARS", 25)
    for once, joined in zip(whole, tokenizer.encode_bulk(iter(texts)), strict=True):
        assert once.dtype == joined.dtype and once.tolist() == joined.tolist()


def test_a_large_vocabulary_has_ids_of_32_bits() -> None:
    large = Tokenizer([(i, j) for i in range(256) for j in range(256)])
    ids, _ = large.encode_bulk(["zz", "a"])
    assert ids.dtype == np.uint32 and large.vocab_size > 1 << 16
    assert ids.tolist() == [large.bos_id, 256 + 122 * 256 + 122, large.bos_id, 97]


# --- token_bytes


def test_token_bytes_is_right_for_every_id(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32 and lengths.shape == (tokenizer.vocab_size,)
    first_special = min(tokenizer.special_tokens.values())
    assert lengths[:first_special].tolist() == [len(tokenizer.decode_bytes([i])) for i in range(first_special)]
    assert lengths[first_special:].tolist() == [0] * len(SPECIAL_TOKENS)


def test_token_bytes_counts_pieces_of_characters() -> None:
    """Tokens that are no UTF-8 by themselves: halves of a character, and a character with half of the next."""
    split = Tokenizer([(0xE6, 0xBC), (256, 0xA2), (257, 0xE6), (258, 0xBC)])
    assert split.token_bytes()[256:260].tolist() == [2, 3, 4, 5]
    ids = split.encode("漢漢漢")
    assert split.token_bytes()[ids].sum() == 9
    assert split.decode([256]) == "\ufffd"


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.token_bytes()[tokenizer.encode(text)].sum() == len(text.encode())


# --- saving


def test_a_saved_tokenizer_comes_back(tokenizer: Tokenizer, base: Path) -> None:
    tokenizer.save(base / "tokenizer")
    loaded = load_tokenizer()
    assert loaded.fingerprint == tokenizer.fingerprint and len(loaded.fingerprint) == 16
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.special_tokens == tokenizer.special_tokens


def test_the_fingerprint_depends_on_the_merges_and_their_order() -> None:
    assert len({Tokenizer(merges).fingerprint for merges in ([], [(97, 98)], [(98, 97)], [(97, 98), (98, 97)], [(98, 97), (97, 98)])}) == 5


def test_a_missing_tokenizer_says_how_to_get_one(base: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer in .*scripts\.tok_train"):
        load_tokenizer()


def test_any_damage_is_found(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        at = rng.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        for content in (bytes(damaged), whole[:at]):
            path.write_bytes(content)
            try:
                loaded = Tokenizer.load(tmp_path)
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)
            else:  # white space between values may change
                assert loaded.fingerprint == tokenizer.fingerprint and json.loads(content) == json.loads(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "x"},
        {"special_tokens": {}},
        {"special_tokens": None},
        {"merges": 3},
        {"merges": ["a b"]},
        {"merges": ["1"]},
        {"merges": [None]},
    ],
)
def test_a_file_of_another_shape_is_refused(tokenizer: Tokenizer, tmp_path: Path, change: dict) -> None:
    import nanochat.data.tokenizer

    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text()) | change
    content["fingerprint"] = nanochat.data.tokenizer._fingerprint(content["pattern"], content["special_tokens"], content["merges"])
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(UserError, match=FILE_NAME):
        Tokenizer.load(tmp_path)
    (tmp_path / FILE_NAME).write_text("[]")
    with pytest.raises(UserError, match=FILE_NAME):
        Tokenizer.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        tokenizer.save(tmp_path / "file" / "tokenizer")


# --- bad input


def test_a_vocabulary_the_text_cannot_fill_is_refused() -> None:
    with pytest.raises(UserError, match=rf"pairs for a vocabulary of {MIN_VOCAB_SIZE + 3}, not of 1000; give more text"):
        Tokenizer.train(["abcd"], 1000)
    with pytest.raises(UserError, match="give more text"):
        Tokenizer.train([], 1000)
    with pytest.raises(ValueError, match="invalid vocab_size 264"):
        Tokenizer.train(["abcd"], 264)


@pytest.mark.parametrize("merges", [[(0, 256)], [(-1, 3)], [(97, 98), (256, 257)], [(97, 98), (97, 98)]])
def test_merges_that_are_none_are_refused(merges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError):
        Tokenizer(merges)


def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.encode("half \ud83c")
    with pytest.raises(ValueError, match="not valid Unicode"):
        tokenizer.encode_bulk(["fine", "half \ud83c"])
    with pytest.raises(ValueError, match="not valid Unicode"):
        Tokenizer.train(["\udc80"], 300)
    with pytest.raises(ValueError, match="1 of 2 texts are null"):
        tokenizer.encode_bulk(pa.array(["fine", None]))
    with pytest.raises(ValueError, match="document 1 of the batch is not valid UTF-8"):
        tokenizer.encode_bulk(
            pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], "i4")), pa.py_buffer(b"a\xff")])
        )


@pytest.mark.parametrize("ids", [[-1], [700], [5, 1 << 40]])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="vocabulary of 700"):
        tokenizer.decode(ids)


# --- extreme text


@pytest.mark.parametrize("unit", [" ", "\u3000", "\n", " \n", "a", "é", "1", "!", "'", "\x00"])
def test_a_million_of_the_same_comes_back(tokenizer: Tokenizer, unit: str) -> None:
    """tiktoken panics on a million blanks."""
    text = unit * 1_000_000 + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("alphabet", ["a", "abcdefghijklmnopqrstuvwxyz", "!?#$%&", " \t"])
def test_one_character_class_takes_linear_time(alphabet: str) -> None:
    def processor_seconds(chars: int) -> float:
        text = "".join(random.Random(0).choices(alphabet, k=chars))
        start = time.process_time()
        trained = Tokenizer.train([text], MIN_VOCAB_SIZE + 15)
        trained.encode_bulk([text])
        return time.process_time() - start

    few, many = processor_seconds(200_000), processor_seconds(1_600_000)
    assert many < 24 * max(few, 0.01)  # linear is 8, quadratic 64


@pytest.mark.slow
def test_a_million_round_trips(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    planes = [(0x20, 0x7F), (0x20, 0x7F), (0, 0x20), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]

    def any_text() -> str:
        low, high = rng.choice(planes)
        mixed = rng.random() < 0.5
        bounds = [rng.choice(planes) if mixed else (low, high) for _ in range(rng.randrange(24))]
        return "".join(chr(rng.randrange(*b)) for b in bounds)

    for _ in range(20):
        texts = [any_text() for _ in range(50_000)]
        ids, offsets = tokenizer.encode_bulk(texts, bos=False)
        for i, text in enumerate(texts):
            own = ids[offsets[i] : offsets[i + 1]].tolist()
            assert tokenizer.decode(own) == text
            if i % 10 == 0:
                assert own == tokenizer.encode(text)
