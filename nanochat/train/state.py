"""Trainer state between steps, and resuming it from a checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint.processes import ALONE, Processes
from nanochat.checkpoint.store import Checkpoint, CheckpointStore
from nanochat.common import UserError
from nanochat.train.schedule import Leg

LOSS_BETA = 0.9  # of the running mean in train/loss


@dataclass
class DebiasedEMA:
    """Exponential moving average without the bias towards its zero start (Adam's bias correction, arXiv 1412.6980)."""

    beta: float
    total: float = 0.0
    weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta is {self.beta}; it must lie in [0, 1)")

    def update(self, value: float) -> float:
        """Adds `value` and returns the average. Raises `ValueError` for NaN or infinity, which would never leave it."""
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot enter a moving average")
        self.total = self.beta * self.total + (1.0 - self.beta) * value
        self.weight = self.beta * self.weight + (1.0 - self.beta)
        return self.value

    @property
    def value(self) -> float:
        """The average so far; NaN before the first value."""
        return self.total / self.weight if self.weight else math.nan

    def state_dict(self) -> dict[str, float]:
        """JSON that `load_state_dict` restores bit for bit."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`."""
        self.total, self.weight = state["total"], state["weight"]


@dataclass
class TrainState:
    """A run at a step boundary, besides the weights, the optimizer and the random generators."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps
    loss: DebiasedEMA = field(default_factory=lambda: DebiasedEMA(LOSS_BETA))
    bad_losses: list[int] = field(default_factory=list)  # the latest consecutive steps whose loss was not finite
    record: dict[str, Any] | None = None  # the training metrics to be logged at this boundary
    leg: Leg = field(default_factory=Leg)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return vars(self) | {"loss": self.loss.state_dict(), "leg": asdict(self.leg)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.loss.load_state_dict(state["loss"])
        self.leg = Leg(**state.get("leg", {}))  # runs of older versions have one
        for name in ("step", "seconds", "bad_losses", "record"):
            setattr(self, name, state[name])


def random_states(device: torch.device, rank: int) -> dict[str, Tensor]:
    """State of PyTorch's generators in this process, uint8, by name."""
    states = {f"cpu.rank{rank}": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"cuda.rank{rank}"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Tensor], device: torch.device, rank: int) -> None:
    """Restores the generators; a process that did not exist when they were saved keeps its own."""
    if f"cpu.rank{rank}" in states:
        torch.set_rng_state(states[f"cpu.rank{rank}"])
    if device.type == "cuda" and f"cuda.rank{rank}" in states:
        torch.cuda.set_rng_state(states[f"cuda.rank{rank}"], device)


def open_checkpoint(store: CheckpointStore, resume: str, say: Callable[[str], None], processes: Processes = ALONE) -> Checkpoint | None:
    """The checkpoint that `--resume` names: `auto` the newest valid one, a number that step, `never` none.

    Raises `UserError` if there are checkpoints but none is valid, or if the requested step is missing or invalid.
    """
    if resume == "never":
        return None
    if resume != "auto":
        return store.load(int(resume), processes=processes)
    checkpoint = store.load_newest(say, processes=processes)
    if checkpoint is None and store.steps():
        raise UserError(f"no checkpoint in {store.folder} is valid; start again with --resume never (they are then set aside)")
    return checkpoint


def set_aside(store: CheckpointStore, say: Callable[[str], None]) -> None:
    """Renames the folder of an earlier run, so that a new one starts in an empty folder and nothing is lost."""
    if not store.folder.exists():
        return
    number = 1
    while (aside := store.folder.with_name(f"{store.folder.name}.old{number}")).exists():
        number += 1
    try:
        os.rename(store.folder, aside)
    except OSError as error:
        raise UserError(f"cannot rename {store.folder}: {error.strerror}; move it away or use another --model-tag") from error
    say(f"earlier checkpoints are now in {aside}")


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any], folder: object) -> None:
    """Raises `UserError` naming the first key in which a checkpoint differs from the run that would resume it.

    A key that one side lacks counts as its value in `defaults`: settings that are off may be left out, and a checkpoint of an
    older version lacks the settings added since, whose defaults are what that version did.
    """
    for name in [*now, *saved]:
        theirs, mine = (values.get(name, defaults.get(name)) for values in (saved, now))
        if theirs != mine:
            theirs, mine = ("none" if value in (None, "") else value for value in (theirs, mine))
            raise UserError(
                f"the checkpoint in {folder} has {name} {theirs}, this run {mine}; "
                "use another --model-tag, or --resume never to start again"
            )
