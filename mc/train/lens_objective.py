"""LensNet's training objective: preference and teacher losses over the variants of a row, and their running statistics.

Shapes: `B` rows, `V` variants, `W` entries before the decision point, `F` blocks, `H` horizon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from mc.layout.layout import Layout
from mc.nets.gist_bank import GistBank
from mc.nets.lensnet import LensNet, bank_keys, score_blocks, score_levels
from mc.row_plan import RowPlan
from mc.train import metrics as measure
from mc.train.lens_loss import AdvantageNorm, Pairs, make_pairs, policy_scores, preference_loss, teacher_loss
from mc.train.variant_sampler import Variants
from nanochat.profiling.timers import OpenSpan, untimed

METRICS = (
    "mc/lens_loss", "mc/lens_explained", "mc/lens_pairs", "mc/policy_score_abs_mean", "mc/policy_score_std_mean",
    "mc/preference_corr_mean", "mc/preference_corr_max", "mc/pref_span_corr",
)  # fmt: skip


class LensTraining(nn.Module):
    """Base of the objectives of all kinds of LensNet: the network, the plan of rows and the newest metrics."""

    def __init__(self, lensnet: nn.Module, plan: RowPlan) -> None:
        super().__init__()
        self.lensnet, self.plan = lensnet, plan
        self._newest: dict[str, Tensor | float] = dict.fromkeys(METRICS, math.nan)

    def idle(self) -> tuple[Tensor, dict[str, Tensor | float]]:
        """(zero loss that touches every parameter, the last metrics), for micro-batches in which LensNet is not trained."""
        return sum(0.0 * p.sum() for p in self.lensnet.parameters()), self._newest


class LensObjective(LensTraining):
    """Losses of `lensnet` and their running statistics."""

    def __init__(self, lensnet: LensNet, plan: RowPlan) -> None:
        super().__init__(lensnet, plan)
        self.config = plan.config.lens_loss
        self.advantages = AdvantageNorm(self.config.mc_lens_adv_norm_beta)

    def scores(self, keys: Tensor, entries: Tensor, variants: Variants, spans: OpenSpan = untimed) -> Tensor:
        """Block scores fp32 [V,B,F] of the variants' Working Contexts, whose entries [V·B,·,D] are cut off at the decision point."""
        H, levels = self.plan.horizon, variants.levels
        layout = Layout(*(part[:, :-H] for part in variants.layout))
        with spans("lensnet"):
            scores = score_blocks(self.lensnet, keys, self.plan.shape, entries[:, :-H], layout, levels.flatten(0, 1), self.plan.length - H)
        return scores.view(levels.shape)

    def coarse_scores(self, bank: GistBank, keys: Tensor, blocks: int | None = None, spans: OpenSpan = untimed) -> Tensor:
        """Block scores fp32 [B,blocks] of the Working Context that has gists for the first `blocks`, the starting point of a memory.

        By default these are all blocks that may be compressed; with fewer, the decision point is earlier by as much.
        """
        blocks = self.plan.blocks if blocks is None else blocks
        levels = torch.ones(bank.x.shape[0], blocks, dtype=torch.int64, device=bank.x.device)
        return score_levels(self.lensnet, bank, keys, levels, self.plan.decision(blocks), self.plan.collapsed_width(blocks), spans)

    def likely(self, bank: GistBank, spans: OpenSpan) -> Tensor:
        """Logits fp32 [B,F] of the blocks that priority sampling leaves raw."""
        return self.coarse_scores(bank, bank_keys(self.lensnet, bank), spans=spans) / self.config.mc_lens_temperature

    def loss(
        self,
        bank: GistBank,
        entries: Tensor,
        variants: Variants,
        origin: int,
        advantages: Tensor,
        teachers: Sequence[tuple[float, Tensor]],
        spans: OpenSpan = untimed,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(LensNet's loss, fp32 scalar; detached metrics) for variants with advantages fp32 [V,B].

        All pairs of a row's variants are judged in several contexts: `mc_lens_contexts` of the variants, from number `origin` on, and
        the fully collapsed one. `teachers` are (weight, fp32 [O,B,F]): the detail that blocks deserve, judged by what follows each of
        the plan's decision points. At all but the first of these LensNet learns from the teachers only.
        """
        config, V = self.config, len(advantages)
        self.advantages.update(advantages)
        mine, rows = variants.some(origin, min(V, self.plan.config.mc_lens_contexts))
        mixed = entries[rows]
        with spans("lensnet"):
            keys = bank_keys(self.lensnet, bank)
        scores = torch.cat([self.scores(keys, mixed, mine, spans=spans), self.coarse_scores(bank, keys, spans=spans)[None]])  # (O, B, F)
        pairs = make_pairs(variants.levels.transpose(0, 1), advantages.t(), config)
        policy = policy_scores(scores, pairs)  # (O, B, V, V)
        loss = preference_loss(pairs, policy, self.advantages.deviation, config)
        explained = torch.full_like(loss, math.nan)
        if teachers:
            earlier = [self.coarse_scores(bank, keys, blocks, spans)[None] for blocks in self.plan.far_blocks[1:]]
            ours, even = self._teacher_losses([scores, *earlier], teachers)
            loss, explained = loss + ours, 1 - ours.detach() / even
        with torch.no_grad():
            self._newest = self._metrics(loss, explained, pairs, policy, scores, advantages.t())
        return loss, self._newest

    def _teacher_losses(self, scores: Sequence[Tensor], teachers: Sequence[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
        """(weighted teacher losses of block scores fp32 [O,B,·] of each decision point, averaged over these; the same of even scores)."""
        ours, even = scores[0].new_zeros(()), scores[0].new_zeros(())
        for weight, signals in teachers:
            for mine, signal in zip(scores, signals, strict=True):
                signal, share = signal[:, : mine.shape[-1]], weight / len(scores)
                ours = ours + share * teacher_loss(mine, signal, self.config.mc_lens_temperature)
                even = even + share * teacher_loss(torch.zeros_like(mine[:1]), signal, self.config.mc_lens_temperature)
        return ours, even

    def _metrics(
        self, loss: Tensor, explained: Tensor, pairs: Pairs, policy: Tensor, scores: Tensor, advantages: Tensor
    ) -> dict[str, Tensor]:
        correlations = measure.preference_correlation(policy[0], advantages, pairs.levels)
        spans = measure.span_correlation(scores[0], pairs.levels, advantages)
        spread = scores.std(-1, correction=0).mean()
        kept = pairs.kept.sum() / len(pairs.kept)
        return dict(zip(METRICS, (loss.detach(), explained, kept, scores.abs().mean(), spread, *correlations, spans), strict=True))
