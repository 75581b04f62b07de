"""Part `checkpoint`: seconds to save and to load model and optimizer."""

from __future__ import annotations

import shutil
import time

import torch

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.checkpoint.restore import restore_module
from nanochat.checkpoint.store import CheckpointStore
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.profiling.device_memory import GIB
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan

MODEL = GPTConfig(depth=20, window_pattern="L")
TOY = GPTConfig(depth=2, aspect_ratio=16, head_dim=16, max_seq_len=32, window_pattern="L", vocab_size=300)


def run(lab: Lab, record: Record) -> None:
    """Saves and loads a whole training state, on the device and in files."""
    runtime = start(RuntimeFlags(device_type=lab.device_type, compile=False))
    with torch.device(runtime.device):
        model = GPT(TOY if lab.toy else MODEL, runtime.precision.dtype, runtime.backend).init_weights()
    objective = NextTokenObjective(model)
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(1, 1, 1.0, 1.0)), runtime.muon_dtype)
    for tensor in optimizer.state_tensors().values():
        tensor.uniform_()
    folder = lab.work / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    store = CheckpointStore(folder)
    tensors = {"model": objective.state_dict(), "optimizer": optimizer.state_tensors()}
    size = sum(tensor.nbytes for group in tensors.values() for tensor in group.values()) / GIB
    record.report("size", size, "GiB")
    begin = time.perf_counter()
    snapshot = store.snapshot(1, tensors, {}, runtime)
    record.report("copy", time.perf_counter() - begin, "s that training waits")
    store.write(snapshot, runtime)
    record.report("save", saved := time.perf_counter() - begin, f"s, copied and durable; {size / saved:.2f} GiB/s")
    before = {group: {name: tensor.clone() for name, tensor in named.items()} for group, named in tensors.items()}
    with torch.no_grad():
        for tensor in (tensor for named in tensors.values() for tensor in named.values()):
            tensor.zero_()
    begin = time.perf_counter()
    checkpoint = store.load(1, processes=runtime)
    record.report("verify", time.perf_counter() - begin, "s")
    restore_module(objective, checkpoint.saved["model"])
    optimizer.load_state_tensors(checkpoint.saved["optimizer"])
    record.report("load", loaded := time.perf_counter() - begin, f"s, verified and on the device; {size / loaded:.2f} GiB/s")
    tensors = {"model": objective.state_dict(), "optimizer": optimizer.state_tensors()}
    everything = [(group, name, tensor) for group, named in tensors.items() for name, tensor in named.items()]
    wrong = [f"{group}/{name}" for group, name, tensor in everything if not torch.equal(tensor, before[group][name])]
    record.equal("tensors that differ", len(wrong), 0, ", ".join(wrong[:3]))
    shutil.rmtree(folder)
