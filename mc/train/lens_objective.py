"""LensNet in training: its scores of the variants, what they are held to, and the state that takes.

Shapes: `B` rows, `V` variants, `W` entries before the decision point, `F` blocks, `H` horizon.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from mc.config import RowPlan
from mc.layout.layout import from_levels
from mc.nets.gist_bank import GistBank, assemble, bank_index
from mc.nets.lensnet import LensNet, bank_keys, score_blocks
from mc.train import metrics as measure
from mc.train.lens_loss import AdvantageNorm, Pairs, imbalance, lens_losses, make_pairs, policy_divergence, policy_scores, told_loss
from mc.train.variant_sampler import Variants
from nanochat.profiling.timers import OpenSpan, untimed

REFERENCE_BETA = 0.99  # decay of the reference policy's weights
METRICS = (
    "mc/lens_loss", "mc/lens_explained", "mc/lens_pairs", "mc/policy_score_abs_mean", "mc/policy_score_std_mean",
    "mc/preference_corr_mean", "mc/preference_corr_max", "mc/pref_span_corr",
)  # fmt: skip


class LensObjective(nn.Module):
    """`lensnet` and the running figures of its loss."""

    def __init__(self, lensnet: LensNet, plan: RowPlan) -> None:
        super().__init__()
        self.lensnet, self.plan, self.config = lensnet, plan, plan.config.lens_loss
        self.advantages = AdvantageNorm(self.config.mc_lens_adv_norm_beta)
        self.register_buffer("sides", torch.zeros(2))  # running means of the scores that expand, and that collapse
        self._newest: dict[str, Tensor | float] = dict.fromkeys(METRICS, math.nan)
        self.reference = copy.deepcopy(lensnet).requires_grad_(False) if self.config.mc_lens_kl_weight else None

    @torch.no_grad()
    def start_reference(self) -> None:
        """Makes the reference policy LensNet as it is now."""
        if self.reference is not None:
            self.reference.load_state_dict(self.lensnet.state_dict())

    def scores(
        self, keys: Tensor, entries: Tensor, variants: Variants, lensnet: LensNet | None = None, spans: OpenSpan = untimed
    ) -> Tensor:
        """Block scores fp32 [V,B,F] of Working Contexts whose entries [V·B, ≥ W, D] are cut off at the decision point."""
        H, levels, shape = self.plan.horizon, variants.levels, self.plan.shape
        with spans("lensnet"):
            scores = score_blocks(
                lensnet or self.lensnet, keys, shape, entries, variants.layout, levels.flatten(0, 1), self.plan.length - H, H
            )
        return scores.view(levels.shape)

    def coarse_scores(self, tree: GistBank, keys: Tensor, blocks: int | None = None, spans: OpenSpan = untimed) -> Tensor:
        """Block scores fp32 [B,blocks] of the Working Context in which the first `blocks` are gists: what a memory starts from.

        By default these are all that may be compressed, and the decision point is that of the row; with fewer it is as much earlier.
        """
        plan = self.plan
        blocks = plan.blocks if blocks is None else blocks
        decision = plan.decision(blocks)
        levels = torch.ones(tree.x.shape[0], blocks, dtype=torch.int64, device=tree.x.device)
        layout = from_levels(levels, decision, plan.collapsed_width(blocks), plan.config.geometry)
        entries = assemble(tree, bank_index(layout, plan.shape)).x
        with spans("lensnet"):
            return score_blocks(self.lensnet, keys, plan.shape, entries, layout, levels, decision, 0)

    def loss(
        self,
        tree: GistBank,
        entries: Tensor,
        variants: Variants,
        origin: int,
        advantages: Tensor,
        told: Sequence[tuple[float, Tensor]],
        spans: OpenSpan = untimed,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(LensNet's loss, fp32 scalar; detached metrics) for variants of advantages fp32 [V,B].

        Scores are taken in some contexts, in which all pairs of a row's variants are judged: `mc_lens_contexts` of the variants,
        from number `origin` on, and the one where everything is collapsed. `told` are weights and fp32 [D,B,F]: how much detail
        blocks deserve by what comes after each of the plan's decision points. At all but the first of these LensNet learns from
        that alone.
        """
        config, V = self.config, len(advantages)
        self.advantages.update(advantages)
        mine, rows = variants.some(origin, min(V, self.plan.config.mc_lens_contexts))
        mixed = entries[rows]
        with spans("lensnet"):
            keys = bank_keys(self.lensnet, tree)
        scores = torch.cat([self.scores(keys, mixed, mine, spans=spans), self.coarse_scores(tree, keys, spans=spans)[None]])  # (O, B, F)
        pairs = make_pairs(variants.levels.transpose(0, 1), advantages.t(), config)
        policy = policy_scores(scores, pairs)  # (O, B, V, V)
        terms = lens_losses(pairs, policy, scores, self.advantages.deviation, config)
        loss, explained = terms.preference, torch.full_like(terms.preference, math.nan)
        if told:
            earlier = [self.coarse_scores(tree, keys, blocks, spans)[None] for blocks in self.plan.far_blocks[1:]]
            ours, even = self._told_losses([scores, *earlier], told)
            loss, explained = loss + ours, 1 - ours.detach() / even
        if config.mc_lens_rank_weight:
            loss = loss + config.mc_lens_rank_weight * terms.rank
        if config.mc_lens_budget_weight:
            loss = loss + config.mc_lens_budget_weight * terms.budget
        if config.mc_lens_budget_smooth_weight:
            now = torch.stack([scores.clamp(min=0).mean(), scores.clamp(max=0).mean()])
            sides = torch.lerp(now, self.sides, config.mc_lens_budget_smooth_beta)
            self.sides.copy_(sides.detach())
            loss = loss + config.mc_lens_budget_smooth_weight * imbalance(sides)
        if self.reference is not None:
            with torch.no_grad():
                for old, new in zip(self.reference.parameters(), self.lensnet.parameters(), strict=True):
                    old.lerp_(new, 1 - REFERENCE_BETA)
                reference = self.scores(bank_keys(self.reference, tree), mixed, mine, self.reference)
            loss = loss + config.mc_lens_kl_weight * policy_divergence(reference, scores[:-1], config.mc_lens_temperature)
        with torch.no_grad():
            self._newest = self._metrics(loss, explained, pairs, policy, scores, advantages.t())
        return loss, self._newest

    def _told_losses(self, scores: Sequence[Tensor], told: Sequence[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
        """(weighted sum over the teachers of their mean loss over decision points; the same of even scores, no gradient), of block
        scores fp32 [O,B,·] of each point."""
        ours, even = scores[0].new_zeros(()), scores[0].new_zeros(())
        for weight, deserved in told:
            for seen, there in zip(scores, deserved, strict=True):
                there, share = there[:, : seen.shape[-1]], weight / len(scores)
                ours = ours + share * told_loss(seen, there, self.config.mc_lens_temperature)
                even = even + share * told_loss(torch.zeros_like(seen[:1]), there, self.config.mc_lens_temperature)
        return ours, even

    def idle(self) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The same where LensNet has a rest: zero, in which each parameter takes part, as the optimizer wants, and the metrics of
        the last time it learned: a log that is written in a rest would never have any."""
        return sum(0.0 * p.sum() for p in self.lensnet.parameters()), self._newest

    def _metrics(
        self, loss: Tensor, explained: Tensor, pairs: Pairs, policy: Tensor, scores: Tensor, advantages: Tensor
    ) -> dict[str, Tensor]:
        correlations = measure.preference_correlation(policy[0], advantages, pairs.levels)
        spans = measure.span_correlation(scores[0], pairs.levels, advantages)
        spread = scores.std(-1, correction=0).mean()
        kept = pairs.kept.sum() / len(pairs.kept)
        return dict(zip(METRICS, (loss.detach(), explained, kept, scores.abs().mean(), spread, *correlations, spans), strict=True))
