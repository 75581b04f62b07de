"""Configuration of the memory: every flag once, with its default and its check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mc.layout.layout import Geometry
from mc.layout.positions import PositionType
from mc.nets.gistnet import GistConfig
from mc.nets.lensnet import LensConfig
from nanochat.flags import check, check_choices, flag, flat_values, part
from nanochat.runtime.device import DTYPES

# Defaults of other flags that a preset replaces; a flag that is given overrides it.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "fast": {"mc_num_random_variants": 1, "mc_lens_every": 4},
}
# Fields excluded from the resume identity; so is the allocator, which only inference has.
# Layered memories train LensNet for the refocus interval, so there it counts.
FREE = {"mc_enabled", "mc_preset", "mc_tree", "mc_session_lod", "mc_auto_batch", "mc_target_tok_per_sec", "mc_infer_refocus_interval"}
FREE |= {"mc_compile_variants", "mc_eval_tokens", "mc_log_timers", "mc_log_lod_ascii"}
# Flags that layered gists and their LensNet have no use for.
LAYER_0_ONLY = {"positional_type", "gistnet_layers", "gistnet_head", "lensnet_layers", "lensnet_head", "mc_lens_temperature"}
LAYER_0_ONLY |= {"mc_lens_adv_norm_beta", "mc_lens_occurrence_weight", "mc_lens_attention_weight", "mc_lens_hard_negative_ratio"}
LAYER_0_ONLY |= {"mc_max_lens_pairs"}


@dataclass
class AllocatorConfig:
    """Focus Allocator: turns scores into edits of a Working Context."""

    allocator_type: Literal["greedy", "stochastic_greedy"] = flag(
        "greedy", "take the best edits, or sample among the best", alias=("allocator",)
    )
    allocator_soft_max_length: int = flag(
        0, "entries of a Working Context at inference; 0 = as in training, and at least what a long history needs", unit="entries"
    )
    allocator_expand_threshold: float = flag(0.02, "an entry is expanded if its score is above this")
    allocator_collapse_threshold: float = flag(0.0, "siblings may be collapsed if their mean score is below minus this")
    allocator_max_replacements: int = flag(4, "maximum edits per iteration", unit="edits")
    allocator_iterations: int = flag(1, "iterations per refocus", unit="iterations")
    allocator_sample_top_k: int = flag(4, "number of best edits that stochastic_greedy samples from", unit="edits")
    allocator_sample_temperature: float = flag(1.0, "temperature of that sampling, in scores")

    def __post_init__(self) -> None:
        check_choices(self, "allocator_type")
        check(self, lambda value: value >= 0, "must not be negative", "allocator_soft_max_length")
        for name in ("expand", "collapse"):
            check(self, lambda value: 0 <= value <= 1, "must lie in 0 … 1, as scores do", f"allocator_{name}_threshold")
        for name in ("max_replacements", "iterations", "sample_top_k"):
            check(self, lambda value: value >= 1, "must be at least 1", f"allocator_{name}")
        check(self, lambda value: 0 < value < math.inf, "must be positive", "allocator_sample_temperature")


@dataclass
class SessionConfig:
    """Memory at inference: a session's history, and how much of it the model reads."""

    mc_tree: Literal["ram", "disk"] = flag("ram", "storage of a session's tree; training rows always use RAM")
    mc_session_lod: int = flag(4, "highest level of gists in a session, which may be longer than any row of training", unit="levels")
    mc_infer_refocus_interval: int = flag(8, "tokens between two refocuses at inference", unit="tokens")
    allocator: AllocatorConfig = part(AllocatorConfig)

    def __post_init__(self) -> None:
        check_choices(self, "mc_tree")
        check(self, lambda value: value >= 1, "must be at least 1", "mc_session_lod", "mc_infer_refocus_interval")


@dataclass
class LensLossConfig:
    """LensNet's losses: preferences between variants, and teachers. A layered LensNet has one teacher, hits, and no pairs."""

    mc_lens_loss_weight: float = flag(0.1, "weight of LensNet's loss; 0 = LensNet is not trained")
    mc_lens_temperature: float = flag(0.1, "temperature of the preference loss, in policy scores")
    mc_lens_occurrence_weight: float = flag(1.0, "weight of the bigram-overlap teacher")
    mc_lens_attention_weight: float = flag(1.0, "weight of the attention teacher")
    mc_lens_adv_norm_beta: float = flag(0.99, "decay of the running mean and deviation that normalise advantages")
    mc_lens_hard_negative_ratio: float = flag(0.5, "share of the pairs that is kept, those with the largest gaps")
    mc_max_lens_pairs: int = flag(16, "maximum pairs per row", unit="pairs")

    def __post_init__(self) -> None:
        for name in ("loss", "occurrence", "attention"):
            check(self, lambda value: 0 <= value < math.inf, "must be a number from 0", f"mc_lens_{name}_weight")
        check(self, lambda value: 0 < value < math.inf, "must be positive", "mc_lens_temperature")
        check(self, lambda value: 0 <= value < 1, "must lie in 0 … 1, without 1", "mc_lens_adv_norm_beta")
        check(self, lambda value: 0 < value <= 1, "must lie in 0 … 1, without 0", "mc_lens_hard_negative_ratio")
        check(self, lambda value: value >= 1, "must be at least 1", "mc_max_lens_pairs")


@dataclass
class MCConfig:
    """Memory in training. A size of 0 depends on the length of the row."""

    mc_enabled: bool = flag(False, "train with a MegaContext", alias=("mc",))
    mc_preset: Literal["full", "fast"] = flag(
        "full", "preset of defaults of the other flags: full = all features, fast = cheapest", presets=PRESETS
    )
    block_size: Literal[8, 32, 128] = flag(32, "children of a node", unit="tokens")
    mc_max_lod: int = flag(2, "highest level of gists", unit="levels")
    mc_num_random_variants: int = flag(4, "random compressed variants trained per row", unit="variants")
    mc_rows_every: int = flag(4, "one in so many rows has variants, as long as these teach the model nothing (mc_joint 0)", unit="rows")
    mc_train_wc_length: int = flag(0, "entries of a variant at the end of training; 0 = a fifth of the row", unit="entries")
    mc_anneal: bool = flag(True, "narrow the variants over the run; 0 = use the final width from the start")
    mc_training_lod2_probability: float = flag(0.25, "probability of compressing a group of blocks into one gist of level 2")
    mc_horizon: int = flag(0, "tokens after the decision point that a variant is judged on; 0 = a sixteenth of the row", unit="tokens")
    mc_auto_batch: bool = flag(True, "choose the micro-batch so that rows and variants fit the device memory; 0 = --device-batch-size")
    mc_target_tok_per_sec: float = flag(
        0.0, "target throughput, held by training fewer variants; 0 = train all variants", unit="tokens of rows per second"
    )
    mc_priority_sampling: bool = flag(False, "choose half of the variants by LensNet's scores")
    mc_aux_dtype: Literal["auto", "fp32", "bf16"] = flag("auto", "dtype of GistNet and LensNet; auto = the model's")
    mc_joint: str = flag(
        "0", "0 = the memory's losses never reach the model; a number = their weight in its loss; mean = variants' losses count as rows'"
    )
    mc_gist_kl_weight: float = flag(
        1.0, "weight of the KL divergence of a variant's predictions from its row's; not used with mc_joint mean"
    )
    mc_gist_recon_weight: float = flag(0.0, "weight of the gist reconstruction loss")
    mc_freeze_model: bool = flag(False, "train only the memory's own networks and leave the model unchanged")
    mc_lr_mult: float = flag(1.0, "learning-rate multiplier of the memory's own networks, in addition to lr_mult", unit="×")
    mc_lens_every: int = flag(2, "train LensNet in every N-th micro-batch", unit="micro-batches")
    mc_lens_contexts: int = flag(1, "variants of a row in whose contexts LensNet learns, besides the collapsed one", unit="variants")
    mc_lens_decisions: int = flag(1, "decision points of a row at which LensNet has teachers", unit="points")
    mc_eval_tokens: int = flag(1 << 20, "validation tokens to evaluate the memory on, at most eval_tokens", unit="tokens")
    mc_log_timers: bool = flag(True, "log the milliseconds of the memory's parts as mc/…_ms")
    mc_log_lod_ascii: bool = flag(False, "print a picture of a few layouts with each evaluation")
    mc_compile_variants: bool = flag(True, "compile the layers for variants; 0 = eager, which is faster in short runs")
    positional_type: PositionType = flag("gaussian", "position encoding of entries")
    # Not in AllocatorConfig, whose flags inference has too: it shapes training rows, and sessions use the trained value.
    allocator_recent_tokens: int = flag(0, "tokens before the decision point that stay raw; 0 = a sixteenth of the row", unit="tokens")
    session: SessionConfig = part(SessionConfig)
    gist: GistConfig = part(GistConfig)
    lens: LensConfig = part(LensConfig)
    lens_loss: LensLossConfig = part(LensLossConfig)

    def __post_init__(self) -> None:
        check_choices(self, "mc_preset", "mc_aux_dtype", "positional_type")
        self.mc_joint = normalised_joint(self.mc_joint)
        if self.joint_mean and self.mc_gist_kl_weight not in (0.0, 1.0):
            raise ValueError(f"invalid mc_gist_kl_weight {self.mc_gist_kl_weight}: mc_joint mean does not use it; expected to leave it out")
        if self.mc_enabled and self.gist.layered:
            self._check_layered()
        for name in ("mc_gist_kl_weight", "mc_gist_recon_weight", "mc_target_tok_per_sec", "mc_lr_mult"):
            check(self, lambda value: 0 <= value < math.inf, "must be a number from 0", name)
        if self.gist.layered and self.mc_gist_recon_weight:
            raise ValueError("invalid mc_gist_recon_weight: layered gists are keys and values, from which no token is decoded; expected 0")
        for name in ("num_random_variants", "rows_every", "max_lod", "lens_every", "lens_contexts", "lens_decisions", "eval_tokens"):
            check(self, lambda value: value >= 1, "must be at least 1", f"mc_{name}")
        check(self, lambda value: 0 <= value <= 1, "must lie in 0 … 1", "mc_training_lod2_probability")
        check(self, lambda value: value >= 0, "must not be negative", "mc_train_wc_length", "mc_horizon", "allocator_recent_tokens")
        K = self.block_size
        check(self, lambda value: value % K == 0, f"must be a multiple of block_size {K}", "allocator_recent_tokens")

    def _check_layered(self) -> None:
        """Raises `ValueError` for a flag that has no effect on layered gists."""
        defaults = {"positional_type": MCConfig.positional_type} | {
            name: value for part in (GistConfig(), LensConfig(), LensLossConfig()) for name, value in flat_values(part).items()
        }
        for name, value in flat_values(self).items():
            if name in LAYER_0_ONLY and value != defaults[name]:
                raise ValueError(f"invalid {name} {value}: it has no effect with gistnet_type layered; leave it out or choose other gists")

    def identity(self) -> dict[str, Any]:
        """Flags that affect training, flat: a checkpoint that differs in one of them belongs to another run."""
        return {name: value for name, value in flat_values(self).items() if name not in FREE and not name.startswith("allocator_")} | {
            "allocator_recent_tokens": self.allocator_recent_tokens,
            **({"mc_infer_refocus_interval": self.session.mc_infer_refocus_interval} if self.gist.layered else {}),
        }

    @property
    def joint_mean(self) -> bool:
        """Whether the variants' losses count as those of rows, in one mean."""
        return self.mc_joint == "mean"

    @property
    def joint_weight(self) -> float:
        """Weight of the memory's losses in the model's; 0 = they never reach it."""
        return 1.0 if self.joint_mean else float(self.mc_joint)

    @property
    def apart(self) -> bool:
        """Whether the model learns exactly as without a memory."""
        return self.joint_weight == 0 and not self.mc_freeze_model

    def compressed_rows(self, rows: int) -> int:
        """Rows of a micro-batch of `rows` that have variants."""
        return -(-rows // self.mc_rows_every) if self.apart else rows

    @property
    def geometry(self) -> Geometry:
        """Block size and slots."""
        return Geometry(self.block_size, self.gist.gist_slots)

    def aux_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """The dtype of the memory's own networks."""
        return model_dtype if self.mc_aux_dtype == "auto" else DTYPES[self.mc_aux_dtype]


def normalised_joint(value: str | float) -> str:
    """`mc_joint` in one spelling. Raises `ValueError` if it is neither `mean` nor a number from 0."""
    if value == "mean":
        return value
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ValueError(f"invalid mc_joint {value}: it is neither mean nor a number from 0; expected 0, a weight such as 0.1, or mean")
    return f"{weight:g}"
