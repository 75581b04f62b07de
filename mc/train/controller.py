"""Training objective of a memory: the loss of plain rows, and those of compressed variants of them.

`mc_joint` says what the model learns from the variants: nothing, so that it is the model of a run without a memory bit for bit; with a
weight; or as much as from plain rows. Shapes: `B` rows, `T` tokens, `V` variants of a row, `W` entries of a variant, `P` of them that
have predictions (the last ones), `F` blocks that may be compressed, `H` horizon, `D` width. Variant v of row b is at v·B + b wherever
variants are stacked.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mc.config import MCConfig
from mc.layout.compression import repeated, sample_levels
from mc.memory_model import Bank, CompressedRows, MemoryModel, PlainRows
from mc.nets.gist_bank import GistBank
from mc.train import metrics as measure
from mc.train.apart import frozen_copy, some_rows
from mc.train.gist_losses import Distillation, Reconstruction
from mc.train.hit_objective import HitObjective
from mc.train.lens_objective import LensObjective
from mc.train.lens_teachers import attention_teacher, occurrence
from mc.train.variant_sampler import Request, Sampler, Variants, VariantThrottle, lay_out
from nanochat.model.cross_entropy import IGNORE
from nanochat.model.gpt import GPT, Rotary
from nanochat.model.recompute import without_gradients
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
    """Result of a micro-batch; all but `loss` and `apart` (see `StepResult`) is detached.

    `positional_caches` are cos and sin of the plain rows and of the variants, `cached_embeddings` [B,T,D] the token embeddings,
    `lod_losses` fp32 [levels] the mean losses of the predictions at entries of each level.
    """

    loss: Tensor
    apart: Tensor | None
    token_loss: Tensor
    loss_lod0: Tensor
    lens_loss: Tensor
    lod_losses: Tensor
    positional_caches: dict[str, Rotary]
    cached_embeddings: Tensor
    metrics: dict[str, Tensor]


class _Losses(NamedTuple):
    """Losses per target, fp32 and detached: of rows [B,T] and their variants [V·B,P]; and the variants' advantages [V,B]."""

    rows: Tensor
    variants: Tensor
    advantages: Tensor


class MCController(MemoryModel, Objective):
    """Training objective of a `MemoryModel`: the model, its gists and LensNet learn from rows and their variants.

    The layouts follow from `seed` and the micro-batch's number in the run, whichever process (`rank` of `world_size`) has it:
    `micro_batches_here` are those of a step in this one. With `annealed`, for continued training, variants are narrow from the start,
    as with `mc_anneal` off. If the model is `pretrained`, a copy of it teaches the variants as long as these teach the model: else the
    model's predictions would follow theirs.
    """

    def __init__(
        self,
        model: GPT,
        config: MCConfig,
        seq_len: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        annealed: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__(model, config, seq_len)
        self.rank, self.world_size = rank, world_size
        self.micro_batches_here = 1
        self.annealed = annealed or not config.mc_anneal
        self.focus = (HitObjective if config.gist.layered else LensObjective)(self.lensnet, self.plan)
        self.lensnet.requires_grad_(config.lens_loss.mc_lens_loss_weight > 0)
        if config.mc_freeze_model:
            model.requires_grad_(False)
        self.compiled = False
        self.distillation = Distillation()
        # In a tuple, so that it is in no checkpoint: a run that resumes makes it again.
        copied = pretrained and config.joint_weight > 0 and not (config.joint_mean or config.mc_freeze_model)
        self.teachers = (frozen_copy(model),) if copied else ()
        self.reconstruction = Reconstruction(model.config.width, config.geometry) if config.mc_gist_recon_weight else None
        self.sampler = Sampler(self.plan, seed, model.wte.weight.is_cuda)
        self.pace = VariantThrottle(config.mc_target_tok_per_sec, config.mc_num_random_variants, model.wte.weight.device)
        self.draw = 0  # micro-batches so far in this process
        self.contexts = 0  # Working Contexts of them, in all processes

    def init_weights(self, generator: torch.Generator | None = None) -> MCController:
        """Initialises the memory's networks, but not the model. Returns self."""
        super().init_weights(generator)
        if self.reconstruction is not None:
            self.reconstruction.init_weights(generator)
        return self

    def use_kernels(self, compiled: bool) -> MCController:
        """Compiles GistNet's encoder and the teacher, if `compiled`; not the model. Returns self."""
        self.compiled = compiled
        self.distillation = Distillation(compiled)
        for teacher in self.teachers:
            teacher.use_kernels(compiled, chunked_ce=False)
        if compiled and not self.layered and self.gistnet.encoder is not None:
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
        apart = self.config.apart
        if matrices:
            groups.append(ParamGroup("muon", matrices, flags.matrix_lr * scale, decay, apart=apart))
        return [*groups, ParamGroup("adamw", rest, ADAM_LR * scale, 0.0, (0.8, 0.95), apart=apart)] if rest else groups

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step in all processes."""
        return self.micro_batches_here * self.world_size

    def number(self, draw: int) -> int:
        """Number in the whole run of this process's micro-batch `draw`: a step's rows go to the processes in order."""
        step, mine = divmod(draw, self.micro_batches_here)
        return (step * self.world_size + self.rank) * self.micro_batches_here + mine

    def get_extra_state(self) -> Tensor:
        """Counters that a checkpoint holds in addition to parameters and buffers."""
        return torch.tensor([self.draw * self.world_size, self.contexts, self.pace.variants])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the counters."""
        in_all, self.contexts, self.pace.variants = state.tolist()
        self.draw = in_all // self.world_size
        self.pace.restart()

    def flops_per_token(self) -> float:
        """FLOPs of forward and backward of one token of a row and its share of the variants, averaged over the run.

        The memory's networks are not counted.
        """
        stages = [1.0] if self.annealed else self.plan.stages
        forwarded = sum(map(self.plan.multiplier, stages)) / len(stages)
        if self.config.mc_freeze_model or self.config.apart:  # a variant needs no gradients of the weights, a third
            forwarded = 1 + 2 / 3 * (forwarded - 1)
        if self.config.mc_freeze_model or self.teachers:  # of a row the forward only, a third, or that of the teacher too
            forwarded += 1 / 3 if self.teachers else -2 / 3
        return self.model.flops_per_token() * forwarded

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        result = self.process_batch(tokens, targets, progress, weights)
        return StepResult(result.loss, result.metrics, result.apart)

    def figures(self, spans_ms: dict[str, float], grad_accum_steps: int) -> dict[str, float]:
        """Working Contexts so far; milliseconds of a step's forwards by part of the controller, and their sum without the networks."""
        figures: dict[str, float] = {"mc/grad_accum_steps": grad_accum_steps, "mc/effective_step": self.contexts}
        if self.config.mc_log_timers:
            for name, spans in SPANS.items():
                figures[f"mc/{name}_ms"] = sum(spans_ms.get(span, 0.0) for span in spans)
            networks = sum(spans_ms.get(span, 0.0) for span in NETWORKS)
            figures["mc/time_controller_ms"] = sum(figures[f"mc/{name}_ms"] for name in SPANS) - networks
        return figures

    def process_batch(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> MCBatchResult:
        """Losses of rows and variants: tokens and targets int64 [B,T], `progress` of the run 0 … 1; see `Objective.forward`."""
        config, (B, T) = self.config, tokens.shape
        progress = 1.0 if self.annealed else progress
        self.pace.saw(B * T)
        plain = self.forward_plain(tokens, compiled=True)
        base_loss, row_losses = self.model.loss(plain.hidden, targets, "both", weights)  # (), (B, T) detached
        embedded, n = plain.embedded.x.detach(), config.compressed_rows(B)  # rows that have variants
        with without_gradients(self.model) if config.apart else nullcontext():
            if config.apart:
                rows = (torch.arange(n, device=tokens.device) * config.mc_rows_every + self.number(self.draw)) % B
                plain, targets, row_losses = some_rows(plain, rows), targets[rows], row_losses[rows]
            with self.spans("tree_build"):
                bank = self.build_bank(plain, compiled=self.compiled)
            with self.spans("variant_sampling"):
                variants = self._sample(bank, n, progress)
            V = len(variants.levels)
            compressed = self.forward_layouts(bank, variants.layout, variants.index, config.mc_compile_variants)
            token_loss, memory, losses, extra = self._losses(base_loss, plain, targets, bank, variants, compressed.hidden, weights)
            with self.spans("metrics"):
                horizon = slice(-self.plan.horizon - 1, -1)
                advantages = (row_losses[:, horizon].mean(1) - losses[:, horizon].mean(1).view(V, n)).detach()
                measured = _Losses(row_losses, losses, advantages)
                metrics = self._metrics(B, base_loss, token_loss, targets, variants, measured)
            lens_loss, lens_metrics = self._lens_loss(targets, plain, bank, compressed, variants, measured)
            memory = memory + config.lens_loss.mc_lens_loss_weight * lens_loss
        if config.apart:
            loss, apart = base_loss, memory
        else:
            weight = config.joint_weight or 1.0  # 0 here: the model is frozen
            loss, apart = (token_loss if config.joint_mean else base_loss) + weight * memory, None
        self.draw += 1
        self.contexts += (B + n * V) * self.world_size
        return MCBatchResult(
            loss, apart, token_loss.detach(), base_loss.detach(), lens_loss.detach(), metrics.pop("lod_losses"),
            {"rows": plain.rotary, "variants": compressed.rotary}, embedded, metrics | lens_metrics | extra,
        )  # fmt: skip

    def _losses(
        self, base_loss: Tensor, plain: PlainRows, targets: Tensor, bank: Bank, variants: Variants, hidden: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """(mean loss of rows and variants; the memory's, without LensNet's; losses of variants fp32 [V·B,P], detached; metrics).

        `hidden` [V·B,P,D] are the variants' hidden states.
        """
        V, extra = len(variants.levels), {}
        if self.config.joint_mean:
            variant_loss, losses = self._core_loss(hidden, targets, variants, weights)
            token_loss, memory = (base_loss + V * variant_loss) / (1 + V), base_loss.new_zeros(())
        else:
            memory, losses, extra = self._distil(targets, plain, hidden)
            counted = (targets[:, -losses.shape[1] :] != IGNORE).sum().clamp(min=1)
            token_loss = (base_loss.detach() + losses.sum() / counted) / (1 + V)
        if self.reconstruction is not None:
            recon = self._reconstruct(plain.tokens, bank)
            memory, extra["mc/gist_recon"] = memory + self.config.mc_gist_recon_weight * recon, recon.detach()
        return token_loss, memory, losses, extra

    def _core_loss(self, hidden: Tensor, targets: Tensor, variants: Variants, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mean loss; losses fp32 [V·B,P], detached) of the predictions at hidden states [V·B,P,D]."""
        with self.spans("variant_pack"):
            rows = torch.arange(len(hidden), device=targets.device) % len(targets)
            entry_targets = targets[rows[:, None], variants.predicts[:, -hidden.shape[1] :]]
        return self.model.loss(hidden, entry_targets, "both", None if weights is None else weights[rows])

    def _distil(self, targets: Tensor, plain: PlainRows, hidden: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(weighted KL divergence from the plain row, or its teacher; losses fp32 [V·B,P], detached; metrics) of the raw tail."""
        tail, model = self.plan.tail, self.model
        reference, head = plain.hidden, model.lm_head.weight
        for teacher in self.teachers:
            with torch.no_grad():
                reference, head = teacher.backbone(teacher.embed(plain.tokens), plain.rotary), teacher.lm_head.weight
        student = hidden[:, -tail:].unflatten(0, (-1, len(targets)))
        weight, head = (matrix.to(hidden.dtype) for matrix in (model.lm_head.weight, head))
        divergence, losses = self.distillation(student, weight, reference[:, -tail:], head, targets[:, -tail:])
        return self.config.mc_gist_kl_weight * divergence, losses.flatten(0, 1), {"mc/gist_kl": divergence.detach()}

    def _reconstruct(self, tokens: Tensor, bank: GistBank) -> Tensor:
        blocks, T = self.plan.blocks, self.plan.length
        gists = bank.x[:, T : T + blocks * self.config.geometry.slots]
        return self.reconstruction(self.model, gists, tokens[:, : blocks * self.config.block_size], self.number(self.draw))

    def _lens_loss(
        self, targets: Tensor, plain: PlainRows, bank: Bank, compressed: CompressedRows, variants: Variants, losses: _Losses
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """LensNet's loss and metrics; no metrics if it is not trained."""
        if not self.config.lens_loss.mc_lens_loss_weight:
            return losses.rows.new_zeros(()), {}
        V = len(variants.levels)
        origin = self.number(self.draw) // self.config.mc_lens_every % V
        with self.spans("lens"):
            if not self._lens_learns(self.draw) or not (self.layered or V > 1):
                return self.focus.idle()
            if self.layered:
                return self.focus.loss(bank, variants, origin, self.spans)
            teachers = self._teachers(targets, plain, losses)
            return self.focus.loss(bank, compressed.entries.x, variants, origin, losses.advantages, teachers, self.spans)

    def _lens_learns(self, draw: int) -> bool:
        # By the micro-batches of each process, so that all take their turns together and none waits for another.
        return self.config.lens_loss.mc_lens_loss_weight > 0 and draw % self.config.mc_lens_every == 0

    def _per_row(self, draw: int) -> int:
        """Variants of each row in a micro-batch; at least two for a LensNet that learns from pairs."""
        return max(self.pace.variants, 2) if self._lens_learns(draw) and not self.layered else self.pace.variants

    def _sample(self, bank: Bank, rows: int, progress: float) -> Variants:
        """Variants of this micro-batch: random, and with priority sampling half of them by LensNet's scores."""
        width = self.plan.width(progress)
        draws = (self.draw, self.draw + 1)
        request, following = (Request(self.number(draw), self._per_row(draw), rows, width) for draw in draws)
        variants = self.sampler(request, following, self.device)
        guided = len(variants.levels) // 2
        if not self.config.mc_priority_sampling or not guided:
            return variants
        with torch.no_grad(), self.spans("lens"):
            scores = self.focus.likely(bank, self.spans)
        scores = scores.expand(guided, -1, -1).flatten(0, 1)
        levels = sample_levels(variants.compression, len(scores), self.sampler.generator(request.draw), scores, scores.device).view(
            guided, rows, -1
        )
        return lay_out(self.plan, variants.compression, torch.cat([variants.levels[guided:], levels]))

    def _teachers(self, targets: Tensor, plain: PlainRows, losses: _Losses) -> list[tuple[float, Tensor]]:
        """Teacher signals for LensNet: (weight, fp32 [O,B,F]) of each enabled teacher."""
        config, plan, teachers = self.config.lens_loss, self.plan, []
        if config.mc_lens_occurrence_weight:
            with self.spans("occurrence"):
                signal = occurrence(plain.tokens, targets, plan.decisions, plan.far_blocks, plan.horizon, self.config.block_size)
            teachers.append((config.mc_lens_occurrence_weight, signal))
        if config.mc_lens_attention_weight:
            signal = attention_teacher(self.model, plain.embedded, plain.inputs, losses.rows, losses.variants, plan, self.spans)
            teachers.append((config.mc_lens_attention_weight, signal))
        return teachers

    @torch.no_grad()
    def _metrics(
        self, B: int, base_loss: Tensor, token_loss: Tensor, targets: Tensor, variants: Variants, losses: _Losses
    ) -> dict[str, Tensor]:
        """Metrics of a micro-batch of `B` rows; targets, variants and losses are those of the rows that have variants."""
        advantages, (V, n) = losses.advantages, losses.advantages.shape
        P, T, steps = losses.variants.shape[1], self.plan.length, self.micro_batches
        rows = (torch.arange(V * n, device=targets.device) % n)[:, None]
        predicts, lod = variants.predicts[:, -P:], variants.layout.lod[:, -P:]
        counts = targets[rows, predicts] != IGNORE
        level_losses, deltas = measure.by_level(losses.variants, losses.rows[rows, predicts], lod, counts, self.plan.max_lod)
        guided = V // 2 if self.config.mc_priority_sampling else 0
        metrics = {
            "lod_losses": level_losses,
            "train/loss_lod0": base_loss.detach(),
            "mc/token_loss": token_loss.detach(),
            "mc/adv_delta_mean": -advantages.mean(),
            "mc/adv_delta_p95": (-advantages).flatten().quantile(0.95),
            "mc/adv_delta_std": advantages.std(correction=0),
            "mc/variant_width": variants.layout.lod.shape[1],
            "mc/variants_total": V * n * steps,
            "mc/variants_per_sample": V,
            "mc/N_recency": n * steps,
            "mc/N_allocated": (V - guided) * n * steps,
            "mc/N_siblings": guided * n * steps,
            "mc/N_deduped": (~repeated(variants.levels)).sum() * steps,
            "mc/horizon_tokens": (B * T + n * V * (P if self.layered else variants.layout.lod.shape[1])) * steps,
            "mc/effective_batch_size": (B + n * V) * steps,
        }
        for level in range(self.plan.max_lod + 1):
            metrics[f"mc/lod_loss/{level}"] = level_losses[level]
            metrics[f"mc/lod_delta/{level}"] = deltas[level]
        return metrics


def new_controller(model: GPT, config: MCConfig, seq_len: int, seed: int, runtime: Runtime, pretrained: bool = False) -> MCController:
    """Adds a freshly initialised memory to `model`, whose weights do not change, on the device of `runtime`.

    The memory's weights are the same in all processes.
    """
    controller = MCController(model, config, seq_len, seed, runtime.rank, runtime.world_size, pretrained=pretrained)
    # Not the seed of the model's weights.
    return controller.init_weights(torch.Generator().manual_seed(seed + 1)).to(runtime.device).use_kernels(runtime.compile)
