"""Where experiments are run: the flags of base_train that all runs of a cycle share, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from nanochat.common import UserError

Flags = dict[str, str | int | float | bool]

# The lab itself sets these.
OWNED = ("model_tag", "run", "resume", "seed", "init_from", "keep_checkpoints", "save_every")


@dataclass(frozen=True)
class Profile:
    """A scale at which ideas are compared.

    `flags` go to base_train; they name depth, max_seq_len, device_batch_size and total_batch_size (−1 = by the law) at least.
    """

    name: str
    about: str
    vocab_size: int  # of the tokenizer it was measured with
    flags: Flags
    metric: str = "val/bpb"  # what the target is a value of: val/bpb or train/loss
    seeds: int = 3
    jobs: int = 1  # runs at a time, which share the cores
    depths: tuple[int, ...] = ()  # of the miniseries
    scaling_depths: tuple[int, ...] = ()
    scaling_flops: tuple[float, ...] = ()  # budgets of the scaling laws

    def __post_init__(self) -> None:
        missing = [n for n in ("depth", "max_seq_len", "device_batch_size", "total_batch_size") if n not in self.flags]
        if missing:
            raise ValueError(f"profile {self.name}: flags do not name {', '.join(missing)}")
        if owned := [name for name in OWNED if name in self.flags]:
            raise ValueError(f"profile {self.name}: {owned[0]} is set by the lab; leave it out")
        if self.metric not in ("val/bpb", "train/loss"):
            raise ValueError(f"profile {self.name}: metric is {self.metric!r}; it must be val/bpb or train/loss")
        for name in ("seeds", "jobs", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"profile {self.name}: {name} is {getattr(self, name)}; it must be at least 1")

    def record(self) -> dict[str, Any]:
        """Plain JSON; the inverse of `from_record`."""
        return asdict(self)

    @staticmethod
    def from_record(record: dict[str, Any]) -> Profile:
        """Raises `ValueError` for names it does not know, and for values that make no profile."""
        known = {field.name for field in fields(Profile)}
        if unknown := sorted(record.keys() - known):
            raise ValueError(f"a profile has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
        if missing := [name for name in ("name", "about", "vocab_size", "flags") if name not in record]:
            raise ValueError(f"the profile does not say its {missing[0]}")
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
                "lr_mult": 7.0,
                "wd_mult": 0.15,
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
                "lr_mult": 5.0,
                "wd_mult": 0.2,
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
    """The profile of that name, or that of a YAML file. Raises `ValueError` or, for an unreadable file, `UserError`."""
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
    """The mapping in `path`. Raises `UserError` where there is none."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no mapping of names to values")
    return value
