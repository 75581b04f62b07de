"""KV cache with the simplest memories behind its rows: they keep every token and have entries reread now and then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanochat.infer.engine import Engine
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from nanochat.model.block import Rotary, rotary_at
from nanochat.model.gpt import GPT, Embedded
from tests.helpers.tiny_model import tiny_model

GREEDY = Sampling(temperature=0, max_tokens=30)


class Keeper:
    """Memory in which every token is an entry. After each `every` noted tokens, the entries from `keep` on are reread."""

    def __init__(self, model: GPT, every: int = 7, keep: int = 3, tokens: Tensor | None = None) -> None:
        self.model, self.every, self.keep = model, every, keep
        self.tokens = torch.zeros(0, dtype=torch.int64) if tokens is None else tokens
        self.noted = 0

    @property
    def position(self) -> int:
        return len(self.tokens)

    @property
    def newest(self) -> int:
        return int(self.tokens[-1])

    def extend(self, tokens: Tensor) -> int:
        self.tokens = torch.cat([self.tokens, tokens])
        return len(self.tokens) - len(tokens)

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        assert token.shape == (1,) and middle.shape == (1, self.model.config.width)
        self.tokens = torch.cat([self.tokens, token])
        self.noted += 1
        return self.keep if self.noted % self.every == 0 else None

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        x, values = self.model.embed(self.tokens[None])
        rotary = rotary_at(torch.arange(begin, len(self.tokens)), self.model.config.head_dim, self.model.dtype)
        return Embedded(x[:, begin:], values[:, begin:]), rotary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", [{}, {"window_pattern": "SL", "kv_heads": 1}])
def test_memories_that_keep_everything_change_nothing(model: dict, dtype: torch.dtype) -> None:
    gpt = tiny_model(dtype=dtype, **model)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10], [11, 12, 13]]
    memories = [Keeper(gpt), None, Keeper(gpt, every=5, keep=0)]
    plain, cache = KVCache(gpt, 3), MemoryKVCache(gpt, memories)
    counts = [len(prompt) for prompt in prompts]
    padded = torch.tensor([prompt + [0] * (8 - len(prompt)) for prompt in prompts])
    tolerance = {"rtol": 0, "atol": 5e-5 if dtype == torch.float32 else 0.15}
    torch.testing.assert_close(cache.append(padded, counts), plain.append(padded, counts), **tolerance)
    for step in range(40):
        tokens = torch.randint(61, (3, 1), generator=torch.Generator().manual_seed(step))
        torch.testing.assert_close(cache.append(tokens), plain.append(tokens), **tolerance)
        assert cache.lengths == plain.lengths
    more = torch.randint(61, (3, 6), generator=torch.Generator().manual_seed(99))
    torch.testing.assert_close(cache.append(more, [6, 0, 2]), plain.append(more, [6, 0, 2]), **tolerance)


class Shifted(Keeper):
    """Keeper of a history whose positions run ahead of its entries, as behind a Working Context, that keeps the states it is given."""

    def __init__(self, model: GPT) -> None:
        super().__init__(model)
        self.states: list[Tensor] = []

    @property
    def position(self) -> int:
        return len(self.tokens) + 100

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        self.states.append(middle[0])
        return super().note(token, middle)

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        positions = torch.arange(begin, len(self.tokens)) + 100
        return super().entries(begin)[0], rotary_at(positions, self.model.config.head_dim, self.model.dtype)


@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 2, 4]])
def test_a_device_without_the_decode_step_gives_the_same(lengths: list[int]) -> None:
    """Apple's GPUs read single tokens with the layers instead: at the same positions, with the same states for the memories."""
    gpt = tiny_model()
    memories = [[Shifted(gpt), None, Shifted(gpt)] for _ in range(2)]
    fast, plain = (MemoryKVCache(gpt, each) for each in memories)
    plain._uses_step = False
    for step in range(20):
        tokens = torch.randint(61, (3, 1 if step else max(lengths)), generator=torch.Generator().manual_seed(step))
        counts = None if step else lengths
        torch.testing.assert_close(plain.append(tokens, counts), fast.append(tokens, counts), rtol=0, atol=5e-5)
    for mine, theirs in zip(*memories, strict=True):
        if mine is not None:
            torch.testing.assert_close(torch.stack(theirs.states), torch.stack(mine.states), rtol=0, atol=5e-5)


def test_rows_that_end_leave_the_others_their_memories() -> None:
    gpt = tiny_model()
    prompts = [[1, 2, 3, 4], [9, 10], [11, 12, 13], [5, 6]]
    stop = set(range(30))  # rows end at different times
    memories = [Keeper(gpt), Keeper(gpt), None, Keeper(gpt)]
    engine = Engine(gpt, open_context=lambda rows, tokens: MemoryKVCache(gpt, memories))
    replies = engine.generate(prompts, GREEDY, stop)
    assert replies == Engine(gpt).generate(prompts, GREEDY, stop)
    for prompt, reply, memory in zip(prompts, replies, memories, strict=True):
        if memory is not None:
            said = prompt + reply.said
            assert memory.tokens.tolist() == said[: len(memory.tokens)] and len(memory.tokens) >= len(said) - 1


def test_existing_entries_are_read_with_the_first_tokens() -> None:
    gpt = tiny_model()
    cache = MemoryKVCache(gpt, [Keeper(gpt, tokens=torch.tensor([1, 2, 3]))])
    plain = KVCache(gpt, 1)
    expected = plain.append(torch.tensor([[1, 2, 3, 4]]))
    torch.testing.assert_close(cache.append(torch.tensor([[4]])), expected, rtol=0, atol=5e-5)
