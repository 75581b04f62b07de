"""What the metrics of a memory should be; see `nanochat.tracking.metric_bounds`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nanochat.tracking.metric_bounds import Band, Falling, MetricBound, Steady, Toward

if TYPE_CHECKING:
    from mc.config import RowPlan
from typing import Any

from mc.train.controller import MCController
from nanochat.train.objective import Objective

VARIANTS = "mc/variants_total"

MEMORY_BOUNDS = (
    MetricBound(
        "mc/delta_nll@*",
        Band(high=0.10, alert_high=0.15, window=3, least=2),
        "nats that the H tokens behind LensNet's layout lose against the full history",
        "mc/lod_delta/1 (gists drift) and mc/preference_corr_mean (LensNet), or a tokenizer other than the checkpoint's",
    ),
    MetricBound(
        "mc/swap_rate",
        Steady(Band(0.05, 0.20, alert_high=0.25)),
        "blocks edited in a refocus, of the blocks in the Working Context",
        "--allocator-expand-threshold and --allocator-max-replacements; train LensNet longer",
    ),
    MetricBound(
        "mc/residency",
        Band(0.90, 1.0, alert_low=0.80),
        "entries in use, of those that a Working Context may have",
        "the allocator's collapse threshold and LensNet's scores: too much is collapsed",
    ),
    MetricBound(
        "mc/token_loss",
        Falling("falling, and at most the baseline's loss"),
        "mean loss of plain rows and variants, in nats",
        "--mc-train-wc-length, the weights of the gist losses, and train/loss_lod0: whether the model itself still learns",
    ),
    MetricBound(
        VARIANTS,
        Band(low=1, alert_low=1),
        "variants in a step: as configured, by the rows of a step",
        "the settings of variants (--mc-num-random-variants) and whether rows are long enough to compress",
    ),
    MetricBound(
        "mc/adv_delta_mean",
        Toward(0.0, slack=0.05, furthest=0.15),
        "nats that variants lose on the horizon against plain rows",
        "mc/adv_delta_p95 and mc/variant_width: gists that lose what is needed",
    ),
    MetricBound(
        "mc/preference_corr_mean",
        Toward(-1.0, slack=0.1, furthest=1.0),
        "correlation of LensNet's preferences with what layouts lose: −1 is perfect",
        "mc/pref_span_corr and mc/lens_pairs: LensNet ranks layouts by something else than their loss",
    ),
    MetricBound(
        "mc/lens_explained",
        Band(low=0.1, alert_low=0.02),
        "of what teachers say of blocks beyond even shares, how much LensNet's scores say too: 1 is all",
        "mc/lens_loss and mc/policy_score_std_mean: whether LensNet still learns, and whether it tells blocks apart at all",
    ),
    MetricBound(
        "mc/variant_pack_ms",
        Band(high=10, alert_high=10),
        "milliseconds of a step that gathering the variants' entries takes",
        "the number and width of variants, and whether the device is shared",
    ),
    MetricBound(
        "mc/time_controller_ms",
        Band(high=200, alert_high=200),
        "milliseconds of a step that the controller takes beside the networks",
        "its parts, mc/*_ms: which of them has grown",
    ),
)


def memory_targets(least: Mapping[str, float]) -> tuple[MetricBound, ...]:
    """The targets of a run whose settings ask for at `least` so much of some metrics (see `expected`)."""
    return tuple(
        dataclasses.replace(target, rule=dataclasses.replace(target.rule, low=least[target.metric], alert_low=least[target.metric]))
        if isinstance(target.rule, Band) and target.metric in least
        else target
        for target in MEMORY_BOUNDS
    )


def expected(plan: RowPlan, rows: int) -> dict[str, float]:
    """What metrics must come to at least in a step of `rows` rows: the variants that are asked for, as far as there are as many.

    Where their number follows the pace (`mc_target_tok_per_sec`), one of each row.
    """
    most = 1 if plan.config.mc_target_tok_per_sec else plan.config.mc_num_random_variants
    return {VARIANTS: float(rows * min(min(most, plan.compression(plan.width(stage)).possibilities) for stage in plan.stages))}


def watched(objective: Objective, rows: int) -> dict[str, Any]:
    """Keyword arguments of `open_metrics` for a memory: its metric bounds and the values they depend on, for steps of `rows`."""
    if not isinstance(objective, MCController):
        return {}
    least = expected(objective.plan, rows)
    return {"bounds": memory_targets(least), "least": least}
