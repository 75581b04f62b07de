"""Task whose examples are the rows of a data set, each converted to a conversation."""

from __future__ import annotations

from typing import Any

from nanochat.common import UserError
from nanochat.tasks.dataset_rows import Rows
from nanochat.tasks.hub import HubSource, open_rows
from nanochat.tasks.task import Conversation, Split, Task, check_conversation, digest


class TableTask(Task):
    """Conversations from `rows`. A subclass has `convert`, and `source` if the data is on the hub."""

    label: str
    source: HubSource

    def __init__(self, rows: Rows, name: str = "") -> None:
        self.name = name or self.label
        self._rows = rows
        self[0]  # raises for a table with another schema

    @classmethod
    def open(cls, spec: str, path: str, split: Split, offline: bool) -> TableTask:
        """The task from `path`, or, if that is empty, from the hub or its cache. Raises `UserError` if it is not available."""
        return cls(open_rows(cls.label, cls.source, split, path, offline), spec)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        row = self._rows[index]
        try:
            conversation = self.convert(row)
            check_conversation(conversation)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
            raise UserError(f"{self._rows.where(index)} is not a row of {self.label}: {reason}") from error
        return conversation

    def convert(self, row: dict[str, Any]) -> Conversation:
        """Converts a row to a conversation. Raises `KeyError`, `ValueError` or `TypeError` for a row with another schema."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """See `Task`; depends on all rows."""
        return digest(f"{super().fingerprint} {self._rows.fingerprint}").hex()
