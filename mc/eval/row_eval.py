"""Row-level evaluation of a memory: loss on the next tokens, given Working Contexts of equal width.

A row of T tokens is cut at the decision point `t = T − H`. The *horizon* is the H tokens after it, which are predicted at
the tokens `t−1 … t+H−2`. Before the decision point the model reads, by condition (see `mc.eval.conditions`): all t tokens (`full`), the
last W of them (`window`), fewer than W entries (`gists`), or W entries, in which the last R or a few more tokens are raw and as many
blocks as fit. The oracle's raw blocks are those that the horizon attends to most, given the full history.

ΔNLL@H is the mean loss of a condition less that of `full`. Shapes: `B` rows, `T` tokens, `F` blocks, `V` layouts of a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mc.eval.choose_layout import by_recency, by_score, coarsest, nearest_compression
from mc.eval.conditions import LAYOUTS, Condition
from mc.eval.paired_stats import compare_rows
from mc.layout.compression import Compression, sample_levels
from mc.layout.draw import draw_layouts
from mc.layout.layout import from_levels
from mc.memory_model import Bank, MemoryModel, PlainRows
from mc.nets.attention_probe import attention_mass
from mc.row_plan import RowPlan
from nanochat.eval.bits_per_byte import never
from nanochat.model.attention import EagerAttention
from nanochat.model.cross_entropy import IGNORE, ChunkedCrossEntropy
from nanochat.model.gpt import GPT

HORIZONS = (32, 128)  # measured in training

Batches = Iterable[tuple[Tensor, Tensor]]  # tokens and targets int64 [B,T]


@dataclass(frozen=True)
class Probe:
    """Budget that rows of `plan` are compressed to, by `compression`."""

    plan: RowPlan
    compression: Compression

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


def make_probe(memory: MemoryModel, horizon: int, width: int, recent: int) -> Probe:
    """The budget of (about) `width` entries before the last `horizon` tokens of a row, at least `recent` of them raw.

    W is the reachable width nearest to `width`; gists above level 1 are used if it takes them. Raises `ValueError` if horizon and
    recent tokens leave nothing to compress or no budget.
    """
    config = dataclasses.replace(memory.config, mc_horizon=horizon, allocator_recent_tokens=recent, mc_train_wc_length=width + horizon)
    plan = RowPlan(config, memory.plan.length)
    return Probe(plan, nearest_compression(width + horizon, plan))


def training_probes(memory: MemoryModel, horizons: Sequence[int] = HORIZONS) -> list[Probe]:
    """The budgets at which a memory is measured: entries before the decision point and recent tokens as at the end of training.

    Horizons that leave a row no block to compress, or nothing to choose, are omitted.
    """
    plan, K = memory.plan, memory.config.block_size
    width, T = plan.final_width - plan.horizon, plan.length
    probes = []
    for horizon in horizons:
        raw = plan.recent + (T - plan.recent - horizon) % K  # of the tokens before the decision point
        if plan.recent + horizon + K <= T and raw < width < T - horizon:
            probes.append(make_probe(memory, horizon, width, plan.recent))
    return [probe for probe in probes if any(probe.compression.nodes)]


def window_forward(model: GPT, tokens: Tensor, horizon: int, width: int) -> Tensor:
    """Hidden states [B, ≤ width + H, D] of the last `width` tokens before the horizon and of the horizon, at their true positions."""
    T = tokens.shape[1]
    start = max(0, T - horizon - width)
    return model.backbone(model.embed(tokens[:, start:]), model.rotary(start, T), attn_hook=EagerAttention())


def horizon_nll(model: GPT, hidden: Tensor, targets: Tensor, horizon: int) -> Tensor:
    """Mean loss of each row's targets in the horizon, fp32 [B]; NaN if all are ignored.

    `hidden` [B,·,D] and `targets` [B,·] end with the row: the horizon's predictions are made at its last tokens but one.
    """
    judged = slice(-horizon - 1, -1)
    targets = targets[:, judged]
    return token_nll(model, hidden[:, judged], targets).sum(1) / (targets != IGNORE).sum(1)


def token_nll(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """Loss fp32 [B,T] of each target, int64 [B,T], from the hidden states [B,T,D] before them; 0 if it is ignored."""
    losses = ChunkedCrossEntropy(False)(hidden.flatten(0, 1), model.lm_head.weight.to(hidden.dtype), targets.flatten(), "none")
    return losses.view(targets.shape)


def read_layouts(memory: MemoryModel, bank: Bank, levels: Tensor, width: int) -> Tensor:
    """Hidden states [V·B, width, D] of the Working Contexts `levels` [V,B,F], all of `width` entries, horizon included."""
    layout = from_levels(levels.flatten(0, 1), bank.shape.length, width, bank.shape.geometry)
    return memory.forward_layouts(bank, layout).hidden


def lens_levels(memory: MemoryModel, probe: Probe, bank: Bank, rows: int) -> Tensor:
    """The layout that LensNet chooses for each of `rows` rows, int64 levels [B,F].

    It scores the fully collapsed context, and the highest scores become raw.
    """
    collapsed = coarsest(probe.compression)
    levels = by_recency(collapsed, rows, memory.device)
    return by_score(probe.compression, memory.score_blocks(bank, levels, probe.decision, collapsed.width - probe.horizon))


def horizon_attention(memory: MemoryModel, plain: PlainRows, horizon: int, blocks: int) -> Tensor:
    """Attention of the predictions in the last `horizon` tokens to each of the first `blocks` blocks of plain rows, fp32 [B,F]."""
    T, K = plain.hidden.shape[1], memory.config.block_size
    queries = torch.arange(T - horizon - 1, T - 1, device=plain.hidden.device)
    mass = attention_mass(memory.model, plain.embedded, plain.inputs, queries[None])[0]
    return mass[:, : blocks * K].unflatten(1, (blocks, K)).sum(-1)


def choose_levels(
    memory: MemoryModel, probe: Probe, plain: PlainRows, bank: Bank, condition: Condition, generator: torch.Generator
) -> Tensor:
    """The layout of `condition` for each row, int64 levels [B,F]; `generator`, on the CPU, draws the random ones."""
    rows, device = len(plain.tokens), memory.device
    if condition == "random":
        return sample_levels(probe.compression, rows, generator, device=device)
    if condition == "recency":
        return by_recency(probe.compression, rows, device)
    if condition == "lens":
        return lens_levels(memory, probe, bank, rows)
    if condition == "oracle":
        return by_score(probe.compression, horizon_attention(memory, plain, probe.horizon, probe.plan.blocks))
    return by_recency(coarsest(probe.compression), rows, device)


@torch.no_grad()
def measure(
    memory: MemoryModel,
    batches: Batches,
    probes: Sequence[Probe],
    conditions: Sequence[Condition] = LAYOUTS,
    should_stop: Callable[[], bool] = never,
    seed: int = 0,
) -> list[dict[str, Tensor]] | None:
    """Losses of this process's rows by condition, fp32 [N], for each probe; rows without a target in the horizon are left out.

    Returns None in every process if `should_stop()` became true in any. `seed` is that of the random layouts.
    """
    device, generator = memory.device, torch.Generator().manual_seed(seed)
    parts: list[dict[str, list[Tensor]]] = [{name: [] for name in ("full", "window", *conditions)} for _ in probes]
    stopped = torch.zeros((), device=device)
    for tokens, targets in batches:
        if should_stop():
            stopped += 1
            break
        tokens, targets = tokens.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        plain = memory.forward_plain(tokens)
        for probe, collected in zip(probes, parts, strict=True):
            counts = (targets[:, -probe.horizon - 1 : -1] != IGNORE).any(1)
            for name, values in _losses(memory, probe, plain, targets, conditions, generator).items():
                collected[name].append(values[counts])
    if dist.is_initialized():
        dist.all_reduce(stopped)
    if stopped:
        return None
    none = torch.zeros(0, device=device)
    return [{name: torch.cat([none, *values]) for name, values in collected.items()} for collected in parts]


def _losses(
    memory: MemoryModel, probe: Probe, plain: PlainRows, targets: Tensor, conditions: Sequence[Condition], generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean losses fp32 [B] of the rows' horizons by condition."""
    model, H, bank = memory.model, probe.horizon, memory.build_bank(plain, probe.plan.shape)
    window = window_forward(model, plain.tokens, H, probe.width)
    losses = {"full": horizon_nll(model, plain.hidden, targets, H), "window": horizon_nll(model, window, targets, H)}
    for compression, together in (  # layouts of one width are read together
        (probe.compression, [condition for condition in conditions if condition != "gists"]),
        (coarsest(probe.compression), [condition for condition in conditions if condition == "gists"]),
    ):
        if together:
            levels = torch.stack([choose_levels(memory, probe, plain, bank, condition, generator) for condition in together])
            hidden = read_layouts(memory, bank, levels, compression.width)
            nll = horizon_nll(model, hidden, targets.repeat(len(together), 1), H).view(len(together), -1)
            losses |= zip(together, nll, strict=True)
    return losses


def evaluate_memory(
    memory: MemoryModel, batches: Batches, should_stop: Callable[[], bool] = never, horizons: Sequence[int] = HORIZONS
) -> dict[str, float] | None:
    """ΔNLL@H in nats and recovery@H over the batches of all processes, by their metric names.

    `mc/delta_nll@H` and `mc/recovery@H` are those of the layouts that LensNet chooses, with `_random` those of random ones, and
    `mc/delta_nll_window@H` is the gain from far context. Horizons that do not fit and undefined figures are left out. None if
    `should_stop()` became true in any process. Raises `ValueError` if no target counts.
    """
    probes = training_probes(memory, horizons)
    losses = measure(memory, batches, probes, ("lens", "random"), should_stop) if probes else []
    if losses is None:
        return None
    figures: dict[str, float] = {}
    for probe, rows in zip(probes, losses, strict=True):
        compared = compare_rows(rows)
        for condition, suffix in (("lens", ""), ("random", "_random")):
            figures[f"mc/delta_nll{suffix}@{probe.horizon}"] = compared.delta_nll(condition).value
            figures[f"mc/recovery{suffix}@{probe.horizon}"] = compared.recovery(condition).value
        figures[f"mc/delta_nll_window@{probe.horizon}"] = compared.delta_nll("window").value
    return {name: value for name, value in figures.items() if value == value}


@torch.no_grad()
def picture(memory: MemoryModel, batches: Batches) -> str:
    """Drawing of the layouts of the first row of `batches` at the widest horizon measured, by condition, as lines of text."""
    probes = training_probes(memory)
    if not probes:
        return "rows are too short for the horizons that layouts are chosen for"
    probe, (tokens, _) = probes[-1], next(iter(batches))
    plain = memory.forward_plain(tokens[:1].to(memory.device))
    bank, generator = memory.build_bank(plain, probe.plan.shape), torch.Generator().manual_seed(0)
    conditions = [condition for condition in LAYOUTS if condition != "gists"]
    levels = torch.cat([choose_levels(memory, probe, plain, bank, condition, generator) for condition in conditions])
    return draw_layouts(levels.cpu(), probe.plan.config.geometry, probe.plan.length, probe.plan.horizon, conditions)
