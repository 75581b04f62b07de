"""Model whose weights and gradients are sharded over the processes: FSDP2 (arXiv 2304.11277) with a unit for each layer and table.

A process keeps a part of the rows of every matrix and large table, gathers a unit's weights when it computes, forward and backward, and
reduces its gradients then. What is small is whole everywhere. Checkpoints have whole tensors, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

from nanochat.runtime.device import Runtime
from nanochat.train.objective import Objective
from nanochat.train.optim import ParamGroup
from nanochat.train.shards import splits

# `torch.distributed.fsdp` is imported in functions: it takes half a second, which runs that shard nothing need not wait for.


def shard_model(objective: Objective, groups: Iterable[ParamGroup], runtime: Runtime) -> None:
    """Shards the weights of the objective's model: Muon's matrices and the tables that the optimizer splits; moves them to the device.

    `groups` are those of the whole parameters, which new ones replace.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    model, world = objective.model, runtime.world_size
    whole = {p for g in groups for _, p in g.named if g.kind != "muon" and not splits(p, world)}
    mesh = init_device_mesh(runtime.device.type, (world,))
    # Layers read their matrices in the compute dtype, so these travel in it; gradients are summed in fp32.
    read_as = None if model.dtype == torch.float32 else model.dtype
    precision = MixedPrecisionPolicy(param_dtype=read_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers: list[nn.Module] = list(model.blocks)
    lookups, heads = ([part for part in parts if part.weight not in whole] for parts in ((model.wte, model.value_embeds), (model.lm_head,)))
    units = [*lookups, *layers, *heads]  # in the order of the forward
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=True, ignored_params=whole)
    for table in (*lookups, *heads):
        fully_shard(table, mesh=mesh, reshard_after_forward=True)
    for table in lookups:
        table.set_unshard_in_backward(False)  # a lookup's backward does not read the table
    register_fsdp_forward_method(model.value_embeds, "rows")
    register_fsdp_forward_method(model.lm_head, "cross_entropy")
    model.value_embeds.cast_once = False  # a gathered table is there for one lookup
    fully_shard(objective, mesh=mesh, ignored_params=whole)  # has no weights of its own: it makes the units one schedule
    for before, unit in zip([units[0], *units], units, strict=False):
        unit.set_gradient_divide_factor(1.0)  # sums: the optimizer divides
        unit.set_force_sum_reduction_for_comms(True)  # gloo multiplies nothing
        # By default the backward of a unit gathers what came before it in the forwards since the backward before. Those of an
        # evaluation are among them, and a process that has made more of them than others would wait for these for ever.
        unit.set_modules_to_backward_prefetch([before])
    objective.to(runtime.device)  # what is whole
    # The first forward would make what it runs in the root, and an evaluation may come first.
    fully_shard.state(objective)._lazy_init()
    model.gathered = partial(_gathered, units)


@contextmanager
def _gathered(units: list[nn.Module]) -> Iterator[None]:
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has only a part of `tensor`, which is a `DTensor`."""
    return hasattr(tensor, "full_tensor")


def whole_state(module: nn.Module, rank: int) -> dict[str, Tensor]:
    """The module's state with whole tensors in the first process, one gathered after the other, and nothing in others. All call it."""
    state = module.state_dict()
    if not any(map(is_sharded, state.values())):
        return state if rank == 0 else {}
    out = {}
    for name, tensor in state.items():
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        if rank == 0:
            out[name] = whole.cpu()
    return out


def own_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """This process's rows of `tensor`, all if it is whole, and the number of the first."""
    if not is_sharded(tensor):
        return tensor, 0
    share = -(-tensor.shape[0] // tensor.device_mesh.size())
    return tensor.to_local(), share * tensor.device_mesh.get_local_rank()
