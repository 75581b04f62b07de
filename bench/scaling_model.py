"""What the recipes' models need on 1, 8, 64 and 1,024 GPUs: `python -m bench.scaling_model`. A model on paper; nothing is trained.

A step is the sum of its parts: matmuls, attention, traffic of the device's memory, the optimizer, and the collectives that nothing hides:
the last backward hides the reduction of matrices and head, nothing that of the other tables, whose gradients are complete last. Each part
is a count taken from the code (FLOPs of `GPTConfig`, bytes of `nanochat.profiling.device_memory`, collectives of `MuonAdamW`) divided by a
rate that somebody measured and published. There is one set of rates; `PUBLISHED` holds runs of karpathy/nanochat that it must reproduce.
`obsidian/Scaling out.md` has the sources and the results. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mc.auto_batch import divisors
from nanochat import flags
from nanochat.flags import check, flag
from nanochat.markdown import table
from nanochat.model.gpt import SMEAR_CHANNELS, GPTConfig
from nanochat.model.recompute import ActivationCheckpointing
from nanochat.profiling.device_memory import (
    FP32,
    GIB,
    MemoryEstimate,
    Pass,
    Setting,
    activation_bytes,
    estimate,
    matrix_parameters,
    matrix_stacks,
    other_parameters,
    table_parameters,
    value_width,
)
from nanochat.runtime.peak_flops import PEAK_FLOPS
from nanochat.train.muon import MuonExtras
from nanochat.train.shards import ROW_SHARD_MIN

DAY = 24 * 3600.0
BF16 = 2  # bytes
RECIPE_TOKENS = {12: 37_760 * 114_688, 20: 21_400 * 2**19, 32: 71_680 * 2**19}  # of runs/profiles.sh
TOKENS_PER_PARAMETER = 20  # of other depths
AGAIN, SHARDED = {"recompute": ActivationCheckpointing("full")}, {"sharded": True}
WAYS_TO_FIT: dict[str, dict[str, Any]] = {"as it is": {}, "layers recomputed": AGAIN, "sharded": SHARDED, "both": AGAIN | SHARDED}


class AttentionRate(NamedTuple):
    """FLOP/s of a causal attention kernel, head size 128 and 2,048 positions, on an H100 (arXiv 2407.08608, figures 5 and 6)."""

    forward: float
    backward: float


FA2, FA3 = AttentionRate(298e12, 291e12), AttentionRate(521e12, 501e12)


@dataclass(frozen=True)
class Cluster:
    """Nodes of 8×H100 SXM with an InfiniBand NDR port for each GPU. Rates are per second."""

    peak: float = PEAK_FLOPS["H100"]
    matmul: float = 794.5e12  # best bf16 matmul measured (ml-engineering, MAMF table)
    hbm: float = 0.9 * 3.35e12  # bytes; assumed: a long elementwise kernel reaches nine tenths of the sheet's bandwidth
    node: int = 8
    nvlink: float = 361e9  # bytes; all-gather and reduce-scatter of 16 GiB in a node of 8, measured (ml-engineering, network)
    port: float = 0.94 * 50e9  # bytes over one port; rings over 4 nodes reach 94 % of the wire of all ports (same source)
    hop: float = 6e-6  # seconds of a step of a ring; 1 MiB over 32 GPUs takes 62 of them in 0.38 ms (same source)
    memory: int = 81559 << 20  # bytes of a GPU, as nvidia-smi reports it
    gpu_hours_per_failure: float = 16384 * 54 * 24 / 419  # unexpected interruptions of Llama 3 (arXiv 2407.21783, table 5)
    file_rate: float = 1e9  # bytes; assumed: a process copies, hashes, writes and syncs a file, one after the other
    restart: float = 900.0  # seconds; assumed: 10 minutes until NCCL's timeout ends a hung step, 5 to start, load and compile


@dataclass(frozen=True)
class Run:
    """A training run: `rows` of a micro-batch, `batch` tokens of a step over all `gpus`."""

    config: GPTConfig
    gpus: int
    rows: int
    batch: int
    steps: int
    attention: AttentionRate = FA3
    window: int = 0  # positions of a short window, if not a quarter of the context
    overlaps: bool = True  # collectives with the backward; then parameters are gathered in bf16, else in fp32

    @property
    def passes(self) -> int:
        """Micro-batches of a step."""
        return self.batch // (self.rows * self.config.max_seq_len * self.gpus)

    @property
    def tokens(self) -> int:
        """Tokens of a step on one GPU."""
        return self.batch // self.gpus

    @property
    def setting(self) -> Setting:
        """Compiled bf16 on CUDA, as the recipes run."""
        return Setting(torch.bfloat16, "cuda", "fa3", True, world_size=self.gpus, accumulates=self.passes > 1)


class Published(NamedTuple):
    """A run of karpathy/nanochat on 8×H100 and the time that was published for it."""

    run: Run
    seconds: float  # of a step
    source: str


def nanochat(depth: int, vocab_size: int, windows: str, rows: int, steps: int, attention: AttentionRate, window: int = 0) -> Run:
    """A run of karpathy/nanochat: half a million tokens a step."""
    config = GPTConfig(depth=depth, vocab_size=vocab_size, window_pattern=windows)
    return Run(config, 8, rows, 2**19, steps, attention, window, overlaps=False)


# Before FlashAttention 3 came in, attention was PyTorch's, which is FlashAttention 2.
PUBLISHED = {
    "speedrun, d20": Published(
        nanochat(20, 65536, "L", 32, 21400, FA2), 0.487, "github.com/karpathy/nanochat/discussions/1, 2025-10-13: log of the steps 3 to 13"
    ),
    "run1000, d32": Published(
        nanochat(32, 65536, "L", 8, 71680, FA2), 1.574, "karpathy/nanochat, run1000.sh at 06a1977, 2025-10: step time in the comments"
    ),
    "GPT-2 record, d24": Published(
        nanochat(24, 32768, "SSSL", 16, 16704, FA3, 1024), 10949.47 / 16704, "karpathy/nanochat, dev/LEADERBOARD.md, run 1, 2026-01-29"
    ),
}


def attention_flops(run: Run) -> float:
    """Useful FLOPs per token in attention, forward and backward: 12·D for each visible key."""
    config, T = run.config, run.config.max_seq_len
    windows = [run.window if window and run.window else window or T for window in config.windows]
    return 12 * config.width * sum((w * (w + 1) / 2 + (T - w) * w) / T for w in windows)


def matmul_flops(config: GPTConfig) -> float:
    """FLOPs per token in matmuls, forward and backward."""
    return 6 * (config.scaling_parameters + SMEAR_CHANNELS)


def muon_flops(config: GPTConfig, gpus: int) -> float:
    """FLOPs of Muon's iteration on the GPU that owns most: a Gram matrix, its square and an update, on each matrix's shorter side."""
    D, flops = config.width, 0.0
    for stack in matrix_stacks(config):
        short = min(D, stack.size // D)
        flops += stack.per_rank(gpus) * (4 * short * stack.size + 2 * short**3)
    return len(MuonExtras().coefficients) * flops


class Collective(NamedTuple):
    """Collective of the optimizer, with the bytes of the whole tensor."""

    kind: str  # reduce, reduce_scatter, all_reduce, broadcast or all_gather
    size: int


def collectives(config: GPTConfig, gpus: int, gathered: int = BF16) -> list[Collective]:
    """Collectives of a step in which `MuonAdamW` moves large tensors; gradients are fp32, parameters have `gathered` bytes.

    Those that the backward may hide come first, see `early`.
    """
    if gpus == 1:
        return []
    out, last = [], []
    for stack in matrix_stacks(config):
        share = stack.per_rank(gpus)
        for first in range(0, stack.count, share):  # a slice for each owner
            size = stack.size * min(share, stack.count - first)
            out.append(Collective("reduce", FP32 * size))
            last.append(Collective("broadcast", gathered * size))
    for channels in (config.width, config.width, value_width(config)):
        size = config.vocab_size * channels
        if size >= ROW_SHARD_MIN and config.vocab_size % gpus == 0:
            out.append(Collective("reduce_scatter", FP32 * size))
            last.append(Collective("all_gather", gathered * size))
        else:
            out.append(Collective("all_reduce", FP32 * size))
    return out + last


def early(config: GPTConfig, gpus: int) -> int:
    """Number of `collectives` whose gradients the backward completes before its end: those of the matrices and of the head."""
    return sum(-(-stack.count // stack.per_rank(gpus)) for stack in matrix_stacks(config)) + 1


def small_all_reduces(config: GPTConfig) -> int:
    """All-reduces of a few numbers in a step: gates, scalars, the loss and the gradient's norm."""
    return sum(map(config.has_values, range(config.depth))) + 5 + 2


def collective_seconds(one: Collective, gpus: int, cluster: Cluster) -> float:
    """Seconds of rings over `gpus` in whole nodes: NCCL lays one through each port of a node, so that a node has all of them.

    What has one root goes along a chain, and chains follow each other closely: each adds a hop, not all of them.
    """
    rate = cluster.nvlink if gpus <= cluster.node else min(cluster.nvlink, cluster.node * cluster.port)
    if one.kind in ("reduce", "broadcast"):
        return one.size / rate + cluster.hop
    rounds = 2 if one.kind == "all_reduce" else 1
    return rounds * (gpus - 1) * (one.size / gpus / rate + cluster.hop)


def communication_seconds(run: Run, cluster: Cluster, backward: float = 0.0) -> float:
    """Seconds of a step in collectives besides those that `backward` seconds of a backward hide."""
    config, gpus = run.config, run.gpus
    if gpus == 1:
        return 0.0
    small = small_all_reduces(config) * 2 * math.ceil(math.log2(gpus)) * cluster.hop  # over a tree
    chains = 2 * (gpus - 1) * cluster.hop  # the first reduce, the last broadcast
    times = [collective_seconds(each, gpus, cluster) for each in collectives(config, gpus, BF16 if run.overlaps else FP32)]
    number = early(config, gpus)
    return max(0.0, sum(times[:number]) - backward) + sum(times[number:]) + small + chains


def node_sharded_seconds(run: Run, cluster: Cluster, backward: float) -> float:
    """The same if each node kept a whole optimizer: reduced and gathered inside it, shards all-reduced between nodes in a ring each.

    Not built; it is what would end the padding.
    """
    config, gpus = run.config, run.gpus
    inside = communication_seconds(dataclasses.replace(run, gpus=min(gpus, cluster.node)), cluster, backward)
    nodes = math.ceil(gpus / cluster.node)
    shards = sum(each.size for each in collectives(config, cluster.node) if each.kind.startswith("reduce")) / cluster.node
    return inside + 2 * (nodes - 1) * (shards / nodes / cluster.port + cluster.hop)


def step_seconds(run: Run, cluster: Cluster) -> dict[str, float]:
    """Seconds of a step by part."""
    config, gpus = run.config, run.gpus
    useful = run.tokens * attention_flops(run)
    # The backward kernel computes the scores again: 2.5 times the forward's FLOPs, of which 2 count.
    attention = useful / 3 / run.attention.forward + useful / 3 * 2.5 / run.attention.backward
    matrices, tables = matrix_parameters(config), table_parameters(config)
    one = Pass(run.rows, config.max_seq_len, True)
    # An activation is written and read in the forward, read in the backward, and its gradient is written and read.
    # A weight is read and written in bf16; its gradient is written and read in bf16 and added in fp32. A table's gradient is fp32.
    per_pass = 5 * activation_bytes(config, one, run.setting) + 18 * matrices + 12 * tables
    # Muon stacks gradients and copies new parameters back, whole; a slice is read and written about ten times, as is AdamW's.
    own = sum(stack.per_rank(gpus) * stack.size for stack in matrix_stacks(config)) + tables // gpus
    update = FP32 * (4 * matrices + 10 * own)
    passes = {
        "matmuls": run.tokens * matmul_flops(config) / cluster.matmul,
        "attention": attention,
        "memory": run.passes * per_pass / cluster.hbm,
    }
    return {
        **passes,
        "optimizer": muon_flops(config, gpus) / cluster.matmul + update / cluster.hbm,
        "communication": communication_seconds(run, cluster, last_backward(run, passes)),
    }


def last_backward(run: Run, passes: dict[str, float]) -> float:
    """Seconds of a step's last backward, two thirds of a micro-batch, that hide collectives."""
    return 2 / 3 * sum(passes.values()) / run.passes if run.overlaps else 0.0


def checkpoint_bytes(config: GPTConfig) -> int:
    """Bytes of weights and optimizer state, over all files."""
    matrices, rest = matrix_parameters(config), table_parameters(config) + other_parameters(config)
    return FP32 * (2 * matrices + 3 * rest)


def save_seconds(config: GPTConfig, gpus: int, cluster: Cluster) -> float:
    """Seconds that training waits for a checkpoint: the first process writes all weights and its share of the state."""
    weights = FP32 * (matrix_parameters(config) + table_parameters(config))
    return (weights + (checkpoint_bytes(config) - weights) / gpus) / cluster.file_rate


class Losses(NamedTuple):
    """Checkpoints and failures."""

    failures_a_day: float
    interval: float  # seconds between two checkpoints that waste least
    share: float  # of the time that saves, repeated work and restarts take


def losses(gpus: int, save: float, cluster: Cluster) -> Losses:
    """Young's interval √(2·save·MTBF) (CACM 17(9), 1974) and what is lost with it; half an interval is repeated after a failure."""
    between = cluster.gpu_hours_per_failure * 3600 / gpus
    interval = math.sqrt(2 * save * between)
    return Losses(DAY / between, interval, save / interval + (interval / 2 + cluster.restart) / between)


def recipe(depth: int, gpus: int, cluster: Cluster) -> Run:
    """The recipe of `depth` on `gpus`: half a million tokens per step, or a row for each GPU if that is more.

    A micro-batch is the largest that fits, or one row if none does.
    """
    config = GPTConfig(depth=depth, window_pattern="SSSL")
    per_gpu = max(1, 2**19 // (config.max_seq_len * gpus))
    batch = per_gpu * gpus * config.max_seq_len
    steps = math.ceil(RECIPE_TOKENS.get(depth, TOKENS_PER_PARAMETER * config.scaling_parameters) / batch)
    runs = [Run(config, gpus, rows, batch, steps) for rows in divisors(per_gpu)]
    return next((run for run in reversed(runs) if memory(run).fits(cluster.memory)), runs[0])


def deepest(gpus: int, memory_bytes: int, **setting: Any) -> int:
    """Largest even depth of which a micro-batch of one row fits, with changes to the run's `Setting`."""
    depth = 2
    while memory(Run(GPTConfig(depth=depth + 2, window_pattern="SSSL"), gpus, 1, 2 * gpus * 2048, 1), **setting).fits(memory_bytes):
        depth += 2
    return depth


def memory(run: Run, **setting: Any) -> MemoryEstimate:
    """Device memory of a GPU, with changes to the run's `Setting`."""
    return estimate(run.config, [Pass(run.rows, run.config.max_seq_len, True)], dataclasses.replace(run.setting, **setting))


def report(run: Run, cluster: Cluster) -> dict[str, float | str | dict[str, float]]:
    """All figures of a run."""
    parts, save = step_seconds(run, cluster), save_seconds(run.config, run.gpus, cluster)
    seconds, lost = sum(parts.values()), losses(run.gpus, save, cluster)
    needed, hidden = memory(run), last_backward(run, {name: parts[name] for name in ("matmuls", "attention", "memory")})
    flops = run.tokens * (matmul_flops(run.config) + attention_flops(run))
    return {
        "depth": run.config.depth,
        "gpus": run.gpus,
        "rows": run.rows,
        "batch": run.batch,
        "steps": run.steps,
        "fits": needed.fits(cluster.memory),
        "memory_gib": needed.total / GIB,
        "memory_parts_gib": {name: size / GIB for name, size in needed.parts.items()},
        "moment": needed.moment,
        "seconds": seconds,
        "parts": parts,
        "mfu": flops / seconds / cluster.peak,
        "node_sharded_s": seconds - parts["communication"] + node_sharded_seconds(run, cluster, hidden),
        "moved_gb": sum(each.size * (2 if each.kind == "all_reduce" else 1) for each in collectives(run.config, run.gpus)) / 1e9,
        "hours": run.steps * seconds / 3600 / (1 - lost.share),
        "checkpoint_gb": checkpoint_bytes(run.config) / 1e9,
        "save_s": save,
        **lost._asdict(),
    }


def reproduced(cluster: Cluster) -> dict[str, dict[str, float | str]]:
    """The published runs: seconds of a step as published and as modelled."""
    out = {}
    for name, published in PUBLISHED.items():
        seconds = sum(step_seconds(published.run, cluster).values())
        ratio = seconds / published.seconds
        out[name] = {"published_s": published.seconds, "modelled_s": seconds, "ratio": ratio, "source": published.source}
    return out


@dataclass
class ScalingModel:
    """Model what training needs on many GPUs."""

    depths: str = flag("12,20,32,40", "depths of the models, separated by commas")
    gpus: str = flag("1,8,64,1024", "numbers of GPUs, separated by commas")

    def __post_init__(self) -> None:
        check(self, lambda text: all(n.strip().isdecimal() and int(n) > 0 for n in text.split(",")), "must be numbers", "depths", "gpus")


def main(argv: list[str] | None = None) -> int:
    """Prints the published runs, all runs, the deepest models, and one line of JSON."""
    config, cluster = flags.parse(ScalingModel, argv), Cluster()
    again = reproduced(cluster)
    lines = [[name, *(f"{row[key]:.3f}" for key in ("published_s", "modelled_s", "ratio"))] for name, row in again.items()]
    print(table(["published run, 8×H100", "published s", "modelled s", "ratio"], lines, range(1, 4)), end="\n\n")
    counts = [int(gpus) for gpus in config.gpus.split(",")]
    runs = [report(recipe(int(depth), gpus, cluster), cluster) for depth in config.depths.split(",") for gpus in counts]
    header = ["model", "GPUs", "rows", "tokens", "GiB", "step s", "moving", "MFU", "hours", "save s", "failures/day", "save every", "lost"]
    lines = [
        [
            f"d{run['depth']}", run["gpus"], run["rows"], run["batch"], f"{run['memory_gib']:.1f}{'' if run['fits'] else ': too much'}",
            f"{run['seconds']:.3f}", f"{run['parts']['communication'] / run['seconds']:.0%}", f"{run['mfu']:.0%}", f"{run['hours']:.1f}",
            f"{run['save_s']:.0f}", f"{run['failures_a_day']:.3f}", f"{run['interval'] / 60:.0f} min", f"{run['share']:.1%}",
        ]
        for run in runs
    ]  # fmt: skip
    print(table(header, lines, range(1, len(header))), end="\n\n")
    ways = {f"{gb} GB, {name}": (gb * 10**9, setting) for gb in (80, 141) for name, setting in WAYS_TO_FIT.items()}
    depths = {
        gpus: {way: deepest(gpus, size, **setting) for way, (size, setting) in ways.items() if gpus > 1 or "sharded" not in setting}
        for gpus in counts
    }
    header = ["deepest model of which a row fits", *(f"{gpus} GPUs" for gpus in counts)]
    lines = [[way, *(f"d{of[way]}" if way in of else "–" for of in depths.values())] for way in ways]
    print(table(header, lines, range(1, len(header))))
    print(json.dumps({"published": again, "runs": runs, "deepest": depths, "cluster": dataclasses.asdict(cluster)}))
    return 0


if __name__ == "__main__":
    flags.run(main)
