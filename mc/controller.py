"""Training with a MegaContext: a row as it is, and compressions of it, in one loss.

Shapes: `B` rows, `T` tokens, `V` variants of a row, `W` entries of a variant, `F` blocks that may be compressed, `H` horizon.
Variant v of row b is at v·B + b wherever variants are stacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mc import metrics as measure
from mc.config import MCConfig, RowPlan
from mc.gistnet import GistNet
from mc.layout import Layout, entry_ends, from_levels
from mc.lens_loss import make_pairs, preference_loss
from mc.lensnet import LensNet, block_scores
from mc.positional import alibi_bias
from mc.tree import Positions, assemble, bank_index, build
from mc.variants import sample_distinct
from nanochat.gpt import GPT, Embedded, Rotary
from nanochat.objective import Objective, StepResult
from nanochat.optim import OptimFlags, ParamGroup
from nanochat.schedule import Plan


class Variants(NamedTuple):
    """Layouts of B rows, V of each."""

    levels: Tensor  # int64 [V,B,F]
    layout: Layout  # [V·B, W]
    index: Tensor  # int64 [V·B, W], in the bank of a row
    predicts: Tensor  # int64 [V·B, W], where in a row's targets an entry's target is


@dataclass
class MCBatchResult:
    """What came of a batch; all but `loss` is detached."""

    loss: Tensor
    token_loss: Tensor
    loss_lod0: Tensor
    lens_loss: Tensor
    lod_losses: Tensor
    positional_caches: dict[str, tuple[Tensor, Tensor, Tensor | None]]
    cached_embeddings: Tensor
    metrics: dict[str, Tensor]


class MCController(Objective):
    """The second objective: `model` trained with the gists of `gistnet` and the focus of `lensnet`."""

    def __init__(self, model: GPT, config: MCConfig, seq_len: int, seed: int = 0) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.plan = RowPlan(config, seq_len)
        self.geometry, self.shape = config.geometry, self.plan.shape
        D, aux = model.config.width, config.aux_dtype(model.dtype)
        self.gistnet = GistNet(config.gist, D, aux)
        self.lensnet = LensNet(config.lens, D, self.geometry, aux)
        self.positions = Positions(self.shape, config.positional_type, model.config.head_dim, model.dtype)
        self.draw = 0  # micro-batches so far: layouts are a function of seed and draw
        self.register_buffer("adv_mean", torch.zeros(()))
        self.register_buffer("adv_square", torch.ones(()))

    def init_weights(self, generator: torch.Generator | None = None) -> MCController:
        """Initialises the memory's networks; the model has its own. Returns self."""
        self.gistnet.init_weights(generator)
        self.lensnet.init_weights(generator)
        return self

    def parameter_groups(self, flags: OptimFlags, plan: Plan) -> list[ParamGroup]:
        """The model's groups as without a memory, and the memory's own: matrices to Muon, the rest to AdamW."""
        named = [(n, p) for n, p in self.named_parameters() if not n.startswith("model.")]
        matrices = [(n, p) for n, p in named if p.ndim == 2 and min(p.shape) > 4]
        rest = [(n, p) for n, p in named if not (p.ndim == 2 and min(p.shape) > 4)]
        scale = plan.lr_scale * flags.lr_mult
        groups = super().parameter_groups(flags, plan)
        groups.append(ParamGroup("muon", matrices, flags.matrix_lr * scale, flags.weight_decay * flags.wd_mult * plan.weight_decay_scale))
        groups.append(ParamGroup("adamw", rest, 0.02 * scale, 0.0, (0.8, 0.95)))
        return groups

    def get_extra_state(self) -> Tensor:
        """What a checkpoint holds beside parameters and buffers."""
        return torch.tensor([self.draw])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores it."""
        self.draw = int(state[0])

    def forward(self, tokens: Tensor, targets: Tensor, progress: float) -> StepResult:
        """See `Objective.forward`."""
        result = self.process_batch(tokens, targets, progress)
        return StepResult(result.loss, result.metrics)

    def sample(self, rows: int, progress: float, device: torch.device) -> Variants:
        """The variants of the next micro-batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.draw)
        self.draw += 1
        levels = sample_distinct(
            self.plan.compression(progress, self._higher(generator)), rows, self.config.mc_num_random_variants, generator
        )
        return self.variants(levels.to(device))

    def _higher(self, generator: torch.Generator) -> tuple[int, ...]:
        K, free, counts = self.config.block_size, self.plan.blocks, []
        for level in range(self.plan.max_lod, 1, -1):
            groups = free // K ** (level - 1)
            counts.append(int((torch.rand(groups, generator=generator) < self.config.mc_training_lod2_probability).sum()))
            free -= counts[-1] * K ** (level - 1)
        return tuple(reversed(counts))

    def variants(self, levels: Tensor) -> Variants:
        """Layouts of equal width from `levels` [V,B,F]."""
        V, B, n = levels.shape
        flat = levels.reshape(V * B, n)
        from mc.layout import widths

        width = int(widths(flat[:1], self.plan.length, self.geometry))
        layout = from_levels(flat, self.plan.length, width, self.geometry)
        return Variants(levels, layout, bank_index(layout, self.shape), entry_ends(layout, self.geometry) - 1)

    def baseline(self, tokens: Tensor) -> tuple[Embedded, Tensor, Tensor]:
        """(embedded tokens, final hidden states, middle ones) of plain rows."""
        embedded = self.model.embed(tokens)
        x, middle = self.model.layers(embedded, self.model.rotary(0, tokens.shape[1]))
        return embedded, self.model.finish(x, middle), middle

    def tree(self, embedded, middle):
        hidden = middle if self.config.gist.gistnet_type == "context" else None
        return build(embedded, self.gistnet, self.shape, hidden)

    def read(self, tree, variants: Variants) -> tuple[Embedded, Tensor]:
        """(entries, final hidden states) of the Working Contexts."""
        entries = assemble(tree, variants.index)
        rotary = self.positions(variants.layout, variants.index)
        bias = alibi_bias(variants.layout, self.geometry, self.config.positional_type, self.model.config.heads, self.model.dtype)
        return entries, self.model.backbone(entries, rotary, bias=bias)

    def process_batch(self, tokens: Tensor, targets: Tensor, progress: float) -> MCBatchResult:
        B, T = tokens.shape
        variants = self.sample(B, progress, tokens.device)
        V, _, n = variants.levels.shape
        embedded, hidden, middle = self.baseline(tokens)
        base_loss, base_each = self.model.loss(hidden, targets, "both")
        tree = self.tree(embedded, middle)
        entries, variant_hidden = self.read(tree, variants)
        rows = torch.arange(V * B, device=tokens.device) % B
        variant_targets = targets[rows[:, None], variants.predicts]
        variant_loss, variant_each = self.model.loss(variant_hidden, variant_targets, "both")
        token_loss = (base_loss + V * variant_loss) / (1 + V)
        loss = token_loss
        metrics = {"train/loss_lod0": base_loss.detach(), "mc/token_loss": token_loss.detach()}
        H = self.plan.horizon
        horizon = slice(-H - 1, -1)
        delta = variant_each[:, horizon].mean(1).view(V, B) - base_each[:, horizon].mean(1)
        metrics["mc/adv_delta_mean"] = delta.mean()
        if self.config.mc_gist_kl_weight:
            tail = self.plan.tail - 1
            with torch.no_grad():
                reference = self.model.logits(hidden[:, -tail:]).log_softmax(-1)
            mine = self.model.logits(variant_hidden[:, -tail:]).log_softmax(-1).view(V, B, tail, -1)
            kl = (reference.exp() * (reference - mine)).sum(-1).mean()
            loss = loss + self.config.mc_gist_kl_weight * kl
            metrics["mc/gist_kl"] = kl.detach()
        lens_loss = None
        if self.config.lens_loss.mc_lens_loss_weight:
            W = variants.index.shape[1] - H
            seen = Layout(*(t[:, :W] for t in variants.layout))
            scores = self.lensnet(entries.x[:, :W].detach(), seen, T - H)
            scores = block_scores(scores, seen, variants.levels.flatten(0, 1), self.geometry).view(V, B, n).transpose(0, 1)
            levels = variants.levels.transpose(0, 1)
            pairs = make_pairs(scores, levels, -delta.t(), self.config.lens_loss)
            preference, _ = preference_loss(pairs, delta.std(), self.config.lens_loss)
            loss = loss + self.config.lens_loss.mc_lens_loss_weight * preference
            metrics["mc/lens_loss"] = preference.detach()
            metrics["mc/preference_corr_mean"] = measure.preference_correlation(pairs.policy.detach(), -delta.t(), levels)[0]
            metrics["mc/policy_score_abs_mean"] = scores.detach().abs().mean()
        return MCBatchResult(loss, token_loss.detach(), base_loss.detach(), None, None, None, embedded.x.detach(), metrics)
