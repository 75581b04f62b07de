"""Log-probabilities that come with tokens: those of the full forward, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.infer.token_scores import TokenScore, score_tokens
from tests.helpers.tiny_model import full_logits, tiny_model
from tests.nanochat.infer.test_continuous_batching import drain

PROMPT = [7, 3, 3, 58, 20, 1, 44, 9, 12]


def check(scores: list[TokenScore], logprobs: torch.Tensor, tokens: list[int], alternatives: int) -> None:
    assert [score.token for score in scores] == tokens
    for score, row in zip(scores, logprobs, strict=True):
        assert score.logprob == pytest.approx(row[score.token].item(), abs=1e-4)
        best = row.topk(alternatives)
        assert [token for token, _ in score.top] == best.indices.tolist()
        assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_scores_are_those_of_the_full_forward(chunk: int) -> None:
    model = tiny_model(window_pattern="SL")
    batcher = Batcher(model, 4, prefill_chunk=chunk)
    scored = ReplyRequest(PROMPT, Sampling(top_k=5, max_tokens=12), rows=2, logprobs=3, score_prompt=True)
    fewer = ReplyRequest(PROMPT, Sampling(temperature=0, max_tokens=9), logprobs=0)
    plain = ReplyRequest(PROMPT, Sampling(temperature=0, max_tokens=9))
    for request in (plain, scored, fewer):
        batcher.add(request)
    events = drain(batcher)
    assert all(event.score is event.prompt_scores is None for event in events[plain.id])
    assert all(event.score.top == [] and event.prompt_scores is None for event in events[fewer.id])
    rows: dict[int, list[TokenEvent]] = {}
    for event in events[scored.id]:
        rows.setdefault(event.row, []).append(event)
    assert len(rows) == 2
    for row in rows.values():
        tokens = [event.token for event in row]
        logprobs = full_logits(model, PROMPT + tokens).log_softmax(-1)
        assert row[0].prompt_scores[0] == TokenScore(PROMPT[0], None)
        check(row[0].prompt_scores[1:], logprobs[: len(PROMPT) - 1], PROMPT[1:], 3)
        check([event.score for event in row], logprobs[len(PROMPT) - 1 : -1], tokens, 3)
        assert all(event.prompt_scores is None for event in row[1:])


def test_more_alternatives_than_tokens_are_all_tokens() -> None:
    (score,) = score_tokens(torch.zeros(1, 5), torch.tensor([2]), 99)
    assert sorted(token for token, _ in score.top) == list(range(5))


def test_a_request_for_the_impossible_is_refused() -> None:
    with pytest.raises(ValueError, match="score_prompt"):
        ReplyRequest([1], Sampling(), score_prompt=True)
    with pytest.raises(ValueError, match="score_prompt"):
        ReplyRequest([1], Sampling(), score_prompt=True, logprobs=1, session="a")
