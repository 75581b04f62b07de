"""One of three processes that train a model sharded and whole: `python sharded_worker.py OUT RANK PORT`.

Each way from the start to the end, and in bf16; the second half from the first half of a run of the same or the other way. Leaves
OUT/<run>.<rank>.safetensors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat.checkpoint.restore import restore_module
from nanochat.data.rows import inputs_and_targets
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.model.recompute import ActivationCheckpointing, Recompute
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan
from nanochat.train.sharded_model import own_rows, shard_model, whole_state
from nanochat.train.sharded_optim import ShardedMuonAdamW

# Tables that are split, 16 rows of keys over three processes, four matrices of a shape (the last process owns none), windows.
CONFIG = GPTConfig(depth=4, aspect_ratio=16, head_dim=16, kv_heads=1, max_seq_len=24, window_pattern="SL", vocab_size=3072)
PLAN = TrainPlan(total_batch_size=12 * 24, num_iterations=4, lr_scale=0.3, weight_decay_scale=0.1)
WORLD = 3
HALF, WHOLE = 2, 4  # steps
SKIPPED = 1  # the step whose loss is not finite
Run = tuple[NextTokenObjective, MuonAdamW]


def build(runtime, sharded: bool, dtype: torch.dtype = torch.float32, recompute: Recompute = "none") -> Run:
    model = GPT(CONFIG, dtype, "blocked").init_weights(torch.Generator().manual_seed(0))
    objective = NextTokenObjective(model.use_kernels(False, True, recompute=ActivationCheckpointing(recompute)))
    groups = objective.parameter_groups(OptimFlags(), PLAN)
    if not sharded:
        return objective, MuonAdamW(groups, runtime.muon_dtype)
    shard_model(objective, groups, runtime)
    return objective, ShardedMuonAdamW(objective.parameter_groups(OptimFlags(), PLAN), runtime.muon_dtype)


def train(run: Run, rank: int, steps: range) -> dict[str, Tensor]:
    """Losses and norms of the steps, and a loss in an evaluation after each."""
    (objective, optimizer), losses, norms, evaluated = run, [], [], []
    rows = torch.randint(3072, (WHOLE, 2, 6, 25), generator=torch.Generator().manual_seed(7))  # (step, micro-batch, row, token)
    for step in steps:
        loss = torch.zeros(())
        for micro in range(2):
            part = objective(*inputs_and_targets(rows[step, micro].chunk(WORLD)[rank]), 0.0).loss / 2
            part.backward()
            loss += part.detach()
        optimizer.reduce_gradients()
        norms.append(optimizer.clip_gradients(0.5))
        optimizer.step(lr=1 - step / 10, momentum=0.8, keep=torch.tensor(float(step != SKIPPED)))
        losses.append(loss)
        optimizer.gather_exactly()
        with torch.no_grad(), objective.model.gathered():  # the last process takes no part in what others evaluate
            evaluated += [objective.model(*inputs_and_targets(rows[0, 0])).item() for _ in range(2 - rank)]
    return {"losses": torch.stack(losses), "norms": torch.stack(norms), "evaluated": torch.tensor(evaluated)}


def result(run: Run, rank: int, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    objective, optimizer = run
    state = {f"state.{name}": t.clone() for name, t in optimizer.state_tensors().items()}
    table = objective.model.value_embeds._table  # in the compute dtype
    kept = sum(own_rows(p)[0].numel() for p in objective.parameters()) + (0 if table is None else table.numel())
    return whole_state(objective, rank) | state | figures | {"kept": torch.tensor(kept)}


def resume(run: Run, files: list[Path]) -> None:
    """Takes up what processes left; the model's tensors are in the first file."""
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    restore_module(run[0], {name: t for name, t in found.items() if name.startswith("model.")}, own_rows)
    run[1].load_state_tensors({name.removeprefix("state."): t for name, t in found.items() if name.startswith("state.")})


def main(out: Path, rank: int, port: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    runtime = start(RuntimeFlags(device_type="cpu", collective_timeout=30))

    def leave(name: str, run: Run, steps: range) -> None:
        save_file(result(run, rank, train(run, rank, steps)), out / f"{name}.{rank}.safetensors")
        runtime.barrier()

    for way in ("whole", "sharded"):
        leave(f"{way}_half", run := build(runtime, way == "sharded"), range(HALF))
        leave(way, run, range(HALF, WHOLE))
        leave(f"{way}_bf16", build(runtime, way == "sharded", torch.bfloat16, "selective"), range(WHOLE))
    for way, other in (("whole", "sharded"), ("sharded", "whole"), ("sharded", "sharded")):
        run = build(runtime, way == "sharded")
        resume(run, [out / f"{other}_half.{r}.safetensors" for r in dict.fromkeys((0, rank))])
        leave(f"{way}_from_{other}", run, range(HALF, WHOLE))
    runtime.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
