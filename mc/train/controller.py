"""Training with a MegaContext: a row as it is, and compressions of it, in one loss.

Shapes: `B` rows, `T` tokens, `V` variants of a row, `W` entries of a variant, `F` blocks that may be compressed, `H` horizon,
`D` width. Variant v of row b is at v·B + b wherever variants are stacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mc.config import MCConfig, RowPlan
from mc.layout.compression import compression_of, repeated, sample_levels
from mc.layout.positions import alibi_bias
from mc.nets.attention_probe import attention_mass
from mc.nets.gist_bank import GistBank, Positions, assemble, build
from mc.nets.gistnet import GistNet
from mc.nets.lensnet import LensNet, bank_keys
from mc.train import metrics as measure
from mc.train.gist_losses import Reconstruction, distillation_loss
from mc.train.lens_loss import excess
from mc.train.lens_objective import LensObjective
from mc.train.lens_teachers import occurrence
from mc.train.variant_sampler import Request, Sampler, Variants, VariantThrottle, lay_out
from nanochat.model.attention import EagerAttention
from nanochat.model.cross_entropy import IGNORE
from nanochat.model.gpt import GPT, Embedded, Rotary
from nanochat.runtime.device import Runtime
from nanochat.train.objective import Objective, StepResult
from nanochat.train.optim import OptimFlags, ParamGroup
from nanochat.train.schedule import TrainPlan

ADAM_LR = 0.02  # nominal rate of the memory's vectors and scores
SMALL = 4  # a matrix with a side of at most this is no matter for Muon
# Metric → spans of the forward; the passes of the memory's own networks have theirs. Backward passes are all in `backward`.
SPANS = {
    "build": ("tree_build", "gistnet"),
    "variant": ("variant_sampling",),
    "variant_pack": ("variant_pack",),
    "positional": ("positional",),
    "lens": ("lens", "lensnet", "occurrence", "attention"),
    "other": ("metrics",),
}
NETWORKS = ("gistnet", "lensnet", "attention")


@dataclass
class MCBatchResult:
    """What came of a batch; all but `loss` is detached.

    `positional_caches` are (cos, sin, ALiBi bias or None) of the plain rows and of the variants, `cached_embeddings` [B,T,D]
    the embeddings of the tokens, `lod_losses` fp32 [levels] the mean loss of the predictions at entries of each level.
    """

    loss: Tensor
    token_loss: Tensor
    loss_lod0: Tensor
    lens_loss: Tensor
    lod_losses: Tensor
    positional_caches: dict[str, tuple[Tensor, Tensor, Tensor | None]]
    cached_embeddings: Tensor
    metrics: dict[str, Tensor]


class Row(NamedTuple):
    """The plain forward of B rows."""

    embedded: Embedded
    hidden: Tensor  # [B,T,D], what the head reads
    middle: Tensor  # [B,T,D], after the middle layer
    losses: Tensor  # fp32 [B,T], detached
    rotary: Rotary
    inputs: list[Tensor]  # [B,T,D] before each layer


class MCController(Objective):
    """The second objective: `model` trained with the gists of `gistnet` and the focus of `focus.lensnet`.

    `seed` and `rank` (of the process) are of the layouts; `micro_batches` is how many of them, over all processes, make a step:
    for the metrics alone. `annealed` is for training on: variants are narrow from the start, as with `mc_anneal` off.
    """

    def __init__(
        self, model: GPT, config: MCConfig, seq_len: int, seed: int = 0, micro_batches: int = 1, rank: int = 0, annealed: bool = False
    ) -> None:
        super().__init__()
        self.model, self.config, self.micro_batches = model, config, micro_batches
        self.annealed = annealed or not config.mc_anneal
        self.plan = RowPlan(config, seq_len)
        D, aux, geometry = model.config.width, config.aux_dtype(model.dtype), config.geometry
        self.gistnet = GistNet(config.gist, D, aux)
        self.focus = LensObjective(LensNet(config.lens, D, geometry, aux), self.plan)
        self.focus.lensnet.requires_grad_(config.lens_loss.mc_lens_loss_weight > 0)
        if config.mc_freeze_model:
            model.requires_grad_(False)
        self.reconstruction = Reconstruction(D, geometry) if config.mc_gist_recon_weight else None
        self.positions = Positions(self.plan.shape, config.positional_type, model.config.head_dim, model.dtype)
        self.sampler = Sampler(self.plan, seed, model.wte.weight.is_cuda, rank)
        self.pace = VariantThrottle(config.mc_target_tok_per_sec, config.mc_num_random_variants, model.wte.weight.device)
        self.draw = 0  # micro-batches so far
        self.contexts = 0  # Working Contexts of them, in all processes

    def init_weights(self, generator: torch.Generator | None = None) -> MCController:
        """Initialises the memory's networks; the model has its own. Returns self."""
        self.gistnet.init_weights(generator)
        self.focus.lensnet.init_weights(generator)
        self.focus.start_reference()
        if self.reconstruction is not None:
            self.reconstruction.init_weights(generator)
        return self

    def use_kernels(self, compiled: bool) -> MCController:
        """Chooses how the memory's networks run: compiled or eager. The model has its own. Returns self."""
        if compiled and self.gistnet.encoder is not None:
            for block in self.gistnet.encoder.blocks:  # LensNet's shapes change with the width, and it is small
                block.compile(dynamic=False)
        return self

    def parameter_groups(self, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
        """The model's groups as without a memory, unless it is frozen, and the memory's own: matrices to Muon, the rest to AdamW."""
        named = [(n, p) for n, p in self.named_parameters() if not n.startswith("model.") and p.requires_grad]
        matrices = [(n, p) for n, p in named if p.ndim == 2 and min(p.shape) > SMALL]
        rest = [(n, p) for n, p in named if p.ndim != 2 or min(p.shape) <= SMALL]
        scale = plan.lr_scale * flags.lr_mult * self.config.mc_lr_mult
        decay = flags.weight_decay * flags.wd_mult * plan.weight_decay_scale
        groups = [] if self.config.mc_freeze_model else super().parameter_groups(flags, plan)
        groups.append(ParamGroup("muon", matrices, flags.matrix_lr * scale, decay))
        return [*groups, ParamGroup("adamw", rest, ADAM_LR * scale, 0.0, (0.8, 0.95))] if rest else groups

    def get_extra_state(self) -> Tensor:
        """What a checkpoint holds beside parameters and buffers."""
        return torch.tensor([self.draw, self.contexts, self.pace.variants])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores it."""
        self.draw, self.contexts, self.pace.variants = state.tolist()
        self.pace.restart()

    def flops_per_token(self) -> float:
        """FLOPs of training on one token of a row and on its share of the variants, forward and backward, averaged over the run.

        The memory's own networks are not counted.
        """
        stages = [1.0] if self.annealed else self.plan.stages
        forwarded = sum(map(self.plan.multiplier, stages)) / len(stages)
        if self.config.mc_freeze_model:  # a row's forward is a third, and so is what passes gradients through a variant
            forwarded = (1 + 2 * (forwarded - 1)) / 3
        return self.model.flops_per_token() * forwarded

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        result = self.process_batch(tokens, targets, progress, weights)
        return StepResult(result.loss, result.metrics)

    def figures(self, spans_ms: dict[str, float], grad_accum_steps: int) -> dict[str, float]:
        """Milliseconds of a step's forwards by part of the controller; all of them but the networks' passes."""
        figures: dict[str, float] = {"mc/grad_accum_steps": grad_accum_steps}
        if self.config.mc_log_timers:
            for name, spans in SPANS.items():
                figures[f"mc/{name}_ms"] = sum(spans_ms.get(span, 0.0) for span in spans)
            networks = sum(spans_ms.get(span, 0.0) for span in NETWORKS)
            figures["mc/time_controller_ms"] = sum(figures[f"mc/{name}_ms"] for name in SPANS) - networks
        return figures

    def process_batch(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> MCBatchResult:
        """Losses of rows and variants: tokens and targets int64 [B,T], `progress` of the run 0 … 1; see `Objective.forward`."""
        B, T = tokens.shape
        progress = 1.0 if self.annealed else progress
        self.pace.saw(B * T)
        base_loss, row = self.read_rows(tokens, targets, weights)
        with self.spans("tree_build"):
            tree = self.tree(row)
        with self.spans("variant_sampling"):
            variants = self._sample(tree, B, progress)
        V = len(variants.levels)
        entries, hidden, caches = self.read(tree, variants)
        with self.spans("variant_pack"):
            rows = torch.arange(V * B, device=tokens.device) % B
            entry_targets = targets[rows[:, None], variants.predicts]
            if not self.config.mc_gist_targets:
                entry_targets = entry_targets.masked_fill(variants.layout.lod > 0, IGNORE)
        variant_loss, losses = self.model.loss(hidden, entry_targets, "both", None if weights is None else weights[rows])
        token_loss = (base_loss + V * variant_loss) / (1 + V)
        loss, extra = self._gist_terms(token_loss, tokens, targets, row, tree, hidden, entry_targets)
        with self.spans("metrics"):
            horizon = slice(-self.plan.horizon - 1, -1)
            advantages = (row.losses[:, horizon].mean(1) - losses[:, horizon].mean(1).view(V, B)).detach()
            metrics = self._metrics(base_loss, token_loss, row, losses, entry_targets != IGNORE, variants, advantages)
        lens_loss = base_loss.new_zeros(())
        if self.config.lens_loss.mc_lens_loss_weight:
            with self.spans("lens"):
                learns = self._lens_learns(self.draw) and V > 1
                if learns:
                    told = self._told(tokens, targets, row, losses)
                    origin = self.draw // self.config.mc_lens_every % V
                    lens_loss, lens_metrics = self.focus.loss(tree, entries.x, variants, origin, advantages, told, self.spans)
                else:
                    lens_loss, lens_metrics = self.focus.idle()
            metrics |= lens_metrics
            loss = loss + self.config.lens_loss.mc_lens_loss_weight * lens_loss
        self.draw += 1
        self.contexts += B * (1 + V) * (dist.get_world_size() if dist.is_initialized() else 1)
        return MCBatchResult(
            loss, token_loss.detach(), base_loss.detach(), lens_loss.detach(), metrics.pop("lod_losses"),
            {"rows": (*row.rotary, None), "variants": caches}, row.embedded.x.detach(), metrics | extra,
        )  # fmt: skip

    def read_rows(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Row]:
        """(mean loss, all there is) of the plain forward."""
        rotary = self.model.rotary(0, tokens.shape[1])
        embedded = self.model.embed(tokens)
        inputs: list[Tensor] = []
        x, middle = self.model.layers(embedded, rotary, inputs=inputs)
        hidden = self.model.finish(x, middle)
        loss, losses = self.model.loss(hidden, targets, "both", weights)
        return loss, Row(embedded, hidden, middle, losses, rotary, inputs)

    def tree(self, row: Row) -> GistBank:
        """The trees of rows."""
        contextual = self.config.gist.gistnet_type == "context"
        return build(row.embedded, self._gists, self.plan.shape, row.middle if contextual else None)

    def _gists(self, children: Tensor, hidden: Tensor | None) -> Tensor:
        with self.spans("gistnet"):
            return self.gistnet(children, hidden)

    def variants(self, levels: Tensor) -> Variants:
        """Layouts from `levels` [V,B,F], with equally many nodes of each level in all."""
        return lay_out(self.plan, compression_of(levels[0, 0], self.plan.tail, self.config.geometry), levels)

    def read(self, tree: GistBank, variants: Variants) -> tuple[Embedded, Tensor, tuple[Tensor, Tensor, Tensor | None]]:
        """(entries, hidden states [V·B,W,D], (cos, sin, bias)) of Working Contexts."""
        with self.spans("variant_pack"):
            entries = assemble(tree, variants.index)
        with self.spans("positional"):
            rotary = self.positions(variants.layout, variants.index)
            geometry, heads = self.config.geometry, self.model.config.heads
            bias = alibi_bias(variants.layout, geometry, self.config.positional_type, heads, self.model.dtype)
        eager = None if self.config.mc_compile_variants else EagerAttention(bias)
        return entries, self.model.backbone(entries, rotary, attn_hook=eager, bias=bias), (*rotary, bias)

    def _lens_learns(self, draw: int) -> bool:
        return self.config.lens_loss.mc_lens_loss_weight > 0 and draw % self.config.mc_lens_every == 0

    def _per_row(self, draw: int) -> int:
        """Variants of a row in a micro-batch: LensNet learns from pairs."""
        return max(self.pace.variants, 2) if self._lens_learns(draw) else self.pace.variants

    def _sample(self, tree: GistBank, rows: int, progress: float) -> Variants:
        """The variants of this micro-batch: random ones, and with priority sampling half of them by LensNet's scores."""
        width = self.plan.width(progress)
        request, following = (Request(draw, self._per_row(draw), rows, width) for draw in (self.draw, self.draw + 1))
        variants = self.sampler(request, following, tree.x.device)
        guided = len(variants.levels) // 2
        if not self.config.mc_priority_sampling or not guided:
            return variants
        with torch.no_grad(), self.spans("lens"):
            scores = self.focus.coarse_scores(tree, bank_keys(self.focus.lensnet, tree))
        scores = scores.expand(guided, -1, -1).flatten(0, 1) / self.config.lens_loss.mc_lens_temperature
        levels = sample_levels(variants.compression, len(scores), self.sampler.generator(self.draw), scores, scores.device).view(
            guided, rows, -1
        )
        return lay_out(self.plan, variants.compression, torch.cat([variants.levels[guided:], levels]))

    def _told(self, tokens: Tensor, targets: Tensor, row: Row, losses: Tensor) -> list[tuple[float, Tensor]]:
        """What LensNet is told of the blocks behind each decision point: weights and fp32 [D,B,F]."""
        config, plan, told = self.config.lens_loss, self.plan, []
        if config.mc_lens_occurrence_weight:
            with self.spans("occurrence"):
                there = occurrence(tokens, targets, plan.decisions, plan.far_blocks, plan.horizon, self.config.block_size)
            told.append((config.mc_lens_occurrence_weight, there))
        if config.mc_lens_attention_weight:
            told.append((config.mc_lens_attention_weight, self._attention(row, losses)))
        return told

    def _attention(self, row: Row, losses: Tensor) -> Tensor:
        """How much more attention than an even share the predictions after each decision point paid to each block in the plain rows.

        Those of the row's horizon count by what they lost in the variants, on average: a block matters where its tokens are missed.
        After earlier decision points nothing was compressed, and they count alike.
        """
        plan, H, F_, K = self.plan, self.plan.horizon, self.plan.blocks, self.config.block_size
        horizon = slice(-H - 1, -1)
        lost = F.relu(losses.detach()[:, horizon].unflatten(0, (-1, len(row.losses))).mean(0) - row.losses[:, horizon])
        queries = torch.stack([torch.arange(t - 1, t - 1 + H, device=lost.device) for t in plan.decisions])  # made there: a copy would wait
        weights = torch.cat([lost[None], torch.ones_like(lost).expand(len(queries) - 1, -1, -1)])
        with self.spans("attention"):
            mass = attention_mass(self.model, row.embedded, row.inputs, queries, weights)
        mass = mass[..., : F_ * K].unflatten(-1, (F_, K)).sum(-1)
        each = [F.pad(excess(mass[i, :, :blocks]), (0, F_ - blocks)) for i, blocks in enumerate(plan.far_blocks)]
        return torch.stack(each)

    def _gist_terms(self, loss, tokens, targets, row: Row, tree: GistBank, hidden, entry_targets) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss` with the terms that are on, and what they came to."""
        config, metrics = self.config, {}
        if config.mc_gist_delta_weight:
            # The mean losses of single variants, with gradients: at the price of another pass over the head.
            each = self.model.loss(hidden, entry_targets, "none").mean(1).view(-1, len(tokens))
            delta = F.relu(each - row.losses.mean(1)).mean()
            loss, metrics["mc/gist_delta"] = loss + config.mc_gist_delta_weight * delta, delta.detach()
        if config.mc_gist_kl_weight:
            tail = self.plan.tail
            student = hidden[:, -tail:].unflatten(0, (-1, len(tokens)))
            divergence = distillation_loss(self.model, row.hidden[:, -tail:], student)
            loss, metrics["mc/gist_kl"] = loss + config.mc_gist_kl_weight * divergence, divergence.detach()
        if self.reconstruction is not None:
            blocks = self.plan.blocks
            T, S = self.plan.length, self.config.geometry.slots
            gists = tree.x[:, T : T + blocks * S]
            told = self.reconstruction(self.model, gists, tokens[:, : blocks * config.block_size], self.draw)
            loss, metrics["mc/gist_recon"] = loss + config.mc_gist_recon_weight * told, told.detach()
        return loss, metrics

    @torch.no_grad()
    def _metrics(
        self, base_loss, token_loss, row: Row, losses: Tensor, counts: Tensor, variants: Variants, advantages: Tensor
    ) -> dict[str, Tensor]:
        V, B = advantages.shape
        W, T, steps = losses.shape[1], self.plan.length, self.micro_batches
        rows = torch.arange(V * B, device=losses.device) % B
        reference = row.losses[rows[:, None], variants.predicts]
        level_losses, deltas = measure.by_level(losses, reference, variants.layout.lod, counts, self.plan.max_lod)
        guided = V // 2 if self.config.mc_priority_sampling else 0
        metrics = {
            "lod_losses": level_losses,
            "train/loss_lod0": base_loss.detach(),
            "mc/token_loss": token_loss.detach(),
            "mc/adv_delta_mean": -advantages.mean(),
            "mc/adv_delta_p95": (-advantages).flatten().quantile(0.95),
            "mc/adv_delta_std": advantages.std(correction=0),
            "mc/variant_width": W,
            "mc/variants_total": V * B * steps,
            "mc/variants_per_sample": V,
            "mc/N_recency": B * steps,
            "mc/N_allocated": (V - guided) * B * steps,
            "mc/N_siblings": guided * B * steps,
            "mc/N_deduped": (~repeated(variants.levels)).sum() * steps,
            "mc/horizon_tokens": B * (T + V * W) * steps,
            "mc/effective_batch_size": B * (1 + V) * steps,
            "mc/effective_step": self.contexts,
        }
        for level in range(self.plan.max_lod + 1):
            metrics[f"mc/lod_loss/{level}"] = level_losses[level]
            metrics[f"mc/lod_delta/{level}"] = deltas[level]
        return metrics


def new_controller(model: GPT, config: MCConfig, seq_len: int, seed: int, runtime: Runtime) -> MCController:
    """`model`, whose weights stay as they are, with a fresh memory on its device.

    The memory's weights are the same in all processes, the layouts are each process's own.
    """
    controller = MCController(model, config, seq_len, seed, rank=runtime.rank)
    # Other numbers than those that the model's weights were drawn from.
    return controller.init_weights(torch.Generator().manual_seed(seed + 1)).to(runtime.device).use_kernels(runtime.compile)
