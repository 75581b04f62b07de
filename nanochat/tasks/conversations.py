"""Conversations of the user's own: one in each line of a JSONL file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.dataset_rows import local_rows
from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.hub import Source
from nanochat.tasks.task import Conversation, Split


class CustomJson(TableTask):
    """A line is `{"messages": [{"role": …, "content": …}, …]}` or the list of messages alone. Every line is checked at once."""

    label = "customjson"
    kind = "chat"

    @classmethod
    def open(cls, spec: str, path: str, split: Split, offline: bool) -> CustomJson:
        """The conversations of a file, whatever the split. Raises `UserError` naming file and line of what is none."""
        if not path:
            raise UserError("customjson needs a file of conversations: customjson:PATH")
        rows = local_rows(Path(path).expanduser(), (split,))
        task = cls(rows, spec)
        for index in range(len(rows)):
            task[index]
        return task

    def convert(self, row: Any) -> Conversation:
        """See `TableTask`."""
        messages = row["messages"] if isinstance(row, dict) else row
        return {"messages": messages}


class SmolTalk(TableTask):
    """Conversations to learn from; nothing is graded."""

    label = "smoltalk"
    kind = "chat"
    source = Source("HuggingFaceTB/smol-smoltalk", None, {"train": "train", "test": "test"})

    def convert(self, row: dict[str, Any]) -> Conversation:
        """See `TableTask`. Column: messages [{role, content}]. What comes after the assistant's last turn is left out."""
        messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        return {"messages": messages}
