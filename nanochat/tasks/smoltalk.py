"""SmolTalk, in the selection for small models: conversations about everything (arXiv 2502.02737)."""

from __future__ import annotations

from typing import Any

from nanochat.tasks.hub import Source
from nanochat.tasks.table import TableTask
from nanochat.tasks.task import Conversation


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
