"""The training loop: optimizes an `Objective` while `Callback`s log, evaluate and profile. The stages are in scripts/.

All cadences count tokens. The order at a step boundary is: checkpoint, log, evaluate; the checkpoint is copied there and written
while the run goes on. A run that resumes from a checkpoint repeats what follows it, so an interrupted run ends with the metrics of an
uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.checkpoint.restore import restore_module
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.data.dataloader import Prefetcher
from nanochat.data.rows import Loader, inputs_and_targets
from nanochat.flags import check, flag
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.profiling.timers import SpanTimers
from nanochat.profiling.torch_profiler import parse_steps
from nanochat.runtime.device import Runtime
from nanochat.runtime.folder_lock import FolderLock
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.sinks import JsonlSink, MetricsLogger
from nanochat.train.agreement import agree_on_run, agree_on_weights
from nanochat.train.batch import Batch, read_batch
from nanochat.train.callback import Callback
from nanochat.train.objective import Metrics, Objective
from nanochat.train.optim import MuonAdamW, check_coverage
from nanochat.train.reduce_metrics import mean_metrics, slowest
from nanochat.train.saves import Saves
from nanochat.train.schedule import ScheduleFlags, TrainPlan, passes_multiple
from nanochat.train.sharded_model import is_sharded, own_rows, whole_state
from nanochat.train.state import TrainState, check_identity, open_checkpoint, random_states, restore_random_states, set_aside

BAD_LOSSES_IN_A_ROW = 3  # stop after this many consecutive non-finite losses


@dataclass
class TrainerFlags:
    """Micro-batch, cadences, checkpoints."""

    device_batch_size: int = flag(32, "micro-batch size per process", unit="rows")
    log_every: int = flag(100, "log training metrics, and those of the last step; -1 = off", unit="baseline steps, applied as tokens")
    save_every: int = flag(-1, "save a checkpoint; -1 = only at the end", unit="baseline steps, applied as tokens")
    keep_checkpoints: int = flag(2, "number of newest checkpoints to keep; -1 = all")
    resume: str = flag("auto", "auto = resume from the newest valid checkpoint; never = start anew; or a step to resume from")
    seed: int = flag(42, "seed of the weights and of the data order")
    profile_steps: str = flag("", "A:B = write a Perfetto trace of steps A to B-1 to report/profile; empty = none")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "must be at least 1", "device_batch_size")
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1", "log_every", "save_every", "keep_checkpoints")
        if self.resume not in ("auto", "never") and not self.resume.isdecimal():
            raise ValueError(f"resume is {self.resume!r}; it must be auto, never or a step")
        parse_steps(self.profile_steps)


class _Unread(NamedTuple):
    """Loss of a step, not yet read from the device: fp32 [mean loss, processes asked to stop, norm of the gradients apart]."""

    step: int
    data_hash: int
    loss: Tensor


@dataclass
class Trainer:
    """Trains `objective` to the end of `plan`.

    A checkpoint must agree on `identity` to be resumed; a key that one side lacks has its value in `defaults`. `meta` is saved next
    to the weights for readers of the checkpoint. All three are JSON. `open_metrics` gets the step that the run resumes from, if any.
    The first process has the `lock` on the run's folders.

    A checkpoint of fewer steps than the plan's is resumed too: the rest of the run is a `Leg` with schedules of its own.
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
    identity: Mapping[str, Any]
    meta: Mapping[str, Any]
    stop: StopSignals
    open_metrics: Callable[[int | None], MetricsLogger]
    callbacks: list[Callback] = field(default_factory=list)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    lock: FolderLock | None = None

    def __post_init__(self) -> None:
        check_coverage(self.objective, self.optimizer.groups)
        unsaved = dict(self.objective.named_parameters()).keys() - self.objective.state_dict().keys()
        assert not unsaved, f"not in the checkpoint: {', '.join(sorted(unsaved))}"
        world, T = self.runtime.world_size, self.loader.seq_len
        self.rows_per_step = self.plan.total_batch_size // T
        self.grad_accum_steps = self.rows_per_step // (self.flags.device_batch_size * world)
        assert self.grad_accum_steps * self.flags.device_batch_size * world * T == self.plan.total_batch_size
        if self.runtime.precision.needs_scaler and world > 1:
            raise UserError("fp16 needs a loss scale, which several processes cannot share; use bf16 or fp32, or one process")
        self.scaler = torch.amp.GradScaler(self.runtime.device.type) if self.runtime.precision.needs_scaler else None
        self.flops_per_token = self.objective.flops_per_token()
        self.objective.spans = self.spans = SpanTimers(self.runtime.device)
        self.state = TrainState()
        self._agreed_stop = False
        self._resumed: int | None = None
        self._bad_batches: JsonlSink | None = None  # opened for the first one
        self._unread: _Unread | None = None
        self._interval: list[float] = []  # seconds of the steps since the last record

    def run(self) -> bool:
        """Trains until the plan's end or a stop signal, and saves; returns whether the end was reached."""
        agree_on_run(self.identity, self.store, self.flags.resume, self.runtime)
        self._resumed = self._resume()
        agree_on_weights((p for p in self.objective.parameters() if not is_sharded(p)), self.runtime)
        if self.state.step < self.plan.num_iterations:
            self.store.check_room(self._tensors(self.objective.state_dict()), self.runtime.say, self.runtime)
        with self.open_metrics(self._resumed) as self.metrics, ExitStack() as stack:
            self._saves = stack.enter_context(Saves(self.store, self.runtime, self.lock, self.metrics, self._resumed))
            for callback in self.callbacks:
                callback.started(self, self._resumed)
                stack.callback(callback.closing)
            if self._resumed is not None:
                self._boundary()
            with self._batches() as batches:
                while self.state.step < self.plan.num_iterations and not self._stopping():
                    with ExitStack() as around:
                        for callback in self.callbacks:
                            around.enter_context(callback.step(self))
                        self._train_step(batches)
                    self._boundary()
            self._save_at_end()
            self._end_phase("end")
        return self.state.step == self.plan.num_iterations

    @property
    def device_batch_size(self) -> int:
        """Rows in a micro-batch."""
        return self.flags.device_batch_size

    def say(self, text: str) -> None:
        """Prints a line in the first process."""
        self.metrics.say(text)

    def should_stop(self) -> bool:
        """Whether this process has been asked to stop; the others may not know yet."""
        return bool(self.stop)

    def _batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """The batches of the remaining steps."""
        first, last = self.state.step, self.plan.num_iterations
        if self.loader.ahead:
            return Prefetcher(self._fetch, first, last, self.loader.ahead)
        return nullcontext(map(self._fetch, range(first, last)))

    def _train_step(self, batches: Iterator[Batch]) -> None:
        begin = time.perf_counter()
        log_due = self._due(self.flags.log_every, self.state.step + 1)
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
        self.state.seconds += self._interval[-1]
        self.state.record = self._record(batch, norm, metrics) if log_due else None

    def _forward_backward(self, batch: Batch) -> tuple[Tensor, list[Metrics]]:
        """Accumulates a step's gradients; returns this process's fp32 [mean loss, asked to stop, 0] and the metrics of each micro-batch."""
        loss = torch.zeros(3, device=self.runtime.device)
        metrics = []
        progress = self.state.leg.fraction(self.state.step, self.plan.num_iterations)
        size, device = self.device_batch_size, self.runtime.device
        weights = [{}] * self.grad_accum_steps if batch.weights is None else [{"weights": w} for w in batch.weights.to(device).split(size)]
        for micro, weight, divisor in zip(batch.rows.split(size), weights, batch.loss_divisors, strict=True):
            last = len(metrics) == self.grad_accum_steps - 1
            tokens, targets = inputs_and_targets(micro.to(device, non_blocking=True))
            with self.spans("forward"):
                result = self.objective(tokens, targets, progress, **weight)
            with self.spans("backward"), self.optimizer.last_backward() if last and self.scaler is None else nullcontext():
                share = result.loss / divisor
                total = result.total / divisor
                (total if self.scaler is None else self.scaler.scale(total)).backward()
            loss[0] += share.detach()
            metrics.append(result.metrics)
        loss[1] = float(bool(self.stop))
        return loss, metrics

    def _optimize(self, loss: Tensor) -> Tensor:
        """Makes `loss` that of all processes, updates the weights and returns the gradient's norm.

        A loss or gradient that is not finite changes nothing but `loss`; if only one apart is not, the others go on learning.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.optimizer.reduce_gradients(None if self.scaler is None else self.scaler.scale(torch.ones((), device=loss.device)))
        if self.runtime.world_size > 1:  # after what began earlier: of several operations that fail, the first one says why
            dist.all_reduce(loss)
            loss[0] /= self.runtime.world_size
        norm = self.optimizer.clip_gradients(self.grad_clip)
        if self.scaler is None:  # the scaler handles an infinite gradient itself
            loss[0] = torch.where(norm.isfinite() | ~loss[0].isfinite(), loss[0], torch.nan)
        loss[2] = self.optimizer.apart_norm
        keep = loss[0].isfinite().float()
        multipliers = {
            **self.state.leg.multipliers(self.schedule, self.state.step, self.plan.num_iterations),
            "keep": keep,
            "keep_apart": keep * loss[2].isfinite().float(),
        }
        if self.scaler is None:
            self.optimizer.step(**multipliers)
        else:
            self.scaler.step(self.optimizer, **multipliers)
            self.scaler.update()
        return norm

    def _boundary(self) -> None:
        """Saves, logs and evaluates after a step, each if due. A run that resumes here repeats what follows the save."""
        step = self.state.step
        self._saves.look()
        if self._due(self.flags.save_every, step) or step == self.plan.num_iterations:
            self._save()
        if self.state.record is not None:
            self._log(self.state.record)
        for callback in self.callbacks:
            if not self._stopping() and self._due(callback.every_steps, step):
                with self.spans.ignored():
                    self.optimizer.gather_exactly()
                    figures = callback.due(self)
                self._end_phase(callback.name)
                self._agreed_stop |= figures is None
                if figures:
                    self._log(figures)

    def _due(self, every_steps: int, step: int) -> bool:
        """Whether something with the cadence `every_steps` is due after `step`. The last step of a leg counts, unless it is off (−1)."""
        B, last = self.plan.total_batch_size, step == self.plan.num_iterations or 0 < step == self.state.leg.start
        return every_steps > 0 and (last or passes_multiple(every_steps * B, (step - 1) * B, step * B))

    def _log(self, metrics: Mapping[str, Any]) -> None:
        tokens = self.state.step * self.plan.total_batch_size
        axes = {
            "step": self.state.step,
            "total_tokens": tokens,
            "total_training_flops": tokens * self.flops_per_token,
            "total_training_time": self.state.seconds,
        }
        self.metrics.log(axes | metrics)
        for callback in self.callbacks:
            callback.logged(axes | metrics)

    def _end_phase(self, phase: str) -> None:
        for callback in self.callbacks:
            callback.phase_ended(self, phase)

    def _stopping(self) -> bool:
        return bool(self.stop) if self.runtime.world_size == 1 else self._agreed_stop

    def _read_loss(self) -> None:
        """Reads the loss of an earlier step, which is finished by now: a step does not wait for its own loss."""
        if self._unread is None:
            return
        unread, self._unread = self._unread, None
        loss, stops, apart = unread.loss.tolist()
        self._agreed_stop |= stops > 0
        what = "loss or gradient"
        if math.isfinite(loss):
            self.state.loss.update(loss)
            if math.isfinite(apart) or self.scaler is not None:  # a loss scale may be too large for a step or two
                self.state.bad_losses = []
                return
            what, loss = "gradient of parameters apart", apart
        self.state.bad_losses.append(unread.step)
        self.say(f"step {unread.step}: {what} is {loss}; the weights stay the same, bad_batches.jsonl notes the batch")
        if self.runtime.rank == 0:
            if self._bad_batches is None:  # a resumed run writes its batches again
                self._bad_batches = JsonlSink(self.run_folder / "bad_batches.jsonl", None if self._resumed is None else unread.step - 1)
            rows = {"first_row": unread.step * self.rows_per_step, "rows": self.rows_per_step, "data_hash": unread.data_hash}
            self._bad_batches.log({"step": unread.step, "loss": str(loss)} | rows)
        if len(self.state.bad_losses) >= BAD_LOSSES_IN_A_ROW:
            raise UserError(
                f"loss or gradient was not finite at steps {', '.join(map(str, self.state.bad_losses))}; stopped. Look at the batches in "
                f"{self.run_folder / 'bad_batches.jsonl'} or lower the learning rates (--lr-mult); run again to resume"
            )

    def _fetch(self, step: int) -> Batch:
        """This process's rows of a step; runs in the loader's thread."""
        return read_batch(self.loader, self.runtime, step, self.rows_per_step, self.grad_accum_steps)

    def _record(self, batch: Batch, norm: Tensor, metrics: list[Metrics]) -> dict[str, Any]:
        """The training metrics of the interval that ends with this step."""
        dt = sum(self._interval) / len(self._interval)
        spans = {name: ms / len(self._interval) for name, ms in self.spans.collect().items()}
        without_waiting = sum(spans.values()) - spans.get("optimizer", 0.0)
        spans["other"] = dt * 1e3 - sum(spans.values())
        self._interval = []
        record = {
            "train/loss": self.state.loss.value,
            "train/lrm": self.state.leg.multipliers(self.schedule, self.state.step - 1, self.plan.num_iterations)["lr"],
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
        for callback in self.callbacks:
            record |= callback.figures()
        record |= {f"train/time/{name}": ms for name, ms in spans.items()}
        figures = self.loader.figures() | self.objective.figures(spans, self.grad_accum_steps)
        return record | slowest(without_waiting) | mean_metrics(metrics, self.runtime.device) | figures

    def _save(self) -> None:
        """Begins to save the run at this boundary, once."""
        self._read_loss()
        if self._saves.step == self.state.step:
            return
        self.optimizer.gather_exactly()
        tensors = self._tensors(whole_state(self.objective, self.runtime.rank))
        meta = {"identity": dict(self.identity), "state": self.state.state_dict()}
        meta["scaler"] = None if self.scaler is None else self.scaler.state_dict()
        self._saves.begin(self.state.step, tensors, {**self.meta, **meta})
        self._end_phase("checkpoint")

    def _save_at_end(self) -> None:
        """Saves the run at this boundary, and waits until it is saved; a disk that does not take it is tried once more."""
        self._save()
        if not self._saves.finish():
            self._save()
            self._saves.finish(last=True)

    def _tensors(self, model: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What this process saves, if the objective's state is `model`."""
        return {
            "model": model if self.runtime.rank == 0 else {},
            "optimizer": self.optimizer.state_tensors(),
            "rng": random_states(self.runtime.device, self.runtime.rank),
        }

    def _resume(self) -> int | None:
        """Loads the checkpoint to resume from; returns its step, or None for a new run."""
        checkpoint = open_checkpoint(self.store, self.flags.resume, self.runtime.say, self.runtime)
        if checkpoint is None:
            if self.flags.resume == "never" and self.runtime.rank == 0:
                set_aside(self.store, self.runtime.say)
            self.runtime.barrier()
            return None
        saved, total = checkpoint.meta["identity"], self.plan.num_iterations
        before = min(saved.get("num_iterations", total), total)  # a longer run may go on
        check_identity(saved | ({"num_iterations": total} if before < total else {}), self.identity, self.defaults, self.store.folder)
        try:
            restore_module(self.objective, checkpoint.saved["model"], own_rows)
        except ValueError as error:
            raise UserError(f"{self.store.folder} is not of this model: {error}; use another --model-tag") from error
        self.optimizer.load_state_tensors(checkpoint.saved["optimizer"])
        restore_random_states(checkpoint.tensors["rng"], self.runtime.device, self.runtime.rank)
        self.state.load_state_dict(checkpoint.meta["state"])
        if before < total and self.state.step > self.state.leg.start:
            self.state.leg = self.state.leg.next(self.schedule, self.state.step, before)
            self.runtime.say(self.state.leg.describe(self.schedule, total))
        if self.scaler is not None:
            self.scaler.load_state_dict(checkpoint.meta["scaler"])
        if self.flags.resume != "auto" and self.runtime.rank == 0:
            self.store.discard_after(checkpoint.step)
        self.runtime.barrier()
        return checkpoint.step
