import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from nanochat.report.run_comparison import compare, comparison_markdown, comparison_png, notes_of
from nanochat.tracking.run_reader import LOSS, Axis, LoggedRun, read_run
from tests.helpers.run_files import BATCH, write_info, write_run


def pair(folder: Path, **more) -> list[LoggedRun]:
    """A baseline, and a run with a memory that is 0.1 nats behind; `more` is of the latter."""
    write_run(folder / "d4")
    write_info(folder / "d4", 300)
    write_run(folder / "d4-mc", memory=True, **({"offset": 0.1} | more))
    write_info(folder / "d4-mc", 300)
    return [read_run(folder / name / "metrics.jsonl", name) for name in ("d4", "d4-mc")]


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    comparison = compare(pair(tmp_path))
    plain, memory = comparison.figures
    assert plain["loss"] == pytest.approx(3 + 6 * math.exp(-5), abs=0.02), "the end, not the past"
    assert memory["loss"] - plain["loss"] == pytest.approx(0.1, abs=1e-9), "the loss of plain rows, not that of the memory"
    assert (plain["bpb"], memory["bpb"]) == pytest.approx(((3 + 6 * math.exp(-5)) / 2, (3.1 + 6 * math.exp(-5)) / 2))
    assert (plain["tok_per_sec"], memory["tok_per_sec"]) == (BATCH, BATCH / 2)
    assert (plain["seconds"], memory["seconds"], memory["flops"]) == (300, 600, 6e11)
    assert plain["mfu"] is None and plain["steps"] == 300 == plain["planned_steps"]


@pytest.mark.parametrize(("axis", "factor"), [("flops", 1e9), ("step", 1.0), ("effective_step", BATCH / 512)])
def test_time_and_tokens_to_the_worst_final_loss(tmp_path: Path, axis: Axis, factor: float) -> None:
    plain, memory = pair(tmp_path)
    comparison = compare([plain, memory], axis)
    first, second = comparison.figures
    assert comparison.target_loss == second["loss"] and second["tokens_to_loss"] == 300 * BATCH and second["seconds_to_loss"] == 600
    exact = -60 * math.log((second["loss"] - 3) / 6)  # steps in which the loss falls so far
    assert first["tokens_to_loss"] == pytest.approx(exact * BATCH, rel=0.05)
    assert first["seconds_to_loss"] == pytest.approx(exact, rel=0.05) and first["x_to_loss"] == pytest.approx(exact * factor, rel=0.05)


def test_a_loss_that_is_asked_for(tmp_path: Path) -> None:
    figures = compare(pair(tmp_path), target_loss=4.0).figures
    assert figures[0]["seconds_to_loss"] == pytest.approx(-60 * math.log(1 / 6), rel=0.02)
    assert figures[1]["seconds_to_loss"] == pytest.approx(-120 * math.log(0.9 / 6), rel=0.03)
    assert [f["tokens_to_loss"] for f in compare(pair(tmp_path), target_loss=0.5).figures] == [None, None]


def test_noise_of_single_steps_does_not_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = pair(tmp_path, train__loss_lod0=lambda step: 3 + 6 * math.exp(-step / 60) + 0.15 * rng.standard_normal(), steps=3000, every=10)
    assert compare(runs[1:]).figures[0]["loss"] == pytest.approx(3.0, abs=0.15)


# --- verdicts ---


def test_runs_of_the_same_data_batch_and_schedule_are_comparable(tmp_path: Path) -> None:
    (verdict,) = compare(pair(tmp_path)).verdicts
    assert (verdict.reasons, verdict.notes, verdict.shared) == ((), (), 30)
    assert str(verdict) == "comparable: d4-mc with d4: same tokens, batch and learning rate at all 30 steps that both logged"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"train__tokens_per_step": 4096}, "tokens per step 4096 against 8192 at step 10"),
        ({"train__data_hash": lambda step: 1000 + step + (step == 50)}, "other tokens at 1 of 30 steps that both logged, first at step 50"),
        ({"train__lrm": lambda step: 1 - step / 300 if step < 200 else 0.5}, "learning rate 0.5 against 0.333333 at step 200"),
        ({"every": 7, "steps": 9}, "no step that both logged"),
    ],
)
def test_what_cannot_be_compared_is_told_with_its_reason(tmp_path: Path, more, reason: str) -> None:
    comparison = compare(pair(tmp_path, **more))
    assert comparison.verdicts[0].reasons == (reason,) and not comparison.comparable
    assert str(comparison.verdicts[0]).startswith("not comparable: d4-mc with d4: ")


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ({"max_seq_len": 256}, "tokens of a row 256 against 512"),
        ({"vocab_size": 300}, "vocabulary 300 against 8192"),
        ({"tokenizer": "xyz"}, "tokenizer xyz against abc"),
    ],
)
def test_other_rows_and_tokenizers_cannot_be_compared(tmp_path: Path, identity, reason: str) -> None:
    runs = pair(tmp_path)
    write_info(tmp_path / "d4-mc", 300, **identity)
    runs[1] = read_run(tmp_path / "d4-mc" / "metrics.jsonl", "d4-mc")
    assert compare(runs).verdicts[0].reasons == (reason,)


def test_other_plans_cannot_be_compared_and_other_models_are_noted(tmp_path: Path) -> None:
    runs = pair(tmp_path)
    write_info(tmp_path / "d4-mc", 400, depth=6)
    runs[1] = read_run(tmp_path / "d4-mc" / "metrics.jsonl", "d4-mc")
    (verdict,) = compare(runs).verdicts
    assert verdict.reasons == ("400 steps planned against 300",) and verdict.notes == ("other models: depth 6 against 4",)


def test_a_run_that_goes_on_is_compared_up_to_now(tmp_path: Path) -> None:
    runs = pair(tmp_path)
    half = [record for record in runs[1].records if record["step"] <= 150]
    runs[1] = dataclasses.replace(runs[1], records=half)
    comparison = compare(runs)
    assert comparison.comparable and comparison.verdicts[0].shared == 15 and comparison.figures[1]["steps"] == 150
    assert notes_of(runs[1]) == ["d4-mc is at step 150 of 300: its figures are preliminary"] and notes_of(runs[0]) == []


def test_losses_that_are_not_finite_are_noted(tmp_path: Path) -> None:
    runs = pair(tmp_path, train__loss_lod0=lambda step: math.nan if step > 200 else 4.0)
    assert notes_of(runs[1]) == ["d4-mc: train/loss_lod0 is not finite in 10 records, which are left out"]
    assert compare(runs).figures[1]["loss"] == pytest.approx(4.0)


def test_one_record_and_none_with_a_loss(tmp_path: Path) -> None:
    runs = pair(tmp_path)
    one = dataclasses.replace(runs[1], records=runs[1].records[:1])
    comparison = compare([one])
    assert comparison.figures[0]["loss"] == one.records[0]["train/loss_lod0"] and comparison.verdicts == [] and comparison.comparable
    none = dataclasses.replace(runs[0], name="bare", records=[{"step": 300, "val/bpb": 2.0}])
    comparison = compare([one, none])
    assert comparison.figures[1]["loss"] is None and comparison.verdicts[0].reasons == ("no step that both logged",)
    assert notes_of(none) == ["bare has no training loss"]
    assert comparison_png([one, none], "tokens", [LOSS, "val/bpb"], True) is not None


# --- what is shown ---


def test_the_table_has_a_line_for_what_any_run_has_logged(tmp_path: Path) -> None:
    comparison = compare(pair(tmp_path, train__mfu=0.45), "time", ["mc/token_loss", LOSS, "nothing"])
    rows = {row[0]: row[1:] for row in comparison.rows()}
    assert rows["share of the device's peak (MFU), median"] == ("–", "45.0 %")
    assert rows["tokens per second, median"] == ("8,192", "4,096") and rows["time in steps"] == ("5m00s", "10m00s")
    assert rows["mc/token_loss"] == ("–", f"{3.6 + 6 * math.exp(-5):.4f}") and rows["nothing"] == ("–", "–")
    assert "peak memory, MiB" not in rows and "| tokens per second, median | 8,192 | 4,096 |" in comparison_markdown(comparison)


def test_the_figure_goes_by_its_axis(tmp_path: Path) -> None:
    runs = pair(tmp_path)
    drawn = {axis: comparison_png(runs, axis, [LOSS, "val/bpb"], True) for axis in ("tokens", "time", "flops", "effective_step", "step")}
    assert all(png is not None and png.startswith(b"\x89PNG") for png in drawn.values()) and len(set(drawn.values())) == 5
    assert comparison_png(runs, "tokens", [LOSS], False) != comparison_png(runs, "tokens", [LOSS], True)
    assert comparison_png(runs, "tokens", ["nothing"], True) is None
