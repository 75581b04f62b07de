"""The one training loop. Recipes live in scripts/; what is trained is an `Objective`, what happens beside it are `Event`s.

All cadences count tokens. At a step boundary the order is: checkpoint, log, evaluate. Whatever follows the checkpoint is
done again by a run that resumes from it, so an interrupted run ends with the metrics of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.data.dataloader import Prefetcher
from nanochat.data.rows import Loader, count_targets, inputs_and_targets
from nanochat.flags import flag
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.profiling.memory_snapshot import open_memory_debug
from nanochat.profiling.timers import SpanTimers
from nanochat.profiling.torch_profiler import StepProfiler, parse_steps
from nanochat.runtime.device import Runtime
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.sinks import JsonlSink, MetricsLogger
from nanochat.train.objective import Metrics, Objective
from nanochat.train.optim import MuonAdamW, check_coverage
from nanochat.train.reduce_metrics import mean_metrics
from nanochat.train.schedule import (
    Cadence,
    ScheduleFlags,
    TrainPlan,
    every_steps_to_tokens,
    lr_multiplier,
    muon_momentum,
    weight_decay_multiplier,
)
from nanochat.train.state import TrainState, check_identity, open_checkpoint, random_states, restore_random_states, set_aside

BAD_LOSSES_IN_A_ROW = 3  # as many, and the run stops


@dataclass
class TrainerFlags:
    """The loop: batches, cadences, checkpoints."""

    device_batch_size: int = flag(32, "rows in a micro-batch of one process", unit="rows")
    log_every: int = flag(100, "log the training metrics, those of the last step too; -1 = off", unit="baseline steps, applied as tokens")
    save_every: int = flag(-1, "save a checkpoint; -1 = only at the end", unit="baseline steps, applied as tokens")
    keep_checkpoints: int = flag(2, "newest checkpoints to keep; -1 = all")
    resume: str = flag("auto", "auto = continue from the newest valid checkpoint; never = start anew; or a step")
    seed: int = flag(42, "seed of the weights and of the order of the rows")
    profile_steps: str = flag("", "A:B = write a trace of the steps A to B-1 for Perfetto to report/profile; empty = none")

    def __post_init__(self) -> None:
        if self.device_batch_size < 1:
            raise ValueError(f"device_batch_size is {self.device_batch_size}; it must be at least 1")
        for name in ("log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1, or -1")
        if self.resume not in ("auto", "never") and not self.resume.isdecimal():
            raise ValueError(f"resume is {self.resume!r}; it must be auto, never or a step")
        parse_steps(self.profile_steps)


class Event(NamedTuple):
    """Something done beside training, at its cadence and at the end: `action(should_stop)` returns figures to log.

    It returns None, in every process, where it gave up because `should_stop()` became true in any; the resumed run then
    does it again.
    """

    cadence: Cadence
    action: Callable[[Callable[[], bool]], dict[str, Any] | None]


class Batch(NamedTuple):
    """A process's rows of one step."""

    rows: Tensor  # int64 (rows of a step / processes, T+1)
    weights: Tensor | None  # fp32 (rows of a step / processes): what multiplies their losses
    parts: list[float]  # what each micro-batch's mean loss is divided by, so that every target of the step counts alike
    data_hash: int  # CRC-32 of all rows of the step


class _Unread(NamedTuple):
    """A step's loss that is still on its way from the device: fp32 [mean loss, processes that want to stop]."""

    step: int
    data_hash: int
    loss: Tensor


@dataclass
class Trainer:
    """Trains `objective` to the end of `plan`.

    `identity` is what a checkpoint must agree on to be continued, `meta` what is saved beside the weights for readers of
    the checkpoint; both are JSON. `open_metrics` gets the step that the run continues from, or None.
    """

    objective: Objective
    optimizer: MuonAdamW
    plan: TrainPlan
    schedule: ScheduleFlags
    flags: TrainerFlags
    grad_clip: float
    loader: Loader
    runtime: Runtime
    store: CheckpointStore
    run_folder: Path
    identity: dict[str, Any]
    meta: dict[str, Any]
    open_metrics: Callable[[int | None], MetricsLogger]
    stop: StopSignals
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_coverage(self.objective, self.optimizer.groups)
        unsaved = dict(self.objective.named_parameters()).keys() - self.objective.state_dict().keys()
        assert not unsaved, f"not in the checkpoint: {', '.join(sorted(unsaved))}"
        world, T = self.runtime.world_size, self.loader.seq_len
        self.rows_per_step = self.plan.total_batch_size // T
        self.grad_accum_steps = self.rows_per_step // (self.flags.device_batch_size * world)
        assert self.grad_accum_steps * self.flags.device_batch_size * world * T == self.plan.total_batch_size
        if self.runtime.precision.needs_scaler and world > 1:
            raise UserError("fp16 needs a loss scale that several processes cannot share; use bf16 or fp32, or one process")
        self.scaler = torch.amp.GradScaler(self.runtime.device.type) if self.runtime.precision.needs_scaler else None
        self.flops_per_token = self.objective.flops_per_token()
        self.log_cadence, self.save_cadence = self.cadence(self.flags.log_every), self.cadence(self.flags.save_every)
        self.objective.spans = self.spans = SpanTimers(self.runtime.device)
        self._watch()
        self.state = TrainState()
        self._saved_step: int | None = None
        self._agreed_stop = False
        self._resumed: int | None = None
        self._bad_batches: JsonlSink | None = None  # opened for the first one
        self._unread: _Unread | None = None
        self._interval: list[float] = []  # seconds of the steps since the last log
        self._profiled = 0  # of them

    def _watch(self) -> None:
        """Prepares what looks at the run from outside, where it is asked for."""
        name, runtime = f"{self.run_folder.parent.name.removesuffix('_runs')}-{self.run_folder.name}", self.runtime
        where = (name, runtime.device, runtime.rank, runtime.world_size)
        self.profiler = StepProfiler(parse_steps(self.flags.profile_steps), self.plan.num_iterations, *where)
        self.memory_debug = open_memory_debug(*where)
        if self.memory_debug is not None:
            self.memory_debug.record("model_built")
            self.memory_debug.watch(self.spans, last="optimizer")

    def cadence(self, every_steps: int) -> Cadence:
        """The cadence of a `--…-every` flag."""
        return Cadence(every_steps_to_tokens(every_steps, self.plan.total_batch_size))

    def run(self) -> bool:
        """Trains until the plan's end or a stop signal, and saves; returns whether the end was reached."""
        self._resumed = self._resume()
        with self.open_metrics(self._resumed) as self.metrics:
            if self._resumed is not None:
                self._boundary()
            with self._batches() as batches, self.profiler(self._resumed, self.metrics.say) as profiler:
                while self.state.step < self.plan.num_iterations and not self._stopping():
                    with profiler.step(self.state.step, self.spans):
                        self._train_step(batches)
                    self._boundary()
            self._save()
            self._note_memory("end")
        return self.state.step == self.plan.num_iterations

    def _batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """The batches of the steps to come."""
        first, last = self.state.step, self.plan.num_iterations
        if self.loader.ahead:
            return Prefetcher(self._fetch, first, last, self.loader.ahead)
        return nullcontext(map(self._fetch, range(first, last)))

    def _train_step(self, batches: Iterator[Batch]) -> None:
        begin = time.perf_counter()
        log_due = self._log_due(self.state.step + 1)
        with self.spans("data"):
            batch = next(batches)
        loss, metrics = self._forward_backward(batch)
        with self.spans("optimizer"):
            norm = self._optimize(loss)
        self._read_loss()
        self._unread = _Unread(self.state.step, batch.data_hash, loss)
        self.state.step += 1
        if log_due:
            self._read_loss()
        self._interval.append(time.perf_counter() - begin)
        self._profiled += self.profiler.covers(self.state.step - 1)
        self.state.seconds += self._interval[-1]
        self.state.record = self._record(batch, norm, metrics) if log_due else None

    def _forward_backward(self, batch: Batch) -> tuple[Tensor, list[Metrics]]:
        """Accumulates a step's gradients; returns fp32 [mean loss, processes that want to stop], and each micro-batch's metrics."""
        loss = torch.zeros(2, device=self.runtime.device)
        metrics = []
        progress = self.state.step / self.plan.num_iterations
        size, device = self.flags.device_batch_size, self.runtime.device
        weights = [{}] * self.grad_accum_steps if batch.weights is None else [{"weights": w} for w in batch.weights.to(device).split(size)]
        for micro, weight, parts in zip(batch.rows.split(size), weights, batch.parts, strict=True):
            tokens, targets = inputs_and_targets(micro.to(device, non_blocking=True))
            with self.spans("forward"):
                result = self.objective(tokens, targets, progress, **weight)
            with self.spans("backward"):
                share = result.loss / parts
                (share if self.scaler is None else self.scaler.scale(share)).backward()
            loss[0] += share.detach()
            metrics.append(result.metrics)
        loss[1] = float(bool(self.stop))
        if self.runtime.world_size > 1:
            dist.all_reduce(loss)
            loss[0] /= self.runtime.world_size
        return loss, metrics

    def _optimize(self, loss: Tensor) -> Tensor:
        """One update, unless loss or gradient is not finite, in which case loss[0] is not either; returns the gradient's norm."""
        step, total = self.state.step, self.plan.num_iterations
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.optimizer.reduce_gradients()
        norm = self.optimizer.clip_gradients(self.grad_clip)
        if self.scaler is None:  # an infinite gradient under a loss scale is the scaler's business
            loss[0] = torch.where(norm.isfinite() | ~loss[0].isfinite(), loss[0], torch.nan)
        rates = {
            "lr": lr_multiplier(self.schedule, step, total),
            "momentum": muon_momentum(self.schedule, step, total),
            "weight_decay": weight_decay_multiplier(step, total),
            "keep": loss[0].isfinite().float(),
        }
        if self.scaler is None:
            self.optimizer.step(**rates)
        else:
            self.scaler.step(self.optimizer, **rates)
            self.scaler.update()
        return norm

    def _boundary(self) -> None:
        """What is due after a step. Anything after the save is done again by a run that resumes here."""
        step = self.state.step
        if self._due(self.save_cadence, step) or step == self.plan.num_iterations:
            self._save()
        if self.state.record is not None:
            self.metrics.log(self._axes() | self.state.record)
        for event in self.events:
            if not self._stopping() and (self._due(event.cadence, step) or step == self.plan.num_iterations):
                with self.spans.ignored():
                    figures = event.action(lambda: bool(self.stop))
                self._note_memory(f"{event.action.__name__}_step_{step:07d}")
                self._agreed_stop |= figures is None
                if figures:
                    self.metrics.log(self._axes() | figures)

    def _log_due(self, step: int) -> bool:
        """A run that logs at all also logs its last step, wherever that falls."""
        return self._due(self.log_cadence, step) or (self.log_cadence.every_tokens > 0 and step == self.plan.num_iterations)

    def _due(self, cadence: Cadence, step: int) -> bool:
        B = self.plan.total_batch_size
        return step > 0 and cadence.due((step - 1) * B, step * B)

    def _stopping(self) -> bool:
        return bool(self.stop) if self.runtime.world_size == 1 else self._agreed_stop

    def _read_loss(self) -> None:
        """Reads the loss of an earlier step, by now finished: training does not wait for its own loss."""
        if self._unread is None:
            return
        unread, self._unread = self._unread, None
        loss, stops = unread.loss.tolist()
        self._agreed_stop |= stops > 0
        if math.isfinite(loss):
            self.state.loss.update(loss)
            self.state.bad_losses = []
            return
        self.state.bad_losses.append(unread.step)
        self.metrics.say(f"step {unread.step}: loss or gradient is {loss}; the weights stay the same, bad_batches.jsonl notes the batch")
        if self.runtime.rank == 0:
            if self._bad_batches is None:  # a resumed run notes again what it meets again
                self._bad_batches = JsonlSink(self.run_folder / "bad_batches.jsonl", None if self._resumed is None else unread.step - 1)
            rows = {"first_row": unread.step * self.rows_per_step, "rows": self.rows_per_step, "data_hash": unread.data_hash}
            self._bad_batches.log({"step": unread.step, "loss": str(loss)} | rows)
        if len(self.state.bad_losses) >= BAD_LOSSES_IN_A_ROW:
            raise UserError(
                f"loss or gradient was not finite at steps {', '.join(map(str, self.state.bad_losses))}; stopped. Look at the batches in "
                f"{self.run_folder / 'bad_batches.jsonl'} or lower the rates (--lr-mult); run again to resume"
            )

    def _fetch(self, step: int) -> Batch:
        """This process's rows of a step; runs in the loader's thread."""
        first = step * self.rows_per_step
        rows = self.loader.rows(first, first + self.rows_per_step)
        weights = self.loader.weights(first, first + self.rows_per_step)
        share, world = self.rows_per_step // self.runtime.world_size, self.runtime.world_size
        mine = slice(self.runtime.rank * share, (self.runtime.rank + 1) * share)
        counts = count_targets(rows)
        of_micro_batches = counts[mine].reshape(self.grad_accum_steps, -1).sum(1).tolist()
        parts = [counts.sum().item() / (count * world) if count else math.inf for count in of_micro_batches]
        tensor = torch.from_numpy(rows[mine].astype(np.int64))
        return Batch(
            tensor.pin_memory() if self.runtime.device.type == "cuda" else tensor,
            None if weights is None else torch.from_numpy(weights[mine]),
            parts,
            zlib.crc32(rows.tobytes()),
        )

    def _axes(self) -> dict[str, Any]:
        tokens = self.state.step * self.plan.total_batch_size
        return {
            "step": self.state.step,
            "total_tokens": tokens,
            "total_training_flops": tokens * self.flops_per_token,
            "total_training_time": self.state.seconds,
        }

    def _record(self, batch: Batch, norm: Tensor, metrics: list[Metrics]) -> dict[str, Any]:
        """The training metrics of the interval that ends with this step."""
        dt = sum(self._interval) / len(self._interval)
        spans = {name: ms / len(self._interval) for name, ms in self.spans.collect().items()}
        spans["other"] = dt * 1e3 - sum(spans.values())
        profiled, self._profiled, self._interval = self._profiled, 0, []
        record = {
            "train/loss": self.state.loss.value,
            "train/lrm": lr_multiplier(self.schedule, self.state.step - 1, self.plan.num_iterations),
            "train/dt": dt,
            "train/tok_per_sec": self.plan.total_batch_size / dt,
            "train/tokens_per_step": self.plan.total_batch_size,
            "train/grad_accum_steps": self.grad_accum_steps,
            "train/grad_norm": norm.item(),
            "train/epoch": self.loader.epoch_of(self.state.step * self.rows_per_step - 1),
            "train/data_hash": batch.data_hash,
            "train/peak_mem_mib": peak_memory_mib(self.runtime.device),
        }
        if self.runtime.peak_flops is not None:
            achieved = self.flops_per_token * self.plan.total_batch_size / dt
            record["train/mfu"] = achieved / (self.runtime.peak_flops * self.runtime.world_size)
        if profiled:  # they count like all others, and take longer
            record["train/profiled_steps"] = profiled
        record |= {f"train/time/{name}": ms for name, ms in spans.items()}
        figures = self.loader.figures() | self.objective.figures(spans, self.grad_accum_steps)
        return record | mean_metrics(metrics, self.runtime.device) | figures

    def _save(self) -> None:
        """Saves the run at this boundary, once."""
        self._read_loss()
        if self._saved_step == self.state.step:
            return
        rank = self.runtime.rank
        tensors = {
            "model": self.objective.state_dict() if rank == 0 else {},
            "optimizer": self.optimizer.state_tensors(),
            "rng": random_states(self.runtime.device, rank),
        }
        meta = {"identity": self.identity, "state": self.state.state_dict()}
        meta["scaler"] = None if self.scaler is None else self.scaler.state_dict()
        self.store.save(self.state.step, tensors, self.meta | meta, rank, self.runtime.world_size, self.runtime.barrier)
        self._saved_step = self.state.step
        self._note_memory(f"checkpoint_step_{self.state.step:07d}")

    def _note_memory(self, phase: str) -> None:
        if self.memory_debug is not None:
            self.memory_debug.record(phase, self.state.step)

    def _resume(self) -> int | None:
        """Takes up the checkpoint to continue from; returns its step, or None for a new run."""
        say = print if self.runtime.rank == 0 else lambda _: None
        checkpoint = open_checkpoint(self.store, self.flags.resume, say)
        if checkpoint is None:
            if self.flags.resume == "never" and self.runtime.rank == 0:
                set_aside(self.store, say)
            self.runtime.barrier()
            return None
        check_identity(checkpoint.meta["identity"], self.identity, self.store.folder)
        self.objective.load_state_dict(checkpoint.tensors["model"])
        self.optimizer.load_state_tensors(checkpoint.tensors["optimizer"])
        restore_random_states(checkpoint.tensors["rng"], self.runtime.device, self.runtime.rank)
        self.state.load_state_dict(checkpoint.meta["state"])
        if self.scaler is not None:
            self.scaler.load_state_dict(checkpoint.meta["scaler"])
        self._saved_step = checkpoint.step
        if self.flags.resume != "auto" and self.runtime.rank == 0:
            self.store.discard_after(checkpoint.step)
        self.runtime.barrier()
        return checkpoint.step
