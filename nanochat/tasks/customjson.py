"""Conversations of the user's own: one in each line of a JSONL file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.rows import local_rows
from nanochat.tasks.table import TableTask
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
