"""Step profiler (`--profile-steps A:B`): PyTorch's profiler over a few steps of a training run.

The trace is gzipped Chrome trace JSON for ui.perfetto.dev. It holds a range `step N` for each step and one for each span in it
(`forward`, `backward`, `optimizer`, `tree_build`, …).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from nanochat.common import UserError, base_dir, ensure_dir
from nanochat.profiling.timers import SpanTimers

TOP = 15  # operators in the table


def parse_steps(text: str) -> tuple[int, int] | None:
    """Parses `A:B` as (A, B); None for an empty text. Raises `ValueError` for anything else, or if A is not below B."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"profile_steps is {text!r}; give FIRST:END with FIRST below END, as 10:12 for the steps 10 and 11")
    return int(match[1]), int(match[2])


class StepProfiler:
    """Profiles the steps A … B−1 of the run `name`, such as `base-d12`; each of several processes writes its own trace.

    A step is numbered by how many were done before it. If the run ends between A and B, `close` writes the steps there were; a run
    that resumes there begins with its first step. The trace is named after the steps it holds.

    Raises `UserError` if B is more than `num_iterations`.
    """

    def __init__(
        self, steps: tuple[int, int], num_iterations: int, name: str, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> None:
        self.first, self.end = steps
        if self.end > num_iterations:
            raise UserError(
                f"profile_steps is {self.first}:{self.end}, but the run ends with step {num_iterations - 1}; give steps within it"
            )
        self.name, self.device, self._suffix = name, device, f"-rank{rank}" if world_size > 1 else ""
        self.say: Callable[[str], None] = lambda _: None
        self._profile: profile | None = None
        self._steps: list[int] = []  # in the trace
        self._names: set[str] = set()

    def start(self, resumed: int | None, say: Callable[[str], None]) -> None:
        """Prepares for a run that continues from step `resumed`, if any; `say` gets the path of the trace and the slowest operators."""
        self.say = say
        if resumed is not None and resumed >= self.end:
            say(f"profile_steps {self.first}:{self.end}: the run resumes at step {resumed}, there is nothing left to profile")

    def covers(self, step: int) -> bool:
        """Whether `step` is to be profiled."""
        return self.first <= step < self.end

    @contextmanager
    def step(self, step: int, spans: SpanTimers) -> Iterator[None]:
        """Profiles the block, if `step` is to be profiled."""
        if not self.covers(step):
            yield
            return
        if self._profile is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
            self._profile = profile(activities=activities)
            self._profile.start()
        spans.watchers.append(self._range)
        try:
            with self._range(f"step {step}"):
                yield
        finally:
            spans.watchers.remove(self._range)
        self._steps.append(step)
        if step + 1 == self.end:
            self.close()

    def _range(self, name: str) -> AbstractContextManager[None]:
        self._names.add(name)
        return record_function(name)

    def close(self) -> None:
        """Writes the trace, unless there is nothing to write. Raises `UserError` if that fails."""
        if self._profile is None:
            return
        done, self._profile = self._profile, None
        done.stop()
        if not self._steps:
            return
        first, last = self._steps[0], self._steps[-1]
        folder = ensure_dir(base_dir() / "report" / "profile")
        path = folder / f"{self.name}-steps-{first}-{last + 1}{self._suffix}.pt.trace.json.gz"
        temporary = path.with_name(f".{path.name}")  # a reader sees a whole trace or none
        try:
            done.export_chrome_trace(str(temporary))
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror}; make room or leave --profile-steps out") from error
        self.say(f"profile of steps {first} to {last}: {path}; ui.perfetto.dev opens it")
        for line in self._top(done):
            self.say(line)

    def _top(self, done: profile) -> list[str]:
        """A table of the operators with the longest self time, on the GPU if there is one: a header and at most `TOP` lines."""
        gpu = self.device.type == "cuda"
        averages = [event for event in done.key_averages() if event.key not in self._names]
        spent = {event.key: (event.self_device_time_total if gpu else event.self_cpu_time_total) for event in averages}
        calls, total = {event.key: event.count for event in averages}, sum(spent.values())
        top = sorted((key for key, time in spent.items() if time > 0), key=lambda key: spent[key], reverse=True)[:TOP]
        header = f"  {'self ms':>10}  {'share':>6}  {'calls':>7}  operator, by its own time on the {'GPU' if gpu else 'CPU'}"
        return [header, *(f"  {spent[k] / 1e3:10.2f}  {spent[k] / total:6.1%}  {calls[k]:7d}  {k[:80]}" for k in top)]
