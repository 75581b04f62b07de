"""Token cache: text tokenized once into flat files with an index of the documents, memory-mapped by every later run.

A source is tokenized by parts (`sources.SourcePart`). Each part becomes a folder `tokens/<key>` of token shards, which appears in one
rename, so that a killed run loses one part at most and a source that grows tokenizes only what is new. The key covers the
files, the split, the tokenizer and the version of this format.

    <name>.tokens    uint16 or uint32 [tokens]: the documents, concatenated, each with BOS first
    <name>.offsets   int64 [documents + 1]: where each document begins, and the end
    manifest.json    sizes, SHA-256, tokenizer, what was left out; present in every whole folder
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common import UserError, atomic_write, base_dir, batched_by_chars, digest, read_json, write_json
from nanochat.data.left_out import EMPTY, LeftOut
from nanochat.data.make_once import make_once, new_folder
from nanochat.data.sources import Source, SourcePart
from nanochat.data.splits import SPLITS, Split
from nanochat.data.tokenizer import Tokenizer

FORMAT = "nanochat-tokens-1"
SHARD_TOKENS = 1 << 25  # a shard ends with the first batch that reaches this
BATCH_CHARS = 1 << 23  # encoded by one call
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class TokenShard:
    """One memory-mapped shard: `tokens` uint16 or uint32 [tokens], `offsets` int64 [documents + 1]."""

    folder: Path
    name: str
    tokens: np.ndarray
    offsets: np.ndarray
    sha256: dict[str, str]  # by the suffix of the file


@dataclass(frozen=True)
class TokenCache:
    """The tokens of one split of a source, in order. `left_out`: its documents that have none."""

    name: str
    shards: tuple[TokenShard, ...]
    vocab_size: int
    bos_id: int
    files: int
    bytes: int  # of text, as UTF-8
    left_out: LeftOut

    @property
    def tokens(self) -> int:
        return sum(len(shard.tokens) for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(len(shard.offsets) - 1 for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the tokens themselves: equal if the same text was tokenized the same way."""
        return digest(self.vocab_size, self.bos_id, [sorted(shard.sha256.items()) for shard in self.shards])

    def describe(self) -> dict[str, Any]:
        """Plain values for reports."""
        return {"files": self.files, "documents": self.documents, "bytes": self.bytes, "tokens": self.tokens}

    @property
    def line(self) -> str:
        """What the split holds, in one line."""
        counts = (f"{count:,} {what if count != 1 else what.removesuffix('s')}" for what, count in self.describe().items())
        return f"{self.name}: {', '.join(counts)}"

    def verify(self) -> None:
        """Reads everything. Raises `UserError` if a shard is not what was written; opening checks sizes only."""
        for shard in self.shards:
            for suffix, expected in shard.sha256.items():
                path = shard.folder / f"{shard.name}.{suffix}"
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                        raise _damaged(path, "was changed after it was written")


def open_splits(source: Source, tokenizer: Tokenizer, say: Callable[[str], None] = print) -> tuple[TokenCache, TokenCache]:
    """The tokens of training and validation, as `open_tokens`; `say` gets a line for each, and one about what was left out of both."""
    train, val = (_open(source, tokenizer, split, 0, say) for split in SPLITS)
    _tell(source, (train, val), say)
    return train, val


def open_tokens(source: Source, tokenizer: Tokenizer, split: Split, workers: int = 0, say: Callable[[str], None] = print) -> TokenCache:
    """The tokens of `split`; parts that are not cached yet are tokenized first, by `workers` threads (0 = one per core).

    `say` gets a line about them, and one about what was left out. Several processes may call this at once: one tokenizes, the
    others wait. Raises `UserError` if the split has no documents, a source file or a cached shard is damaged, the tokens are of
    another tokenizer, or the disk is full.
    """
    cache = _open(source, tokenizer, split, workers, say)
    _tell(source, (cache,), say)
    return cache


def describe_splits(source: Source, *caches: TokenCache) -> dict[str, Any]:
    """Plain values for the report: what each split holds, and what was left out of the source and of them."""
    splits = {cache.name.rpartition("/")[2]: cache.describe() for cache in caches}
    return {"splits": splits, "left_out": _left_out(source, caches).describe()}


def _left_out(source: Source, caches: Iterable[TokenCache]) -> LeftOut:
    return sum((cache.left_out for cache in caches), source.left_out)


def _tell(source: Source, caches: Sequence[TokenCache], say: Callable[[str], None]) -> None:
    for line in (*(cache.line for cache in caches), _left_out(source, caches).line):
        if line:
            say(line)


def _open(source: Source, tokenizer: Tokenizer, split: Split, workers: int, say: Callable[[str], None]) -> TokenCache:
    name = f"{source.name}/{split}"
    shards: list[TokenShard] = []
    left_out, files, size = LeftOut(), 0, 0
    for part in source.parts(split):
        folder = base_dir() / "tokens" / _key(part, tokenizer)
        build = functools.partial(_build, part, tokenizer, folder, workers, _Report(name, say))
        make_once(folder, build, is_current=functools.partial(_is_current, folder))
        manifest = _read_manifest(folder, tokenizer)
        opened = [_open_shard(folder, entry) for entry in manifest["shards"]]
        shards += opened
        files += len(part.files)
        size += manifest["text_bytes"] if "text_bytes" in manifest else _count_bytes(folder, manifest, opened, tokenizer)
        left_out += LeftOut.of(manifest["left_out"]) if "left_out" in manifest else _left_out_before(manifest, part)
    if not shards:
        raise source.without_documents(split, left_out)
    return TokenCache(name, tuple(shards), tokenizer.vocab_size, tokenizer.bos_id, files, size, left_out)


# --- folders of an earlier version, which counted but did not name what it skipped, and could read less ---


def _is_current(folder: Path) -> bool:
    """False if an earlier version skipped text that was not UTF-8, which may be read now, or shall be named."""
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else None
    return not isinstance(manifest, dict) or not manifest.get("skipped", {}).get("not_utf8")


def _left_out_before(manifest: Mapping[str, Any], part: SourcePart) -> LeftOut:
    left_out, empty = LeftOut(), manifest["skipped"]["empty"]
    if empty and (part.split == "train" or all(file.role == "val" for file in part.files)):  # both splits counted those they share
        left_out.add("document", EMPTY, count=empty)
    return left_out


def _count_bytes(folder: Path, manifest: dict[str, Any], shards: Iterable[TokenShard], tokenizer: Tokenizer) -> int:
    """The bytes of text, which are noted in the manifest if it may be written."""
    lengths = tokenizer.token_bytes()
    size = sum(int(lengths[shard.tokens].sum(dtype=np.int64)) for shard in shards)
    if os.access(folder, os.W_OK):
        write_json(folder / "manifest.json", manifest | {"text_bytes": size})
    return size


# --- reading ---


def _key(part: SourcePart, tokenizer: Tokenizer) -> str:
    return hashlib.sha256(repr((FORMAT, part.fingerprint, tokenizer.fingerprint)).encode()).hexdigest()[:24]


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; delete {path.parent} and the text is tokenized again")


def _read_manifest(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        raise _damaged(path, "is missing")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path, f"is not of the format {FORMAT}")
    written = {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id}
    if manifest["tokenizer"] != written:
        raise _damaged(path, f"is of another tokenizer ({manifest['tokenizer']}, not {written})")
    return manifest


def _open_shard(folder: Path, entry: dict[str, Any]) -> TokenShard:
    tokens = _map(folder / f"{entry['name']}.tokens", np.dtype(entry["dtype"]), entry["tokens"])
    offsets = _map(folder / f"{entry['name']}.offsets", np.dtype(np.int64), entry["documents"] + 1)
    if offsets[-1] != len(tokens):
        raise _damaged(folder / f"{entry['name']}.offsets", f"ends at token {offsets[-1]:,} of {len(tokens):,}")
    return TokenShard(folder, entry["name"], tokens, offsets, entry["sha256"])


def _map(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    size = path.stat().st_size if path.exists() else None
    if size != count * dtype.itemsize:
        raise _damaged(path, "is missing" if size is None else f"has {size:,} bytes instead of {count * dtype.itemsize:,}")
    # A plain array: the memmap class would add its own bookkeeping to each access.
    return np.memmap(path, dtype, mode="r").view(np.ndarray)


class _Report:
    """Progress of tokenizing, as a line every few seconds, and the bytes of text so far."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._begin = self._last = time.monotonic()
        self._chars = self._tokens = self.bytes = 0

    def advance(self, texts: Sequence[str], tokens: int) -> None:
        self._chars += sum(map(len, texts))
        self.bytes += sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
        self._tokens += tokens
        if time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            self.print("…")

    def print(self, end: str = "") -> None:
        seconds = time.monotonic() - self._begin
        rate = self._chars / 1e6 / max(seconds, 1e-9)
        done = f"{self._chars / 1e6:,.1f} M characters into {self._tokens / 1e6:,.2f} M tokens in {seconds:.1f} s ({rate:,.1f} M/s)"
        self._say(f"tokenizing {self._name}: {done}{end}")


# --- writing ---


def _build(part: SourcePart, tokenizer: Tokenizer, folder: Path, workers: int, report: _Report) -> None:
    left_out = LeftOut()
    with new_folder(folder) as temporary:
        shards = _write_shards(temporary, _encoded(part.documents(left_out), tokenizer, workers, report))
        write_json(
            temporary / "manifest.json",
            {
                "format": FORMAT,
                "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id},
                "files": [file.real for file in part.files],
                "left_out": left_out.describe(),
                "text_bytes": report.bytes,
                "shards": shards,
            },
        )
    report.print()


def _encoded(documents: Iterator[str], tokenizer: Tokenizer, workers: int, report: _Report) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, offsets) of the documents in batches; while one is encoded, the next is read and the previous one written."""

    def encode(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = tokenizer.encode_bulk(batch, bos=True, threads=workers)
        assert int(ids.max()) < tokenizer.vocab_size and offsets[-1] == len(ids), "the tokenizer broke its promise"
        report.advance(batch, len(ids))
        return ids, offsets

    with ThreadPoolExecutor(1) as pool:
        pending = None
        for batch in batched_by_chars(documents, BATCH_CHARS):
            following = pool.submit(encode, batch)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _write_shards(folder: Path, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Writes (ids, offsets) batches as shards of about `SHARD_TOKENS`; returns their manifest entries."""
    entries: list[dict[str, Any]] = []
    while (first := next(batches, None)) is not None:
        entries.append(_write_shard(folder, f"{len(entries):05d}", itertools.chain([first], batches)))
    return entries


def _write_shard(folder: Path, name: str, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    tokens, total = hashlib.sha256(), 0
    offsets = [np.zeros(1, np.int64)]
    with open(folder / f"{name}.tokens", "xb") as file:
        for ids, ends in batches:
            file.write(ids.data)
            tokens.update(ids.data)
            offsets.append(ends[1:].astype(np.int64) + total)
            total += len(ids)
            if total >= SHARD_TOKENS:
                break
        file.flush()
        os.fsync(file.fileno())
    joined = np.concatenate(offsets)
    atomic_write(folder / f"{name}.offsets", joined.tobytes())
    digests = {"tokens": tokens.hexdigest(), "offsets": hashlib.sha256(joined.data).hexdigest()}
    return {"name": name, "dtype": ids.dtype.name, "tokens": total, "documents": len(joined) - 1, "sha256": digests}
