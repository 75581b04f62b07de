"""Optimizer of the whole model: Muon for matrices, AdamW for the rest, sharded over the processes.

The state is saved by parameter name, independently of the number of processes. A stack of equal matrices is reduced and
updated in slices (each matrix has one owner), large tables by rows, small ones by all processes. What is exchanged moves in the
background (see `gradient_exchange`). New parameters travel in the dtype that the model reads them in: their owner keeps them in fp32, and
the model reads the same values everywhere; `gather_exactly` gives all processes the owners' values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.optim.adamw import adamw

from nanochat.checkpoint.restore import Saved, restore
from nanochat.common import UserError
from nanochat.flags import check, flag
from nanochat.model.gpt import GPT
from nanochat.train.gradient_exchange import GradientExchange, rank_and_world
from nanochat.train.muon import MuonExtras, muon_update, second_moment_shape
from nanochat.train.schedule import TrainPlan
from nanochat.train.shards import MatrixShard, RowShard

WIDTH_REFERENCE = 768  # AdamW's learning rates were tuned at this width and scale with 1/√width


@dataclass
class ParamGroup:
    """Parameters that share an update rule. `lr` is the nominal learning rate; the schedule multiplies it.

    The gradients of groups that are `apart` are clipped and checked apart from the others', which must not depend on them. The model
    casts large parameters to `read_as` whenever it reads them.
    """

    kind: Literal["muon", "adamw"]
    named: list[tuple[str, nn.Parameter]]
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.8, 0.96)  # adamw
    eps: float = 1e-10  # adamw
    momentum: float = 0.95  # muon; the schedule sets it
    extras: MuonExtras = field(default_factory=MuonExtras)  # muon
    apart: bool = False
    read_as: torch.dtype = torch.float32


@dataclass
class OptimFlags:
    """Nominal learning rates: tuned at depth 12 and half a million tokens per step; the run's plan scales them."""

    embedding_lr: float = flag(0.3, "learning rate of the token embedding (AdamW); value embeddings take half")
    unembedding_lr: float = flag(0.008, "learning rate of the LM head (AdamW)")
    matrix_lr: float = flag(0.02, "learning rate of the matrices (Muon)")
    scalar_lr: float = flag(0.5, "learning rate of the per-layer scalars (AdamW)")
    weight_decay: float = flag(0.28, "weight decay of the matrices")
    lr_mult: float = flag(1.0, "multiplies all learning rates", unit="×")
    wd_mult: float = flag(1.0, "multiplies the weight decay of the matrices", unit="×")
    grad_clip: float = flag(0.0, "maximum norm of the gradient; 0 = no clipping")

    def __post_init__(self) -> None:
        check(self, lambda value: 0 <= value < math.inf, "must be a number from 0", *vars(self))


def gpt_groups(model: GPT, prefix: str, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
    """Groups of a GPT's parameters, named `prefix` + their name: the layers' matrices to Muon, the rest to AdamW.

    Learning rates and betas follow karpathy/nanochat (July 2026).
    """
    scale = plan.lr_scale * flags.lr_mult
    wide = scale * (model.config.width / WIDTH_REFERENCE) ** -0.5
    named = {prefix + name: p for name, p in model.named_parameters()}
    gates = [n for n in named if n.startswith(f"{prefix}blocks.") and n.endswith("value_gate.weight")]
    matrices = [n for n in named if n.startswith(f"{prefix}blocks.") and n not in gates]

    def adamw_group(names: list[str], lr: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.8, 0.95)) -> ParamGroup:
        return ParamGroup("adamw", [(n, named[n]) for n in names], lr, weight_decay, betas, read_as=model.dtype)

    decay = flags.weight_decay * flags.wd_mult * plan.weight_decay_scale
    smear = [f"{prefix}{n}" for n in ("smear_gate.weight", "smear_lambda", "backout_lambda")]
    return [
        ParamGroup("muon", [(n, named[n]) for n in matrices], flags.matrix_lr * scale, decay, read_as=model.dtype),
        adamw_group([f"{prefix}lm_head.weight"], flags.unembedding_lr * wide, 0.01, (0.8, 0.96)),
        adamw_group([f"{prefix}wte.weight"], flags.embedding_lr * wide, 0.001, (0.8, 0.995)),
        adamw_group([f"{prefix}value_embeds.weight"], 0.5 * flags.embedding_lr * wide, 0.01, (0.8, 0.995)),
        adamw_group([f"{prefix}resid_lambdas"], 0.01 * flags.scalar_lr * scale, 0.05),
        adamw_group([f"{prefix}x0_lambdas"], flags.scalar_lr * scale, 0.0, (0.96, 0.95)),
        adamw_group(smear + gates, 0.2 * scale),
    ]


def check_coverage(module: nn.Module, groups: Iterable[ParamGroup]) -> None:
    """Asserts that each trainable parameter of `module` is in exactly one group."""
    seen: dict[int, str] = {}
    for group in groups:
        for name, p in group.named:
            assert id(p) not in seen, f"{name} is in two optimizer groups"
            seen[id(p)] = name
    missing = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in seen]
    assert not missing, f"in no optimizer group: {', '.join(missing)}"


class MuonAdamW:
    """Muon and AdamW over all groups; `step` takes the schedule's multipliers, the groups keep their nominal values.

    `dtype` is that of Muon's iteration. `compiled` fuses Muon's arithmetic (faster on CUDA).
    """

    def __init__(self, groups: list[ParamGroup], dtype: torch.dtype = torch.float32, compiled: bool = False) -> None:
        self.groups, self.dtype = groups, dtype
        self.rank, self.world = rank_and_world()
        self.compiled = compiled
        self._update = torch.compile(muon_update, dynamic=False) if compiled else muon_update
        self.apart_norm: Tensor | None = None  # of the newest gradients, after `clip_gradients`
        self._units: list[MuonStack | AdamShard] = []
        for group in groups:
            if group.kind == "muon":
                for shape in dict.fromkeys(p.shape for _, p in group.named):
                    self._units.append(self._stack(group, [(n, p) for n, p in group.named if p.shape == shape]))
            else:
                self._units += [self._table(group, name, p) for name, p in group.named]
        self._exchange = GradientExchange([bucket for unit in self._units for bucket in unit.buckets()])
        self._exact = True  # whether all processes have the owners' parameters in fp32

    def _stack(self, group: ParamGroup, named: list[tuple[str, nn.Parameter]]) -> MuonStack:
        return MuonStack(self, group, named)

    def _table(self, group: ParamGroup, name: str, param: nn.Parameter) -> AdamShard:
        return AdamShard(self, group, name, param)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameters in the form that `torch.amp.GradScaler` expects, without those that are apart."""
        return [{"params": [p for _, p in g.named]} for g in self.groups if not g.apart]

    def last_backward(self) -> AbstractContextManager[None]:
        """Context manager around a step's last backward: gradients are reduced as they are completed."""
        return self._exchange.overlapped()

    @torch.no_grad()
    def reduce_gradients(self, apart_scale: Tensor | None = None) -> None:
        """Averages the `.grad` of every parameter over the processes and clears it. Call it before `step`.

        Gradients of groups that are apart are divided by `apart_scale`, if given.
        """
        self._exchange.finish()
        for unit in self._units:
            if self.world > 1:
                unit.grad /= self.world
            if unit.group.apart and apart_scale is not None:
                unit.grad /= apart_scale

    @torch.no_grad()
    def clip_gradients(self, limit: float) -> Tensor:
        """Returns the norm (fp32 scalar) of the reduced gradient, and scales the gradient down to `limit` if that is > 0 and exceeded.

        Groups that are apart have a norm of their own: `apart_norm`.
        """
        squares = torch.zeros(2, device=self._units[0].grad.device)
        for unit in self._units:
            if unit.split or self.rank == 0:  # the first process counts a table that all share
                squares[int(unit.group.apart)] += torch.linalg.vector_norm(unit.grad).square()
        if self.world > 1:
            dist.all_reduce(squares)
        norms = squares.sqrt()
        if limit > 0:
            factors = (limit / norms).clamp(max=1.0)
            for unit in self._units:
                unit.grad.mul_(factors[int(unit.group.apart)])
        norm, self.apart_norm = norms.unbind()
        return norm

    @torch.no_grad()
    def step(
        self,
        lr: float = 1.0,
        momentum: float | None = None,
        weight_decay: float = 1.0,
        keep: Tensor | None = None,
        keep_apart: Tensor | None = None,
    ) -> None:
        """Updates the parameters from the reduced gradients. `lr` and `weight_decay` multiply the nominal values (the latter
        only for Muon). If `keep` (fp32 scalar on the parameters' device: 1 or 0) is 0, the step changes nothing; `keep_apart` is that
        of the groups that are apart, by default the same."""
        for unit in self._units:
            unit.update(lr, momentum, weight_decay, keep_apart if unit.group.apart and keep_apart is not None else keep)
            unit.begin_gather(unit.group.read_as)
        for unit in self._units:
            unit.end_gather()
        self._exact = self.world == 1 or all(group.read_as == torch.float32 for group in self.groups)

    @torch.no_grad()
    def gather_exactly(self) -> None:
        """Gives all processes the owners' parameters in fp32, before anything but the model's training reads them. All call it."""
        if self._exact:
            return
        lossy = [unit for unit in self._units if unit.split and unit.group.read_as != torch.float32]
        for unit in lossy:
            unit.begin_gather(torch.float32)
        for unit in lossy:
            unit.end_gather()
        self._exact = True

    def state_tensors(self) -> dict[str, Tensor]:
        """This process's part of the state, by parameter name."""
        state: dict[str, Tensor] = {}
        for unit in self._units:
            state.update(unit.state())
        return state

    def load_state_tensors(self, state: Mapping[str, Saved]) -> None:
        """Restores the union of the `state_tensors` of all processes; if their number has not changed, those of rank 0 and this one do.

        Reads what this process owns and no more. Raises `UserError` if one is missing or has another shape.
        """
        for unit in self._units:
            unit.load(state)

    def number(self, value: float) -> float | Tensor:
        """Wraps changing floats as tensors, so that torch.compile does not recompile for each value."""
        return torch.tensor(value) if self.compiled else value


class MuonStack(MatrixShard):
    """Matrices of one shape in a group, and the state of those that this process owns."""

    def __init__(self, owner: MuonAdamW, group: ParamGroup, named: list[tuple[str, nn.Parameter]]) -> None:
        super().__init__(named, owner.rank, owner.world)
        self.owner, self.group = owner, group
        self.momentum = self.empty(len(self.owned)).zero_()
        squares = second_moment_shape(self.momentum.shape)
        device = self.momentum.device
        self.second_moment = torch.zeros(squares, device=device) if group.extras.variance_beta is not None else None
        self.one = torch.ones((), device=device)

    def update(self, lr: float, momentum: float | None, weight_decay: float, keep: Tensor | None) -> None:
        if not self.owned:
            return
        group, number = self.group, self.owner.number
        params = torch.stack([p.data for _, p in self.owned])
        m, n = params.shape[1:]
        new = self.owner._update(
            params, self.grad, self.momentum, self.second_moment, self.one if keep is None else keep,
            lr=number(group.lr * lr * max(1.0, m / n) ** 0.5), mu=number(group.momentum if momentum is None else momentum),
            weight_decay=number(group.weight_decay * weight_decay), decay_lr=number(group.lr * lr),
            dtype=self.owner.dtype, extras=group.extras,
        )  # fmt: skip
        torch._foreach_copy_([p.data for _, p in self.owned], list(new.unbind()))
        self.grad = self.empty(0)

    def state(self) -> dict[str, Tensor]:
        out = {}
        for i, (name, _) in enumerate(self.owned):
            out[f"{name}.momentum"] = self.momentum[i]
            if self.second_moment is not None:
                out[f"{name}.second_moment"] = self.second_moment[i]
        return out

    def load(self, state: Mapping[str, Saved]) -> None:
        for i, (name, _) in enumerate(self.owned):
            _restore(self.momentum[i], state, f"{name}.momentum")
            if self.second_moment is not None:
                _restore(self.second_moment[i], state, f"{name}.second_moment")


class AdamShard(RowShard):
    """Parameter under AdamW, and the state of the part that this process owns."""

    def __init__(self, owner: MuonAdamW, group: ParamGroup, name: str, param: nn.Parameter) -> None:
        super().__init__(name, param, owner.rank, owner.world)
        self.owner, self.group = owner, group
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.mine), torch.zeros_like(self.mine)
        self.steps = torch.zeros((), device=param.device)

    def update(self, lr: float, momentum: float | None, weight_decay: float, keep: Tensor | None) -> None:
        group = self.group
        adamw(
            [self.mine], [self.grad], [self.exp_avg], [self.exp_avg_sq], [], [self.steps], fused=True, amsgrad=False, maximize=False,
            beta1=group.betas[0], beta2=group.betas[1], lr=group.lr * lr, weight_decay=group.weight_decay, eps=group.eps,
            found_inf=None if keep is None else 1 - keep,
        )  # fmt: skip
        self.grad = None

    def state(self) -> dict[str, Tensor]:
        if not self.split and self.owner.rank > 0:
            return {}
        suffix = f"@{self.first}" if self.split else ""
        out = {f"{self.name}.exp_avg{suffix}": self.exp_avg, f"{self.name}.exp_avg_sq{suffix}": self.exp_avg_sq}
        return out | ({f"{self.name}.steps": self.steps} if self.owner.rank == 0 else {})

    def load(self, state: Mapping[str, Saved]) -> None:
        for key, mine in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            _restore(mine, state, f"{self.name}.{key}", self.param.shape, self.first)
        _restore(self.steps, state, f"{self.name}.steps")


def _restore(target: Tensor, state: Mapping[str, Saved], key: str, whole: torch.Size | None = None, first: int = 0) -> None:
    """Fills `target` from `key`, or from its row parts `key@FIRST_ROW` if it was saved in parts; it is the rows from `first` of a
    tensor of shape `whole`, by default all."""
    whole = target.shape if whole is None else whole
    parts = {0: state[key]} if key in state else {int(k.rpartition("@")[2]): state[k] for k in state if k.startswith(f"{key}@")}
    trouble = f"{key} is missing"
    if parts:
        shape = next(iter(parts.values())).shape
        if key not in state:
            shape = torch.Size([sum(part.shape[0] for part in parts.values()), *shape[1:]])
        trouble = f"{key} is {list(shape)}, not {list(whole)}"
        if shape == whole or (key not in state and shape[1:] == whole[1:] and shape[0] < whole[0]):
            with suppress(ValueError):  # parts are missing, those of other processes or the ones looked for
                return restore(target, parts, first)
    raise UserError(f"the saved optimizer state does not fit this model: {trouble}; start again with --resume never")
