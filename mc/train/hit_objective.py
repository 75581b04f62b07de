"""Training objective of a layered LensNet: it learns which blocks the next tokens attend to.

The teacher of a decision point is the hits (see `mc.nets.hits`) of the queries from there to the next refocus, which LensNet does not
see. Shapes: `B` rows, `F` blocks, `O` contexts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mc.nets.hits import token_hits
from mc.nets.layered_bank import LayeredBank, score_layered
from mc.nets.layered_lens import NEWEST, LayeredLensNet
from mc.row_plan import RowPlan
from mc.train.lens_loss import teacher_loss
from mc.train.lens_objective import METRICS, LensTraining
from mc.train.variant_sampler import Variants
from nanochat.profiling.timers import OpenSpan

AHEAD = 4  # factor of the interval at every second decision point


class HitObjective(LensTraining):
    """Losses of `lensnet`; its metrics are those of `LensObjective`, NaN where they are about pairs."""

    def __init__(self, lensnet: LayeredLensNet, plan: RowPlan) -> None:
        super().__init__(lensnet, plan)
        self.interval = plan.config.session.mc_infer_refocus_interval

    def teacher(self, bank: LayeredBank, blocks: int, interval: int = 0) -> Tensor:
        """Hits of the next `interval` queries on the first `blocks` blocks, summed over layers, heads and tokens, fp32 [B,F]."""
        decision = self.plan.decision(blocks)
        end = min(decision + (interval or self.interval), self.plan.length)
        queries, keys = bank.queries[:, :, decision:end], bank.entries.keys[:, :, :end]
        K = self.plan.config.block_size
        hits = token_hits(queries, keys, decision)
        return hits[..., : blocks * K].sum((1, 2, 3)).unflatten(-1, (blocks, K)).sum(-1)

    def scores(self, bank: LayeredBank, levels: Tensor, spans: OpenSpan, interval: int = 0) -> Tensor:
        """Scores fp32 [O·B,F] of blocks with `levels` [O·B,F] at the decision point after these F blocks."""
        with spans("lensnet"):
            return score_layered(self.lensnet, bank, levels, self.plan.decision(levels.shape[1]), interval or self.interval)

    def likely(self, bank: LayeredBank, spans: OpenSpan) -> Tensor:
        """Logits fp32 [B,F] of the blocks that priority sampling leaves raw."""
        return self.scores(bank, self._collapsed(bank, self.plan.blocks), spans)

    def _collapsed(self, bank: LayeredBank, blocks: int) -> Tensor:
        return torch.ones(bank.queries.shape[1], blocks, dtype=torch.int64, device=bank.queries.device)

    def loss(self, bank: LayeredBank, variants: Variants, origin: int, spans: OpenSpan) -> tuple[Tensor, dict[str, Tensor]]:
        """(LensNet's loss, fp32 scalar; detached metrics): KL(teacher ‖ scores), averaged over the plan's decision points.

        At the row's own decision point LensNet scores the collapsed context and `mc_lens_contexts` of the variants, from number
        `origin` on; at earlier ones the collapsed context. At every second one it looks ahead four times as far, so that a session may
        refocus at another interval.
        """
        ours = even = torch.zeros((), device=bank.queries.device)
        newest: list[Tensor] = []
        for i, blocks in enumerate(self.plan.far_blocks):
            interval = self.interval if i % 2 == 0 else min(AHEAD * self.interval, NEWEST)
            levels = self._collapsed(bank, blocks)[None]
            if not newest:
                mixed, _ = variants.some(origin, min(len(variants.levels), self.plan.config.mc_lens_contexts))
                levels = torch.cat([levels, mixed.levels])
            with spans("attention"):
                teacher = self.teacher(bank, blocks, interval)
            scores = torch.stack([self.scores(bank, each, spans, interval) for each in levels])  # (O, B, F)
            ours = ours + teacher_loss(scores, teacher, 1.0)
            even = even + teacher_loss(torch.zeros_like(scores[:1]), teacher, 1.0)
            newest.append(scores.detach())
        loss, spread = ours / len(newest), newest[0].std(-1, correction=0).mean()
        self._newest = dict.fromkeys(METRICS, math.nan) | {
            "mc/lens_loss": loss.detach(),
            "mc/lens_explained": 1 - ours.detach() / even,
            "mc/policy_score_abs_mean": newest[0].abs().mean(),
            "mc/policy_score_std_mean": spread,
        }
        return loss, self._newest
