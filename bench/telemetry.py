"""Cost of telemetry: `python -m bench.telemetry`. The last line is JSON.

- `event_us`: time of `log_event` for the largest working_context_snapshot, and for a mc_timing;
- `hung_close_s`, `dead_close_s`: time of `close` with a collector that does not answer, and without one; `dropped` events then;
- `share_of_step`: overhead of events in a training step that logs every step (the default is one in a hundred), with a hung and with
  a dead collector: seconds of the callback, and of the thread that encodes requests, relative to the step's own.
"""

from __future__ import annotations

import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from mc.config import MCConfig
from mc.telemetry.collector import find_collector
from mc.telemetry.exporter import OpenTelemetryProvider
from mc.telemetry.schema import MOST_RUNS, TelemetryEvent
from mc.telemetry.training import TRAINED, TrainingEvents
from mc.train.controller import MCController
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.tracking.sinks import Plain, Record
from nanochat.train.objective import StepResult

EVENTS = 4_000
STEPS = 20
ROWS, LENGTH = 2, 512
GATHERED_SECONDS = 2.5  # until a request is under way


@contextmanager
def hung() -> Iterator[str]:
    """Endpoint of a collector that accepts connections and never answers."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    kept.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for connection in kept:
            connection.close()


def dead() -> str:
    """Endpoint without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def opened(endpoint: str) -> OpenTelemetryProvider:
    return OpenTelemetryProvider(collector=find_collector({"MC_OTEL_ENDPOINT": endpoint}))


@dataclass
class Step:
    """Training step of a tiny memory on the CPU, forward and backward, with the contents of its log."""

    controller: MCController
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def run(self) -> tuple[float, Record]:
        begin = time.perf_counter()
        tokens = torch.randint(256, (ROWS, LENGTH + 1), generator=self.generator)
        result: StepResult = self.controller(tokens[:, :-1], tokens[:, 1:], 0.5)
        result.total.backward()
        seconds = time.perf_counter() - begin
        figures: dict[str, Plain] = {name: float(value) for name, value in result.metrics.items()}
        spans = {f"train/time/{name}": 1.0 for name in ("data", "forward", "backward", "optimizer", "lensnet")}
        parts = {f"mc/{name}_ms": 1.0 for name in ("build", "positional", "variant", "variant_pack", "lens", "other", "time_controller")}
        axes = {"step": 1, "total_tokens": ROWS * LENGTH, "train/tokens_per_step": ROWS * LENGTH, "train/tok_per_sec": 1.0}
        return seconds, {**axes, TRAINED: seconds, **figures, **spans, **parts}


def tiny_step() -> Step:
    model = GPT(GPTConfig(depth=4, aspect_ratio=32, head_dim=32, max_seq_len=LENGTH, window_pattern="L", vocab_size=256), torch.float32)
    model.init_weights(torch.Generator().manual_seed(0))
    controller = MCController(model, MCConfig(mc_num_random_variants=2, block_size=8), LENGTH)
    return Step(controller.init_weights(torch.Generator().manual_seed(1)))


def event_us(payload: dict[str, object], event_type: str) -> float:
    """Microseconds of a `log_event` with a hung collector: the median of batches, for most of which the queue is full."""
    with hung() as endpoint:
        provider = opened(endpoint)
        rates = []
        for _ in range(EVENTS // 100):
            begin = time.perf_counter()
            for _ in range(100):
                provider.log_event(TelemetryEvent("bench", event_type, payload))
            rates.append((time.perf_counter() - begin) / 100)
        provider.close()
    return statistics.median(rates) * 1e6


def close_seconds(endpoint: str) -> tuple[float, int]:
    """(seconds, dropped events) of closing a provider with a full queue and a request in flight."""
    provider = opened(endpoint)
    for step in range(EVENTS):
        provider.log_event(TelemetryEvent("bench", "mc_timing", {"step": step}))
    time.sleep(GATHERED_SECONDS)
    begin = time.perf_counter()
    provider.close()
    assert provider.sent == 0 and provider.dropped == EVENTS
    return time.perf_counter() - begin, provider.dropped


def share_of_step(endpoint: str, step: Step) -> float:
    """Seconds of the callback, and of encoding its events, relative to those of the step; medians."""
    provider = opened(endpoint)
    events = TrainingEvents(provider)
    with tempfile.TemporaryDirectory() as folder:
        events.started(SimpleNamespace(objective=step.controller, run_folder=Path(folder)), resumed=None)
    spans: list[ReadableSpan] = []
    emit = provider._processor.on_end
    provider._processor.on_end = lambda span: (spans.append(span), emit(span))
    steps, logs, encoded = [], [], []
    for _ in range(STEPS):
        seconds, record = step.run()
        begin = time.perf_counter()
        events.logged(record)
        logs.append(time.perf_counter() - begin)
        steps.append(seconds)
        begin = time.perf_counter()
        encode_spans(spans[-4:]).SerializeToString()
        encoded.append(time.perf_counter() - begin)
    events.closing()
    return (statistics.median(logs) + statistics.median(encoded)) / statistics.median(steps)


def with_hung(measure: Callable[[str], object]) -> object:
    with hung() as endpoint:
        return measure(endpoint)


def main() -> None:
    layout = [7] * MOST_RUNS
    snapshot = {"where": "row", "tokens": 1, "layout_lod": layout, "layout_start": layout, "layout_count": layout}
    step = tiny_step()
    step.run()
    hung_close, hung_dropped = with_hung(close_seconds)
    dead_close, dead_dropped = close_seconds(dead())
    print(
        json.dumps(
            {
                "event_us": {
                    "working_context_snapshot": round(event_us(snapshot, "working_context_snapshot"), 1),
                    "mc_timing": round(event_us({"step": 1, "tokens": 2, "build_ms": 0.5, "lens_ms": 0.5}, "mc_timing"), 1),
                },
                "hung_close_s": round(hung_close, 3),
                "dead_close_s": round(dead_close, 3),
                "dropped": {"hung": hung_dropped, "dead": dead_dropped},
                "share_of_step": {
                    "hung": round(with_hung(lambda endpoint: share_of_step(endpoint, step)), 5),
                    "dead": round(share_of_step(dead(), step), 5),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
