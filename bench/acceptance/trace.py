"""Reads the trace of profiled steps: kernels, time in which the device works, and points where the host waits for it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"}
DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
TO_HOST = "Memcpy DtoH"

Event = dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """Events of a trace; those of steps lie between the begin of a range `step N` and its end on the host."""

    events: Sequence[Event]

    @classmethod
    def read(cls, path: Path) -> Trace:
        """The trace in a gzipped file of `--profile-steps`."""
        with gzip.open(path, "rt", encoding="utf-8") as file:
            content = json.load(file)
        return cls([event for event in content["traceEvents"] if event.get("ph") == "X"])

    @cached_property
    def steps(self) -> list[Event]:
        """The ranges of the steps on the host."""
        return [event for event in self.events if event.get("cat") == "user_annotation" and event["name"].startswith("step ")]

    def slowest(self, category: str) -> list[tuple[str, float, int]]:
        """(name, milliseconds, calls) of the events of a category, longest in total first."""
        spent, calls = Counter[str](), Counter[str]()
        for event in self.events:
            if event.get("cat") == category:
                spent[event["name"]] += event["dur"] / 1e3
                calls[event["name"]] += 1
        return [(name, milliseconds, calls[name]) for name, milliseconds in spent.most_common()]

    def busy_share(self) -> float:
        """Share of the time from the first to the last work of the device in which it works."""
        spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in self.events if event.get("cat") in DEVICE)
        busy, end = 0.0, spans[0][0]
        for first, last in spans:
            busy += max(0.0, last - max(first, end))
            end = max(end, last)
        return busy / (end - spans[0][0])

    def waits(self) -> list[Event]:
        """Calls in the steps in which the host waits for the device."""
        calls = [event for event in self.events if event.get("cat") == "cuda_runtime" and event["name"] in WAITS]
        return [event for event in calls if any(_holds(step, event) for step in self.steps)]

    def copies_to_host(self) -> int:
        """Copies from the device to the host, in all profiled steps."""
        return sum(event.get("cat") == "gpu_memcpy" and event["name"].startswith(TO_HOST) for event in self.events)

    def place_of(self, wait: Event) -> str:
        """The span and the operator in which the host waits."""
        around = [event for event in self.events if event.get("tid") == wait.get("tid") and event is not wait and _holds(event, wait)]
        spans = [event for event in around if event.get("cat") == "user_annotation" and not event["name"].startswith("step ")]
        operators = [event for event in around if event.get("cat") == "cpu_op"]
        span = min(spans, key=lambda event: event["dur"])["name"] if spans else "between spans"
        return f"{span}: {max(operators, key=lambda event: event['dur'])['name'] if operators else wait['name']}"


def _holds(outer: Event, inner: Event) -> bool:
    return outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
