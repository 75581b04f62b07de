"""What a memory is worth: the tokens to come, predicted behind Working Contexts of one budget and behind the full history.

A row of T tokens is cut at the decision point `t = T − H`. The *horizon* is the H tokens after it, which are predicted at
the tokens `t−1 … t+H−2`. Before the decision point a condition has

- `full`: all t tokens;
- `window`: the last W tokens, at their true positions;
- `random`, `recency`, `lens`, `oracle`: W entries, the last R or a few more of them raw, of the other blocks as many raw as
  W allows: any, the most recent, those that LensNet scores highest, those that the horizon attends to most behind the full
  history. The oracle has seen what it is judged on: it bounds what choosing can do, and no memory can choose so;
- `collapsed`: every other block as a gist, which takes fewer entries than W.

ΔNLL@H is the mean loss of a condition less that of `full`. Shapes: `B` rows, `T` tokens, `F` blocks, `V` layouts of a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from mc.config import RowPlan
from mc.eval.choose_layout import by_recency, by_score, coarsest, nearest_compression
from mc.eval.paired_stats import PairedComparison, compare_rows
from mc.layout.compression import Compression, sample_levels
from mc.layout.draw import draw_layouts
from mc.layout.layout import from_levels
from mc.layout.positions import alibi_bias
from mc.nets.attention_probe import attention_mass
from mc.nets.gist_bank import GistBank, Positions, assemble, bank_index, build
from mc.nets.lensnet import bank_keys, score_blocks
from mc.train.controller import MCController
from nanochat.eval.bits_per_byte import never
from nanochat.model.attention import EagerAttention
from nanochat.model.cross_entropy import IGNORE, ChunkedCrossEntropy
from nanochat.model.gpt import GPT, Embedded

Kind = Literal["random", "recency", "lens", "oracle", "collapsed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HORIZONS = (32, 128)  # measured in training

Batches = Iterable[tuple[Tensor, Tensor]]  # tokens and targets int64 [B,T]


@dataclass(frozen=True)
class Probe:
    """A budget that rows of `plan` are compressed to by `compression`, and the positions of their trees."""

    plan: RowPlan
    compression: Compression
    positions: Positions

    @property
    def horizon(self) -> int:
        """H."""
        return self.plan.horizon

    @property
    def decision(self) -> int:
        """t, the number of tokens before the decision point."""
        return self.plan.length - self.plan.horizon

    @property
    def width(self) -> int:
        """W: entries before the decision point, in every layout of the budget."""
        return self.compression.width - self.plan.horizon


class Plain(NamedTuple):
    """Rows behind their full history."""

    embedded: Embedded
    middle: Tensor  # [B,T,D] after the middle layer
    hidden: Tensor  # [B,T,D], what the head reads
    inputs: list[Tensor]  # [B,T,D] before each layer


def make_probe(controller: MCController, horizon: int, width: int, recent: int, length: int | None = None) -> Probe:
    """The budget of (about) `width` entries before the last `horizon` of a row's `length` tokens, `recent` of them raw at least.

    `length` is by default that of the rows in training. W is the reachable width nearest to `width`; gists above level 1 are
    used where it takes them. Raises `ValueError` where horizon and recent tokens leave nothing to compress or no budget.
    """
    config, T = controller.config, length or controller.plan.length
    plan = RowPlan(dataclasses.replace(config, mc_horizon=horizon, allocator_recent_tokens=recent, mc_train_wc_length=width + horizon), T)
    model = controller.model
    positions = Positions(plan.shape, config.positional_type, model.config.head_dim, model.dtype)
    return Probe(plan, nearest_compression(width + horizon, plan), positions)


def training_probes(controller: MCController, horizons: Sequence[int] = HORIZONS) -> list[Probe]:
    """The budgets at which a memory is measured: as many entries before the decision point, and recent ones, as at the end of training.

    A horizon behind which a row has no block to compress, or that leaves nothing to choose, has none.
    """
    plan, K = controller.plan, controller.config.block_size
    width, T = plan.final_width - plan.horizon, plan.length
    probes = []
    for horizon in horizons:
        raw = plan.recent + (T - plan.recent - horizon) % K  # of the tokens before the decision point
        if plan.recent + horizon + K <= T and raw < width < T - horizon:
            probes.append(make_probe(controller, horizon, width, plan.recent))
    return [probe for probe in probes if any(probe.compression.nodes)]


def plain_forward(model: GPT, tokens: Tensor) -> Plain:
    """The rows as they are."""
    embedded = model.embed(tokens)
    inputs: list[Tensor] = []
    x, middle = model.layers(embedded, model.rotary(0, tokens.shape[1]), attn_hook=EagerAttention(), inputs=inputs)
    return Plain(embedded, middle, model.finish(x, middle), inputs)


def window_forward(model: GPT, tokens: Tensor, horizon: int, width: int) -> Tensor:
    """Hidden states [B, ≤ width + H, D] of the last `width` tokens before the horizon and the horizon's, at their positions."""
    T = tokens.shape[1]
    start = max(0, T - horizon - width)
    return model.backbone(model.embed(tokens[:, start:]), model.rotary(start, T), attn_hook=EagerAttention())


def horizon_nll(model: GPT, hidden: Tensor, targets: Tensor, horizon: int) -> Tensor:
    """Mean loss of each row's targets in the horizon that count, fp32 [B]; NaN where none does.

    `hidden` [B,·,D] and `targets` [B,·] end with the row: the horizon's predictions are made at its last tokens but one.
    """
    judged = slice(-horizon - 1, -1)
    targets = targets[:, judged]
    losses = ChunkedCrossEntropy(False)(hidden[:, judged].flatten(0, 1), model.lm_head.weight.to(hidden.dtype), targets.flatten(), "none")
    return losses.view(targets.shape).sum(1) / (targets != IGNORE).sum(1)


def row_tree(controller: MCController, probe: Probe, plain: Plain) -> GistBank:
    """The rows' gists, as far as the blocks of `probe` go: none of them knows a token of the horizon."""
    context = controller.config.gist.gistnet_type == "context"
    return build(plain.embedded, controller.gistnet, probe.plan.shape, plain.middle if context else None)


def read_layouts(controller: MCController, probe: Probe, tree: GistBank, levels: Tensor, width: int) -> Tensor:
    """Hidden states [V·B, width, D] of the Working Contexts `levels` [V,B,F], all of `width` entries, horizon included."""
    model, geometry, kind = controller.model, probe.plan.config.geometry, probe.plan.config.positional_type
    layout = from_levels(levels.flatten(0, 1), probe.plan.length, width, geometry)
    index = bank_index(layout, probe.plan.shape)
    bias = alibi_bias(layout, geometry, kind, model.config.heads, model.dtype)
    return model.backbone(assemble(tree, index), probe.positions(layout, index), attn_hook=EagerAttention(bias))


def lens_scores(controller: MCController, probe: Probe, tree: GistBank, levels: Tensor, width: int) -> Tensor:
    """LensNet's score of each block, fp32 [B,F], out of the entries before the decision point of the layouts `levels` [B,F].

    `width` counts all entries of these layouts, horizon included.
    """
    layout = from_levels(levels, probe.plan.length, width, probe.plan.config.geometry)
    entries = assemble(tree, bank_index(layout, probe.plan.shape))
    lensnet = controller.focus.lensnet
    keys = bank_keys(lensnet, tree)
    return score_blocks(lensnet, keys, probe.plan.shape, entries.x, layout, levels, probe.decision, probe.horizon)


def lens_levels(controller: MCController, probe: Probe, tree: GistBank, passes: int = 1) -> Tensor:
    """The layout that LensNet asks for, int64 levels [B,F].

    It sees everything collapsed, and the blocks that it scores highest become raw. With more `passes` it looks again, at the
    layout that came of that.
    """
    now = coarsest(probe.compression)
    levels = by_recency(now, tree.x.shape[0], tree.x.device)
    for _ in range(passes):
        levels = by_score(probe.compression, lens_scores(controller, probe, tree, levels, now.width))
        now = probe.compression
    return levels


def oracle_levels(model: GPT, probe: Probe, plain: Plain) -> Tensor:
    """The layout that keeps the blocks which the horizon's predictions attend to most, int64 levels [B,F]."""
    T, F = probe.plan.length, probe.plan.blocks
    queries = torch.arange(T - probe.horizon - 1, T - 1, device=plain.hidden.device)
    mass = attention_mass(model, plain.embedded, plain.inputs, queries[None])[0]
    blocks = mass[:, : F * probe.plan.config.block_size].unflatten(1, (F, -1)).sum(-1)
    return by_score(probe.compression, blocks)


def choose_levels(
    controller: MCController, probe: Probe, plain: Plain, tree: GistBank, kind: Kind, generator: torch.Generator, passes: int = 1
) -> Tensor:
    """The layout of `kind` for each row, int64 levels [B,F]; `generator`, on the CPU, draws the random ones."""
    rows, device = tree.x.shape[0], tree.x.device
    if kind == "random":
        return sample_levels(probe.compression, rows, generator, device=device)
    if kind == "recency":
        return by_recency(probe.compression, rows, device)
    if kind == "lens":
        return lens_levels(controller, probe, tree, passes)
    if kind == "oracle":
        return oracle_levels(controller.model, probe, plain)
    return by_recency(coarsest(probe.compression), rows, device)


def probe_rows(
    controller: MCController,
    probe: Probe,
    plain: Plain,
    tokens: Tensor,
    targets: Tensor,
    kinds: Sequence[Kind],
    generator: torch.Generator,
    passes: int = 1,
) -> dict[str, Tensor]:
    """Loss of each row behind `full`, `window` and each of `kinds`, fp32 [B]; NaN for a row without a target in the horizon."""
    model, H = controller.model, probe.horizon
    losses = {
        "full": horizon_nll(model, plain.hidden, targets, H),
        "window": horizon_nll(model, window_forward(model, tokens, H, probe.width), targets, H),
    }
    tree = row_tree(controller, probe, plain)
    for width, together in (
        (probe.compression.width, [kind for kind in kinds if kind != "collapsed"]),
        (coarsest(probe.compression).width, [kind for kind in kinds if kind == "collapsed"]),
    ):
        if together:
            levels = torch.stack([choose_levels(controller, probe, plain, tree, kind, generator, passes) for kind in together])
            hidden = read_layouts(controller, probe, tree, levels, width)
            nll = horizon_nll(model, hidden, targets.repeat(len(together), 1), H).view(len(together), -1)
            losses |= zip(together, nll, strict=True)
    return losses


@torch.no_grad()
def measure(
    controller: MCController,
    batches: Batches,
    probes: Sequence[Probe],
    kinds: Sequence[Kind] = KINDS,
    should_stop: Callable[[], bool] = never,
    seed: int = 0,
    passes: int = 1,
) -> list[dict[str, Tensor]] | None:
    """For each probe the losses of this process's rows by condition, fp32 [N]; rows without a target in the horizon are left out.

    None, in every process, where `should_stop()` became true in any. `seed` is that of the random layouts.
    """
    device = controller.model.wte.weight.device
    generator = torch.Generator().manual_seed(seed)
    parts: list[dict[str, list[Tensor]]] = [{name: [] for name in ("full", "window", *kinds)} for _ in probes]
    stopped = torch.zeros((), device=device)
    for tokens, targets in batches:
        if should_stop():
            stopped += 1
            break
        tokens, targets = tokens.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        plain = plain_forward(controller.model, tokens)
        for probe, collected in zip(probes, parts, strict=True):
            losses = probe_rows(controller, probe, plain, tokens, targets, kinds, generator, passes)
            counts = (targets[:, -probe.horizon - 1 : -1] != IGNORE).any(1)
            for name, values in losses.items():
                collected[name].append(values[counts])
    if dist.is_initialized():
        dist.all_reduce(stopped)
    if stopped:
        return None
    none = torch.zeros(0, device=device)
    return [{name: torch.cat([none, *values]) for name, values in collected.items()} for collected in parts]


def evaluate_memory(
    controller: MCController, batches: Batches, should_stop: Callable[[], bool] = never, horizons: Sequence[int] = HORIZONS
) -> dict[str, float] | None:
    """ΔNLL@H in nats and recovery@H over the batches of all processes, by the names they are logged under.

    `mc/delta_nll@H` and `mc/recovery@H` are those of the layouts that LensNet chooses, with `_random` those of random ones, and
    `mc/delta_nll_window@H` is what the far context gives at all. A horizon that does not fit is left out. None where
    `should_stop()` became true in any process. Raises `ValueError` where no target counts.
    """
    probes = training_probes(controller, horizons)
    losses = measure(controller, batches, probes, ("lens", "random"), should_stop) if probes else []
    if losses is None:
        return None
    figures: dict[str, float] = {}
    for probe, rows in zip(probes, losses, strict=True):
        compared: PairedComparison = compare_rows(rows)
        for condition, suffix in (("lens", ""), ("random", "_random")):
            figures[f"mc/delta_nll{suffix}@{probe.horizon}"] = compared.delta_nll(condition).value
            figures[f"mc/recovery{suffix}@{probe.horizon}"] = compared.recovery(condition).value
        figures[f"mc/delta_nll_window@{probe.horizon}"] = compared.delta_nll("window").value
    return figures


def measure_memory(
    controller: MCController, batches: Iterable[tuple[Tensor, Tensor]], should_stop: Callable[[], bool]
) -> dict[str, float] | None:
    """The figures of `evaluate_memory` but for those that are not defined; None where it was stopped."""
    figures = evaluate_memory(controller, batches, should_stop)
    return None if figures is None else {name: value for name, value in figures.items() if value == value}


@torch.no_grad()
def picture(controller: MCController, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
    """The layouts that each way to choose gives the first row of `batches` at the widest horizon measured, as lines of text."""
    probes = training_probes(controller)
    if not probes:
        return "rows are too short for the horizons that layouts are chosen for"
    probe, (tokens, _) = probes[-1], next(iter(batches))
    plain = plain_forward(controller.model, tokens[:1].to(controller.model.wte.weight.device))
    tree, generator = row_tree(controller, probe, plain), torch.Generator().manual_seed(0)
    kinds = [kind for kind in KINDS if kind != "collapsed"]
    levels = torch.cat([choose_levels(controller, probe, plain, tree, kind, generator) for kind in kinds])
    return draw_layouts(levels.cpu(), probe.plan.config.geometry, probe.plan.length, probe.plan.horizon, kinds)
