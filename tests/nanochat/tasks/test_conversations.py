"""The user's own conversations: files of every kind, what is learned of them, and what is left out."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nanochat.common import UserError
from nanochat.data.conversation_loader import ConversationLoader
from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks.mixtures import open_mixtures
from nanochat.tasks.registry import open_task
from nanochat.tasks.task import dialogue, reference, with_tool
from tests.helpers.hub_files import write_lines, write_parquet
from tests.nanochat.data.test_conversation_loader import learned

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
PAIR = {"prompt": "a", "completion": "b"}


def opened(path: Path, split: Any = "train"):
    return open_task(f"customjson:{path}", split, 0)


def test_conversations_of_ones_own(tmp_path: Path) -> None:
    lines = [{**GOOD, "id": 7}, dialogue("2*3?", with_tool("2*3", "6", "6"))["messages"]]
    task = opened(write_lines(tmp_path / "my.jsonl", lines))
    assert [c["messages"] for c in task] == [GOOD["messages"], lines[1]]
    assert task.name == f"customjson:{tmp_path / 'my.jsonl'}" and task.notice == "2 conversations; fields not read: id (1)"
    assert [task.grade(task[0], reply) for reply in ("b", " b. ", "c", "")] == [1, 1, 0, 0] and reference(task[1]) == "6"


def packed(kind: str) -> bytes:
    lines = "".join(json.dumps(row) + "\n" for row in (GOOD, PAIR))
    whole = json.dumps([GOOD, PAIR], indent=1)
    return {
        "A.JSONL": b"\xef\xbb\xbf" + lines.encode(),
        "a.ndjson": lines.encode("utf-16"),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.jsonl.ZST": pa.compress(lines.encode(), "zstd", asbytes=True),
        "a.json": whole.encode(),
        "a, b.json.gz": gzip.compress(whole.encode()),
        "lines.json": lines.encode(),
        "b.jsonl": lines.encode("utf-32"),
        "joined.jsonl": b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\xef\xbb\xbf\r\n\xef\xbb\xbf" + json.dumps(PAIR).encode(),
        "one after another.json": f"{json.dumps(GOOD, indent=1)}\n{json.dumps(PAIR, indent=1)}".encode(),
    }[kind]


KINDS = "A.JSONL/a.ndjson/a.jsonl.gz/a.jsonl.ZST/a.json/a, b.json.gz/lines.json/b.jsonl/joined.jsonl/one after another.json".split("/")


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind(tmp_path: Path, kind: str) -> None:
    blob = tmp_path / "d3adbeef"
    blob.write_bytes(packed(kind))
    os.symlink(blob, tmp_path / kind)  # as in the hub's cache
    task = opened(tmp_path / kind)
    assert list(task) == [GOOD, GOOD] and not task.notice


def test_one_object_is_one_conversation_and_parquet_is_read(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(GOOD, indent=2))
    assert list(opened(tmp_path / "one.json")) == [GOOD]
    weighted = [{"messages": [*GOOD["messages"], GOOD["messages"][0], {"role": "assistant", "content": "c", "weight": 0}]}, GOOD]
    task = opened(write_parquet(tmp_path / "a.PARQUET", weighted))
    assert list(task) == [GOOD, GOOD] and task.notice == "2 conversations; left out: 2 messages after the last reply to learn"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("data", [b"", b" \r\n \n"])
def test_a_file_of_nothing_has_no_rows(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} has no rows; give another file"):
        opened(tmp_path / name)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.symlink("nowhere", tmp_path / "link.jsonl")
    says = {
        "pipe.jsonl": "is neither a file nor",
        "link.jsonl": "is a broken link: nowhere does",
        "a" * 300: "name too long",
        "~no/a": "no such home",
    }
    for name, why in says.items():
        with pytest.raises(UserError, match=why):
            opened(Path(name) if name.startswith("~") else tmp_path / name)
    for text in (json.dumps([GOOD]), json.dumps(GOOD, indent=1)):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(UserError, match="a.jsonl, line 1, .* call it .json"):
            opened(tmp_path / "a.jsonl")


def test_replies_without_text_are_counted(tmp_path: Path) -> None:
    empty = {"messages": [*GOOD["messages"][:1], {"role": "assistant", "content": None}, *GOOD["messages"]]}
    task = opened(write_lines(tmp_path / "my.jsonl", [empty, GOOD, {"prompt": "a", "completion": " "}]))
    said = f"1 of 3 rows without a reply to learn ({tmp_path / 'my.jsonl'}, line 3); 1 reply without text, not learned"
    assert task.notice == f"2 conversations; left out: {said}"


def test_a_folder_has_splits_or_is_divided(tmp_path: Path) -> None:
    for name in ("part-0.jsonl", "part-1.jsonl.gz", "notes.md", ".hidden.jsonl"):
        data = "".join(json.dumps({"prompt": f"{name} {i}", "completion": "b"}) + "\n" for i in range(20)).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "sub").mkdir()
    said: list[str] = []
    train, held_out = open_mixtures(f"customjson:{tmp_path}", 0, said.append)
    assert (len(train), len(held_out)) == (38, 2)
    assert said == [f"customjson:{tmp_path}: 40 conversations; left out: in the folder notes.md, sub"]
    write_lines(tmp_path / "VALID.jsonl", [PAIR] * 3)
    assert [len(opened(tmp_path, split)) for split in ("train", "test")] == [40, 3]
    for name in ("devops.jsonl", "testimonials.jsonl", "values.jsonl"):
        write_lines(tmp_path / name, [PAIR])
    write_lines(tmp_path / "my_eval.jsonl", [PAIR])
    assert [len(opened(tmp_path, split)) for split in ("train", "test")] == [43, 4], "a word says it, not the beginning of one"
    (tmp_path / "sub" / "a.txt").touch()
    with pytest.raises(UserError, match="sub has no file of conversations"):
        opened(tmp_path / "sub")


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    asked, replied = GOOD["messages"]
    rows = [
        {"messages": [asked]},
        {"messages": [replied, asked, replied, asked]},
        *[{"prompt": "a", "completion": None}] * 3,
        {"messages": [asked | {"name": "Ann"}, replied], "tools": [{}]},
    ]
    task = opened(write_lines(tmp_path / "my.jsonl", rows))
    assert list(task) == [GOOD, GOOD]
    assert task.notice == (
        f"2 conversations; left out: 4 of 6 rows without a reply to learn ({tmp_path}/my.jsonl, line 1, {tmp_path}/my.jsonl, line 3, "
        f"{tmp_path}/my.jsonl, line 4 and 1 more); 1 message after the last reply to learn; 1 message before the first question; "
        "fields not read: tools (1), messages.name (1)"
    )
    with pytest.raises(UserError, match="my.jsonl, line 1, and all other rows of .* have no reply to learn; give other data"):
        opened(write_lines(tmp_path / "my.jsonl", rows[:1] * 2))


def test_a_reply_of_weight_0_and_an_output_are_not_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    asked, replied = GOOD["messages"]
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    rows = [
        {"messages": [asked, {"role": "assistant", "content": "WRONG", "weight": 0}, asked, replied]},
        {
            "messages": [
                {"role": "developer", "content": "be brief"},
                asked,
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "SECRET"},
                {"role": "assistant", "content": "c"},
            ]
        },
    ]
    train, _ = open_mixtures(f"customjson:{write_lines(tmp_path / 'my.jsonl', rows * 20)}", 0, pytest.fail)
    tokenizer = Tokenizer([])
    loader = ConversationLoader(train, tokenizer, 127, say=lambda _: None)
    taught = "".join(learned(tokenizer, row) for row in loader.rows(0, loader.rows_per_epoch))
    ends = taught.split("<|assistant_end|>")
    assert {*ends} == {"b", "<|python_start|>add(a=1)<|python_end|>c", ""} and len(ends) == len(train) + 1 == 39


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON"),
        ("3", "it is not an object"),
        ("null", "is not a row of customjson"),
        ('"text"', "it is not an object"),
        ('{"text": "a"}', "no conversation among its fields (text)"),
        ('[{"role": "user"}]', "message 0 has no content"),
        ('[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]', "message 1 is a system message"),
        ('[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "b"}]', "it has text that is not Unicode"),
        ('{"text": "a", "m": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply"),
    ],
)
def test_a_bad_conversation_is_one_line_with_its_number(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "my.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(UserError, match=re.escape(f"{path}, line 3,")) as error:
        opened(path)
    assert why in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "my.json").write_text(f"[\n{json.dumps(GOOD)},\n{line}\n]")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/my.json")) as error:
        opened(tmp_path / "my.json")
    assert why in str(error.value)


def test_customjson_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="customjson needs a path: customjson:PATH"):
        open_task("customjson", "train", 0)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode() * 99)[:40])
    with pytest.raises(UserError, match=r"a.jsonl.gz: damaged gzip data"):
        opened(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match=r"a.csv: unknown file type; expected one of .jsonl .ndjson .json .parquet"):
        opened(tmp_path / "a.csv")
