"""Conversations to train on: the user's own files in any of the usual forms, and SmolTalk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanochat.common import UserError, digest, typed_path
from nanochat.data.conversation_forms import Read, read_conversation
from nanochat.data.file_walk import FoundFile
from nanochat.data.splits import name_splits
from nanochat.tasks.dataset_rows import Rows, is_data, rows_of
from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.grading import same_number, same_text
from nanochat.tasks.hub import HubSource
from nanochat.tasks.task import Conversation, Split, Task, check_conversation, reference

VERSION = 4  # of the reading: a change makes rows of conversations anew
SHOWN = 3  # places and names in a line


class CustomJson(Task):
    """A file of conversations, or a folder of such files; all are checked when opened.

    A row without a reply to learn is left out. In a folder, files named test, val, dev or eval are the test split. A reply is correct
    if it is the text or the number of the reference.
    """

    label = "customjson"
    kind = "generative"

    def __init__(self, rows: Rows, name: str = "", not_read: Sequence[str] = ()) -> None:
        self.name, self._rows = name or self.label, rows
        self._numbers: list[int] = []  # of the rows with something to learn
        without: list[int] = []
        counts: Counter[str] = Counter()
        empty = 0
        fields: Counter[str] = Counter()
        for number in range(len(rows)):
            read = self._read(number)
            (without if read.conversation is None else self._numbers).append(number)
            counts["after the last reply to learn"] += read.turns_left_out
            counts["before the first question"] += read.opening_replies
            empty += read.empty_replies
            fields += read.fields
        places = [rows.where(number).removesuffix(",") for number in without]
        if not self._numbers:
            raise UserError(f"{places[0]}, and all other rows of {self.name} have no reply to learn; give other data")
        left_out = [f"{len(without):,} of {len(rows):,} rows without a reply to learn ({_some(places)})"] if without else []
        left_out += [f"{count:,} message{'s' * (count > 1)} {where}" for where, count in counts.items() if count]
        left_out += [f"{empty:,} repl{'y' if empty == 1 else 'ies'} without text, not learned"] if empty else []
        left_out += [f"in the folder {_some(not_read)}"] if not_read else []
        said = [f"left out: {'; '.join(left_out)}"] if left_out else []
        said += [f"fields not read: {_some([f'{name} ({count:,})' for name, count in fields.most_common()], 8)}"] if fields else []
        self.notice = f"{len(self):,} conversation{'s' * (len(self) > 1)}; {'; '.join(said)}" if said else ""

    @classmethod
    def open(cls, spec: str, path: str, split: Split, offline: bool) -> CustomJson:
        """Conversations of `split`, all of them if it has no files of its own.

        Raises `UserError` naming file and line of an invalid one.
        """
        if not path:
            raise UserError("customjson needs a path: customjson:PATH")
        root = typed_path(path)
        if not root.is_dir():
            return cls._opened(spec, ((root, _changed(root)),), ())
        here = sorted(file for file in root.iterdir() if not file.name.startswith("."))
        data = [file for file in here if file.is_file() and is_data(file)]
        splits = name_splits([FoundFile(file, str(file), file.name, 0, 0) for file in data], train_is_named=True)
        tests = [file for file, named in zip(data, splits, strict=True) if named != "train"]
        files = tests if tests and split == "test" else [file for file in data if file not in tests]
        if not files:
            raise UserError(f"{root} has no file of conversations to train on (.jsonl, .json or .parquet); give a file, or another folder")
        not_read = tuple(file.name for file in here if file not in data)
        return cls._opened(spec, tuple((file, _changed(file)) for file in files), not_read)

    @classmethod
    @lru_cache(maxsize=1)  # both splits are often the same files
    def _opened(cls, spec: str, files: tuple[tuple[Path, Any], ...], not_read: tuple[str, ...]) -> CustomJson:
        return cls(rows_of([file for file, _ in files]), spec, not_read)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        return read_conversation(self._rows[self._numbers[index]]).conversation

    def grade(self, conversation: Conversation, reply: str) -> float:
        """See `Task`."""
        answer = reference(conversation)
        return float(same_text(reply, answer) or same_number(reply, answer))

    @property
    def fingerprint(self) -> str:
        """See `Task`; depends on all rows."""
        return digest(VERSION, super().fingerprint, self._rows.fingerprint)

    def _read(self, number: int) -> Read:
        try:
            read = read_conversation(self._rows[number])
            if read.conversation is not None:
                check_conversation(read.conversation)
        except ValueError as error:
            why = "it has text that is not Unicode, as lone surrogates are" if isinstance(error, UnicodeError) else error
            raise UserError(f"{self._rows.where(number)} is not a row of {self.label}: {why}") from error
        return read


class SmolTalk(TableTask):
    """SmolTalk: general conversations, in its version for small models."""

    label = "smoltalk"
    kind = "chat"
    source = HubSource("HuggingFaceTB/smol-smoltalk", None, {"train": "train", "test": "test"})

    def convert(self, row: dict[str, Any]) -> Conversation:
        """See `TableTask`. Column: messages [{role, content}]. Messages after the assistant's last turn are left out."""
        messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        return {"messages": messages}


def _changed(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None if there is none."""
    stat = path.stat() if path.exists() else None
    return (stat.st_size, stat.st_mtime_ns) if stat else None


def _some(names: Sequence[str], most: int = SHOWN) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
