"""Tokenizing once: content, reuse, growth, crashes, damage."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nanochat.common import UserError
from nanochat.data import sources, token_cache
from nanochat.data.sources import Source, open_source
from nanochat.data.token_cache import TokenCache, describe_splits, open_splits, open_tokens
from nanochat.data.tokenizer import Tokenizer
from tests.helpers.byte_tokenizer import ByteTokenizer

SCRIPT = """
import sys
from nanochat.data.sources import open_source
from nanochat.flags import run
from nanochat.data.token_cache import open_tokens
from tests.helpers.byte_tokenizer import ByteTokenizer
run(lambda: print(open_tokens(open_source(sys.argv[1]), ByteTokenizer(), "train").fingerprint) or 0)
"""


def write(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def corpus(folder: Path, files: int = 3, documents: int = 200) -> Source:
    for i in range(files):
        write(folder / f"{i}.jsonl", [f"file {i} document {j} äöü " * (1 + j % 7) for j in range(documents)])
    write(folder / "val.jsonl", ["validation"] * 3)
    return open_source(str(folder))


def texts(cache: TokenCache, tokenizer: ByteTokenizer) -> list[str]:
    out = []
    for shard in cache.shards:
        for a, b in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
            assert shard.tokens[a] == tokenizer.bos_id
            out.append(tokenizer.decode(shard.tokens[a + 1 : b]))
    return out


@pytest.mark.parametrize("wide", [False, True])
def test_shards_hold_the_documents(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 20_000)
    monkeypatch.setattr(token_cache, "BATCH_CHARS", 500)
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", 3_000)
    source, tokenizer = corpus(tmp_path), ByteTokenizer(wide=wide)
    cache = open_tokens(source, tokenizer, "train")
    assert len(cache.shards) > 3 and cache.documents == 600
    assert texts(cache, tokenizer) == list(source.documents("train"))
    assert {shard.tokens.dtype for shard in cache.shards} == {np.dtype(np.uint32 if wide else np.uint16)}
    assert all(3_000 <= len(shard.tokens) < 4_000 for shard in cache.shards[:3])
    cache.verify()
    assert texts(open_tokens(source, tokenizer, "val"), tokenizer) == ["validation"] * 3


def test_second_opening_reads_nothing_again(base: Path, tmp_path: Path) -> None:
    source, tokenizer = corpus(tmp_path), ByteTokenizer()
    said: list[str] = []
    first = open_tokens(source, tokenizer, "train", say=said.append)
    assert [line.partition(":")[0] for line in said] == [f"tokenizing {tmp_path}/train", f"{tmp_path}/train"]
    calls, begin = tokenizer.calls, time.perf_counter()
    second = open_tokens(open_source(str(tmp_path)), tokenizer, "train", say=said.append)
    assert time.perf_counter() - begin < 0.2
    assert tokenizer.calls == calls and said[1:] == [first.line] * 2
    assert second.fingerprint == first.fingerprint and second.describe() == first.describe()
    assert open_tokens(source, ByteTokenizer("other"), "train").shards[0].folder != first.shards[0].folder


def test_a_source_that_grows_tokenizes_only_what_is_new(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 1)
    tokenizer = ByteTokenizer()
    before = open_tokens(corpus(tmp_path, files=2), tokenizer, "train")
    calls = tokenizer.calls
    write(tmp_path / "2.jsonl", ["new"])
    after = open_tokens(open_source(str(tmp_path)), tokenizer, "train")
    assert tokenizer.calls == calls + 1
    assert [shard.folder for shard in after.shards[:2]] == [shard.folder for shard in before.shards]
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_is_of_the_tokens(base: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = corpus(tmp_path / "a"), corpus(tmp_path / "b")
    assert a.fingerprint != b.fingerprint
    assert open_tokens(a, ByteTokenizer(), "train").fingerprint == open_tokens(b, ByteTokenizer(), "train").fingerprint


def test_what_a_source_holds_and_what_was_left_out_is_said_each_time(base: Path, tmp_path: Path) -> None:
    lines = ['{"text": null}', '{"text": "good"}', '{"text": "Grüße"}']
    (tmp_path / "a.jsonl").write_bytes('{"text": "Bär und Löwe"}\n'.encode("latin-1") + "\n".join(lines).encode())
    write(tmp_path / "val.jsonl", ["v", ""])
    write(tmp_path / "test.jsonl", ["t"])
    lines = [
        f"{tmp_path}/train: 1 file, 2 documents, 11 bytes, 13 tokens",
        f"{tmp_path}/val: 1 file, 1 document, 1 byte, 2 tokens",
        "1 file left out: test.jsonl (test split); 3 documents left out: "
        "1 in a.jsonl looks like latin-1 (not UTF-8); 2 in a.jsonl, val.jsonl (empty)",
    ]
    for _ in range(2):
        said: list[str] = []
        source = open_source(str(tmp_path))
        caches = open_splits(source, ByteTokenizer(), say=said.append)
        assert said[-3:] == lines
    assert len(said) == 3, "the second time from the cache"
    described = describe_splits(source, *caches)
    assert described["splits"]["train"] == {"files": 1, "documents": 2, "bytes": 11, "tokens": 13}
    assert [(entry["what"], entry["why"], entry["count"]) for entry in described["left_out"]] == [
        ("file", "test split", 1),
        ("document", "not UTF-8", 1),
        ("document", "empty", 2),
    ]
    said.clear()
    open_tokens(source, ByteTokenizer(), "val", say=said.append)
    assert said == [lines[1], "1 file left out: test.jsonl (test split); 1 document left out: 1 in val.jsonl (empty)"]


def test_documents_of_both_splits_are_counted_once(base: Path, tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "a.jsonl", [f"document {i}" for i in range(100)] + [""] * 7)))
    train, val = open_splits(source, ByteTokenizer())
    assert train.documents + val.documents == 100 and val.left_out.line == ""
    assert describe_splits(source, train, val)["left_out"] == [{"what": "document", "why": "empty", "count": 7, "first": ["a.jsonl"]}]


def as_before(folder: Path, **skipped: int) -> None:
    """Makes a cached part one of an earlier version."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["left_out"], manifest["text_bytes"]
    path.write_text(json.dumps(manifest | {"skipped": {"not_utf8": 0, "empty": 0} | skipped}))


def test_caches_of_earlier_versions_stay_valid(base: Path, tmp_path: Path) -> None:
    source, tokenizer = open_source(str(write(tmp_path / "a.jsonl", [f"äöü {i}" for i in range(100)]))), CountingTokenizer()
    caches = open_splits(source, tokenizer)
    for cache in caches:
        as_before(cache.shards[0].folder, empty=3)
    calls, said = tokenizer.calls, list[str]()
    again = open_splits(source, tokenizer, say=said.append)
    assert tokenizer.calls == calls and [cache.fingerprint for cache in again] == [cache.fingerprint for cache in caches]
    assert said == [*(cache.line for cache in caches), "3 documents left out: 3 (empty)"], "bytes are counted again, names are not known"
    assert [cache.bytes for cache in open_splits(source, ByteTokenizer())] == [cache.bytes for cache in caches], "and noted"


def test_a_cache_that_lacks_text_of_another_encoding_is_made_again(base: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("text " * 100).encode("utf-16"))
    (tmp_path / "b.txt").write_text("text " * 100)
    source, tokenizer = open_source(str(tmp_path)), ByteTokenizer()
    folder = open_tokens(source, tokenizer, "train").shards[0].folder
    as_before(folder, not_utf8=1)
    calls = tokenizer.calls
    assert open_tokens(source, tokenizer, "train").documents == 2 and tokenizer.calls == calls + 1
    assert open_tokens(source, tokenizer, "train").documents == 2 and tokenizer.calls == calls + 1


class CountingTokenizer(ByteTokenizer):
    """One that knows the bytes of its tokens, as the real one does."""

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], np.int32)


def files_of(base: Path) -> list[str]:
    return sorted(path.name for path in (base / "tokens").rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def refused(source: Source, *words: str, split: str = "train", tokenizer: ByteTokenizer | None = None) -> None:
    with pytest.raises(UserError) as caught:
        open_tokens(source, tokenizer or ByteTokenizer(), split)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize("suffix", ["tokens", "offsets"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "missing"])
def test_damaged_shard_is_refused(base: Path, tmp_path: Path, suffix: str, damage: str) -> None:
    source = corpus(tmp_path)
    shard = open_tokens(source, ByteTokenizer(), "train").shards[0]
    path = shard.folder / f"{shard.name}.{suffix}"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-2] if damage == "truncated" else data + b"xx")
    refused(source, str(path), f"delete {shard.folder}")


def test_offsets_of_another_shard_are_refused(base: Path, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    shard = open_tokens(source, ByteTokenizer(), "train").shards[0]
    np.zeros(len(shard.offsets), np.int64).tofile(shard.folder / f"{shard.name}.offsets")
    refused(source, "offsets", "ends at token 0")


def test_flipped_bit_is_found_by_verify(base: Path, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    shard = open_tokens(source, ByteTokenizer(), "train").shards[0]
    path = shard.folder / f"{shard.name}.tokens"
    data = bytearray(path.read_bytes())
    data[1001] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="changed after it was written"):
        open_tokens(source, ByteTokenizer(), "train").verify()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "nanochat-tokens-0"}', None])
def test_damaged_manifest_is_refused(base: Path, tmp_path: Path, content: str | None) -> None:
    source = corpus(tmp_path)
    manifest = open_tokens(source, ByteTokenizer(), "train").shards[0].folder / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    refused(source, str(manifest), "delete")


def test_tokens_of_another_tokenizer_are_refused(base: Path, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    open_tokens(source, ByteTokenizer(), "train")
    refused(source, "another tokenizer", tokenizer=ByteTokenizer(fingerprint="bytes", wide=True))


def test_split_without_documents(base: Path, tmp_path: Path) -> None:
    refused(open_source(str(write(tmp_path / "a.jsonl", ["o"]))), "no documents for val", split="val")
    (tmp_path / "latin.txt").write_bytes("Bär und Löwe".encode("latin-1"))
    refused(open_source(str(tmp_path / "latin.txt")), "no documents for train", "latin.txt looks like latin-1")


def test_damaged_source_leaves_nothing(base: Path, tmp_path: Path) -> None:
    corpus(tmp_path)
    with open(tmp_path / "2.jsonl", "a") as file:
        file.write('{"text": "tor')
    refused(open_source(str(tmp_path)), "2.jsonl line 201")
    assert files_of(base) == []


def test_full_disk_leaves_nothing(base: Path, tmp_path: Path, root: Path) -> None:
    corpus(tmp_path, documents=2000)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write") and done.stderr.count("\n") == 1
    assert files_of(base) == []
    assert subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL).returncode == 0


def test_killed_while_tokenizing(base: Path, tmp_path: Path, root: Path) -> None:
    source = corpus(tmp_path)
    slow = """
import time
from nanochat.data import token_cache
token_cache.BATCH_CHARS = 100
class Slow(ByteTokenizer):
    def encode_bulk(self, *arguments, **options):
        time.sleep(0.02)
        return super().encode_bulk(*arguments, **options)
run("""
    script = SCRIPT.replace("\nrun(", slow).replace("ByteTokenizer(), ", "Slow(), ")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not (tokens := list((base / "tokens").rglob("*.tokens"))) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.parent.suffix for path in tokens] == [".tmp"]
    tokenizer = ByteTokenizer()
    assert texts(open_tokens(source, tokenizer, "train"), tokenizer) == list(source.documents("train"))
    assert not list((base / "tokens").glob(".*.tmp"))


def test_one_of_several_tokenizes(base: Path, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    tokenizers = [ByteTokenizer() for _ in range(4)]
    threads = [threading.Thread(target=open_tokens, args=(source, tokenizer, "train")) for tokenizer in tokenizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tokenizer.calls for tokenizer in tokenizers) == [0, 0, 0, 1]


def test_with_the_real_tokenizer(base: Path, tmp_path: Path) -> None:
    source = corpus(tmp_path)
    tokenizer = Tokenizer.train(source.documents("train"), 320)
    cache = open_tokens(source, tokenizer, "train")
    documents = list(source.documents("train"))
    assert cache.documents == len(documents) and cache.bos_id == tokenizer.bos_id
    (shard,) = cache.shards
    for i in (0, 17, len(documents) - 1):
        ids = shard.tokens[shard.offsets[i] : shard.offsets[i + 1]].tolist()
        assert ids == tokenizer.encode(documents[i], bos=True)
    refused(source, "another tokenizer", tokenizer=ByteTokenizer(fingerprint=tokenizer.fingerprint))
