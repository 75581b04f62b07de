"""Rows out of files and folders, good and bad."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.tasks.dataset_rows import local_rows
from nanochat.tasks.registry import open_task
from tests.helpers.hub_files import GSM8K, MMLU, write_lines, write_parquet


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_a_file_gives_its_rows(tmp_path: Path, write) -> None:
    path = write(tmp_path / f"x.{'jsonl' if write is write_lines else 'parquet'}", GSM8K)
    rows = local_rows(path)
    assert [rows[i] for i in range(len(rows))] == GSM8K
    assert rows.where(1) == f"{path}, {'line' if write is write_lines else 'row'} 2,"


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_a_fingerprint_changes_with_any_row(tmp_path: Path, write) -> None:
    suffix = "jsonl" if write is write_lines else "parquet"
    first, same, other = (write(tmp_path / f"{n}.{suffix}", rows) for n, rows in enumerate([GSM8K, GSM8K, [*GSM8K[:2], GSM8K[0]]]))
    assert local_rows(first).fingerprint == local_rows(same).fingerprint != local_rows(other).fingerprint


def test_a_folder_gives_the_files_of_the_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train-00000.jsonl", GSM8K[:1])
    write_lines(tmp_path / "train-00001.jsonl", GSM8K[1:2])
    write_lines(tmp_path / "test.jsonl", GSM8K[2:])
    (tmp_path / "README.md").write_text("not data")
    train, test = (open_task(f"gsm8k:{tmp_path}", split, 0) for split in ("train", "test"))
    assert [c["messages"][0]["content"] for c in train] == [row["question"] for row in GSM8K[:2]]
    assert [c["messages"][0]["content"] for c in test] == [GSM8K[2]["question"]]
    rows = local_rows(tmp_path, ("train",))
    assert rows.where(1) == f"{tmp_path / 'train-00001.jsonl'}, line 1,"


def test_parquet_shards_are_one_table(tmp_path: Path) -> None:
    for i, row in enumerate(MMLU):
        write_parquet(tmp_path / f"auxiliary_train-{i}.parquet", [row])
    task = open_task(f"mmlu:{tmp_path}", "train", 0)
    assert [c["messages"][1]["content"] for c in task] == ["B", "D"]


def test_blank_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1}\n\n  \n{"a": 2}\n')
    rows = local_rows(path)
    assert len(rows) == 2 and rows[1] == {"a": 2} and rows.where(1) == f"{path}, line 5,"


def bad_files(folder: Path) -> dict[str, str]:
    """Path → what is said about it."""
    write_lines(folder / "good.jsonl", GSM8K)
    (folder / "bad.jsonl").write_text('{"question": "a"}\n{"question":\n')
    (folder / "latin.jsonl").write_bytes(b'{"question": "\xe9"}\n')
    (folder / "empty.jsonl").write_text("\n")
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    for name in ("pointer.parquet", "pointer.jsonl"):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (folder / "data.csv").write_text("a,b\n")
    (folder / "bare").mkdir()
    (folder / "mixed").mkdir()
    write_lines(folder / "mixed" / "train.jsonl", GSM8K)
    write_parquet(folder / "mixed" / "train.parquet", GSM8K)
    return {
        "nothing.jsonl": "does not exist",
        "bad.jsonl": "bad.jsonl, line 2, is not JSON",
        "latin.jsonl": "latin.jsonl looks like latin-1, and is not UTF-8 text; save it as UTF-8",
        "empty.jsonl": "has no rows",
        "bad.parquet": "invalid parquet file",
        "pointer.parquet": "a pointer to the file, not the file; get its contents with: git lfs pull",
        "pointer.jsonl": "a pointer to the file, not the file; get its contents with: git lfs pull",
        "data.csv": "unknown file type; expected one of .jsonl",
        "bare": "has no file train*.jsonl or train*.parquet",
        "mixed": "has files of rows and of tables",
    }


def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    for name, why in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=re.escape(why)) as error:
            open_task(f"gsm8k:{tmp_path / name}", "train", 0)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_columns_that_differ_are_no_table(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", GSM8K)
    write_parquet(tmp_path / "train-1.parquet", MMLU)
    with pytest.raises(UserError, match="differ in their columns"):
        open_task(f"gsm8k:{tmp_path}", "train", 0)
