"""From what an experiment changes to the flags of base_train: relative knobs are worked out, coupled ones follow.

Beside every flag of base_train there are four relative knobs:
`batch_mult`, tokens per step against the profile's; the steps follow, so that the tokens of the run stay the same;
`horizon_mult`, tokens of the run against the profile's;
`depth_mult`, layers against the profile's; the width follows as 1/√depth, so that the matrices keep their parameters;
`head_dim_mult`, size of an attention head against the profile's, at the same width.
Rates need nothing else: base_train sets η ∝ √B and λ by τ = B/(η·λ·D) from the batch and the steps it is given, and `lr_mult`
and `wd_mult` act around that (see `nanochat.train.schedule`); as knobs they multiply those of the profile, where it has any.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from nanochat.lab.profiles import OWNED, Flags

HORIZON = ("num_iterations", "target_flops", "target_param_data_ratio")
RELATIVE = ("batch_mult", "horizon_mult", "depth_mult", "head_dim_mult")
AROUND = ("lr_mult", "wd_mult")  # flags of base_train whose knobs multiply the profile's
MOST_ROUNDING = 0.25  # of the rows of a step, in search of a batch that micro-batches divide


def check_knobs(knobs: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a name that is no knob, and for a value of another kind. `defaults` are base_train's flags."""
    for name, value in knobs.items():
        if name in OWNED:
            raise ValueError(f"{name} is set by the lab; leave it out")
        if name not in defaults and name not in RELATIVE:
            close = difflib.get_close_matches(name, [*defaults, *RELATIVE], n=1)
            raise ValueError(f"unknown knob {name!r}" + (f"; did you mean {close[0]}?" if close else "; knobs are the flags of base_train"))
        example = defaults.get(name, 1.0)
        good = isinstance(value, type(example)) or (isinstance(example, float) and isinstance(value, int))
        if not good or (isinstance(value, bool) and not isinstance(example, bool)):
            raise ValueError(f"{name} is {value!r}; it must be {_kind(example)}")
        if name in RELATIVE and not 0 < value < 100:
            raise ValueError(f"{name} is {value}; it must be a positive factor")


def resolve(base: Mapping[str, Any], knobs: Mapping[str, Any], defaults: Mapping[str, Any]) -> Flags:
    """The flags of base_train for `knobs` around the flags `base`. Raises `ValueError` where they cannot be had."""
    flags: Flags = {**base, **{name: value for name, value in knobs.items() if name not in RELATIVE}}
    flags |= {name: base[name] * knobs[name] for name in AROUND if name in base and name in knobs}
    factor = {name: float(knobs.get(name, 1.0)) for name in RELATIVE}
    if factor["depth_mult"] != 1 or factor["head_dim_mult"] != 1:
        flags |= _shape(defaults | flags, factor["depth_mult"], factor["head_dim_mult"])
    if factor["horizon_mult"] != 1:
        flags |= _horizon(defaults | flags, factor["horizon_mult"])
    if factor["batch_mult"] != 1:
        flags |= _batch(defaults | flags, factor["batch_mult"])
    return flags


def argv(flags: Mapping[str, Any]) -> list[str]:
    """The flags as arguments."""
    return [f"--{name.replace('_', '-')}={int(v) if isinstance(v, bool) else v}" for name, v in flags.items()]


def _shape(flags: Mapping[str, Any], depth_mult: float, head_dim_mult: float) -> Flags:
    depth, head_dim = max(1, round(flags["depth"] * depth_mult)), round(flags["head_dim"] * head_dim_mult)
    width = -(-flags["depth"] * flags["aspect_ratio"] // flags["head_dim"]) * flags["head_dim"]
    wanted = max(1, round(width * (flags["depth"] / depth) ** 0.5 / head_dim)) * head_dim
    aspect = wanted // depth
    got = -(-depth * aspect // head_dim) * head_dim
    if got != wanted:
        raise ValueError(f"no aspect_ratio gives depth {depth} the width {wanted} with heads of {head_dim}; choose another depth_mult")
    return {"depth": depth, "head_dim": head_dim, "aspect_ratio": aspect}


def _horizon(flags: Mapping[str, Any], factor: float) -> Flags:
    if flags["num_iterations"] > 0:
        return {"num_iterations": max(1, round(flags["num_iterations"] * factor))}
    name = "target_flops" if flags["target_flops"] > 0 else "target_param_data_ratio"
    return {name: flags[name] * factor}


def _batch(flags: Mapping[str, Any], factor: float) -> Flags:
    """Rows nearest to the wanted ones that micro-batches of half the profile's size or more divide; the steps follow."""
    if flags["total_batch_size"] < 1:
        return {"batch_mult": factor}
    T, most = flags["max_seq_len"], flags["device_batch_size"]
    before = flags["total_batch_size"] // T
    wanted = before * factor
    low, high = math.ceil(wanted * (1 - MOST_ROUNDING)), math.floor(wanted * (1 + MOST_ROUNDING))
    near = sorted(range(max(1, low), high + 1), key=lambda rows: abs(rows - wanted))
    for rows in near:
        micro = next(m for m in range(min(most, rows), 0, -1) if rows % m == 0)
        if rows != before and 2 * micro >= min(most, rows):
            steps = {}
            if flags["num_iterations"] > 0:
                steps["num_iterations"] = max(1, round(flags["num_iterations"] * before / rows))
            return {"total_batch_size": rows * T, "device_batch_size": micro, **steps}
    raise ValueError(
        f"no batch near {factor} × {before} rows of {T} tokens is a multiple of a micro-batch; use a smaller device_batch_size"
    )


def _kind(example: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(type(example), "a text")
