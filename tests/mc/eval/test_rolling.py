"""Rolling evaluation: with room for everything it is the plain model, no choice sees what comes, and the budget holds."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from mc.config import MCConfig
from mc.eval.rolling import Choice, Rolling, RollingRows, measure_rolling, plain_losses, rolling_setting
from mc.memory_model import MemoryModel
from mc.nets import layered_lens
from mc.nets.gist_bank import BankShape
from mc.nets.gistnet import GistConfig
from mc.nets.layered_bank import build_layered, score_layered
from mc.nets.layered_lens import NEWEST
from nanochat.model.gpt import GPT, GPTConfig

B, T, K, V = 3, 192, 8, 60
CHOICES = get_args(Choice)


def new_memory(slots: int = 1, length: int = T) -> MemoryModel:
    """A small model with random weights everywhere, and gists that are not their initial means."""
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig(depth=3, aspect_ratio=16, head_dim=16, max_seq_len=length, window_pattern="L", vocab_size=V)).init_weights(
        generator
    )
    gist = GistConfig(gistnet_type="layered", gist_slots=slots)
    config = MCConfig(block_size=K, gist=gist, mc_horizon=16, allocator_recent_tokens=2 * K)
    memory = MemoryModel(model, config, length).init_weights(generator)
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    return memory.requires_grad_(False)


def some_rows(seed: int = 1, length: int = T) -> Tensor:
    return torch.randint(V, (B, length + 1), generator=torch.Generator().manual_seed(seed))


def read(memory: MemoryModel, rows: Tensor, choice: Choice, setting: Rolling) -> Tensor:
    tokens, targets = rows[:, :-1], rows[:, 1:]
    return RollingRows(memory, setting, choice, tokens, plain_losses(memory.model, tokens, targets)[1]).losses(targets)


@pytest.mark.parametrize("choice", ["recency", "lens", "attention", "oracle"])
def test_with_room_for_all_blocks_it_is_the_plain_model(choice: Choice) -> None:
    memory, rows = new_memory(), some_rows()
    plain, _ = plain_losses(memory.model, rows[:, :-1], rows[:, 1:])
    setting = Rolling(2 * T, T // 2, 16)  # all of the first half is recent when it is read
    torch.testing.assert_close(read(memory, rows, choice, setting), plain[:, T // 2 :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice not in ("own", "oracle")])
def test_no_loss_depends_on_what_comes_after(choice: Choice, slots: int) -> None:
    memory, rows, setting = new_memory(slots), some_rows(), Rolling(72, 24, 8)
    changed = rows.clone()
    at = T // 2 + 45
    changed[:, at:] = some_rows(2)[:, at:]
    before, after = (read(memory, each, choice, setting) for each in (rows, changed))
    same = at - 1 - T // 2  # losses of targets before the change
    torch.testing.assert_close(before[:, :same], after[:, :same], rtol=0, atol=1e-5)
    assert (before[:, same:] - after[:, same:]).abs().min() > 0


def test_what_is_chosen_matters() -> None:
    memory, rows, setting = new_memory(), some_rows(), Rolling(72, 24, 8)
    losses = {choice: read(memory, rows, choice, setting) for choice in CHOICES}
    names = list(losses)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(losses[one], losses[other]), f"{one} and {other} agree"


@pytest.mark.parametrize("choice", CHOICES)
def test_the_budget_holds(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, rows, setting, widths = new_memory(), some_rows(), Rolling(72, 24, 8), []
    step = RollingRows._step

    def watched(self: RollingRows, count: int, context) -> Tensor:
        if self.read >= T // 2:
            seen = (context.bias[0, :, :, 0] > -torch.inf).sum(1)
            widths.append(int(seen.max()) + count)
        return step(self, count, context)

    monkeypatch.setattr(RollingRows, "_step", watched)
    read(memory, rows, choice, setting)
    assert max(widths) <= setting.width
    if choice != "gists":
        assert min(widths) > setting.width - 2 * K - 8  # and is used


@pytest.mark.parametrize("slots", [1, 2])
def test_looks_are_those_of_training_rows_with_the_same_layout(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a refocus every `NEWEST` tokens, so that the newest queries were all read behind one Working Context."""
    monkeypatch.setattr(layered_lens, "LEAST", 0.0)
    memory, rows = new_memory(slots), some_rows()
    torch.nn.init.constant_(memory.lensnet.copying, 1.0)
    rows[:, T - 60 : T - 50] = rows[:, 30:40]
    tokens, setting = rows[:, :-1], Rolling(100, 24, NEWEST)
    read = RollingRows(memory, setting, "lens", tokens, plain_losses(memory.model, tokens, rows[:, 1:])[1])
    scores = []
    chosen = read._scores

    def watched(far: int, count: int) -> Tensor:
        raw, before = read._shown_inside[:, ::K] // K, read._shown_far
        found = chosen(far, count)
        levels = torch.ones(B, far, dtype=torch.int64).scatter_(1, raw, 0)
        levels[:, before:] = 0  # recent when the newest tokens were read
        parts = (read._queries, read._keys, read._values)
        shape = BankShape(read.read, far * K, memory.config.geometry, 1)
        heads = zip(*(part[:, :, : read.read] for part in parts), strict=True)
        bank = build_layered(tokens[:, : read.read], memory.model.embed(tokens[:, : read.read]), heads, memory.gistnet, shape)
        torch.testing.assert_close(found, score_layered(memory.lensnet, bank, levels, read.read, NEWEST), rtol=1e-4, atol=1e-4)
        scores.append((raw.shape[1], found.std()))
        return found

    read._scores = watched
    read.losses(rows[:, 1:])
    assert len(scores) == 3 and {raw for raw, _ in scores} > {0} and min(std for _, std in scores) > 0.05


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="width 16 must hold"):
        Rolling(16, 16, 8)


def test_a_memory_is_measured_on_a_quarter_of_its_rows_with_its_interval() -> None:
    memory, rows = new_memory(length=512), some_rows(length=512)
    setting = rolling_setting(memory)
    assert setting == Rolling(128, 2 * K, 8)
    batches = [(part[:, :-1], part[:, 1:]) for part in rows.split(2)]
    losses = measure_rolling(memory, batches, setting)
    assert list(losses) == ["full", "window", "random", "lens"] and {len(values) for values in losses.values()} == {B}
    assert not torch.equal(losses["random"], losses["lens"])
    torch.testing.assert_close(losses["lens"][:2], read(memory, rows[:2], "lens", setting).mean(1))
    plain, _ = plain_losses(memory.model, rows[:, :-1], rows[:, 1:], setting.width)
    torch.testing.assert_close(losses["window"], plain[:, 256:].mean(1))


def test_other_memories_have_no_rolling_figures() -> None:
    means = MCConfig(gist=GistConfig(gistnet_type="mean"), block_size=K, mc_horizon=16)
    assert rolling_setting(MemoryModel(new_memory(length=512).model, means, 512)) is None
    assert rolling_setting(new_memory()) is None, "no block fits beside recent tokens, gists and an interval"
