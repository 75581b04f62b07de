"""Splits by name: words, where they count, source code, test splits; and by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.data.file_walk import FoundFile
from nanochat.data.left_out import LeftOut
from nanochat.data.splits import FEW_FILES, SHARES, assign_roles, name_splits, share


def files(*names: str) -> list[FoundFile]:
    return [FoundFile(Path("/data", name), f"/data/{name}", name, 1, 0) for name in names]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("val", "val.jsonl valid_1.jsonl val-00000.jsonl validation/deep/a.jsonl Validation.parquet corpus_val.jsonl val1.csv"),
        ("val", "corpus-val-00001-of-00002.parquet data/validation-00000-of-00001-a09b74b3ef9c3b56.parquet"),
        ("val", "val.jsonl.zst wiki.valid.txt c4-validation.00000-of-00008.json.gz"),
        ("val", "val/train.jsonl notes_val/x.md val.md en/validation.tsv val_extra.jsonl"),
        ("test", "test.jsonl TEST.TXT test/a.parquet corpus_test.csv test-00000-of-00001.parquet test0.json test_clean.jsonl"),
        ("test", "test.en.txt test(1).jsonl wiki.test.txt.xz val/test.jsonl data/en/test/00001.jsonl test.md corpus_test_v2.jsonl"),
        ("val", "split=validation/lang=de/part-0.parquet [val].jsonl wiki@val.txt"),
        ("test", "split=test/a.parquet lang=de,split=test/a.jsonl wiki+test.txt test~1.csv"),
        ("test", "testset.jsonl my_test_set2.jsonl"),
        ("train", "train.jsonl values.jsonl latest.jsonl testimony.txt contest.csv evaluation.jsonl dev.jsonl how-to-test-things.md"),
        ("train", "train_test_split.txt trainval.txt invalid.jsonl tests/a.txt testing.txt attest-1.parquet"),
    ],
)
def test_words(split: str, names: str) -> None:
    for name in names.split():
        assert name_splits(files(name)) == [split], name


def test_dev_and_eval_are_splits_beside_train() -> None:
    names = ["train-clean-100/a.txt", "dev-clean/a.txt", "eval.jsonl", "testing/a.jsonl", "extra/devices.txt"]
    assert name_splits(files(*names)) == ["train", "val", "val", "test", "train"]
    assert name_splits(files(*names[1:])) == ["train"] * 4
    assert name_splits(files(*names[1:]), train_is_named=True) == ["val", "val", "test", "train"]


def test_source_code_is_no_split_by_its_name() -> None:
    names = ["train.py", "test.py", "utils/validation.py", "utils/test_x.py", "README.md", "docs/test.md", "docs/validation.rst"]
    names += ["core/validation/__init__.py", "core/validation/deep/checks.py", "test/__init__.py", "test/data.txt"]
    assert set(name_splits(files(*names))) == {"train"}
    assert name_splits(files("a.py", "val/b.py", "test/c.py", "data/val.jsonl")) == ["train", "val", "test", "val"], "folders are, and data"


def roles(*names: str, explicit: bool = False) -> tuple[list[str], str]:
    left_out = LeftOut()
    return [role for _, role in assign_roles(files(*names), explicit, left_out)], left_out.line


def test_roles() -> None:
    assert roles("a.jsonl", "val.jsonl") == (["train", "val"], "")
    assert roles("a.jsonl", "val.jsonl", "test.jsonl", "test/b.txt") == (
        ["train", "val"],
        "2 files left out: test.jsonl, test/b.txt (test split)",
    )
    assert roles("a.jsonl", "test.jsonl") == (["hash"], "1 file left out: test.jsonl (test split)")
    assert roles("val/a.jsonl", "val/b.txt") == (["hash", "tail"], ""), "names that are all the same say nothing"
    many = [f"{i}.txt.gz" for i in range(FEW_FILES)]
    assert roles(*many[1:])[0] == ["tail"] * (FEW_FILES - 1) and roles(*many)[0] == ["hash"] * FEW_FILES


def test_a_lone_test_split_is_read_if_it_is_asked_for() -> None:
    assert roles("test.jsonl", explicit=True) == (["hash"], "")
    assert roles("test-1.jsonl", "test-2.jsonl", explicit=True) == (["hash", "hash"], "")
    for names in (["test.jsonl"], ["test.jsonl", "val.jsonl"]):
        with pytest.raises(UserError, match="no files to train on: by their names all are of a test( and val)? split"):
            roles(*names)


def test_what_is_held_out_under_one_name_is_not_trained_on_under_another() -> None:
    part, copy = files("part-7.jsonl", "val.jsonl")
    link = FoundFile(copy.path, part.real, copy.name, 1, 0)
    other, left_out = files("a.jsonl"), LeftOut()
    assert assign_roles([*other, part, link], False, left_out) == [(other[0], "train"), (link, "val")]
    assert left_out.line == "1 file left out: part-7.jsonl (link to what is read already)"
    copy = FoundFile(Path("/data/again.jsonl"), part.real, "again.jsonl", 1, 0)
    assert assign_roles([copy, part], False, LeftOut()) == [(part, "hash")], "a file goes before the links to it"


@pytest.mark.parametrize("text", ["", "x", "one line without a break " * 9, "line\n" * 100])
def test_every_part_of_a_document_is_in_one_split(text: str) -> None:
    for role in ("hash", "tail"):
        assert share(text, role, "train") + share(text, role, "val") == text
    assert share(text, "train", "train") == share(text, "val", "val") == text


def test_the_hash_holds_out_the_share_it_is_asked_for_and_a_larger_one_also_what_a_smaller_one_does() -> None:
    texts, before = [str(i) for i in range(5000)], set()
    for wanted in SHARES:
        held_out = {text for text in texts if share(text, "hash", "val", wanted)}
        assert before < held_out
        assert len(held_out) / len(texts) == pytest.approx(wanted, abs=0.02)
        before = held_out


def test_the_documents_of_the_first_share_stay_those_that_runs_have_held_out_so_far() -> None:
    assert [text for text in map(str, range(100)) if share(text, "hash", "val")] == ["37", "61", "66", "82"]
