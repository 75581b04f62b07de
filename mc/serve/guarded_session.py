"""Guards of sessions in a shared KV cache: if the files of one fail, its own turn ends and no other row's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mc.session.base_session import Session
from mc.session.layered_session import LayeredSession
from mc.session.session import MCSession
from nanochat.common import UserError
from nanochat.infer.memory_kv_cache import SlotMemory, Slots
from nanochat.model.gpt import Embedded, Rotary

Guarded = TypeVar("Guarded", MCSession, LayeredSession)
Result = TypeVar("Result")


def guarded(session: Session) -> GuardedEntries | GuardedSlots:
    """The guard of a session."""
    return GuardedSlots(session) if isinstance(session, LayeredSession) else GuardedEntries(session)


class _Guard(Generic[Guarded]):
    """What both guards have: `trouble` is why the files have failed, None if they have not."""

    def __init__(self, session: Guarded) -> None:
        self._session = session
        self.trouble: str | None = None

    @property
    def position(self) -> int:
        """See `ExternalMemory`."""
        return self._session.position

    @property
    def newest(self) -> int:
        """See `ExternalMemory`."""
        return self._session.newest if self._session.length else 0

    def _tried(self, call: Callable[..., Result], *arguments: Tensor, failed: Result) -> Result:
        """The result of `call`, or `failed` if the files fail."""
        try:
            return call(*arguments)
        except UserError as error:
            self.trouble = str(error)
            return failed


class GuardedEntries(_Guard[MCSession]):
    """Guard of an `ExternalMemory`."""

    def extend(self, tokens: Tensor) -> int:
        """See `ExternalMemory`."""
        return self._tried(self._session.extend, tokens, failed=0)

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        """See `ExternalMemory`."""
        return None if self.trouble is not None else self._tried(self._session.note, token, middle, failed=None)

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """See `ExternalMemory`."""
        return self._session.entries(begin)


class GuardedSlots(_Guard[LayeredSession], SlotMemory):
    """Guard of a `SlotMemory`.

    Tokens that are decoded after a failure take slots that the session does not know of; their replies are thrown away.
    """

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
        return self._tried(self._session.extend, tokens, failed=torch.zeros(self._session.memory.model.config.width))

    def note(self, token: Tensor, queries: Sequence[Tensor]) -> bool:
        """See `SlotMemory`."""
        return self.trouble is None and self._tried(self._session.note, token, queries, failed=False)
