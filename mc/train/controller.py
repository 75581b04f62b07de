"""Training objective of a memory: one loss over plain rows and compressed variants of them.

Shapes: `B` rows, `T` tokens, `V` variants of a row, `W` entries of a variant, `F` blocks that may be compressed, `H` horizon,
`D` width. Variant v of row b is at v·B + b wherever variants are stacked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mc.config import MCConfig
from mc.layout.compression import repeated, sample_levels
from mc.memory_model import MemoryModel, PlainRows
from mc.nets.gist_bank import GistBank
from mc.nets.lensnet import bank_keys
from mc.train import metrics as measure
from mc.train.gist_losses import Reconstruction, distillation_loss
from mc.train.lens_objective import LensObjective
from mc.train.lens_teachers import attention_teacher, occurrence
from mc.train.variant_sampler import Request, Sampler, Variants, VariantThrottle, lay_out
from nanochat.model.cross_entropy import IGNORE
from nanochat.model.gpt import GPT
from nanochat.runtime.device import Runtime
from nanochat.train.objective import Objective, StepResult
from nanochat.train.optim import OptimFlags, ParamGroup
from nanochat.train.schedule import TrainPlan

ADAM_LR = 0.02  # nominal learning rate of the memory's vectors and scores
SMALL = 4  # matrices with a side this small go to AdamW
# Metric → spans of the forward pass, those of the memory's networks included. Backward passes are all in `backward`.
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
    """Result of a micro-batch; all but `loss` is detached.

    `positional_caches` are (cos, sin, ALiBi bias or None) of the plain rows and of the variants, `cached_embeddings` [B,T,D]
    the token embeddings, `lod_losses` fp32 [levels] the mean losses of the predictions at entries of each level.
    """

    loss: Tensor
    token_loss: Tensor
    loss_lod0: Tensor
    lens_loss: Tensor
    lod_losses: Tensor
    positional_caches: dict[str, tuple[Tensor, Tensor, Tensor | None]]
    cached_embeddings: Tensor
    metrics: dict[str, Tensor]


class MCController(MemoryModel, Objective):
    """Training objective of a `MemoryModel`: the model, its gists and LensNet learn from rows and their variants.

    `seed` and `rank` (of the process) determine the layouts. `micro_batches`, those of a step over all processes, only scales
    metrics. With `annealed`, for continued training, variants are narrow from the start, as with `mc_anneal` off.
    """

    def __init__(self, model: GPT, config: MCConfig, seq_len: int, seed: int = 0, rank: int = 0, annealed: bool = False) -> None:
        super().__init__(model, config, seq_len)
        self.micro_batches = 1
        self.annealed = annealed or not config.mc_anneal
        self.focus = LensObjective(self.lensnet, self.plan)
        self.lensnet.requires_grad_(config.lens_loss.mc_lens_loss_weight > 0)
        if config.mc_freeze_model:
            model.requires_grad_(False)
        self.reconstruction = Reconstruction(model.config.width, config.geometry) if config.mc_gist_recon_weight else None
        self.sampler = Sampler(self.plan, seed, model.wte.weight.is_cuda, rank)
        self.pace = VariantThrottle(config.mc_target_tok_per_sec, config.mc_num_random_variants, model.wte.weight.device)
        self.draw = 0  # micro-batches so far
        self.contexts = 0  # Working Contexts of them, in all processes

    def init_weights(self, generator: torch.Generator | None = None) -> MCController:
        """Initialises the memory's networks, but not the model. Returns self."""
        super().init_weights(generator)
        self.focus.start_reference()
        if self.reconstruction is not None:
            self.reconstruction.init_weights(generator)
        return self

    def use_kernels(self, compiled: bool) -> MCController:
        """Compiles GistNet's encoder, if `compiled`; not the model. Returns self."""
        if compiled and self.gistnet.encoder is not None:
            for block in self.gistnet.encoder.blocks:  # not LensNet, which is small and whose shapes change with the width
                block.compile(dynamic=False)
        return self

    def parameter_groups(self, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
        """Groups of the model, unless it is frozen, as without a memory, and of the memory: matrices to Muon, the rest to AdamW."""
        named = [(n, p) for n, p in self.named_parameters() if not n.startswith("model.") and p.requires_grad]
        matrices = [(n, p) for n, p in named if p.ndim == 2 and min(p.shape) > SMALL]
        rest = [(n, p) for n, p in named if p.ndim != 2 or min(p.shape) <= SMALL]
        scale = plan.lr_scale * flags.lr_mult * self.config.mc_lr_mult
        decay = flags.weight_decay * flags.wd_mult * plan.weight_decay_scale
        groups = [] if self.config.mc_freeze_model else super().parameter_groups(flags, plan)
        groups.append(ParamGroup("muon", matrices, flags.matrix_lr * scale, decay))
        return [*groups, ParamGroup("adamw", rest, ADAM_LR * scale, 0.0, (0.8, 0.95))] if rest else groups

    def get_extra_state(self) -> Tensor:
        """Counters that a checkpoint holds in addition to parameters and buffers."""
        return torch.tensor([self.draw, self.contexts, self.pace.variants])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the counters."""
        self.draw, self.contexts, self.pace.variants = state.tolist()
        self.pace.restart()

    def flops_per_token(self) -> float:
        """FLOPs of forward and backward of one token of a row and its share of the variants, averaged over the run.

        The memory's networks are not counted.
        """
        stages = [1.0] if self.annealed else self.plan.stages
        forwarded = sum(map(self.plan.multiplier, stages)) / len(stages)
        if self.config.mc_freeze_model:  # a row needs its forward only, a third, and a variant no gradients of the weights
            forwarded = (1 + 2 * (forwarded - 1)) / 3
        return self.model.flops_per_token() * forwarded

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        result = self.process_batch(tokens, targets, progress, weights)
        return StepResult(result.loss, result.metrics)

    def figures(self, spans_ms: dict[str, float], grad_accum_steps: int) -> dict[str, float]:
        """Milliseconds of a step's forward passes by part of the controller, and their sum without the networks."""
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
        plain = self.forward_plain(tokens, compiled=True)
        base_loss, row_losses = self.model.loss(plain.hidden, targets, "both", weights)  # (), (B, T) detached
        with self.spans("tree_build"):
            bank = self.build_bank(plain)
        with self.spans("variant_sampling"):
            variants = self._sample(bank, B, progress)
        V = len(variants.levels)
        compressed = self.forward_layouts(bank, variants.layout, variants.index, self.config.mc_compile_variants)
        hidden = compressed.hidden
        with self.spans("variant_pack"):
            rows = torch.arange(V * B, device=tokens.device) % B
            entry_targets = targets[rows[:, None], variants.predicts]
            if not self.config.mc_gist_targets:
                entry_targets = entry_targets.masked_fill(variants.layout.lod > 0, IGNORE)
        variant_loss, losses = self.model.loss(hidden, entry_targets, "both", None if weights is None else weights[rows])
        token_loss = (base_loss + V * variant_loss) / (1 + V)
        loss, extra = self._gist_terms(token_loss, tokens, plain, row_losses, bank, hidden, entry_targets)
        with self.spans("metrics"):
            horizon = slice(-self.plan.horizon - 1, -1)
            advantages = (row_losses[:, horizon].mean(1) - losses[:, horizon].mean(1).view(V, B)).detach()
            metrics = self._metrics(base_loss, token_loss, row_losses, losses, entry_targets != IGNORE, variants, advantages)
        lens_loss = base_loss.new_zeros(())
        if self.config.lens_loss.mc_lens_loss_weight:
            with self.spans("lens"):
                learns = self._lens_learns(self.draw) and V > 1
                if learns:
                    teachers = self._teachers(tokens, targets, plain, row_losses, losses)
                    origin = self.draw // self.config.mc_lens_every % V
                    lens_loss, lens_metrics = self.focus.loss(
                        bank, compressed.entries.x, variants, origin, advantages, teachers, self.spans
                    )
                else:
                    lens_loss, lens_metrics = self.focus.idle()
            metrics |= lens_metrics
            loss = loss + self.config.lens_loss.mc_lens_loss_weight * lens_loss
        self.draw += 1
        self.contexts += B * (1 + V) * (dist.get_world_size() if dist.is_initialized() else 1)
        return MCBatchResult(
            loss, token_loss.detach(), base_loss.detach(), lens_loss.detach(), metrics.pop("lod_losses"),
            {"rows": (*plain.rotary, None), "variants": (*compressed.rotary, compressed.bias)}, plain.embedded.x.detach(), metrics | extra,
        )  # fmt: skip

    def _lens_learns(self, draw: int) -> bool:
        return self.config.lens_loss.mc_lens_loss_weight > 0 and draw % self.config.mc_lens_every == 0

    def _per_row(self, draw: int) -> int:
        """Variants of each row in a micro-batch; at least two for LensNet, which learns from pairs."""
        return max(self.pace.variants, 2) if self._lens_learns(draw) else self.pace.variants

    def _sample(self, bank: GistBank, rows: int, progress: float) -> Variants:
        """Variants of this micro-batch: random, and with priority sampling half of them by LensNet's scores."""
        width = self.plan.width(progress)
        request, following = (Request(draw, self._per_row(draw), rows, width) for draw in (self.draw, self.draw + 1))
        variants = self.sampler(request, following, bank.x.device)
        guided = len(variants.levels) // 2
        if not self.config.mc_priority_sampling or not guided:
            return variants
        with torch.no_grad(), self.spans("lens"):
            scores = self.focus.coarse_scores(bank, bank_keys(self.lensnet, bank))
        scores = scores.expand(guided, -1, -1).flatten(0, 1) / self.config.lens_loss.mc_lens_temperature
        levels = sample_levels(variants.compression, len(scores), self.sampler.generator(self.draw), scores, scores.device).view(
            guided, rows, -1
        )
        return lay_out(self.plan, variants.compression, torch.cat([variants.levels[guided:], levels]))

    def _teachers(
        self, tokens: Tensor, targets: Tensor, plain: PlainRows, row_losses: Tensor, losses: Tensor
    ) -> list[tuple[float, Tensor]]:
        """Teacher signals for LensNet: (weight, fp32 [O,B,F]) of each enabled teacher."""
        config, plan, teachers = self.config.lens_loss, self.plan, []
        if config.mc_lens_occurrence_weight:
            with self.spans("occurrence"):
                signal = occurrence(tokens, targets, plan.decisions, plan.far_blocks, plan.horizon, self.config.block_size)
            teachers.append((config.mc_lens_occurrence_weight, signal))
        if config.mc_lens_attention_weight:
            signal = attention_teacher(self.model, plain.embedded, plain.inputs, row_losses, losses, plan, self.spans)
            teachers.append((config.mc_lens_attention_weight, signal))
        return teachers

    def _gist_terms(
        self, loss, tokens, plain: PlainRows, row_losses, bank: GistBank, hidden, entry_targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss` plus the enabled gist losses, and the values of these."""
        config, metrics = self.config, {}
        if config.mc_gist_delta_weight:
            # Mean losses of single variants with gradients take another pass over the head.
            each = self.model.loss(hidden, entry_targets, "none").mean(1).view(-1, len(tokens))
            delta = F.relu(each - row_losses.mean(1)).mean()
            loss, metrics["mc/gist_delta"] = loss + config.mc_gist_delta_weight * delta, delta.detach()
        if config.mc_gist_kl_weight:
            tail = self.plan.tail
            student = hidden[:, -tail:].unflatten(0, (-1, len(tokens)))
            divergence = distillation_loss(self.model, plain.hidden[:, -tail:], student)
            loss, metrics["mc/gist_kl"] = loss + config.mc_gist_kl_weight * divergence, divergence.detach()
        if self.reconstruction is not None:
            blocks = self.plan.blocks
            T, S = self.plan.length, self.config.geometry.slots
            gists = bank.x[:, T : T + blocks * S]
            recon = self.reconstruction(self.model, gists, tokens[:, : blocks * config.block_size], self.draw)
            loss, metrics["mc/gist_recon"] = loss + config.mc_gist_recon_weight * recon, recon.detach()
        return loss, metrics

    @torch.no_grad()
    def _metrics(
        self, base_loss, token_loss, row_losses: Tensor, losses: Tensor, counts: Tensor, variants: Variants, advantages: Tensor
    ) -> dict[str, Tensor]:
        V, B = advantages.shape
        W, T, steps = losses.shape[1], self.plan.length, self.micro_batches
        rows = torch.arange(V * B, device=losses.device) % B
        reference = row_losses[rows[:, None], variants.predicts]
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
    """Adds a freshly initialised memory to `model`, whose weights do not change, on the device of `runtime`.

    The memory's weights are the same in all processes; the layouts differ.
    """
    controller = MCController(model, config, seq_len, seed, rank=runtime.rank)
    # Not the seed of the model's weights.
    return controller.init_weights(torch.Generator().manual_seed(seed + 1)).to(runtime.device).use_kernels(runtime.compile)
