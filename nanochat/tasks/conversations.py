"""Conversations to train on that are not graded: the user's own JSONL files, and SmolTalk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.dataset_rows import local_rows
from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.hub import HubSource
from nanochat.tasks.task import Conversation, Split


class CustomJson(TableTask):
    """JSONL file whose lines are `{"messages": [{"role": …, "content": …}, …]}` or lists of messages; checked when opened."""

    label = "customjson"
    kind = "chat"

    @classmethod
    def open(cls, spec: str, path: str, split: Split, offline: bool) -> CustomJson:
        """All conversations of a file, whatever the split. Raises `UserError` naming file and line of an invalid one."""
        if not path:
            raise UserError("customjson needs a path: customjson:PATH")
        rows = local_rows(Path(path).expanduser(), (split,))
        task = cls(rows, spec)
        for index in range(len(rows)):
            task[index]
        return task

    def convert(self, row: Any) -> Conversation:
        """See `TableTask`."""
        return {"messages": row["messages"] if isinstance(row, dict) else row}


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
