"""Callbacks of the trainer, for evaluation, profiling and telemetry."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from nanochat.profiling.memory_snapshot import MemoryDebug, open_memory_debug
from nanochat.profiling.timers import SpanTimers
from nanochat.profiling.torch_profiler import StepProfiler, parse_steps
from nanochat.runtime.device import Runtime
from nanochat.tracking.sinks import Record
from nanochat.train.objective import Objective
from nanochat.train.state import TrainState


class Run(Protocol):
    """The trainer, as callbacks see it."""

    objective: Objective
    state: TrainState
    spans: SpanTimers
    runtime: Runtime
    run_folder: Path
    device_batch_size: int  # rows in a micro-batch

    def say(self, text: str) -> None:
        """Prints a line in the first process."""

    def should_stop(self) -> bool:
        """Whether this process has been asked to stop."""


class Callback:
    """Base class of callbacks: override the hooks you need. A callback must not change the run.

    Hooks are called in the order of the trainer's list, `closing` in reverse order.
    """

    every_steps: int = -1  # steps between two calls of `due`, applied as tokens; -1 = never
    name: str = ""  # of the phase that `due` is

    def started(self, run: Run, resumed: int | None) -> None:
        """Called before the first step; `resumed` is the step that the run continues from, if any."""

    def step(self, run: Run) -> AbstractContextManager[None]:
        """Context manager to run the next step in."""
        return nullcontext()

    def figures(self) -> dict[str, Any]:
        """Metrics for the training record about the steps since the last record."""
        return {}

    def logged(self, record: Record) -> None:
        """Called with each record of metrics."""

    def due(self, run: Run) -> dict[str, Any] | None:
        """Called at the callback's cadence and after the last step; returns metrics to log.

        It returns None in every process if `run.should_stop()` in any made it give up; the resumed run repeats it.
        """
        return {}

    def phase_ended(self, run: Run, phase: str) -> None:
        """Called after each copy for a checkpoint (`checkpoint`), each `due` (its name), and the whole run (`end`)."""

    def closing(self) -> None:
        """Called at the end, also if the run fails."""


class Evaluation(Callback):
    """Calls `measure` as `Callback.due`, named after it, every `every_steps`."""

    def __init__(self, measure: Callable[[Run], dict[str, Any] | None], every_steps: int) -> None:
        self._measure, self.every_steps = measure, every_steps
        self.name = measure.__name__

    def due(self, run: Run) -> dict[str, Any] | None:
        with run.objective.model.gathered():
            return self._measure(run)


class Profiling(Callback):
    """Traces the steps of `--profile-steps`."""

    def __init__(self, profiler: StepProfiler) -> None:
        self._profiler, self._profiled = profiler, 0

    def started(self, run: Run, resumed: int | None) -> None:
        self._profiler.start(resumed, run.say)

    def step(self, run: Run) -> AbstractContextManager[None]:
        self._profiled += self._profiler.covers(run.state.step)
        return self._profiler.step(run.state.step, run.spans)

    def figures(self) -> dict[str, Any]:
        """See `Callback`; profiled steps count like all others, and take longer."""
        profiled, self._profiled = self._profiled, 0
        return {"train/profiled_steps": profiled} if profiled else {}

    def closing(self) -> None:
        self._profiler.close()


class MemorySnapshots(Callback):
    """Takes snapshots of the device memory after each phase of a run (see `MemoryDebug`)."""

    def __init__(self, debug: MemoryDebug) -> None:
        self._debug = debug
        debug.record("model_built")

    def started(self, run: Run, resumed: int | None) -> None:
        self._debug.watch(run.spans, last="optimizer")

    def phase_ended(self, run: Run, phase: str) -> None:
        step = run.state.step
        self._debug.record(phase if phase == "end" else f"{phase}_step_{step:07d}", step)


def open_profilers(profile_steps: str, num_iterations: int, run_folder: Path, runtime: Runtime) -> list[Callback]:
    """The profiler and the memory snapshots, if requested. Raises `UserError` if the steps to profile lie beyond the run."""
    name = f"{run_folder.parent.name.removesuffix('_runs')}-{run_folder.name}"
    process = (name, runtime.device, runtime.rank, runtime.world_size)
    steps, debug = parse_steps(profile_steps), open_memory_debug(*process)
    profiling = [] if steps is None else [Profiling(StepProfiler(steps, num_iterations, *process))]
    return [*profiling, *([] if debug is None else [MemorySnapshots(debug)])]
