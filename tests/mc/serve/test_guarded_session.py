"""Sessions whose files fail in a cache that other rows use too."""

from __future__ import annotations

import pytest
import torch

from mc.serve.guarded_session import GuardedEntries, GuardedSlots, guarded
from mc.session.base_session import Session, session_spec
from mc.session.session import start_session
from mc.session.tree import RamTree
from nanochat.common import UserError
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from tests.helpers.layered_memory import layered_memory, session_config, some_tokens
from tests.helpers.tiny_memory import tiny_memory


def session(layered: bool) -> Session:
    memory = layered_memory() if layered else tiny_memory().requires_grad_(False).eval()
    config = session_config()
    return start_session(memory, RamTree(session_spec(memory, config)), config)


@pytest.mark.parametrize("layered", [True, False])
@pytest.mark.parametrize("fails_at", [0, 120, 140])
def test_a_row_that_fails_leaves_the_others(layered: bool, fails_at: int) -> None:
    s = session(layered)
    model, guard = s.memory.model, guarded(s)
    assert isinstance(guard, GuardedSlots if layered else GuardedEntries)
    write = s.tree.append

    def append(*arguments: object) -> None:
        if s.tree.length >= fails_at:
            raise UserError("the disk is full")
        write(*arguments)

    s.tree.append = append
    cache, plain = MemoryKVCache(model, [guard, None]), KVCache(model, 1)
    prompt = some_tokens(120)
    cache.append(prompt.expand(2, -1), [120, 20])
    hidden = plain.append(prompt[None, :20])
    for token in some_tokens(40, 1):
        got, hidden = cache.append(token.expand(2, 1)), plain.append(token[None, None])
        torch.testing.assert_close(got[1], hidden[0], rtol=0, atol=5e-5)
    assert guard.trouble == "the disk is full" and s.tree.length <= max(fails_at, 0) + 8
    cache.remove(0)
    torch.testing.assert_close(cache.append(torch.tensor([[3]])), plain.append(torch.tensor([[3]])), rtol=0, atol=5e-5)
