"""Worker of `bench.train_speed`: builds a model and an optimizer, then runs training steps on request.

Reads a number of steps per line and answers each with one line of JSON: the seconds of every step. Run as a file, so that
`import nanochat` finds the implementation in `--path`, which may be another project's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time


def ours(shape: argparse.Namespace):
    """This project's training step, with the parts of `scripts.base_train`."""
    import torch

    from nanochat.model.gpt import GPT, GPTConfig
    from nanochat.runtime.device import RuntimeFlags, start
    from nanochat.train.objective import NextTokenObjective
    from nanochat.train.optim import MuonAdamW, OptimFlags
    from nanochat.train.schedule import TrainPlan

    runtime = start(RuntimeFlags(device_type=shape.device_type, compile=bool(shape.compile), attention=shape.attention))
    pattern = runtime.window_pattern(shape.window_pattern)
    config = GPTConfig(shape.depth, 64, shape.head_dim, 0, shape.max_seq_len, pattern, shape.vocab_size)
    model = GPT(config, runtime.precision.dtype, runtime.backend).init_weights(torch.Generator().manual_seed(0))
    model.to(runtime.device).use_kernels(runtime.compile, chunked_ce=True)
    objective = NextTokenObjective(model)
    groups = objective.parameter_groups(OptimFlags(), TrainPlan(shape.total_batch_size, 1000, 0.1, 0.1))
    optimizer = MuonAdamW(groups, runtime.muon_dtype, compiled=runtime.compile and runtime.device.type == "cuda")
    print(runtime.describe(), file=sys.stderr)

    def step(batches) -> None:
        total = torch.zeros((), device=runtime.device)
        for tokens, targets in batches:
            loss = objective(tokens, targets, 0.0).loss / len(batches)
            loss.backward()
            total += loss.detach()
        optimizer.reduce_gradients()
        norm = optimizer.clip_gradients(0.0)
        optimizer.step(keep=(total.isfinite() & norm.isfinite()).float())
        total.item()

    return step, runtime.device, model.flops_per_token()


def karpathy(shape: argparse.Namespace):
    """karpathy/nanochat's training step, with its own model and optimizer, as in its base_train."""
    import torch
    from nanochat.gpt import GPT, GPTConfig

    from nanochat.common import COMPUTE_DTYPE

    width = -(-shape.depth * 64 // shape.head_dim) * shape.head_dim
    heads = width // shape.head_dim
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pattern = shape.window_pattern.replace("auto", "L")
    with torch.device("meta"):
        model = GPT(GPTConfig(shape.max_seq_len, shape.vocab_size, shape.depth, heads, heads, width, pattern))
    model.to_empty(device=device)
    model.init_weights()
    flops = model.estimate_flops()
    model = torch.compile(model, dynamic=False)
    optimizer = model.setup_optimizer(unembedding_lr=0.001, embedding_lr=0.04, scalar_lr=0.06, matrix_lr=0.0025, weight_decay=0.1)
    print(f"karpathy/nanochat on {device}, {COMPUTE_DTYPE}", file=sys.stderr)

    def step(batches) -> None:
        for tokens, targets in batches:
            loss = model(tokens, targets)
            last = loss.detach()
            (loss / len(batches)).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        last.item()

    return step, device, flops


def main() -> None:
    """Serves until its input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("ours", "karpathy"), required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--device-type", default="auto")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--window-pattern", default="auto")
    for name in ("depth", "head-dim", "max-seq-len", "vocab-size", "device-batch-size", "total-batch-size", "compile"):
        parser.add_argument(f"--{name}", type=int, required=True)
    shape = parser.parse_args()
    sys.path.insert(0, shape.path)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        torch.manual_seed(0)
        step, device, flops_per_token = {"ours": ours, "karpathy": karpathy}[shape.side](shape)
        rows = torch.randint(0, shape.vocab_size, (shape.total_batch_size // shape.max_seq_len, shape.max_seq_len + 1), device=device)
        batches = [(r[:, :-1].contiguous(), r[:, 1:].contiguous()) for r in rows.split(shape.device_batch_size)]
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                begin = time.perf_counter()
                step(batches)
                seconds.append(time.perf_counter() - begin)
            on_cuda = device.type == "cuda"
            peak = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            print(json.dumps({"seconds": seconds, "peak_mem_mib": peak, "flops_per_token": flops_per_token}), file=answers, flush=True)


if __name__ == "__main__":
    main()
