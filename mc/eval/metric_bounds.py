"""Metric bounds of a memory; see `nanochat.tracking.metric_bounds`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mc.row_plan import RowPlan
from mc.train.controller import MCController
from nanochat.tracking.metric_bounds import Band, Falling, MetricBound, Steady, Toward
from nanochat.train.objective import Objective

VARIANTS = "mc/variants_total"

MEMORY_BOUNDS = (
    MetricBound(
        "mc/delta_nll@*",
        Band(high=0.10, alert_high=0.15, window=3, least=2),
        "loss of the H tokens after LensNet's layout above that with the full history, in nats",
        "mc/gist_kl (gists) and mc/lens_explained (LensNet), or a tokenizer other than the checkpoint's",
    ),
    MetricBound(
        "mc/swap_rate",
        Steady(Band(0.05, 0.20, alert_high=0.25)),
        "share of the Working Context's blocks that a refocus edits",
        "--mc-infer-refocus-interval (with layer-0 gists the allocator's thresholds too); train LensNet longer",
    ),
    MetricBound(
        "mc/residency",
        Band(0.90, 1.0, alert_low=0.80),
        "share of a Working Context's entries in use",
        "--allocator-soft-max-length: room for less than a block stays free",
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
        "variants in a step: the configured number for each row that has variants",
        "--mc-num-random-variants, and whether rows are long enough to compress",
    ),
    MetricBound(
        "mc/adv_delta_mean",
        Toward(0.0, slack=0.05, furthest=0.15),
        "loss of variants on the horizon above that of plain rows, in nats",
        "mc/adv_delta_p95 and mc/variant_width: gists that lose what is needed",
    ),
    MetricBound(
        "mc/preference_corr_mean",
        Toward(-1.0, slack=0.1, furthest=1.0),
        "correlation of LensNet's preferences with the losses of layouts: −1 is perfect",
        "mc/pref_span_corr and mc/lens_pairs: LensNet does not rank layouts by their loss",
    ),
    MetricBound(
        "mc/lens_explained",
        Band(low=0.1, alert_low=0.02),
        "share of the teachers' signal that LensNet's scores explain: 0 = as even scores, 1 = all",
        "mc/lens_loss and mc/policy_score_std_mean: whether LensNet still learns, and whether its scores vary at all",
    ),
    MetricBound(
        "mc/variant_pack_ms",
        Band(high=10, alert_high=10),
        "milliseconds of a step spent on gathering the variants' entries",
        "the number and width of variants, and whether the device is shared",
    ),
    MetricBound(
        "mc/time_controller_ms",
        Band(high=200, alert_high=200),
        "milliseconds of a step spent in the controller, without its networks",
        "its parts, mc/*_ms: which of them has grown",
    ),
)


def memory_bounds(least: Mapping[str, float]) -> tuple[MetricBound, ...]:
    """Bounds of a run; `least` replaces the lower bounds of some metrics, by name (see `expected`)."""
    return tuple(
        dataclasses.replace(bound, rule=dataclasses.replace(bound.rule, low=least[bound.metric], alert_low=least[bound.metric]))
        if isinstance(bound.rule, Band) and bound.metric in least
        else bound
        for bound in MEMORY_BOUNDS
    )


def expected(plan: RowPlan, rows: int) -> dict[str, float]:
    """Least values of metrics in a step in which `rows` rows have variants: the configured number, or as many as exist.

    If the number adapts to the throughput (`mc_target_tok_per_sec`), one of each row.
    """
    most = 1 if plan.config.mc_target_tok_per_sec else plan.config.mc_num_random_variants
    return {VARIANTS: float(rows * min(min(most, plan.compression(plan.width(stage)).possibilities) for stage in plan.stages))}


def bounds_for(objective: Objective, rows: int) -> dict[str, Any]:
    """Keyword arguments of `open_metrics` for an objective with a memory: its metric bounds and their parameters, for steps of `rows`."""
    if not isinstance(objective, MCController):
        return {}
    micro_batches = objective.micro_batches
    least = expected(objective.plan, micro_batches * objective.config.compressed_rows(rows // micro_batches))
    return {"bounds": memory_bounds(least), "least": least}
