"""Beside a model: what is recorded there gives it no gradient, and what was recorded before keeps its own."""

from __future__ import annotations

import pytest
import torch

from mc.train.apart import frozen_copy, some_rows
from nanochat.model.recompute import without_gradients
from tests.helpers.tiny_memory import tiny_batch, tiny_gpt, tiny_memory


def test_only_what_is_recorded_inside_gives_no_gradient() -> None:
    model = tiny_gpt().requires_grad_(True)
    model.smear_lambda.requires_grad_(False)
    tokens, targets = tiny_batch(2)
    before = model(tokens, targets)
    other = torch.ones((), requires_grad=True)
    with without_gradients(model):
        inside = other * model(tokens, targets)
    inside.backward()
    assert other.grad is not None and all(p.grad is None for p in model.parameters())
    before.backward()
    assert all((p.grad is None) == (p is model.smear_lambda) for p in model.parameters())
    with pytest.raises(RuntimeError, match="inside"), without_gradients(model):
        raise RuntimeError("inside")
    assert [p.requires_grad for p in model.parameters()].count(False) == 1


def test_rows_are_cut_out_of_the_graph() -> None:
    memory = tiny_memory()
    plain = memory.forward_plain(tiny_batch(3)[0])
    some = some_rows(plain, torch.tensor([2, 0]))
    assert torch.equal(some.tokens, plain.tokens[[2, 0]])
    assert torch.equal(some.hidden, plain.hidden[[2, 0]]) and torch.equal(some.embedded.values, plain.embedded.values[[2, 0]])
    assert all(torch.equal(mine, x[[2, 0]]) for mine, x in zip(some.inputs, plain.inputs, strict=True))
    assert not any(x.requires_grad for x in (*some.inputs, *some.embedded, some.hidden, some.middle)) and plain.hidden.requires_grad


def test_a_frozen_copy_stays_behind() -> None:
    model = tiny_gpt().requires_grad_(True)
    copy, (tokens, targets) = frozen_copy(model), tiny_batch(2)
    with torch.no_grad():
        assert torch.equal(copy(tokens, targets), model(tokens, targets))
        model.lm_head.weight.mul_(2)
        assert not torch.equal(copy(tokens, targets), model(tokens, targets))
    assert not any(p.requires_grad for p in copy.parameters())
