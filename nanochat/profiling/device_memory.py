"""Device memory of a training process: an estimate before it starts, in bytes by part, from shapes alone; and its measured peak.

It counts the tensors that autograd keeps (see `GPT`, `ChunkedCrossEntropy`, `MuonAdamW`) at the moments when most of them are
alive: the end of a forward, the end of a backward, the reduction of the gradients, and the optimizer's update.
`bench.memory_estimate` compares it with processes on a CPU; the same accounting is used for GPUs, where it has not been measured.

Shapes: `N` positions of all rows of a pass, `D` width, `V` vocabulary, `L` layers. Sizes are in bytes unless noted.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from nanochat.model.attention import QUERY_BLOCK, AttentionBackend
from nanochat.model.cross_entropy import CHUNK_BYTES
from nanochat.model.gpt import SMEAR_CHANNELS, GPTConfig
from nanochat.model.recompute import ActivationCheckpointing, Recompute

FP32 = 4
MIB, GIB = 1 << 20, 1 << 30
# A process before it has a model. CPU: Python, PyTorch and data, and the compiler with its output if layers are compiled,
# measured. CUDA: the usual size of the context, cuBLAS's workspace and kernels.
PROCESS = {"cpu": 250 << 20, "cuda": 1 << 30, "mps": 250 << 20}
COMPILER = {"cpu": 450 << 20, "cuda": 0, "mps": 0}
# fp32 copies of a chunk's logits that the loss makes if its arithmetic is not fused: five at a time, and a CPU's heap keeps the
# holes of all of them, measured.
COPIES = {"cpu": 12, "cuda": 5, "mps": 5}
UPDATES = 10  # copies of the matrices that Muon's update leaves on a CPU's heap, measured
SLACK = {"cpu": 0.0, "cuda": 0.05, "mps": 0.05}  # fraction of everything else: rounding of allocators, fragmentation


class Pass(NamedTuple):
    """Forward through all layers and the head in a micro-batch."""

    rows: int
    positions: int  # of a row
    compiled: bool

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.positions


class Addition(NamedTuple):
    """Parameters and activations in addition to the language model's (see `mc.device_memory`)."""

    matrices: int = 0  # parameters under Muon
    vectors: int = 0  # parameters under AdamW
    largest_stack: int = 0  # parameters in the largest stack of matrices of one shape
    activations: int = 0  # bytes


class MatrixStack(NamedTuple):
    """Matrices of one shape under Muon; each belongs to one process."""

    size: int  # parameters of a matrix
    count: int = 1

    def per_rank(self, world_size: int) -> int:
        """Matrices of a process: the same for all, but for the last ones, which have fewer or none."""
        return -(-self.count // world_size)


@dataclass(frozen=True)
class Setting:
    """Everything but the model that determines the memory of a process."""

    dtype: torch.dtype  # of activations
    device_type: str  # cpu, cuda or mps
    backend: AttentionBackend
    compiled: bool
    chunked_ce: bool = True
    world_size: int = 1
    accumulates: bool = True  # whether a step has more than one micro-batch
    recompute: ActivationCheckpointing = field(default_factory=ActivationCheckpointing)
    sharded: bool = False  # whether each process has a part of the weights and gradients only


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part at the moment of the peak."""

    parts: dict[str, int]
    moment: str  # "forward", "backward", "reduction", "update" or, of a sharded model, "evaluation"

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    def describe(self, available: int | None = None) -> str:
        """`needs about 27.1 of 31.8 GiB (parameters 1.2, …)`; `available` is the device's memory in bytes, if known."""
        of = "" if available is None else f" of {_gib(available)}"
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in self.parts.items() if size >= GIB / 20)
        return f"needs about {_gib(self.total)}{of} GiB" + (f" ({parts})" if parts else "")

    def fits(self, available: int) -> bool:
        """Whether the estimate is at most `available` bytes."""
        return self.total <= available


def estimate(config: GPTConfig, passes: Sequence[Pass], setting: Setting, addition: Addition | None = None) -> MemoryEstimate:
    """Peak memory of a process that trains `config` with micro-batches of `passes`.

    Without a memory there is one pass, of `device_batch_size` rows of `max_seq_len`. Evaluations keep no graph: they count only if
    they gather a sharded model.
    """
    addition = addition or Addition()
    size, world, D, V = setting.dtype.itemsize, setting.world_size, config.width, config.vocab_size
    matrices = matrix_parameters(config) + addition.matrices
    tables = table_parameters(config)
    rest = tables + other_parameters(config) + addition.vectors
    stacks = matrix_stacks(config)
    slices = sum(stack.per_rank(world) * stack.size for stack in stacks) + addition.matrices // world
    split = tables if config.vocab_size % world == 0 else 0  # a table that does not divide is updated by every process
    state = FP32 * (slices + 2 * (split // world + rest - split))
    held = FP32 * ((matrices + split) // world + rest - split if setting.sharded else matrices + rest)  # weights, and gradients
    fixed = {"process": process_bytes(setting), "parameters": held, "optimizer state": state}
    kept = sum(activation_bytes(config, one, setting) for one in passes) + addition.activations
    again = [setting.recompute.of_layer(i) != "none" for i in range(config.depth)]
    in_layer = matrix_parameters(config) // config.depth
    if size != FP32 and not setting.sharded:  # the weights in the compute dtype, but for layers that make them again
        kept += size * (matrices - in_layer * sum(again) + V * value_width(config))
    loss = max(loss_bytes(config, one, setting) for one in passes)
    tokens = max(one.tokens for one in passes)
    layer = tokens * size * 12 * D  # the gradients of a layer's activations
    if any(again):  # and one layer's activations and weights, made again
        layer += max(layer_bytes(config, one, setting) for one in passes) + in_layer * size * (size != FP32)
    if setting.sharded:
        loss += FP32 * V * D  # the gathered head
        layer += in_layer * (3 * size + FP32)  # this layer and the next, gathered; its gradients, also in fp32 to be reduced
    largest_table = V * max(D, value_width(config))
    # Each matrix is in a stack of its shape, with gradients, momentum and new parameters.
    stack = max(4 * D * D * config.depth, addition.largest_stack)
    copies = UPDATES * matrices if setting.device_type == "cpu" else matrices + 6 * stack
    # The others' new parameters, or rows of their updates.
    received = FP32 * matrices // world if setting.sharded else (world > 1) * size * (matrices + split)
    update = {"update": FP32 * copies // world + received}
    # Gradients become stacks slice by slice, and parts of tables. (One process has one slice of each shape, and whole tables.)
    # Sharded ones are sent as rows, all shapes at a time, and received by their owners.
    parts_of_tables = split // world * (world > 1)
    stacked = 2 * matrices // world if setting.sharded else max(s.size * s.per_rank(world) for s in stacks) + parts_of_tables
    # The gradient of a sharded table is copied to be reduced.
    of_table = 2 if setting.sharded else setting.accumulates
    moments = {
        "forward": {
            "gradients": held * setting.accumulates,
            "activations": kept,
            # A CPU's heap does not reuse the holes of the one for what the other makes again.
            "loss": loss + layer if any(again) and setting.device_type == "cpu" else max(loss, layer),
        },
        "backward": {
            "gradients": held,
            "gradient of a table": FP32 * (largest_table * of_table + tokens * value_width(config)),
        },
        "reduction": {"gradients": held, "stacked gradients": FP32 * stacked},
        "update": {"gradients": FP32 * (matrices + rest) // world} | update,
    }
    if setting.sharded:
        moments["evaluation"] = {"gathered weights": size * matrices + FP32 * split}
    if setting.device_type == "cpu":  # memory that one moment frees is not reused in the next: the heap grows all the same
        moments["forward"] |= update
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = fixed | moments[moment]
    parts["slack"] = int(SLACK[setting.device_type] * (sum(parts.values()) - parts["process"]))
    return MemoryEstimate(parts, moment)


def value_width(config: GPTConfig) -> int:
    """Channels of a token's value embeddings, over all layers."""
    return sum(map(config.has_values, range(config.depth))) * config.key_heads * config.head_dim


def matrix_stacks(config: GPTConfig) -> list[MatrixStack]:
    """Stacks of the layers' matrices, which Muon trains."""
    D, L, kv = config.width, config.depth, config.key_heads * config.head_dim
    attention = [MatrixStack(D * D, 4 * L)] if kv == D else [MatrixStack(D * D, 2 * L), MatrixStack(D * kv, 2 * L)]
    return [*attention, MatrixStack(4 * D * D, L), MatrixStack(4 * D * D, L)]


def matrix_parameters(config: GPTConfig) -> int:
    """Parameters of the layers' matrices."""
    return sum(stack.size * stack.count for stack in matrix_stacks(config))


def table_parameters(config: GPTConfig) -> int:
    """Parameters of the token embedding, the value embeddings and the head."""
    return config.vocab_size * (2 * config.width + value_width(config))


def other_parameters(config: GPTConfig) -> int:
    """Parameters of gates and scalars."""
    gates = config.scaling_parameters - matrix_parameters(config) - config.vocab_size * config.width
    return gates + 2 * config.depth + SMEAR_CHANNELS + 2


def process_bytes(setting: Setting) -> int:
    """Bytes of the process before it has a model."""
    return PROCESS[setting.device_type] + COMPILER[setting.device_type] * setting.compiled


def activation_bytes(config: GPTConfig, one: Pass, setting: Setting) -> int:
    """Bytes that autograd keeps of a pass, including the head's gradients."""
    size, D = setting.dtype.itemsize, config.width
    layers = sum(layer_bytes(config, one, setting, setting.recompute.of_layer(i)) for i in range(config.depth))
    outside = one.tokens * (size * (3 * D + 2 * value_width(config)) + 2 * FP32 * D)  # embeddings and the head's input
    head = size * (one.tokens * D + config.vocab_size * D) if setting.chunked_ce else logits_bytes(config, one)
    return layers + outside + head


def layer_bytes(config: GPTConfig, one: Pass, setting: Setting, recompute: Recompute = "none") -> int:
    """Bytes that autograd keeps of a layer in a pass."""
    size, D, T = setting.dtype.itemsize, config.width, one.positions
    kv = config.key_heads * config.head_dim
    if recompute == "full":
        return one.tokens * size * D  # its input
    if recompute == "selective":
        # Its input and what its matmuls and its attention return; uncompiled also what the last matmul does, which nothing reads.
        per_token = size * (8 * D + 2 * kv + (0 if one.compiled else D))
    else:
        # Queries, keys and values before and after norm and rotation, the inputs of the output matrix and of both halves of the
        # layer, the MLP's hidden states before and after the square.
        channels = 2 * (D + 2 * kv) + 3 * D + 8 * D
        per_token = size * (channels + D if one.compiled else channels + 3 * D)
        if not one.compiled and setting.device_type == "cpu" and size != FP32:
            per_token += (FP32 - size) * 2 * D + FP32 * (D + kv)  # autograd keeps the fp32 inputs of the norms
    layer = one.tokens * per_token
    if setting.backend == "blocked":
        layer += one.rows * config.heads * size * sum(min(QUERY_BLOCK, T - b) * min(T, b + QUERY_BLOCK) for b in range(0, T, QUERY_BLOCK))
    elif setting.device_type == "cuda":
        layer += one.tokens * config.heads * FP32  # logarithms of the softmax's sums
    return layer


def logits_bytes(config: GPTConfig, one: Pass) -> int:
    """Bytes that the unchunked loss of a pass keeps: tanh and softmax of all logits."""
    return one.tokens * config.vocab_size * 2 * FP32


def loss_bytes(config: GPTConfig, one: Pass, setting: Setting) -> int:
    """Additional bytes while the loss of a pass is computed."""
    size, V, D = setting.dtype.itemsize, config.vocab_size, config.width
    if not setting.chunked_ce:
        return one.tokens * V * (size + 2 * FP32)
    logits = min(CHUNK_BYTES.get(setting.device_type, CHUNK_BYTES["cpu"]), one.tokens * V * size)
    between = logits // size * FP32 * (0 if setting.compiled else COPIES[setting.device_type])  # in registers only if fused
    return 2 * logits + between + V * D * (2 * FP32 + 2 * size)


def device_memory(device: torch.device) -> int | None:
    """Bytes of this device's memory, if known; on a CPU the smaller of the machine's and its container's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory if torch.cuda.is_available() else None
    if device.type != "cpu":
        return None
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        if path.is_file() and (text := path.read_text(encoding="ascii").strip()).isdecimal():
            sizes.append(int(text))
    return min(sizes)


def peak_memory_mib(device: torch.device | str) -> float:
    """Peak memory of this process in MiB: allocated by torch on a CUDA device, resident elsewhere."""
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    # VmHWM first: ru_maxrss also counts the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
