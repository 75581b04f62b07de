"""The training loop on models of a few thousand parameters, with real rows, checkpoints and metrics."""

from __future__ import annotations

import json
import os
import signal
import time
import zlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.model.gpt import GPT
from nanochat.runtime.device import Precision, Runtime
from nanochat.train.callback import Evaluation, Run
from nanochat.train.objective import Objective, StepResult
from nanochat.train.optim import OptimFlags, ParamGroup
from nanochat.train.schedule import TrainPlan
from nanochat.train.trainer import TrainerFlags
from tests.helpers.trainer_lab import STEPS, B, Lab, Scripted, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]


def request_stop(lab: Lab, number: int) -> None:
    """Sends this process a signal and waits for it: another thread receives it."""
    os.kill(os.getpid(), number)
    while not lab.stop:
        time.sleep(0.001)


# --- what is logged


def test_every_record_says_where_it_stands(lab: Lab) -> None:
    trainer = lab.trainer()
    assert trainer.run()
    records = lab.metrics()
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    seconds = 0.0
    for record in records:
        tokens = record["step"] * B
        assert record["total_tokens"] == tokens
        assert record["total_training_flops"] == tokens * trainer.objective.model.flops_per_token()
        seconds += record["train/dt"]
        assert record["total_training_time"] == pytest.approx(seconds)
        assert record["train/tok_per_sec"] == pytest.approx(B / record["train/dt"])
        assert record["train/tokens_per_step"] == B and record["train/grad_accum_steps"] == 2
        assert record["train/grad_norm"] > 0 and record["train/peak_mem_mib"] > 0 and record["train/epoch"] == 0


def test_the_rate_follows_the_schedule(lab: Lab) -> None:
    lab.trainer().run()
    # Two steps up; the last four of eight down from 1 to 0.1, where the step after the last would be at 0.1.
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325]
    assert [record["train/lrm"] for record in lab.metrics()] == pytest.approx(expected)


def test_the_loss_is_the_debiased_mean_of_the_steps_losses(lab: Lab) -> None:
    trainer = lab.trainer()
    trainer.run()
    total = weight = 0.0
    for record in lab.metrics():
        losses = trainer.objective.losses[record["step"] - 1]
        assert len(losses) == 2
        total, weight = 0.9 * total + 0.1 * sum(losses) / 2, 0.9 * weight + 0.1
        assert record["train/loss"] == pytest.approx(total / weight, rel=1e-6)


def test_the_spans_of_a_step_add_up_to_it(lab: Lab) -> None:
    def slow_forward(step: int, loss: Tensor) -> Tensor:
        time.sleep(0.01)
        return loss

    lab.wrap = lambda model: Scripted(model, slow_forward)
    lab.trainer(log_every=2).run()
    for record in lab.metrics():
        spans = {key.removeprefix("train/time/"): value for key, value in record.items() if key.startswith("train/time/")}
        assert spans.keys() >= {"data", "forward", "backward", "optimizer", "other"}
        assert sum(spans.values()) == pytest.approx(record["train/dt"] * 1e3, rel=0.02)
        assert spans["forward"] >= 20 and all(value >= 0 for value in spans.values())
    assert sum(record["train/dt"] * 2 for record in lab.metrics()) == pytest.approx(lab.metrics()[-1]["total_training_time"])


def test_metrics_of_the_objective_are_means_over_the_micro_batches(lab: Lab) -> None:
    lab.trainer(log_every=STEPS).run()
    (record,) = lab.metrics()
    rows = lab.loader.rows((STEPS - 1) * 8, STEPS * 8)
    assert record["mc/first_token"] == (rows[0, 0] + rows[4, 0]) / 2


class Measured(Scripted):
    """With spans, figures and metrics of its own; the second micro-batch of a step has nothing to measure `mc/rare` on."""

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        with self.spans("lens"):
            time.sleep(0.002)
        result = super().forward(tokens, targets, progress)
        first = len(self.losses[round(progress * STEPS)]) % 2
        rare = {"mc/rare": torch.tensor(3.0 if first else torch.nan), "mc/never": torch.tensor(torch.nan), "mc/count": 2**24 + 1}
        return StepResult(result.loss, rare | ({"mc/first_alone": 5.0} if first else {}))

    def figures(self, spans_ms: dict[str, float], grad_accum_steps: int) -> dict[str, float]:
        return {"mc/lens_ms": spans_ms["lens"], "mc/grad_accum_steps": grad_accum_steps}


def test_an_objective_opens_spans_and_adds_figures_and_what_was_not_measured_is_left_out(lab: Lab) -> None:
    def look(run: Run) -> dict[str, Any]:
        with run.objective.spans("lens"):
            time.sleep(0.2)
        return {}

    lab.wrap = Measured
    lab.trainer(log_every=2, callbacks=[Evaluation(look, 1)]).run()
    assert len(lab.metrics()) == STEPS / 2
    for record in lab.metrics():
        spans = {key: value for key, value in record.items() if key.startswith("train/time/")}
        assert sum(spans.values()) == pytest.approx(record["train/dt"] * 1e3, rel=0.02)
        assert 4 <= spans["train/time/lens"] < 100, "two micro-batches, and nothing that is done beside training"
        assert record["mc/lens_ms"] == spans["train/time/lens"] and record["mc/grad_accum_steps"] == 2
        assert (record["mc/rare"], record["mc/first_alone"], record["mc/count"]) == (3.0, 5.0, 2**24 + 1)
        assert "mc/never" not in record


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_the_micro_batch_changes_nothing_that_is_seen(lab: Lab, rows: int) -> None:
    reference = another(lab, "reference")
    reference.trainer(log_every=3).run()
    lab.trainer(rows, log_every=3).run()
    assert [record["step"] for record in lab.metrics()] == [3, 6, 8]  # and the last step
    for mine, theirs in zip(lab.figures(), reference.figures(), strict=True):
        assert mine["train/data_hash"] == theirs["train/data_hash"]
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        assert mine["train/grad_norm"] == pytest.approx(theirs["train/grad_norm"], rel=1e-3)
        assert mine["train/grad_accum_steps"] == 8 // rows


def test_the_data_hash_is_that_of_the_rows(lab: Lab) -> None:
    lab.trainer().run()
    assert [record["train/data_hash"] for record in lab.metrics()] == [
        zlib.crc32(lab.loader.rows(step * 8, (step + 1) * 8).tobytes()) for step in range(STEPS)
    ]


# --- what happens at a step boundary


def test_the_checkpoint_is_copied_first_then_comes_the_record_then_the_evaluation(lab: Lab) -> None:
    seen: list[tuple[int, bool, bool]] = []

    def evaluate(run: Run) -> dict[str, Any]:
        step, deadline = run.state.step, time.monotonic() + 20
        while step in (4, STEPS) and step not in trainer.store.steps() and time.monotonic() < deadline:
            time.sleep(0.01)  # it is written meanwhile
        seen.append((step, step in trainer.store.steps() and trainer.store.verify(step) is None, lab.metrics()[-1]["step"] == step))
        return {"val/bpb": 1.0}

    trainer = lab.trainer(save_every=4, callbacks=[Evaluation(evaluate, 3), Evaluation(evaluate, 4)])
    trainer.run()
    # The first evaluation at 3 and 6, the second at 4; both at the end.
    assert seen == [(3, False, True), (4, True, True), (6, False, True), (8, True, True), (8, True, True)]
    assert [record["step"] for record in lab.metrics() if "val/bpb" in record] == [3, 4, 6, 8, 8]
    assert trainer.store.steps() == [4, 8]


def test_an_evaluation_that_is_stopped_is_done_by_the_next_process(lab: Lab) -> None:
    def evaluate(run: Run) -> dict[str, Any] | None:
        if interrupt.pop(run.state.step, False):
            request_stop(lab, signal.SIGTERM)
            assert run.should_stop()
            return None
        return {"val/bpb": run.state.loss.value}

    def run(here: Lab) -> bool:
        return here.trainer(callbacks=[Evaluation(evaluate, 2), Evaluation(evaluate, 4)]).run()

    interrupt, whole = {}, another(lab, "whole")
    assert run(whole)
    interrupt = {4: True}
    assert not run(lab)
    assert CheckpointStore(lab.folder / "checkpoints").steps() == [4]
    assert lab.metrics()[-1]["step"] == 4 and "val/bpb" not in lab.metrics()[-1]
    lab.stop.requested = None
    assert run(lab)
    assert lab.figures() == whole.figures() and lab.saved(STEPS) == whole.saved(STEPS)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("step", [0, 3])
def test_a_stopped_run_goes_on_exactly(lab: Lab, step: int, dtype: str) -> None:
    def interrupt(at: int, loss: Tensor) -> Tensor:
        if at == step - 1 and not lab.stop:
            request_stop(lab, signal.SIGINT)
        return loss

    lab.dtype = dtype
    whole = another(lab, "whole")
    assert whole.trainer(log_every=2).run()
    lab.wrap = lambda model: Scripted(model, interrupt)
    lab.stop.requested = None if step else "SIGTERM"
    assert not lab.trainer(log_every=2).run()
    assert CheckpointStore(lab.folder / "checkpoints").steps() == [step]
    lab.stop.requested, lab.wrap = None, Scripted
    assert lab.trainer(log_every=2).run()
    assert lab.figures() == whole.figures() and lab.saved(STEPS) == whole.saved(STEPS)


# --- losses that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_loss_leaves_weights_and_optimizer_as_they_were(lab: Lab, bad: float) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss * bad if step in (2, 3, 5, 7) else loss

    lab.wrap = lambda model: Scripted(model, spoil)
    trainer = lab.trainer(save_every=1)
    assert trainer.run()
    for step in (2, 3, 5, 7):
        assert lab.saved(step + 1) == lab.saved(step)
    for step in (1, 4, 6):
        assert all(lab.saved(step + 1)[part] != lab.saved(step)[part] for part in ("model.safetensors", "optimizer.safetensors"))
    notes = [json.loads(line) for line in (lab.folder / "bad_batches.jsonl").read_text().splitlines()]
    assert [note["step"] for note in notes] == [2, 3, 5, 7]
    for note in notes:
        first = note["step"] * 8
        rows = lab.loader.rows(first, first + 8)
        assert note == {"step": note["step"], "loss": str(bad), "first_row": first, "rows": 8, "data_hash": zlib.crc32(rows.tobytes())}
    assert lab.metrics()[-1]["train/loss"] > 0


def test_a_finite_loss_with_a_bad_gradient_is_a_bad_loss(lab: Lab) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss + (loss - loss.detach()).abs().sqrt() if step == 3 else loss  # adds 0, whose derivative is NaN

    lab.wrap = lambda model: Scripted(model, spoil)
    assert lab.trainer(save_every=1).run()
    assert lab.saved(4) == lab.saved(3)
    assert [json.loads(line)["loss"] for line in (lab.folder / "bad_batches.jsonl").read_text().splitlines()] == ["nan"]


def test_a_bad_gradient_apart_stops_nothing_but_what_it_belongs_to(lab: Lab) -> None:
    class Beside(Scripted):
        def __init__(self, model: GPT) -> None:
            super().__init__(model)
            self.own = nn.Parameter(torch.ones(2))

        def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
            factor = float("nan") if round(progress * STEPS) in self.bad else 1.0
            return super().forward(tokens, targets, progress, weights)._replace(apart=factor * self.own.square().sum())

        def parameter_groups(self, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
            return [*super().parameter_groups(flags, plan), ParamGroup("adamw", [("own", self.own)], 0.1, apart=True)]

    def trained(name: str, bad: tuple[int, ...]) -> tuple[list[Tensor], list[dict], Lab]:
        here = another(lab, name)
        Beside.bad, here.wrap = bad, Beside
        trainer = here.trainer(save_every=1)
        assert trainer.run()
        return [p.detach().clone() for p in trainer.objective.model.parameters()], here.figures(), here

    (weights, records, _), (same, records_too, spoiled) = trained("good", ()), trained("bad", (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True)) and records == records_too
    alone = another(lab, "alone")
    assert alone.trainer().run()
    assert [r["train/loss"] for r in alone.figures()] == [r["train/loss"] for r in records], "what is apart is not in the loss"
    own = [CheckpointStore(spoiled.folder / "checkpoints").load(step).tensors["model"]["own"] for step in range(1, STEPS + 1)]
    assert torch.equal(own[2], own[3]) and torch.equal(own[3], own[4]) and not torch.equal(own[4], own[5])
    notes = [json.loads(line) for line in (spoiled.folder / "bad_batches.jsonl").read_text().splitlines()]
    assert [(note["step"], note["loss"]) for note in notes] == [(3, "nan"), (4, "nan")]
    with pytest.raises(UserError, match="not finite at steps 2, 3, 4"):
        trained("worse", (2, 3, 4))


def test_one_bad_micro_batch_makes_a_bad_step(lab: Lab) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss * float("nan") if step == 3 and 3 not in trainer.objective.losses else loss

    lab.wrap = lambda model: Scripted(model, spoil)
    trainer = lab.trainer(save_every=1)
    assert trainer.run()
    assert lab.saved(4) == lab.saved(3)


def test_three_bad_losses_in_a_row_stop_the_run(lab: Lab) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss * float("nan") if step in (1, 2, 4, 5, 6) else loss

    lab.wrap = lambda model: Scripted(model, spoil)
    notes = lab.folder / "bad_batches.jsonl"
    for _ in range(2):  # the second run resumes and meets the same
        with pytest.raises(UserError, match="not finite at steps 4, 5, 6;.*bad_batches.jsonl.*--lr-mult"):
            lab.trainer(save_every=4).run()
        assert [json.loads(line)["step"] for line in notes.read_text().splitlines()] == [1, 2, 4, 5, 6]
    lab.wrap = Scripted
    assert lab.trainer(save_every=4).run()


# --- the seam


class Gained(Objective):
    """A vector of its own beside the model, to be trained, saved and restored like any parameter."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, tokens: Tensor, targets: Tensor, progress: float) -> StepResult:
        return StepResult(self.model(tokens, targets) * self.gain.square().mean(), {"mc/gain": self.gain.detach().mean()})

    def parameter_groups(self, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
        return [*super().parameter_groups(flags, plan), ParamGroup("adamw", [("gain", self.gain)], lr=0.01)]


def test_parameters_of_the_objective_are_trained_saved_and_restored(lab: Lab) -> None:
    lab.wrap = Gained
    trainer = lab.trainer(save_every=4)
    trainer.run()
    assert trainer.objective.gain.max() < 0.99
    kept = trainer.store.load(4).tensors
    assert kept["model"]["gain"].max() < 1 and {"gain.exp_avg", "gain.exp_avg_sq", "gain.steps"} <= kept["optimizer"].keys()
    final = lab.saved(STEPS)
    assert lab.trainer(resume="4").run()
    assert lab.saved(STEPS) == final
    assert [record["mc/gain"] for record in lab.metrics()] == sorted((r["mc/gain"] for r in lab.metrics()), reverse=True)


def test_a_parameter_in_no_group_is_refused_at_the_start(lab: Lab) -> None:
    class Forgetful(Gained):
        def parameter_groups(self, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
            return super().parameter_groups(flags, plan)[:-1]

    lab.wrap = Forgetful
    with pytest.raises(AssertionError, match="in no optimizer group: gain"):
        lab.trainer()


def test_a_parameter_outside_the_checkpoint_is_refused_at_the_start(lab: Lab) -> None:
    class Secretive(Gained):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name != "gain"}

    lab.wrap = Secretive
    with pytest.raises(AssertionError, match="not in the checkpoint: gain"):
        lab.trainer()


def test_an_error_in_the_objective_stops_the_run(lab: Lab) -> None:
    def fail(step: int, loss: Tensor) -> Tensor:
        if step == 3:
            raise RuntimeError("the memory is broken")
        return loss

    lab.wrap = lambda model: Scripted(model, fail)
    trainer = lab.trainer(save_every=2)
    with pytest.raises(RuntimeError, match="the memory is broken"):
        trainer.run()
    assert trainer.store.steps() == [2] and lab.metrics()[-1]["step"] == 3


# --- continuing


def test_a_checkpoint_of_another_run_is_not_continued(lab: Lab) -> None:
    assert lab.trainer().run()
    before = lab.saved(STEPS)
    other = lab.trainer()
    other.identity = {"run": 2}
    with pytest.raises(UserError, match="has run 1, this run 2; use another --model-tag"):
        other.run()
    assert lab.saved(STEPS) == before


def test_fp16_on_several_processes_is_refused(lab: Lab) -> None:
    trainer = lab.trainer()
    trainer.runtime = Runtime(torch.device("cpu"), Precision(torch.float16, "test"), "sdpa", False, 0, 2)
    with pytest.raises(UserError, match="fp16 needs a loss scale"):
        trainer.__post_init__()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"device_batch_size": 0}, "device_batch_size is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"save_every": -2}, "save_every is -2"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"resume": "-3"}, "resume is '-3'"),
    ],
)
def test_bad_flags_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerFlags(**flags)
