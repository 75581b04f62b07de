"""Estimate of the device memory that a training run needs, with or without a MegaContext: its passes and its networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn

from mc.auto_batch import divisors, estimate_mc_device_batch
from mc.config import MCConfig
from mc.nets.child_attention import HEADS
from mc.nets.gistnet import GistNet
from mc.nets.layered_gists import LayeredGistNet
from mc.nets.layered_lens import LayeredLensNet
from mc.nets.lensnet import LensNet
from mc.row_plan import RowPlan
from mc.train.controller import SMALL
from mc.train.gist_losses import Reconstruction
from nanochat.common import UserError
from nanochat.model.gpt import GPTConfig
from nanochat.model.recompute import ActivationCheckpointing
from nanochat.profiling.device_memory import (
    FP32,
    Addition,
    MemoryEstimate,
    Pass,
    Setting,
    activation_bytes,
    device_memory,
    estimate,
    value_width,
)
from nanochat.runtime.device import Runtime

# Channels that autograd keeps of an encoder's layer, and of its head, in units of the encoder's width.
LAYER, HEAD = 22, 10
WITHOUT_WEIGHTS = 0.6  # share of a pass's activations that autograd keeps if the weights get no gradients


@dataclass(frozen=True)
class Foresight:
    """Device memory of a run that is not built yet; `config` is its model, with the window pattern resolved.

    `device_batch_size` is the baseline's, `rows_per_step` the rows per process and step, `available` the device memory in bytes,
    if known.
    """

    config: GPTConfig
    memory: MCConfig | None
    device_batch_size: int
    rows_per_step: int
    setting: Setting
    available: int | None

    @property
    def searches(self) -> bool:
        """True if the run itself searches for the micro-batch that fits (see `mc.auto_batch.choose_micro_batch`)."""
        return self.memory is not None and self.memory.mc_auto_batch and self.setting.device_type == "cuda"

    def at(self, device_batch_size: int) -> MemoryEstimate:
        """Estimate with another `device_batch_size`."""
        rows = device_batch_size
        if self.searches and not self.memory.apart:
            rows = estimate_mc_device_batch(rows, self.rows_per_step, RowPlan(self.memory, self.config.max_seq_len))[0]
        return estimate_run(self.config, self.memory, rows, self.setting)

    def largest_that_fits(self) -> int | None:
        """Largest `device_batch_size` that divides the rows of a step and fits; None if none does."""
        sizes = divisors(self.rows_per_step)
        return next((rows for rows in reversed(sizes) if self.available is None or self.at(rows).fits(self.available)), None)

    def describe(self) -> str:
        """One line for the log."""
        return f"device memory: {self.at(self.device_batch_size).describe(self.available)}"

    def check(self) -> None:
        """Raises `UserError` if the device has less memory than the estimate."""
        least = self.at(1 if self.searches else self.device_batch_size)
        if self.available is None or least.fits(self.available):
            return
        fits = self.largest_that_fits()
        advice = f"--device-batch-size {fits} would fit" if fits else "not even one row would fit, use a smaller --depth or --max-seq-len"
        raise UserError(f"the run {least.describe(self.available)}; {advice}; --check-memory 0 tries anyway")


def estimate_run(config: GPTConfig, memory: MCConfig | None, rows: int, setting: Setting) -> MemoryEstimate:
    """Peak device memory of a process with micro-batches of `rows` rows of `config.max_seq_len` tokens; `memory` None = no MegaContext.

    `config.window_pattern` must be resolved.
    """
    T = config.max_seq_len
    plain = Pass(rows, T, setting.compiled)
    if memory is None:
        return estimate(config, [plain], setting)
    plan = RowPlan(memory, T)
    progress = 0.0 if memory.mc_anneal else 1.0
    variant = plan.compression(plan.width(progress))
    rows = memory.compressed_rows(rows)
    positions = plan.tail if memory.gist.layered else variant.width
    variants = Pass(plan.variants(variant) * rows, positions, setting.compiled and memory.mc_compile_variants)
    networks = _layered if memory.gist.layered else _networks
    addition = networks(config, memory, plan, rows, variant.width, setting)
    if memory.joint_mean:
        return estimate(config, [plain, variants], setting, addition)
    saves = (memory.apart or memory.mc_freeze_model) and setting.recompute.activation_checkpointing == "none"
    kept = activation_bytes(config, variants, setting) * (WITHOUT_WEIGHTS if saves else 1)
    return estimate(config, [plain], setting, addition._replace(activations=addition.activations + int(kept)))


def foresee(
    config: GPTConfig,
    memory: MCConfig | None,
    device_batch_size: int,
    total_batch_size: int,
    runtime: Runtime,
    chunked_ce: bool,
    recompute: ActivationCheckpointing | None = None,
    sharded: bool = False,
) -> Foresight:
    """Device memory of a run in `runtime`; `total_batch_size` is in tokens, `memory` is None for a run without a MegaContext."""
    rows_per_step = total_batch_size // (config.max_seq_len * runtime.world_size)
    setting = Setting(
        runtime.precision.dtype,
        runtime.device.type,
        runtime.backend,
        runtime.compile,
        chunked_ce,
        runtime.world_size,
        accumulates=memory is not None or rows_per_step > device_batch_size,
        recompute=recompute or ActivationCheckpointing(),
        sharded=sharded,
    )
    available = device_memory(runtime.device)
    if available is not None and runtime.device.type == "cpu":
        available //= runtime.world_size
    return Foresight(config, memory, device_batch_size, rows_per_step, setting, available)


def _networks(config: GPTConfig, memory: MCConfig, plan: RowPlan, rows: int, width: int, setting: Setting) -> Addition:
    """Device memory that layer-0 gists add: parameters, the gist bank of a micro-batch, and activations of the networks."""
    gistnet, lensnet = GistNet(memory.gist, config.width), LensNet(memory.lens, config.width, memory.geometry)
    trained: list[nn.Module] = [gistnet]
    if memory.lens_loss.mc_lens_loss_weight:
        trained.append(lensnet)
    if memory.mc_gist_recon_weight:
        trained.append(Reconstruction(config.width, memory.geometry))
    D, size = config.width, memory.aux_dtype(setting.dtype).itemsize
    tokens = rows * plan.length
    bank = sum(nodes * memory.geometry.size(level) for level, nodes in enumerate(plan.shape.levels))
    kept = rows * bank * (D + value_width(config)) * setting.dtype.itemsize
    kept += tokens * 2 * D * size
    if memory.gist.gistnet_type == "transformer":
        kept += tokens * memory.gist.gistnet_layers * LAYER * gistnet.width * size
    if memory.lens_loss.mc_lens_loss_weight:
        entries = rows * (memory.mc_lens_contexts + 1) * width
        entries += rows * sum(plan.collapsed_width(blocks) for blocks in plan.far_blocks[1:])
        kept += entries * (memory.lens.lensnet_layers * LAYER + HEAD) * lensnet.width * size
        # Keys of the bank, once; for each context the keys one level below, and the attention of the newest tokens to them.
        matched, looks = lensnet.matching.c_key.weight.shape[0], memory.mc_lens_contexts + len(plan.far_blocks)
        kept += rows * bank * (D + 2 * matched) * size
        kept += rows * looks * (plan.length - plan.horizon) * (matched * size + 2 * FP32 * HEADS * lensnet.newest)
    if memory.lens_loss.mc_lens_attention_weight:
        kept += 3 * FP32 * rows * config.heads * plan.horizon * plan.length
    return _addition(trained, kept)


def _layered(config: GPTConfig, memory: MCConfig, plan: RowPlan, rows: int, width: int, setting: Setting) -> Addition:
    """Device memory that layered gists add: networks, banks of `rows` rows, and what the variants read of them."""
    G, E, L, size = config.key_heads, config.head_dim, config.depth, setting.dtype.itemsize
    trained: list[nn.Module] = [LayeredGistNet(L, G, E, memory.geometry)]
    if memory.lens_loss.mc_lens_loss_weight:
        trained.append(LayeredLensNet(L, config.heads))
    bank = sum(nodes * memory.geometry.size(level) for level, nodes in enumerate(plan.shape.levels))
    kept = rows * L * E * size * (plan.length * (config.heads + 2 * G) + bank * 2 * G)
    contexts, far = rows * plan.variants(plan.compression(width)), width - plan.tail
    kept += contexts * far * L * size * 4 * G * E  # gathered, and in the order of the matmuls
    kept += contexts * L * config.heads * plan.tail * width * size  # probabilities
    return _addition(trained, kept)


def _addition(trained: list[nn.Module], kept: int) -> Addition:
    """Parameters of the networks `trained`, and `kept` bytes of activations."""
    own = [p for module in trained for p in module.parameters()]
    matrices = [p for p in own if p.ndim == 2 and min(p.shape) > SMALL]
    stacks: dict[torch.Size, int] = {}
    for p in matrices:
        stacks[p.shape] = stacks.get(p.shape, 0) + p.numel()
    return Addition(
        matrices=sum(p.numel() for p in matrices),
        vectors=sum(p.numel() for p in own) - sum(p.numel() for p in matrices),
        largest_stack=max(stacks.values(), default=0),
        activations=kept,
    )
