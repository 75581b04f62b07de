"""Tokenizer: byte-level BPE with chat tokens, trained and applied by the Rust crate `rustbpe`.

Ids: the 256 bytes, then one per merge in the order of training, then the special tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import rustbpe
from nanochat.common import UserError, base_dir, batched_by_chars, ensure_dir, read_json, write_json

if TYPE_CHECKING:
    import pyarrow
    import tiktoken

    Texts = Iterable[str] | pyarrow.Array | pyarrow.ChunkedArray

SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)

# Splits text before merging, in the syntax of the module `regex`. `rustbpe` has it built in and accepts no other.
PATTERN = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
FILE_NAME = "bpe.json"
OLD_FILE_NAME = "tokenizer.json"  # which Hugging Face uses for another format
BATCH_CHARS = 16 << 20  # read at once from an iterable of texts: enough work for all threads, little memory


class Tokenizer:
    """A vocabulary. `merges[i]` are the two ids that make id `256 + i`; see `train` and `load`."""

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        self.merges = tuple(merges)
        tokens = [bytes([byte]) for byte in range(256)]
        for i, (left, right) in enumerate(self.merges):
            if not (0 <= left < 256 + i and 0 <= right < 256 + i):
                raise ValueError(f"invalid merge {i}: ids {left} and {right} do not both exist before it")
            tokens.append(tokens[left] + tokens[right])
        self._vocabulary = rustbpe.Vocabulary(tokens)
        self.special_tokens = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self._tokens = tokens + [name.encode() for name in SPECIAL_TOKENS]

    @classmethod
    def train(cls, texts: Texts, vocab_size: int, threads: int = 0) -> Tokenizer:
        """Learns `vocab_size` tokens, special ones included, from `texts`. `threads`: 0 = one per processor.

        The most frequent pair is merged first; of equally frequent ones, that with the smaller ids. Raises `UserError` if the
        texts do not have enough pairs for the vocabulary.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(f"invalid vocab_size {vocab_size}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens need {MIN_VOCAB_SIZE}")
        trainer = rustbpe.Trainer(threads)
        with ThreadPoolExecutor(max_workers=1) as pool:  # counts one batch while the next is read
            counted: Future[None] | None = None
            for documents in _batches(texts):
                if counted is not None:
                    counted.result()
                counted = pool.submit(trainer.feed, documents)
            if counted is not None:
                counted.result()
        merges = trainer.learn(vocab_size - MIN_VOCAB_SIZE)
        if MIN_VOCAB_SIZE + len(merges) < vocab_size:
            found = f"the texts have pairs for a vocabulary of {MIN_VOCAB_SIZE + len(merges)}, not of {vocab_size}"
            raise UserError(f"{found}; give more text or a smaller --vocab-size")
        return cls(merges)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer saved in `folder`. Raises `UserError` if it is missing or damaged."""
        path = next((path for name in (FILE_NAME, OLD_FILE_NAME) if (path := folder / name).exists()), None)
        if path is None:
            raise UserError(f"no tokenizer in {folder}; train one with python -m scripts.tok_train")
        saved = read_json(path)
        try:
            if saved["fingerprint"] != _fingerprint(saved["pattern"], saved["special_tokens"], saved["merges"]):
                raise ValueError("fingerprint mismatch")
            tokenizer = cls([(int(left), int(right)) for left, right in map(str.split, saved["merges"])])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); train the tokenizer again") from error
        if tokenizer.fingerprint != saved["fingerprint"]:
            raise UserError(f"{path} is from a version with another pattern or other special tokens; train the tokenizer again")
        return tokenizer

    def save(self, folder: Path) -> None:
        """Writes the tokenizer to `folder` as JSON, atomically."""
        ensure_dir(folder)
        content = {
            "pattern": PATTERN,
            "special_tokens": self.special_tokens,
            "merges": self._merge_lines(),
            "fingerprint": self.fingerprint,
        }
        write_json(folder / FILE_NAME, content)
        (folder / OLD_FILE_NAME).unlink(missing_ok=True)  # the folder has one tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids, including special tokens."""
        return len(self._tokens)

    @property
    def bos_id(self) -> int:
        """Id of `<|bos|>`, the first token of every document."""
        return self.special_tokens["<|bos|>"]

    @property
    def dtype(self) -> type[np.generic]:
        """The NumPy type that holds an id: uint16, or uint32 for more than 65,536 ids."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits, equal for tokenizers that encode alike."""
        return _fingerprint(PATTERN, self.special_tokens, self._merge_lines())

    def _merge_lines(self) -> list[str]:
        return [f"{left} {right}" for left, right in self.merges]

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Ids of `text`, after `bos_id` if `bos`. Text that spells a special token is ordinary text.

        Raises `ValueError` if `text` has a lone surrogate, which is not valid UTF-8.
        """
        ids = self._vocabulary.encode(text)
        return [self.bos_id, *ids] if bos else ids

    def encode_bulk(self, texts: Texts, bos: bool = True, threads: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ids of many texts, on `threads` threads (0 = one per processor); a column of strings is not copied.

        Returns `ids`, of type `dtype`, all texts concatenated, `bos_id` first in each if `bos`, and `offsets`, int64 [n + 1]:
        text i is `ids[offsets[i]:offsets[i + 1]]`. Raises `ValueError` if a text is null or not Unicode.
        """
        first = self.bos_id if bos else -1
        batches = [self._vocabulary.encode_documents(d, self.dtype, first, threads) for d in _batches(texts)]
        if len(batches) == 1:
            return batches[0]
        starts = np.cumsum([0, *(len(ids) for ids, _ in batches)])
        offsets = [offsets[1:] + start for (_, offsets), start in zip(batches, starts, strict=False)]
        empty = np.empty(0, self.dtype)
        return np.concatenate([empty, *(ids for ids, _ in batches)]), np.concatenate([np.zeros(1, np.int64), *offsets])

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of `ids`. Raises `ValueError` for an id outside the vocabulary."""
        array = np.asarray(ids, dtype=np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"invalid ids {array.min()} … {array.max()}: outside of the vocabulary of {self.vocab_size}")
        return b"".join([self._tokens[i] for i in array.tolist()])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD. Raises `ValueError` for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: length in UTF-8 of each token; 0 for special tokens."""
        ordinary = len(self._tokens) - len(SPECIAL_TOKENS)
        return np.array([len(token) for token in self._tokens[:ordinary]] + [0] * len(SPECIAL_TOKENS), dtype=np.int32)

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The vocabulary for tiktoken, whose Unicode tables are older: text with newer letters may split differently."""
        import tiktoken

        ranks = {token: i for i, token in enumerate(self._tokens[: -len(SPECIAL_TOKENS)])}
        return tiktoken.Encoding(self.fingerprint, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens)


def load_tokenizer() -> Tokenizer:
    """The tokenizer of this base directory. Raises `UserError` if it does not exist."""
    return Tokenizer.load(base_dir() / "tokenizer")


def _fingerprint(pattern: str, special_tokens: dict[str, int], merges: list[str]) -> str:
    return hashlib.sha256(json.dumps([pattern, special_tokens, merges]).encode()).hexdigest()[:16]


def _batches(texts: Texts) -> Iterator[rustbpe.Documents]:
    import pyarrow  # here, because loading a tokenizer does not need it

    if isinstance(texts, pyarrow.ChunkedArray):
        yield from map(_documents, texts.chunks)
    elif isinstance(texts, pyarrow.Array):
        yield _documents(texts)
    else:
        for batch in batched_by_chars(texts, BATCH_CHARS):
            try:
                column = pyarrow.array(batch, pyarrow.large_string())
            except UnicodeEncodeError as error:
                raise ValueError(f"a text is not valid Unicode: {error}") from error
            yield _documents(column)


def _documents(column: pyarrow.Array) -> rustbpe.Documents:
    import pyarrow

    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} texts are null")
    if column.type not in (pyarrow.string(), pyarrow.large_string()):
        column = column.cast(pyarrow.large_string())
    _, offsets, data = column.buffers()
    kind = np.int64 if column.type == pyarrow.large_string() else np.int32
    bounds = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1] if len(column) else np.zeros(1, np.int64)
    return rustbpe.Documents(data if data is not None else b"", bounds)
