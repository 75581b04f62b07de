"""CUDA graphs of decode steps: a small model's step is a thousand short kernels, which a GPU runs faster than Python launches them.

A graph repeats the kernels of the step that was captured, on the same tensors: a step must read and write tensors that stay where they
are, of shapes that depend on nothing but the number of rows.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from nanochat.common import first_line
from nanochat.model.attention import full_attention

Outputs = tuple[Tensor, ...]
Capture = Callable[[Callable[[], Outputs]], Callable[[], Outputs]]  # a step → its replay, which overwrites the outputs of the one before


class StepGraphs:
    """Replays of one cache's step, by the number of rows."""

    def __init__(self, capture: Capture, max_rows: int) -> None:
        self._capture, self._max_rows = capture, max_rows
        self._replays: dict[int, Callable[[], Outputs] | None] = {}

    def rows(self, rows: int) -> int:
        """The number of rows that a step of `rows` rows is captured for: a power of 2, so that few graphs serve all."""
        return min(1 << (rows - 1).bit_length(), self._max_rows)

    def __call__(self, step: Callable[[int], Outputs], rows: int) -> Outputs:
        """Outputs of a step of `rows` rows. The first one prepares what the kernels need, the second is captured."""
        if rows not in self._replays:
            self._replays[rows] = None
            return step(rows)
        replay = self._replays[rows]
        if replay is None:
            replay = self._replays[rows] = self._capture(lambda: step(rows))
        return replay()

    def forget(self) -> None:
        """Drops all graphs, as tensors have moved."""
        self._replays = {}


@functools.lru_cache(maxsize=16)
def capture_for(device: torch.device) -> Capture | None:
    """How steps are captured on `device`; None if they are not: elsewhere than on CUDA, and where it fails, of which this warns."""
    if device.type != "cuda":
        return None
    try:
        _try_out(device)
    except (RuntimeError, AssertionError) as error:
        warnings.warn(f"CUDA graphs fail here ({first_line(error)}), decoding is slower", stacklevel=2)
        return None
    return _capture_cuda


def _capture_cuda(step: Callable[[], Outputs]) -> Callable[[], Outputs]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
        outputs = step()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay


def _try_out(device: torch.device) -> None:
    """Three steps of what a decode step is made of, captured in the second, compared with eager ones."""
    results = []
    for capture in (_capture_cuda, None):
        generator = torch.Generator(device).manual_seed(0)
        keys, query = (torch.randn(2, 2, size, 64, device=device, dtype=torch.bfloat16, generator=generator) for size in (64, 1))
        mask = torch.full((2, 1, 1, 64), float("-inf"), device=device, dtype=torch.bfloat16)
        slots, rows = torch.tensor([[3], [9]], device=device), torch.arange(2, device=device)[:, None]

        def step(_: int, keys=keys, query=query, mask=mask, slots=slots, rows=rows) -> Outputs:
            keys.transpose(1, 2)[rows, slots] = query.transpose(1, 2)
            mask[:, 0, 0].scatter_(1, slots, 0.0)
            found = full_attention(query, keys, keys, mask)
            query.add_(found)
            slots.add_(1)
            return (found,)

        graphs = StepGraphs(capture, 2) if capture else None
        with torch.inference_mode():
            results.append([(graphs(step, 2) if graphs else step(2))[0].clone() for _ in range(3)])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)
