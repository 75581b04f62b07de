"""Tools in continuous batching: output is forced in one row, and the others continue while its code runs."""

from __future__ import annotations

import itertools
import threading

import pytest

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from tests.helpers.tiny_model import tiny_model, tiny_tokenizer
from tests.nanochat.infer.test_continuous_batching import add, alone, drain
from tests.nanochat.infer.test_memory_kv_cache import Keeper


def test_tools_force_their_output_in_one_row_only() -> None:
    """Two rows: the model is made to say a call in the one, and goes on by itself in the other."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=300)
    special = tokenizer.special_tokens
    code = [special["<|python_start|>"], *tokenizer.encode("6*7"), special["<|python_end|>"]]
    said = [special["<|output_start|>"], *tokenizer.encode("42"), special["<|output_end|>"]]
    tools = Tools(tokenizer)
    batcher = Batcher(model, 2, tools)
    sampling = Sampling(temperature=0, max_tokens=12)
    called, plain = add(batcher, [1, 2, 3], sampling), add(batcher, [4, 5], sampling)
    row = next(row for row in batcher._waiting if row.request.id == called)
    for token in code:  # as if the reply had begun so
        row.tool.feed(token)
    got = drain(batcher)
    events = got[called]
    assert [event.token for event in events[: len(said)]] == said
    assert [event.forced for event in events] == [True] * len(said) + [False] * (12 - len(said))
    # What follows is what the model says behind the forced tokens, which it has read.
    after = alone(model, [1, 2, 3, *said], Sampling(temperature=0, max_tokens=12 - len(said)), (), 0)
    assert [event.token for event in events[len(said) :]] == after
    assert [event.token for event in got[plain]] == alone(model, [4, 5], sampling, (), 0)
    assert not any(event.forced for event in got[plain])


def scripted(script: list[int]) -> GPT:
    """A model that says each token of `script` behind the one before it, whatever came earlier; its tokens must differ."""
    model = tiny_model(vocab_size=300)
    for block in model.blocks:
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
    model.smear_lambda.zero_()
    model.lm_head.weight.zero_()
    embedded = model.wte.weight / model.wte.weight.norm(dim=1, keepdim=True)
    for token, following in itertools.pairwise(script):
        model.lm_head.weight[following] += 9 * embedded[token]
    return model


@pytest.mark.parametrize("with_memory", [False, True])
def test_rows_go_on_while_the_code_of_another_runs(with_memory: bool) -> None:
    tokenizer = tiny_tokenizer()
    special, released = tokenizer.special_tokens, threading.Event()
    call = [special["<|python_start|>"], *tokenizer.encode("print(7)"), special["<|python_end|>"]]
    model = scripted([1, *call])
    model.lm_head.weight[3] += 9 * model.wte.weight[special["<|output_end|>"]]

    def run(code: str) -> str:
        assert code == "print(7)"
        released.wait(20)
        return "7!"

    batcher = Batcher(model, 2, Tools(tokenizer, run))
    keeper = Keeper(model) if with_memory else None
    caller = add(batcher, [1], Sampling(temperature=0, max_tokens=len(call) + 8), memory=keeper)
    for _ in call:
        assert [event.id for event in batcher.step()] == [caller]
    assert batcher.step() == [] and batcher.active == 1 and not batcher.idle
    others = [add(batcher, [9, 4], Sampling(top_k=0, max_tokens=70, seed=seed)) for seed in range(2)]  # more than a block of numbers
    events = [event for _ in range(75) for event in batcher.step()]
    assert {event.id for event in events} == set(others)  # both, one after the other or together
    released.set()
    got = drain(batcher, events)
    said = [special["<|output_start|>"], *tokenizer.encode("7!"), special["<|output_end|>"]]
    assert [event.token for event in got[caller]][: len(said)] == said
    assert [event.forced for event in got[caller]][: len(said) + 1] == [True] * len(said) + [False]
    assert [event.token for event in got[caller]][len(said)] == 3 and len(got[caller]) == 8
    if keeper is not None:
        assert keeper.tokens.tolist() == [1, *call, *(event.token for event in got[caller][:-1])]
    for seed, id in enumerate(others):
        sampling = Sampling(top_k=0, max_tokens=70, seed=seed)
        assert [event.token for event in got[id]] == alone(model, [9, 4], sampling, (), 0)
    batcher.close()


def test_a_row_whose_code_runs_can_be_cancelled() -> None:
    tokenizer, released = tiny_tokenizer(), threading.Event()
    special = tokenizer.special_tokens
    model = scripted([1, special["<|python_start|>"], *tokenizer.encode("x"), special["<|python_end|>"]])
    batcher = Batcher(model, 1, Tools(tokenizer, lambda code: str(released.wait(20))))
    first = add(batcher, [1], Sampling(temperature=0, max_tokens=20))
    second = add(batcher, [2], Sampling(temperature=0, max_tokens=3))
    for _ in range(3):
        batcher.step()
    assert batcher.step() == [] and (batcher.active, len(batcher._waiting)) == (1, 1)  # its place is kept
    batcher.cancel(first)
    assert [event.id for event in batcher.step()] == [second]
    released.set()
    assert {id for id, _ in drain(batcher).items()} == {second}
    batcher.close()
