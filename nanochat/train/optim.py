"""Optimizer of the whole model: Muon for matrices, AdamW for the rest, sharded over the processes.

The state is saved by parameter name, independently of the number of processes. A stack of equal matrices is reduced and
updated in slices (each matrix has one owner), large tables by rows, small ones by all processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
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
from nanochat.train.muon import MuonExtras, muon_update, second_moment_shape
from nanochat.train.schedule import TrainPlan

WIDTH_REFERENCE = 768  # AdamW's learning rates were tuned at this width and scale with 1/√width
ROW_SHARD_MIN = 1 << 16  # tables below this many elements are updated by every process


@dataclass
class ParamGroup:
    """Parameters that share an update rule. `lr` is the nominal learning rate; the schedule multiplies it.

    The gradients of groups that are `apart` are clipped and checked apart from the others', which must not depend on them.
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
        return ParamGroup("adamw", [(n, named[n]) for n in names], lr, weight_decay, betas)

    decay = flags.weight_decay * flags.wd_mult * plan.weight_decay_scale
    smear = [f"{prefix}{n}" for n in ("smear_gate.weight", "smear_lambda", "backout_lambda")]
    return [
        ParamGroup("muon", [(n, named[n]) for n in matrices], flags.matrix_lr * scale, decay),
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
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self._compiled = compiled
        self._update = torch.compile(muon_update, dynamic=False) if compiled else muon_update
        self.apart_norm: Tensor | None = None  # of the newest gradients, after `clip_gradients`
        self._units: list[_MuonStack | _AdamShard] = []
        for group in groups:
            if group.kind == "muon":
                for shape in dict.fromkeys(p.shape for _, p in group.named):
                    self._units.append(_MuonStack(self, group, [(n, p) for n, p in group.named if p.shape == shape]))
            else:
                self._units += [_AdamShard(self, group, name, p) for name, p in group.named]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameters in the form that `torch.amp.GradScaler` expects, without those that are apart."""
        return [{"params": [p for _, p in g.named]} for g in self.groups if not g.apart]

    @torch.no_grad()
    def reduce_gradients(self, apart_scale: Tensor | None = None) -> None:
        """Averages the `.grad` of every parameter over the processes and clears it. Call it before `step`.

        Gradients of groups that are apart are divided by `apart_scale`, if given.
        """
        for unit in self._units:
            unit.reduce()
            if unit.group.apart and apart_scale is not None:
                unit.grad /= apart_scale
        for group in self.groups:
            for _, p in group.named:
                p.grad = None

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
        for unit in self._units:
            unit.gather()

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

    def _number(self, value: float) -> float | Tensor:
        """Wraps changing floats as tensors, so that torch.compile does not recompile for each value."""
        return torch.tensor(value) if self._compiled else value


class _MuonStack:
    """Matrices of one shape in a group; this process owns a slice of the stack."""

    def __init__(self, owner: MuonAdamW, group: ParamGroup, named: list[tuple[str, nn.Parameter]]) -> None:
        self.owner, self.group, self.named = owner, group, named
        self.split = owner.world > 1
        m, n = named[0][1].shape
        self.per_rank = math.ceil(len(named) / owner.world)
        self.first = owner.rank * self.per_rank
        device = named[0][1].device
        self.momentum = torch.zeros(self.per_rank, m, n, device=device)
        squares = second_moment_shape(self.momentum.shape)
        self.second_moment = torch.zeros(squares, device=device) if group.extras.variance_beta is not None else None
        self.one = torch.ones((), device=device)
        self.grad: Tensor | None = None  # of this process's slice
        self.mine: Tensor | None = None  # the slice's new parameters

    @property
    def owned(self) -> list[tuple[str, nn.Parameter]]:
        return self.named[self.first : self.first + self.per_rank]

    def reduce(self) -> None:
        self.grad = torch.stack([_gradient(name, p) for name, p in self.named])
        if self.split:
            self.grad = _reduce_scatter(_padded(self.grad, self.per_rank * self.owner.world), self.momentum)

    def update(self, lr: float, momentum: float | None, weight_decay: float, keep: Tensor | None) -> None:
        group, number = self.group, self.owner._number
        owned = [p.data for _, p in self.owned]
        params = _padded(torch.stack(owned), self.per_rank) if owned else torch.zeros_like(self.momentum)
        m, n = params.shape[1:]
        self.mine = self.owner._update(
            params, self.grad, self.momentum, self.second_moment, self.one if keep is None else keep,
            lr=number(group.lr * lr * max(1.0, m / n) ** 0.5), mu=number(group.momentum if momentum is None else momentum),
            weight_decay=number(group.weight_decay * weight_decay), decay_lr=number(group.lr * lr),
            dtype=self.owner.dtype, extras=group.extras,
        )  # fmt: skip

    def gather(self) -> None:
        everything = self.mine
        if self.split:
            everything = self.mine.new_empty(self.per_rank * self.owner.world, *self.mine.shape[1:])
            _all_gather(everything, self.mine.contiguous())
        torch._foreach_copy_([p.data for _, p in self.named], list(everything[: len(self.named)].unbind()))
        self.mine = self.grad = None

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


class _AdamShard:
    """Parameter under AdamW; large ones are split by rows, and this process owns one part."""

    def __init__(self, owner: MuonAdamW, group: ParamGroup, name: str, param: nn.Parameter) -> None:
        self.owner, self.group, self.name, self.param = owner, group, name, param
        self.split = owner.world > 1 and param.numel() >= ROW_SHARD_MIN and param.shape[0] % owner.world == 0
        self.first = owner.rank * (param.shape[0] // owner.world) if self.split else 0
        self.mine = self._part_of(param.data)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.mine), torch.zeros_like(self.mine)
        self.steps = torch.zeros((), device=param.device)
        self.grad: Tensor | None = None

    def _part_of(self, whole: Tensor) -> Tensor:
        return whole[self.first : self.first + whole.shape[0] // self.owner.world] if self.split else whole

    def reduce(self) -> None:
        self.grad = _gradient(self.name, self.param)
        if self.split:
            self.grad = _reduce_scatter(self.grad, self.mine)
        elif self.owner.world > 1:
            dist.all_reduce(self.grad, op=dist.ReduceOp.SUM)
            self.grad /= self.owner.world

    def update(self, lr: float, momentum: float | None, weight_decay: float, keep: Tensor | None) -> None:
        group = self.group
        adamw(
            [self.mine], [self.grad], [self.exp_avg], [self.exp_avg_sq], [], [self.steps], fused=True, amsgrad=False, maximize=False,
            beta1=group.betas[0], beta2=group.betas[1], lr=group.lr * lr, weight_decay=group.weight_decay, eps=group.eps,
            found_inf=None if keep is None else 1 - keep,
        )  # fmt: skip

    def gather(self) -> None:
        if self.split:
            _all_gather(self.param.data, self.mine.clone())
        torch.autograd.graph.increment_version(self.param)  # `.data` hides the change from who keeps a cast copy
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


def _gradient(name: str, param: nn.Parameter) -> Tensor:
    assert param.grad is not None, f"{name} got no gradient"
    return param.grad


def _padded(stack: Tensor, count: int) -> Tensor:
    """Pads `stack` with zero matrices to `count` of them."""
    missing = count - stack.shape[0]
    return torch.cat([stack, stack.new_zeros(missing, *stack.shape[1:])]) if missing else stack


def _reduce_scatter(total: Tensor, like: Tensor) -> Tensor:
    """Mean over the processes of this process's part of `total`, in the shape of `like`."""
    mine = torch.empty_like(like)
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # the name before torch 2.13
    reduce_scatter(mine, total, op=dist.ReduceOp.SUM)
    return mine.div_(dist.get_world_size())


def _all_gather(everything: Tensor, mine: Tensor) -> None:
    """Gathers `mine` of all processes, in their order, into `everything`."""
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name before torch 2.13
    all_gather(everything, mine)


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
