"""Guards of sessions in a shared KV cache: if the files of one fail, its own turn ends and no other row's."""

from __future__ import annotations

import torch
from torch import Tensor

from mc.session.base_session import Session
from mc.session.layered_session import LayeredSession
from mc.session.session import MCSession
from nanochat.common import UserError
from nanochat.infer.memory_kv_cache import SlotMemory, Slots
from nanochat.model.gpt import Embedded, Rotary


def guarded(session: Session) -> GuardedEntries | GuardedSlots:
    """The guard of a session."""
    return GuardedSlots(session) if isinstance(session, LayeredSession) else GuardedEntries(session)


class GuardedEntries:
    """See `ExternalMemory`; `trouble` is why the files have failed, None if they have not."""

    def __init__(self, session: MCSession) -> None:
        self._session = session
        self.trouble: str | None = None

    @property
    def position(self) -> int:
        """See `ExternalMemory`."""
        return self._session.position

    @property
    def newest(self) -> int:
        """See `ExternalMemory`."""
        return self._session.newest

    def extend(self, tokens: Tensor) -> int:
        """See `ExternalMemory`."""
        try:
            return self._session.extend(tokens)
        except UserError as error:
            self.trouble = str(error)
            return 0

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        """See `ExternalMemory`."""
        if self.trouble is not None:
            return None
        try:
            return self._session.note(token, middle)
        except UserError as error:
            self.trouble = str(error)
            return None

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """See `ExternalMemory`."""
        return self._session.entries(begin)


class GuardedSlots(SlotMemory):
    """See `SlotMemory`; `trouble` is as in `GuardedEntries`.

    Tokens that are decoded after a failure take slots that the session does not know of; their replies are thrown away.
    """

    def __init__(self, session: LayeredSession) -> None:
        self._session = session
        self.trouble: str | None = None

    @property
    def position(self) -> int:
        """See `SlotMemory`."""
        return self._session.position

    @property
    def newest(self) -> int:
        """See `SlotMemory`."""
        return self._session.newest if self._session.length else 0

    @property
    def width(self) -> int:
        """See `SlotMemory`."""
        return self._session.width

    @property
    def most_slots(self) -> int:
        """See `SlotMemory`."""
        return self._session.most_slots

    def move_to(self, slots: Slots | None) -> None:
        """See `SlotMemory`."""
        self._session.move_to(slots)

    def extend(self, tokens: Tensor) -> Tensor:
        """See `SlotMemory`."""
        try:
            return self._session.extend(tokens)
        except UserError as error:
            self.trouble = str(error)
            return torch.zeros(self._session.memory.model.config.width)

    def note(self, token: Tensor, queries: Tensor, seen: Tensor) -> bool:
        """See `SlotMemory`."""
        if self.trouble is not None:
            return False
        try:
            return self._session.note(token, queries, seen)
        except UserError as error:
            self.trouble = str(error)
            return False
