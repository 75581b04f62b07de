"""Rows of replies: prompts and what tools said are read, what the model said is learned, weighed within its group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from nanochat.runtime.device import Precision, Runtime
from nanochat.tasks.task import Task, dialogue
from nanochat.train.rollouts import RolloutFlags, Rollouts, advantages
from tests.helpers.tiny_model import tiny_model

T = 64


class Letters(Task):
    """Rewards replies with many of the letter that was asked for."""

    name, kind = "letters", "generative"

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._check_index(index)
        return dialogue(f"Say {'abcde'[index]}", "abcde"[index])

    def grade(self, conversation: dict[str, Any], reply: str) -> float:
        return reply.count(conversation["messages"][-1]["content"]) / 10


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer([])


@pytest.fixture
def model(tokenizer: Tokenizer) -> GPT:
    return tiny_model(vocab_size=tokenizer.vocab_size)


def rollouts(model: GPT, tokenizer: Tokenizer, seed: int = 0, **flags: Any) -> Rollouts:
    runtime = Runtime(torch.device("cpu"), Precision(torch.float32, "test"), "sdpa", False, 0, 1)
    chosen = RolloutFlags(**({"prompts_per_step": 3, "samples": 4, "max_tokens": 12} | flags))
    return Rollouts(model, tokenizer, Letters(), chosen, T, seed, runtime, Tools(tokenizer))


def test_a_step_is_a_function_of_weights_seed_and_number(model: GPT, tokenizer: Tokenizer) -> None:
    loader = rollouts(model, tokenizer)
    steps = [(loader.rows(12 * s, 12 * s + 12).copy(), loader.weights(12 * s, 12 * s + 12)) for s in range(3)]
    again = rollouts(model, tokenizer)
    assert (again.rows(24, 36) == steps[2][0]).all() and (again.weights(24, 36) == steps[2][1]).all()
    assert not (steps[0][0] == steps[1][0]).all()
    assert not (rollouts(model, tokenizer, seed=1).rows(0, 12) == steps[0][0]).all()
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    assert not (rollouts(model, tokenizer).rows(0, 12) == steps[0][0]).all()
    with pytest.raises(ValueError, match="invalid row range 1..13; expected one step of 12 rows"):
        loader.rows(1, 13)


def test_only_what_the_model_said_is_learned(model: GPT, tokenizer: Tokenizer) -> None:
    loader = rollouts(model, tokenizer)
    rows = loader.rows(0, 12)
    for row in rows:
        tokens = np.where(row < 0, ~row, row)
        text = tokenizer.decode(tokens)
        assert text.startswith("<|bos|><|user_start|>Say ") and "<|user_end|><|assistant_start|>" in text
        begin = int(np.flatnonzero(tokens == tokenizer.special_tokens["<|assistant_start|>"])[0]) + 1
        assert (row[:begin] < 0).all() and 1 <= (row >= 0).sum() <= 12 and row[begin] >= 0
    prompts = [tokenizer.decode(np.where(row < 0, ~row, row)).split("<|user_end|>")[0] for row in rows]
    assert [len(set(prompts[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1] and len(set(prompts)) == 3
    replies = {bytes(row[row >= 0]) for row in rows[:4]}
    assert len(replies) > 1, "the replies to a prompt differ"


def test_all_prompts_come_once_in_each_epoch(model: GPT, tokenizer: Tokenizer) -> None:
    loader = rollouts(model, tokenizer, prompts_per_step=5, samples=2)
    for epoch in range(2):
        assert sorted(loader._examples(5 * epoch, 5).tolist()) == [0, 1, 2, 3, 4]
    assert loader.epoch_of(9) == 0 and loader.epoch_of(10) == 1
    assert loader._examples(0, 5).tolist() != loader._examples(5, 5).tolist()


def test_what_a_tool_said_is_not_learned(model: GPT, tokenizer: Tokenizer) -> None:
    """The model is made to call the calculator: its head is replaced by a script."""
    special = tokenizer.special_tokens
    script = [special["<|python_start|>"], *tokenizer.encode("6*7"), special["<|python_end|>"]]
    said = script + [special["<|output_start|>"], *tokenizer.encode("42"), special["<|output_end|>"]]
    following = dict(zip([special["<|assistant_start|>"], *said], [*said, special["<|assistant_end|>"]], strict=True))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
        codes = torch.randn(tokenizer.vocab_size, model.config.width, generator=torch.Generator().manual_seed(0))
        model.wte.weight.copy_(codes)
        model.smear_lambda.zero_()
        model.lm_head.weight.zero_()
        for token, following_token in following.items():
            model.lm_head.weight[following_token] += 20 * torch.nn.functional.normalize(codes[token], dim=0)
    loader = rollouts(model, tokenizer, max_tokens=20, temperature=0.01)
    for row in loader.rows(0, 12):
        learned = tokenizer.decode(row[row >= 0])
        assert learned == "<|python_start|>6*7<|python_end|><|assistant_end|>"
        assert "<|output_start|>42<|output_end|>" in tokenizer.decode(np.where(row < 0, ~row, row))
    assert loader.figures()["rl/ended"] == 1.0 and loader.figures() == {}


def test_a_prompt_as_long_as_a_row_is_refused(model: GPT, tokenizer: Tokenizer) -> None:
    loader = rollouts(model, tokenizer)
    loader.seq_len = 8
    with pytest.raises(UserError, match=r"a prompt of \d+ tokens leaves no room for a reply in rows of 8; use longer rows"):
        loader.rows(0, 12)


def test_advantages_compare_within_a_group() -> None:
    rewards = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]], np.float32)
    mean = advantages(rewards, "mean")
    assert mean.dtype == np.float32 and mean.sum(1) == pytest.approx([0, 0, 0])
    assert mean[0].tolist() == [0.5, -0.5, -0.5, 0.5] and not mean[1].any()
    std = advantages(rewards, "std")
    assert std[0].tolist() == [1, -1, -1, 1] and not std[1].any() and std[2].std() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("prompts_per_step", 0), ("samples", 1), ("temperature", 0.0), ("max_tokens", 0), ("decode_rows", 0)]
)
def test_wrong_flags_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        RolloutFlags(**{name: value})


def test_more_replies_than_memory_holds_are_refused() -> None:
    for flags in ({"prompts_per_step": 10**10}, {"samples": 10**10}):
        with pytest.raises(ValueError, match="prompts_per_step × samples is 160000000000; it must be at most 1,000,000"):
            RolloutFlags(**flags)
