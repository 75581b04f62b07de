"""One of two processes that train a small model with and without what the exchange does in the background, and print what came of it.

Run as text for `two_processes.in_two_processes`; the words of its last line are read by `test_gradient_exchange`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
import torch.nn as nn

from nanochat.model.gpt import GPT, GPTConfig
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.gradient_exchange import Bucket, GradientExchange, reduce_to_all
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan

CONFIG = GPTConfig(depth=5, aspect_ratio=16, head_dim=16, max_seq_len=32, window_pattern="L", vocab_size=1024)
STEPS, MICRO_BATCHES = 3, 2


def digest(model: nn.Module) -> int:
    """CRC-32 of all parameters."""
    crc = 0
    for p in model.parameters():
        crc = zlib.crc32(p.detach().view(torch.uint8).numpy().tobytes() if p.ndim else p.detach().numpy().tobytes(), crc)
    return crc


def train(rank: int, overlapped: bool, read_as: torch.dtype) -> list[str]:
    """Losses; buckets that had begun before the end of each step's backward; digests before and after the exact parameters came."""
    objective = NextTokenObjective(GPT(CONFIG, torch.bfloat16).init_weights(torch.Generator().manual_seed(1)))
    for block in objective.model.blocks:  # zero at first: then no gradient reaches the layers' other matrices
        nn.init.normal_(block.attn.c_proj.weight, std=0.05, generator=torch.Generator().manual_seed(2))
    groups = objective.parameter_groups(OptimFlags(), TrainPlan(64, STEPS, 1.0, 1.0))
    for group in groups:
        group.read_as = read_as
    optimizer = MuonAdamW(groups, torch.bfloat16)
    data, losses, early = torch.Generator().manual_seed(10 + rank), [], []
    for _ in range(STEPS):
        for micro in range(MICRO_BATCHES):
            tokens = torch.randint(CONFIG.vocab_size, (2, 33), generator=data)
            loss = objective(tokens[:, :-1], tokens[:, 1:], 0.0).loss
            losses.append(loss.item().hex())
            if overlapped and micro == MICRO_BATCHES - 1:
                with optimizer.last_backward():
                    loss.backward()
                    early.append(str(optimizer._exchange._begun))
            else:
                loss.backward()
        optimizer.reduce_gradients()
        losses.append(optimizer.clip_gradients(1.0).item().hex())
        optimizer.step()
    between = digest(objective)
    optimizer.gather_exactly()
    return [",".join(losses), ",".join(early), str(between), str(digest(objective))]


def differing(step: int, ranks: Sequence[int] = (0, 1), params: Sequence[nn.Parameter] = ()) -> Sequence[nn.Parameter]:
    """Parameters of different sizes with the gradients that the processes `ranks` have; rank 1's backward has the opposite order."""
    params = params or [nn.Parameter(torch.ones(size)) for size in (3, 5, 7)]
    for rank in ranks:
        total = torch.zeros(())
        for p in reversed(params) if rank else params:
            total = total.sin() + (p * (step + 1 + rank)).sum()
        total.backward()
    return params


def differing_orders(rank: int) -> list[str]:
    """Sums of the gradients of `differing`, reduced as the two backwards go."""
    params = [nn.Parameter(torch.ones(size)) for size in (3, 5, 7)]

    def bucket(p: nn.Parameter) -> Bucket:
        return Bucket([p], lambda: reduce_to_all(p.grad))

    exchange, sums = GradientExchange([bucket(p) for p in params]), []
    for step in range(STEPS):
        for p in params:
            p.grad = None
        with exchange.overlapped():
            differing(step, [rank], params)
        exchange.finish()
        sums += [f"{p.grad.sum().item():.4f}" for p in params]
    return [",".join(sums)]


def main() -> None:
    """Prints the words of `train`, for each way to exchange, and of `differing_orders`."""
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    rank = runtime.rank
    words = [word for way in ((False, torch.float32), (True, torch.float32), (True, torch.bfloat16)) for word in train(rank, *way)]
    print(*[word or "-" for word in words], *differing_orders(rank))
    runtime.close()
