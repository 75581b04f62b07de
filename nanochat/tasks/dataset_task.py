"""A task whose examples are the rows of a table: each row becomes a conversation."""

from __future__ import annotations

import hashlib
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.dataset_rows import Rows
from nanochat.tasks.hub import Source, open_rows
from nanochat.tasks.task import Conversation, Split, Task, check_conversation


class TableTask(Task):
    """The rows of `rows` as conversations. A subclass has `convert`, and `source` where the hub has the data."""

    label: str
    source: Source

    def __init__(self, rows: Rows, name: str = "") -> None:
        self.name = name or self.label
        self._rows = rows
        self[0]  # a table of another schema shows at once

    @classmethod
    def open(cls, spec: str, path: str, split: Split, offline: bool) -> TableTask:
        """The task out of `path`, or, where that is empty, of the hub or its cache. Raises `UserError` where it cannot be had."""
        return cls(open_rows(cls.label, cls.source, split, path, offline), spec)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        row = self._rows[index]
        try:
            conversation = self.convert(row)
            check_conversation(conversation)
        except KeyError as error:
            raise UserError(f"{self._rows.where(index)} is no row of {self.label}: it has no {error.args[0]}") from error
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{self._rows.where(index)} is no row of {self.label}: {error}") from error
        return conversation

    def convert(self, row: dict[str, Any]) -> Conversation:
        """The conversation that a row says. Raises `KeyError`, `ValueError` or `TypeError` for a row of another schema."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """See `Task`; all rows count."""
        return hashlib.blake2b(f"{super().fingerprint} {self._rows.fingerprint}".encode(), digest_size=8).hexdigest()
