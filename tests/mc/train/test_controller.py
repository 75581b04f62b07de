"""The objective with a memory: its loss, its metrics, its state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mc.train.controller import MCController
from nanochat.model.gpt import rotary_at
from nanochat.train.optim import MuonAdamW, OptimFlags, check_coverage
from nanochat.train.schedule import TrainPlan
from tests.helpers.tiny_memory import SEQ_LEN, tiny_batch, tiny_memory


@pytest.mark.parametrize("kind", ["transformer", "layered"])
def test_with_joint_mean_the_loss_is_the_mean_over_rows_and_variants(kind: str) -> None:
    memory = tiny_memory(mc_joint="mean", lens_loss={"mc_lens_loss_weight": 0.0}, gist={"gistnet_type": kind})
    tokens, targets = tiny_batch(3)
    result = memory.process_batch(tokens, targets, 0.5)
    memory.draw = 0
    bank = memory.build_bank(memory.forward_plain(tokens))
    variants = memory._sample(bank, 3, 0.5)
    V = len(variants.levels)
    hidden = memory.forward_layouts(bank, variants.layout).hidden
    logits, losses = memory.model.logits(hidden), []
    for v in range(V):
        for b in range(3):
            losses.append(
                F.cross_entropy(logits[v * 3 + b], targets[b, variants.predicts[v * 3 + b]][-hidden.shape[1] :], reduction="none")
            )
    plain = memory.model(tokens, targets)
    torch.testing.assert_close(result.loss_lod0, plain)
    torch.testing.assert_close(result.loss, (plain + V * torch.cat(losses).mean()) / (1 + V))
    torch.testing.assert_close(result.token_loss, result.loss.detach())
    assert result.metrics["mc/lod_loss/1"].isnan() == (kind == "layered"), "layered gists predict nothing"
    assert result.apart is None and "mc/gist_kl" not in result.metrics


def test_variants_may_be_narrow_from_the_start() -> None:
    tokens, targets = tiny_batch(2)
    narrowed, narrow = (tiny_memory(mc_training_lod2_probability=0.0, mc_anneal=anneal) for anneal in (True, False))
    begin, end = (narrowed(tokens, targets, progress).metrics["mc/variant_width"] for progress in (0.0, 1.0))
    assert begin > end
    assert [narrow(tokens, targets, progress).metrics["mc/variant_width"] for progress in (0.0, 0.5, 1.0)] == [end] * 3
    assert narrow.flops_per_token() < narrowed.flops_per_token()


@pytest.mark.parametrize("term", ["mc_gist_kl_weight", "mc_gist_recon_weight"])
def test_gist_terms_are_added_and_train_the_gists(term: str) -> None:
    tokens, targets = tiny_batch(2)
    off = {"lens_loss": {"mc_lens_loss_weight": 0.0}, "mc_gist_kl_weight": 0.2}
    plain, with_term = (tiny_memory(**(off | {term: weight})) for weight in (0.2 if "kl" in term else 0.0, 0.7))
    a, b = plain.process_batch(tokens, targets, 0.5), with_term.process_batch(tokens, targets, 0.5)
    value = b.metrics[term.removesuffix("_weight").replace("mc_", "mc/")]
    torch.testing.assert_close(b.apart.detach() - a.apart.detach(), (0.5 if "kl" in term else 0.7) * value)
    assert value > 0 and torch.equal(a.loss, b.loss)
    for result in (a, b):
        result.apart.backward()
    assert any(not torch.equal(p.grad, q.grad) for p, q in zip(plain.gistnet.parameters(), with_term.gistnet.parameters(), strict=True))


def test_rows_are_weighed_with_their_variants_and_what_is_not_to_be_learned_takes_no_part() -> None:
    memory = tiny_memory(mc_joint="mean")
    tokens, targets = (part.clone() for part in tiny_batch(3))
    targets[:, : SEQ_LEN // 2], targets[1] = -1, -1
    result = memory(tokens, targets, 0.5)
    result.loss.backward()
    assert result.loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in memory.parameters())
    settings = {"mc_joint": "mean", "lens_loss": {"mc_lens_loss_weight": 0.0}}
    plain, alone, doubled = (
        tiny_memory(**settings)(tokens, targets, 0.5, weights).loss for weights in (None, torch.ones(3), torch.tensor([2.0, 5.0, 2.0]))
    )
    torch.testing.assert_close(alone, plain)
    torch.testing.assert_close(doubled, 2 * plain)


def test_what_a_batch_returns() -> None:
    memory = tiny_memory()
    tokens, targets = tiny_batch(2)
    result = memory.process_batch(tokens, targets, 0.9)
    assert result.cached_embeddings.shape == (2, SEQ_LEN, 32) and not result.cached_embeddings.requires_grad
    cos, sin = result.positional_caches["rows"]
    expected = rotary_at(torch.arange(SEQ_LEN), memory.model.config.head_dim, torch.float32)
    assert torch.equal(cos, expected.cos) and torch.equal(sin, expected.sin)
    assert result.positional_caches["variants"].cos.shape[1] == result.metrics["mc/variant_width"]
    assert result.lod_losses.shape == (memory.plan.max_lod + 1,)
    assert all(not isinstance(value, torch.Tensor) or not value.requires_grad for value in result.metrics.values())


def test_counts_of_a_step() -> None:
    memory = tiny_memory(mc_joint="mean", mc_max_lod=1, mc_priority_sampling=True, mc_num_random_variants=4)
    memory.micro_batches_here = 3
    metrics = memory.process_batch(*tiny_batch(2), 0.3).metrics
    width = metrics["mc/variant_width"]
    assert metrics["mc/variants_total"] == 2 * 4 * 3 and metrics["mc/variants_per_sample"] == 4
    assert (metrics["mc/N_recency"], metrics["mc/N_allocated"], metrics["mc/N_siblings"]) == (6, 12, 12)
    assert metrics["mc/horizon_tokens"] == 2 * (SEQ_LEN + 4 * width) * 3 and metrics["mc/effective_batch_size"] == 2 * 5 * 3
    assert memory.contexts == 2 * 5, "those of one of the three micro-batches"
    apart = tiny_memory(mc_max_lod=1, mc_num_random_variants=4, mc_rows_every=2)
    metrics = apart.process_batch(*tiny_batch(3), 0.3).metrics
    assert metrics["mc/variants_total"] == 2 * 4 and metrics["mc/effective_batch_size"] == apart.contexts == 3 + 2 * 4


def test_priority_sampling_keeps_what_lensnet_scores_high() -> None:
    memory = tiny_memory(mc_max_lod=1, mc_priority_sampling=True, mc_num_random_variants=4)
    wanted = torch.zeros(2, memory.plan.blocks)
    wanted[:, 4] = 1.0
    memory.focus.coarse_scores = lambda bank, keys: 10 * wanted
    tokens, targets = tiny_batch(2)
    variants = memory._sample(memory.build_bank(memory.forward_plain(tokens)), 2, 0.9)
    random, guided = variants.levels[:2], variants.levels[2:]
    assert (guided[..., 4] == 0).all() and (random[..., 4] == 1).any()


def test_lensnet_learns_in_one_micro_batch_of_so_many() -> None:
    memory = tiny_memory(mc_lens_every=3, mc_num_random_variants=1, mc_max_lod=1)
    seen = [memory.process_batch(*tiny_batch(2), 0.3).metrics for _ in range(6)]
    assert [metrics["mc/variants_per_sample"] for metrics in seen] == [2, 1, 1, 2, 1, 1]  # it needs a pair
    losses = [float(metrics["mc/lens_loss"]) for metrics in seen]
    assert losses[0] == losses[1] == losses[2] != losses[3] == losses[4] == losses[5]  # a rest shows what came of the last lesson
    assert len({tuple(metrics) for metrics in seen}) == 1


def test_state_goes_on_where_it_was() -> None:
    first = tiny_memory()
    for _ in range(3):
        first.process_batch(*tiny_batch(2), 0.3)
    second = tiny_memory(seed=0)
    second.load_state_dict(first.state_dict())
    a, b = (memory.process_batch(*tiny_batch(2), 0.3) for memory in (first, second))
    assert torch.equal(a.loss, b.loss) and first.contexts == second.contexts and first.draw == second.draw == 4


def layouts(rank: int, world: int, steps: range, state: dict | None = None) -> tuple[dict[int, list], MCController]:
    """By step: the variants of the micro-batches, of which all processes have 4 in a step, of process `rank` of `world`."""
    memory = tiny_memory(mc_lens_every=1)
    memory.rank, memory.world_size, memory.micro_batches_here = rank, world, 4 // world
    if state is not None:
        memory.load_state_dict(state)
    seen: dict[int, list] = {}
    for step in steps:
        for _ in range(memory.micro_batches_here):
            memory.process_batch(*tiny_batch(2), 0.3)
            seen.setdefault(step, []).append(memory.sampler.newest)
    return seen, memory


@pytest.mark.parametrize("world", [2, 4])
def test_layouts_do_not_depend_on_the_number_of_processes(world: int) -> None:
    alone, _ = layouts(0, 1, range(4))
    parts, first = zip(*(layouts(rank, world, range(2)) for rank in range(world)), strict=True)
    halfway = first[0].state_dict()
    then, last = layouts(0, 1, range(2, 4), halfway)
    for step in range(4):
        together = [variants for part in parts for variants in part[step]] if step < 2 else then[step]
        for mine, theirs in zip(together, alone[step], strict=True):
            assert torch.equal(mine.levels, theirs.levels) and torch.equal(mine.index, theirs.index)
    assert last.draw == 16
    again, _ = layouts(world - 1, world, range(2, 4), halfway)
    assert torch.equal(again[3][-1].levels, alone[3][-1].levels)


def test_flops_count_the_variants() -> None:
    memory = tiny_memory()
    joint, layered = tiny_memory(mc_joint="mean"), tiny_memory(mc_joint="mean", gist={"gistnet_type": "layered"})
    apart, joint, layered = (
        (m.flops_per_token() / m.model.flops_per_token(), sum(map(m.plan.multiplier, m.plan.stages)) / len(m.plan.stages))
        for m in (memory, joint, layered)
    )
    assert joint[0] == pytest.approx(joint[1]) and 1.5 < joint[0] < 4 and layered[0] == pytest.approx(layered[1]) and layered[0] < joint[0]
    assert apart[1] - 1 == pytest.approx((joint[1] - 1) / 4), "every fourth row"
    assert apart[0] - 1 == pytest.approx(2 / 3 * (apart[1] - 1)), "no gradients of the model"


def test_an_error_in_the_memory_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("forward_plain", "build_bank", "_sample", "forward_layouts", "_metrics", "_teachers"):
        memory = tiny_memory()

        def broken(*_args, **_kwargs):
            raise RuntimeError("broken memory")

        with monkeypatch.context() as patch:
            patch.setattr(MCController, place, broken)
            with pytest.raises(RuntimeError, match="broken memory"):
                memory(*tiny_batch(2), 0.5)


@pytest.mark.parametrize("kind", ["transformer", "context", "layered"])
@pytest.mark.parametrize("joint", ["1", "mean"])
def test_a_frozen_model_stays_as_it_is(kind: str, joint: str) -> None:
    terms = {"mc_joint": joint, "gist": {"gistnet_type": kind}} | ({} if kind == "layered" else {"mc_gist_recon_weight": 0.5})
    moving, frozen = tiny_memory(**terms), tiny_memory(mc_freeze_model=True, **terms)
    before = {name: weight.clone() for name, weight in frozen.state_dict().items()}
    tokens, targets = tiny_batch(2)
    results = [memory.process_batch(tokens, targets, 0.5) for memory in (moving, frozen)]
    torch.testing.assert_close(results[1].loss.detach(), results[0].loss.detach())
    for result in results:
        result.loss.backward()
    own = [(name, p, q) for (name, p), q in zip(moving.named_parameters(), frozen.parameters(), strict=True)]
    for name, p, q in own:  # the memory's networks learn the same from it as beside a model that moves
        assert q.grad is None if name.startswith("model.") else torch.equal(p.grad, q.grad), name
    groups = frozen.parameter_groups(OptimFlags(), TrainPlan(SEQ_LEN, 3, 1.0, 1.0))
    check_coverage(frozen, groups)
    optimizer = MuonAdamW(groups)
    optimizer.reduce_gradients()
    optimizer.step()
    changed = {name for name, weight in frozen.state_dict().items() if not torch.equal(weight, before[name])}
    assert not any(name.startswith("model.") for name in changed)
    assert any(name.startswith("gistnet.") for name in changed) and any(name.startswith("focus.lensnet.") for name in changed)
    assert frozen.flops_per_token() < moving.flops_per_token()


def test_the_memory_may_learn_faster_than_the_model() -> None:
    plain, quick = (
        {
            group.named[0][0]: group
            for group in tiny_memory(mc_lr_mult=times).parameter_groups(OptimFlags(), TrainPlan(SEQ_LEN, 3, 1.0, 1.0))
        }
        for times in (1.0, 8.0)
    )
    assert plain.keys() == quick.keys() and any(not name.startswith("model.") for name in plain)
    for name, group in plain.items():
        assert quick[name].lr == group.lr * (1.0 if name.startswith("model.") else 8.0), name
        assert quick[name].weight_decay == group.weight_decay, name
