"""Penalties, biases and min-p: what they do to a row, and that the rows beside it do not notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.request import ReplyRequest
from nanochat.infer.sampling import Sampling
from nanochat.infer.score_rules import ScoreRules, has_rules
from tests.helpers.tiny_model import full_logits, tiny_model

PROMPT = [7, 3, 58, 20]
CPU = torch.device("cpu")


def greedy(batcher: Batcher, tokens: int = 30, bias: dict[str, float] | None = None, **settings: float) -> list[int]:
    request = ReplyRequest(PROMPT, Sampling(**{"temperature": 0, "max_tokens": tokens, **settings}), bias=bias or {})
    return batcher.complete([request])[request.id][0].tokens


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"repetition_penalty": 2.0}, [2.0, -2.0, 0.5, 4.0]),
        ({"frequency_penalty": 0.5}, [4.0, -2.0, 0.5, 4.0]),
        ({"presence_penalty": 0.5}, [4.0, -1.5, 0.5, 4.0]),
        ({"presence_penalty": -1.0, "frequency_penalty": 0.25}, [4.0, -0.5, 1.75, 4.0]),
    ],
)
def test_penalties_are_those_of_other_servers(settings: dict[str, float], expected: list[float]) -> None:
    """Token 0 is in the prompt, 1 in the reply twice, 2 in both once, 3 in neither: prompts count for repetition alone."""
    rules = ScoreRules(ReplyRequest([0, 2], Sampling(**settings)), 4, CPU, None)
    for token in (1, 2, 1):
        rules.take(token)
    assert rules.apply(torch.tensor([4.0, -1.0, 1.0, 4.0])).tolist() == expected


def test_min_p_leaves_what_is_likely_enough() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    for temperature in (0.5, 1.0, 2.0):
        scaled = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        for least in (0.05, 0.2, 0.5, 1.0):
            rules = ScoreRules(ReplyRequest([1], Sampling(temperature=temperature, min_p=least)), 4, CPU, None)
            assert rules.apply(p.log()).isfinite().tolist() == (scaled >= least * scaled.max() - 1e-6).tolist()
    assert ScoreRules(ReplyRequest([1], Sampling(temperature=0, min_p=1.0)), 4, CPU, None).apply(p.log()).isfinite().all()


def test_decoding_follows_them() -> None:
    model = tiny_model()
    batcher = Batcher(model, 4)
    plain = greedy(batcher)
    assert len(set(greedy(batcher, presence_penalty=100.0))) == 30  # no token twice
    assert not set(greedy(batcher, repetition_penalty=1e9, presence_penalty=100.0)) & set(PROMPT)
    assert greedy(batcher, bias={str(plain[0]): -100.0})[0] == full_logits(model, PROMPT)[-1].topk(2).indices[1]
    assert greedy(batcher, bias={"9": 100.0}) == [9] * 30
    assert greedy(batcher, temperature=2.0, top_k=0, min_p=1.0) == plain  # only the likeliest is left
    assert greedy(batcher, min_p=0.5) == plain


def test_rows_beside_one_with_rules_choose_as_without() -> None:
    model = tiny_model()
    settings: list[dict[str, Any]] = [{"temperature": 0}, {"top_k": 5, "seed": 3}, {"top_k": 0, "temperature": 1.5, "seed": 4}]
    rules = [{"frequency_penalty": 1.0}, {"min_p": 0.1, "temperature": 1.5}]

    def decoded(several: list[dict[str, Any]]) -> list[list[int]]:
        requests = [ReplyRequest(PROMPT, Sampling(**{"max_tokens": 25, **each}), score_prompt=False) for each in several]
        done = Batcher(model, 5).complete(requests)
        return [done[request.id][0].tokens for request in requests]

    together = decoded([*settings, *rules])
    assert together[:3] == decoded(settings) and together[3:] == [decoded([each])[0] for each in rules]


def test_requests_without_rules_have_none() -> None:
    assert not has_rules(ReplyRequest([1], Sampling(temperature=2, top_p=0.5)))
    assert has_rules(ReplyRequest([1], Sampling(), bias={"1": 1.0})) and has_rules(ReplyRequest([1], Sampling(), grammar="{}"))


@pytest.mark.parametrize("wrong", [{"min_p": 1.1}, {"min_p": -0.1}, {"repetition_penalty": 0}, {"presence_penalty": float("nan")}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
