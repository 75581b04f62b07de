"""Profiles: the flags of base_train that all runs of a cycle share, as data, and the knobs that change them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from nanochat.common import UserError

Flags = dict[str, str | int | float | bool]

# Flags that the lab itself sets.
OWNED = ("model_tag", "run", "resume", "seed", "init_from", "keep_checkpoints", "save_every")
HORIZON = ("num_iterations", "target_flops", "target_param_data_ratio")
RELATIVE = ("batch_mult", "horizon_mult", "depth_mult", "head_dim_mult")
AROUND = ("lr_mult", "wd_mult")  # flags of base_train whose knobs multiply the profile's values
METRICS = ("val/bpb", "train/loss")
MOST_ROUNDING = 0.25  # of the rows of a step, to find a batch that micro-batches divide


@dataclass(frozen=True)
class Profile:
    """Scale at which ideas are compared.

    `flags` of base_train must include depth, max_seq_len, device_batch_size and total_batch_size (−1 = by the law).
    """

    name: str
    about: str
    vocab_size: int  # of its tokenizer
    flags: Flags
    metric: str = "val/bpb"  # of the target: one of `METRICS`
    seeds: int = 3
    jobs: int = 1  # runs at a time, which share the cores
    depths: tuple[int, ...] = ()  # of the miniseries
    scaling_depths: tuple[int, ...] = ()
    scaling_flops: tuple[float, ...] = ()  # budgets of the scaling laws

    def __post_init__(self) -> None:
        missing = [n for n in ("depth", "max_seq_len", "device_batch_size", "total_batch_size") if n not in self.flags]
        if missing:
            raise ValueError(f"profile {self.name}: flags lack {', '.join(missing)}")
        if owned := [name for name in OWNED if name in self.flags]:
            raise ValueError(f"profile {self.name}: {owned[0]} is set by the lab; leave it out")
        if self.metric not in METRICS:
            raise ValueError(f"profile {self.name}: metric is {self.metric!r}; it must be {' or '.join(METRICS)}")
        for name in ("seeds", "jobs", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"profile {self.name}: {name} is {getattr(self, name)}; it must be at least 1")

    def record(self) -> dict[str, Any]:
        """The profile as JSON; the inverse of `from_record`."""
        return asdict(self)

    @staticmethod
    def from_record(record: dict[str, Any]) -> Profile:
        """The profile in a JSON or YAML record. Raises `ValueError` for unknown names and invalid values."""
        known = {field.name for field in fields(Profile)}
        if unknown := sorted(record.keys() - known):
            raise ValueError(f"a profile has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
        if missing := [name for name in ("name", "about", "vocab_size", "flags") if name not in record]:
            raise ValueError(f"the profile has no {missing[0]}")
        lists = {name: tuple(record[name]) for name in ("depths", "scaling_depths", "scaling_flops") if name in record}
        return Profile(**record | lists)


_SMALL = {"dataset": "local", "device_type": "cpu", "head_dim": 64, "sample_every": -1}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "cpu-micro",
            "a minute or two a run on one core, two runs at a time",
            8192,
            {
                **_SMALL,
                "depth": 2,
                "aspect_ratio": 64,
                "max_seq_len": 256,
                "device_batch_size": 16,
                "total_batch_size": 4096,
                "num_iterations": 300,
                "log_every": 10,
                "eval_every": 15,
                "eval_tokens": 32768,
            },
            jobs=2,
            depths=(1, 2, 3),
            scaling_depths=(1, 2, 3, 4),
            scaling_flops=(8e12, 16e12, 32e12),
        ),
        Profile(
            "cpu",
            "the scale of run10.sh's demo: minutes a run on two cores",
            8192,
            {
                **_SMALL,
                "depth": 4,
                "max_seq_len": 512,
                "device_batch_size": 8,
                "total_batch_size": 8192,
                "num_iterations": 260,
                "log_every": 10,
                "eval_every": 15,
                "eval_tokens": 65536,
            },
            depths=(2, 4, 6),
            scaling_depths=(2, 3, 4, 6),
            scaling_flops=(2e13, 5e13, 1e14),
        ),
        Profile(
            "m1-d12",
            "depth 12 on a laptop: an hour or more a run",
            32768,
            {
                "depth": 12,
                "head_dim": 128,
                "window_pattern": "L",
                "max_seq_len": 512,
                "device_batch_size": 16,
                "total_batch_size": 16384,
                "eval_every": 100,
                "eval_tokens": 524288,
                "sample_every": -1,
                "num_iterations": 1500,
            },
            seeds=2,
            depths=(8, 10, 12, 14),
            scaling_depths=(6, 8, 10, 12),
            scaling_flops=(1e16, 2e16, 4e16),
        ),
        Profile(
            "gpu-d12",
            "depth 12 on one GPU, batch and horizon by the laws",
            32768,
            {
                "device_type": "cuda",
                "depth": 12,
                "head_dim": 128,
                "max_seq_len": 2048,
                "device_batch_size": 32,
                "total_batch_size": -1,
                "eval_every": 100,
                "eval_tokens": 2_097_152,
                "sample_every": -1,
                "log_every": 20,
            },
            depths=(10, 12, 14, 16),
            scaling_depths=(8, 10, 12, 14, 16),
            scaling_flops=(1e18, 2.15e18, 4.64e18),
        ),
    )
}


def load_profile(name: str) -> Profile:
    """Loads a profile by name, or from a YAML file. Raises `ValueError` or, for an unreadable file, `UserError`."""
    if name in PROFILES:
        return PROFILES[name]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"profile is {name!r}; it must be {', '.join(PROFILES)} or a YAML file")
    record = read_yaml(Path(name))
    try:
        return Profile.from_record({"name": Path(name).stem} | record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping. Raises `UserError` if `path` has none."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"invalid YAML in {path}: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise UserError(f"invalid YAML in {path}: expected a mapping of names to values")
    return value


def check_knobs(knobs: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises `ValueError` for an unknown knob or a value of another type. `defaults` are base_train's flags."""
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
    """Applies `knobs` to the flags `base` of base_train. Raises `ValueError` if the result is impossible."""
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
    """Flags as command-line arguments."""
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
    """Batch nearest to the wanted rows that micro-batches of at least half the profile's size divide, and the steps for it."""
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
