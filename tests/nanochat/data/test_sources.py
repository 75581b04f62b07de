"""Sources by path and by name, and their splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.common import UserError, digest
from nanochat.data import sources
from nanochat.data.left_out import LeftOut
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.splits import FEW_FILES, Split, share
from nanochat.flags import parse
from tests.helpers.shard_server import parquet_bytes


def jsonl(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def splits(name: Path | str) -> tuple[list[str], list[str]]:
    source = open_source(str(name))
    return list(source.documents("train")), list(source.documents("val"))


MANY = [f"document {i}" for i in range(500)]


def test_documents_are_split_by_their_hash(tmp_path: Path) -> None:
    train, val = splits(jsonl(tmp_path / "a.jsonl", MANY))
    assert sorted(train + val) == sorted(MANY) and 5 < len(val) < 50
    # The split is the document's own: order and company do not matter.
    assert set(splits(jsonl(tmp_path / "b.jsonl", MANY[250::-1]))[1]) == set(val) & set(MANY[:251])


IN_BOTH = [text for text in MANY if share(text, "hash", "val")][:1] + MANY[:1]  # one for validation, one for training


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=30))
def test_every_document_is_in_one_split(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> None:
    path = jsonl(tmp_path_factory.mktemp("split") / "a.jsonl", [*IN_BOTH, *documents])
    train, val = splits(path)
    merged = [text for text in [*IN_BOTH, *documents] if text]
    assert sorted(train + val) == sorted(merged)
    assert train == [text for text in merged if text in set(train)] and set(train).isdisjoint(val)


FEW = [
    ["the only document " * 20],
    ["a copy " * 20] * 500,
    [text * 20 for text in MANY if share(text * 20, "hash", "train")][:30],
    [text * 20 for text in MANY if share(text * 20, "hash", "val")][:9],
]


@pytest.mark.parametrize("documents", FEW)
def test_where_the_hash_leaves_a_split_empty_tails_are_held_out(tmp_path: Path, documents: list[str]) -> None:
    train, val = splits(jsonl(tmp_path / "a.jsonl", documents))
    assert [a + b for a, b in zip(train, val, strict=True)] == documents
    assert all(0.03 < len(b) / len(a + b) < 0.06 for a, b in zip(train, val, strict=True))


def test_many_texts_that_are_alike_give_their_tails(tmp_path: Path) -> None:
    for i in range(FEW_FILES):
        (tmp_path / f"{i}.txt").write_text("a copy " * 20)
    assert [len(documents) for documents in splits(tmp_path)] == [FEW_FILES, FEW_FILES]


def test_few_texts_give_their_tails(tmp_path: Path) -> None:
    text = "".join(f"line {i} of the text\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(text)
    ((train,), (val,)) = splits(tmp_path / "a.txt")
    assert train + val == text and val.startswith("line ") and 0.035 < len(val) / len(text) < 0.05
    (tmp_path / "b.txt").write_text("without a line break " * 100)
    train, val = splits(tmp_path)
    assert len(train) == len(val) == 2 and train[1] + val[1] == "without a line break " * 100 and len(val[1]) == 84
    (tmp_path / "c.txt").write_text("title\n" + "one long line " * 100)
    assert len(splits(tmp_path / "c.txt")[1][0]) == 56


def test_many_texts_are_split_by_their_hash(tmp_path: Path) -> None:
    for i in range(FEW_FILES):
        (tmp_path / f"{i:03d}.txt").write_text(MANY[i])
    train, val = splits(tmp_path)
    assert sorted(train + val) == sorted(MANY[:FEW_FILES])


@pytest.mark.parametrize("val", ["val/a.jsonl", "validation/deep/a.jsonl", "val.jsonl", "valid_1.jsonl", "val-00000.jsonl"])
def test_files_called_val_are_the_validation_split(tmp_path: Path, val: str) -> None:
    jsonl(tmp_path / "values.jsonl", ["t1", "t2"])
    jsonl(tmp_path / "z" / "b.jsonl", ["t3"])
    jsonl(tmp_path / val, ["v"])
    assert splits(tmp_path) == (["t1", "t2", "t3"], ["v"])
    assert splits(f"{tmp_path}/**/*.jsonl") == (["t1", "t2", "t3"], ["v"])


def test_kinds_of_path(tmp_path: Path) -> None:
    (tmp_path / "val.parquet").write_bytes(parquet_bytes(["p"]))
    jsonl(tmp_path / "b.jsonl", ["j"])
    (tmp_path / "c.md").write_text("m")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.txt").write_text("h")
    assert splits(tmp_path) == (["j", "m"], ["p"])
    assert splits(tmp_path / "[bv]*") == (["j"], ["p"])
    assert [*open_source(str(tmp_path / "c.md")).documents("train")] == ["m"]
    refused(tmp_path / "c.md", "has no documents for val", split="val")


def test_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", MANY)
    first = open_source(str(tmp_path)).fingerprint
    assert open_source(str(tmp_path)).fingerprint == first
    jsonl(path, MANY[:-1])
    second = open_source(str(tmp_path)).fingerprint
    jsonl(tmp_path / "b.jsonl", ["more"])
    assert len({first, second, open_source(str(tmp_path)).fingerprint}) == 3


def test_fingerprints_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    """Token caches are found by them: the split, and path, size, time and role of each file."""
    jsonl(tmp_path / "elsewhere" / "b.jsonl", MANY[:200])
    jsonl(tmp_path / "data" / "a.jsonl", MANY[200:])
    (tmp_path / "data" / "c.jsonl").symlink_to("../elsewhere/b.jsonl")
    (tmp_path / "data" / "d.txt").write_text("x" * 100)
    (tmp_path / "data" / "empty.txt").write_text("")
    source = open_source(str(tmp_path / "data"))
    paths = [tmp_path / name for name in ("data/a.jsonl", "elsewhere/b.jsonl", "data/d.txt", "data/empty.txt")]
    entries = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns, role)
        for path, role in zip(paths, ("hash", "hash", "tail", "tail"), strict=True)
    ]
    for split in ("train", "val"):
        (part,) = source.parts(split)
        assert part.fingerprint == digest(split, *entries)
    assert source.fingerprint == digest(*(digest(split, *entries) for split in ("train", "val")))


def test_more_files_change_only_the_last_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 2000)
    for i in range(9):
        jsonl(tmp_path / f"{i}.jsonl", ["x" * 800])
    before = open_source(str(tmp_path)).parts("train")
    assert [len(group.files) for group in before] == [2, 2, 2, 2, 1]
    jsonl(tmp_path / "9.jsonl", ["x" * 800])
    after = open_source(str(tmp_path)).parts("train")
    assert [group.fingerprint for group in after[:4]] == [group.fingerprint for group in before[:4]]
    assert after[4].fingerprint != before[4].fingerprint
    assert before[0].fingerprint != open_source(str(tmp_path)).parts("val")[0].fingerprint


def test_skipped_documents_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n{"text": "\xff"}\n{"text": "good"}\n{"text": "\xff"}\n')
    (tmp_path / "val.jsonl").write_text('{"text": "v"}\n')
    (group,) = open_source(str(tmp_path)).parts("train")
    left_out = LeftOut()
    assert list(group.documents(left_out)) == ["good"]
    assert left_out.line == "3 documents left out: 1 in a.jsonl (empty); 2 in a.jsonl looks like latin-1 (not UTF-8)"


def shards(base: Path, name: str, *indices: int) -> None:
    folder = base / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        (folder / f"shard_{index:05d}.parquet").write_bytes(parquet_bytes([f"{name} {index}"]))


def test_downloaded_shards(base: Path) -> None:
    shards(base, "fineweb-edu", 0, 1, 2, 1822)
    (base / "data" / "fineweb-edu" / "shard_00003.parquet.tmp").write_bytes(b"half")
    assert splits("auto") == ([f"fineweb-edu {i}" for i in (0, 1, 2)], ["fineweb-edu 1822"])
    assert splits("fineweb-edu:2") == (["fineweb-edu 0", "fineweb-edu 1"], ["fineweb-edu 1822"])
    shards(base, "climbmix", 4, 6542)
    assert splits("auto") == (["climbmix 4"], ["climbmix 6542"])


def refused(name: Path | str, *words: str, split: Split = "train") -> None:
    with pytest.raises(UserError) as caught:
        list(open_source(str(name)).documents(split))
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_the_validation_shard_is_named_and_not_the_last_that_is_there(base: Path) -> None:
    shards(base, "climbmix", 0, 1)
    refused("auto", "shard_06542.parquet is missing", "python -m nanochat.dataset --dataset climbmix -n 2")
    shards(base, "climbmix", 6542)
    refused("climbmix:3", "shard_00002.parquet is missing", "-n 3")
    refused("climbmix:0", "climbmix:8")
    refused("climbmix:x", "climbmix:8")
    refused("fineweb-edu", "shard_01822.parquet is missing", "-n 1")


def test_empty_or_missing(tmp_path: Path) -> None:
    refused(tmp_path, "holds no text")
    (tmp_path / "a.txt").write_text("")
    refused(tmp_path, "holds no text")
    refused(tmp_path / "a.txt", "holds no text")
    refused(tmp_path / "none", "no file or folder matches")
    refused(f"{tmp_path}/*.jsonl", "no file or folder matches")
    (tmp_path / "a.pdf").write_text("x")
    refused(tmp_path / "a.pdf", "unknown file type", ".parquet")


@pytest.mark.parametrize("arguments", [["--packing", "worst"], ["--data-set", "local"], ["--dataset="], ["--text-column="]])
def test_bad_flags_end_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe: Callable[..., DataFlags] = type("Recipe", (DataFlags,), {"__doc__": "A recipe."})
    with pytest.raises(SystemExit) as stopped:
        parse(recipe, arguments)
    assert stopped.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
