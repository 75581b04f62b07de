"""Splits of small datasets that fill a row each, and those that are left as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.fit_splits import fit_splits
from nanochat.data.sources import Source, open_source
from nanochat.data.token_cache import open_splits
from tests.helpers.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


def source_of(folder: Path, *texts: str, name: str = "train.jsonl") -> Source:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return open_source(str(folder))


def rows(source: Source, seq_len: int) -> list[int]:
    return [RowLoader(cache, seq_len).rows_per_epoch for cache in open_splits(source, TOKENIZER)]


@pytest.mark.parametrize(
    ("texts", "seq_len", "held_out"),
    [
        (["a line of words\n" * 25], 32, "8% at the end of each document"),  # one document of 400 bytes: 4 % are 16
        (["word " * 100], 32, "8% at the end of each document"),
        (["word " * 100] * 3, 64, "8% at the end of each document"),  # copies of one
        ([f"document {i} " + "x" * 40 for i in range(30)], 160, "8% of the documents"),  # validation by hash would have one or two
        (["x" * 5000, "a", "b", "c"], 512, "16% at the end of each document"),  # very unequal
        (["ab" * 65], 64, "50% at the end of each document"),
    ],
)
def test_a_small_dataset_holds_out_a_row(tmp_path: Path, texts: list[str], seq_len: int, held_out: str) -> None:
    source, said = source_of(tmp_path / "c", *texts), []
    fitting = fit_splits(source, TOKENIZER, seq_len, said.append)
    assert min(rows(fitting, seq_len)) >= 1
    (line,) = said
    assert f": small, so {held_out} are for validation, which fills a row of {seq_len} tokens" in line
    assert fitting.describe()["held out"] == held_out and fitting.fingerprint != source.fingerprint
    train, val = ([*fitting.documents(split)] for split in ("train", "val"))
    assert "".join(sorted("".join(train + val))) == "".join(sorted("".join(texts))), "each character is in one split"
    assert fit_splits(fitting, TOKENIZER, seq_len, said.append) is fitting and len(said) == 1, "in later stages too"


@pytest.mark.parametrize("texts", [["word " * 1000], [f"document {i} " + "x" * 200 for i in range(200)]])
def test_a_dataset_whose_splits_fill_a_row_stays_as_it_is(tmp_path: Path, texts: list[str]) -> None:
    source = source_of(tmp_path / "c", *texts)
    assert fit_splits(source, TOKENIZER, 128) is source
    assert min(rows(source, 128)) >= 1


def test_a_split_by_name_is_the_users(tmp_path: Path) -> None:
    source_of(tmp_path / "c", "word " * 100)
    source = source_of(tmp_path / "c", "short", name="val.jsonl")
    assert fit_splits(source, TOKENIZER, 64) is source
    with pytest.raises(UserError, match="c/val: 6 tokens do not fill one row of 64; use more text or shorter rows"):
        rows(source, 64)


def test_too_little_text_says_what_would_do(tmp_path: Path) -> None:
    source = source_of(tmp_path / "c", "word " * 20)
    with pytest.raises(UserError) as error:
        fit_splits(source, TOKENIZER, 64)
    too_few = "c: its 101 tokens are too few to train and validate on rows of 64"
    assert str(error.value).endswith(f"{too_few}; give more text, or shorter rows (--max-seq-len 25 or less)")
    assert min(rows(fit_splits(source, TOKENIZER, 25, [].append), 25)) >= 1, "the advice is good"
    with pytest.raises(UserError, match="give more text$"):
        fit_splits(source_of(tmp_path / "d", "word"), TOKENIZER, 64)


@pytest.mark.parametrize("texts", [["hello"] * 60, [f"hello {i}" for i in range(60)], ["a few words"]])
def test_a_split_by_content_leaves_no_split_without_text(tmp_path: Path, texts: list[str]) -> None:
    """Each of these had all of its text in training: no hash chose validation, and 4 % of a text is no character."""
    source = source_of(tmp_path / "c", *texts)
    train, val = ([*source.documents(split)] for split in ("train", "val"))
    assert len("".join(train)) >= len("".join(val)) > 0
    assert "".join(sorted("".join(train + val))) == "".join(sorted("".join(texts)))


def test_a_source_without_text_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café über alles, ".encode("latin-1") * 100)
    (tmp_path / "b.jsonl").write_text('{"text": null}\n' * 3)
    with pytest.raises(UserError) as error:
        fit_splits(open_source(str(tmp_path)), TOKENIZER, 64)
    lost = "1 file left out: a.txt looks like latin-1 (not UTF-8); 3 documents left out: 3 in b.jsonl (empty)"
    assert f"has no documents for train ({lost}); add documents in UTF-8" in str(error.value)


def test_big_texts_are_not_read_to_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("word " * 100)
    monkeypatch.setattr("nanochat.data.fit_splits.SURELY_ENOUGH", 400)
    monkeypatch.setattr("nanochat.data.sources.SURELY_TAILS", 400)
    monkeypatch.setattr("nanochat.data.sources.read_documents", lambda *_: pytest.fail("it was read"))
    source = open_source(str(tmp_path / "a.txt"))
    assert fit_splits(source, TOKENIZER, 64) is source
