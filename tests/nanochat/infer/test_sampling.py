"""Rows with settings of their own in one batch: each chooses as it does alone."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.infer.sampling import BLOCK, FOLDS, Sampling, Settings, Uniforms, choose
from nanochat.model.cross_entropy import softcap

CPU = torch.device("cpu")
KINDS = [
    {"temperature": 0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 50, "temperature": 0.6},
    {"top_k": 300},
    {"top_k": 0},
    {"top_k": 0, "temperature": 2.0},
    {"top_k": 0, "top_p": 0.9},
    {"top_k": 40, "top_p": 0.5, "temperature": 1.5},
]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12),
    vocabulary=st.sampled_from([300, 4096, 4103]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_row_chooses_the_same_in_any_company(seed: int, kinds: list[dict], vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(len(kinds), vocabulary, generator=generator)).to(dtype)  # in bf16 many are equal
    uniforms = torch.rand(len(kinds), generator=generator)
    samplings = [Sampling(**kind) for kind in kinds]
    together = choose(logits, uniforms, Settings(samplings, CPU), softcap)
    apart = [choose(logits[i : i + 1], uniforms[i : i + 1], Settings([s], CPU), softcap) for i, s in enumerate(samplings)]
    assert together.tolist() == torch.cat(apart).tolist()


@pytest.mark.parametrize("vocabulary", [FOLDS * 512, FOLDS * 512 + 1])
def test_the_greatest_are_found_whatever_their_places(vocabulary: int) -> None:
    """All uniform numbers of a row reach exactly its top k, with ties, and with all of them in one column or line."""
    random_, columns = random.Random(0), vocabulary // FOLDS
    line, column = range(columns, columns + 20), range(5, vocabulary - 1, columns)
    for places in (line, column, random_.sample(range(vocabulary), 20)):
        logits = torch.zeros(vocabulary)
        logits[list(places)] = 9.0
        k = len(list(places))
        rows = logits.expand(64, -1)
        tokens = choose(rows, (torch.arange(64) + 0.5) / 64, Settings([Sampling(temperature=1.0, top_k=k)] * 64, CPU))
        assert set(tokens.tolist()) == set(places)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_equal_logits_are_in_one_order_however_many_are_sorted(k: int) -> None:
    """With four different logits in all, alone, in the company of rows like it, and beside one that sorts many more."""
    generator = torch.Generator().manual_seed(k)
    logits = torch.randint(4, (8, FOLDS * 512), generator=generator).float()
    uniforms = torch.rand(8, generator=generator)
    few = Sampling(temperature=1.0, top_k=k)
    alike = choose(logits, uniforms, Settings([few] * 8, CPU)).tolist()
    for many in (50, 500):
        mixed = choose(logits, uniforms, Settings([few] * 7 + [Sampling(top_k=many)], CPU)).tolist()
        assert mixed[:7] == alike[:7]
    apart = [choose(logits[i : i + 1], uniforms[i : i + 1], Settings([few], CPU)).item() for i in range(8)]
    assert apart == alike


def test_the_likeliest_is_one_of_the_greatest() -> None:
    logits = torch.randn(9, 8192, generator=torch.Generator().manual_seed(0))
    tokens = choose(logits, torch.zeros(9), Settings([Sampling(temperature=0)] * 9, CPU))
    assert tokens.tolist() == logits.argmax(-1).tolist()


def test_streams_go_on_where_they_were() -> None:
    stream = Uniforms(7, 2)
    blocks = torch.cat([stream.block(), stream.block()])
    assert blocks.shape == (2 * BLOCK,) and not torch.equal(blocks[:BLOCK], blocks[BLOCK:])
    assert torch.equal(Uniforms(7, 2).block(), blocks[:BLOCK])


def test_a_stream_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="stream"):
        Uniforms(1, -1)


@pytest.mark.parametrize("temperature", [-1.0, 1e-300, 9e-5, float("inf"), float("nan")])
def test_a_temperature_is_zero_or_tells_tokens_apart(temperature: float) -> None:
    with pytest.raises(ValueError, match="it must be 0, or at least 0.0001"):
        Sampling(temperature=temperature)
