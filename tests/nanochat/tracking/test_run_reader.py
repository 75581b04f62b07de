import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.tracking.run_reader import LOSS, find_runs, newest_pair, reached, read_run, smooth
from tests.helpers.run_files import BATCH, IDENTITY, ROW, write_info, write_run


def names(runs) -> list[str]:
    return [run.name for run in runs]


# --- finding ---


def test_runs_are_found_by_tag_stage_folder_and_file(base: Path) -> None:
    for folder in ("base_runs/d4", "mid_runs/d4", "sft_runs/d6"):
        write_run(base / folder)
    found = find_runs(["d4", "mid/d4", "d6", str(base / "base_runs/d4"), str(base / "mid_runs/d4/metrics.jsonl")])
    assert [run.path.parent.relative_to(base).as_posix() for run in found] == [
        "base_runs/d4", "mid_runs/d4", "sft_runs/d6", "base_runs/d4", "mid_runs/d4"
    ]  # fmt: skip


def test_without_names_the_newest_baseline_and_its_memory(base: Path) -> None:
    for tag in ("d4", "d4-mc", "d6", "d6-mc", "d8-mc", "d9"):
        write_run(base / "base_runs" / tag)
    for tag in ("d4", "d8-mc", "d9"):  # d4's baseline is the newest of a pair, d8-mc and d9 are alone
        os.utime(base / "base_runs" / tag / "metrics.jsonl", (time.time() + 60,) * 2)
    assert names(find_runs([])) == ["d4", "d4-mc"]
    assert [path.parent.name for path in newest_pair()] == ["d4", "d4-mc"]


def test_names_are_as_short_as_they_may_be(tmp_path: Path) -> None:
    for folder in ("a/base_runs/d4", "b/base_runs/d4", "b/base_runs/d6"):
        write_run(tmp_path / folder)
    paths = [str(tmp_path / folder) for folder in ("a/base_runs/d4", "b/base_runs/d4", "b/base_runs/d6")]
    assert names(find_runs(paths)) == ["a/base_runs/d4", "b/base_runs/d4", "d6"]
    assert len(set(names(find_runs(paths[:1] * 2)))) == 2


@pytest.mark.parametrize("name", ["d5", "mid/d4", "d4/metrics.jsonl", "", "base/"])
def test_what_is_not_there_is_told_with_what_is(base: Path, name: str) -> None:
    write_run(base / "base_runs" / "d4")
    with pytest.raises(UserError, match=r"no run .*; there are base/d4$"):
        find_runs([name])


def test_no_pair_is_told(base: Path) -> None:
    write_run(base / "base_runs" / "d4-mc")
    with pytest.raises(UserError, match="both a baseline and a run with --mc"):
        find_runs([])


# --- reading ---


def test_a_file_without_a_record_or_with_a_broken_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for content, message in (b"", "no record yet"), (b'{"step": 1', "no record yet"), (b'{"step": 1}\nx\n{"step": 2}\n', "line 2"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_run(path, "x")


def test_records_that_were_written_again_count_once(tmp_path: Path) -> None:
    records = write_run(tmp_path, steps=100)
    path = tmp_path / "metrics.jsonl"
    again = [{**record, "train/loss": 1.0} for record in records if record["step"] >= 50]
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, *again]))
    run = read_run(path, "x")
    assert run.records == [record for record in records if record["step"] < 50] + again
    assert run.step == 100


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, steps=100, train__loss=lambda step: math.nan if step > 50 else math.inf if step == 30 else float(step))
    run = read_run(tmp_path / "metrics.jsonl", "x")
    assert run.values("train/loss") == [10.0, 20.0, 40.0, 50.0] == run.values(LOSS)
    assert run.last("train/loss") == 50.0 and run.last("nothing") is None


def test_the_plan_comes_from_the_runs_own_file_or_a_checkpoint(base: Path) -> None:
    write_run(base / "base_runs" / "d4", steps=100)
    (run,) = find_runs(["d4"])
    assert run.steps is None and not run.unfinished and run.identity == {}
    checkpoint = base / "base_checkpoints" / "d4" / "step_0000100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "meta.json").write_text(json.dumps({"identity": IDENTITY | {"num_iterations": 100}}))
    (run,) = find_runs(["d4"])
    assert run.steps == 100 and not run.unfinished and run.identity["tokenizer"] == "abc"
    write_info(base / "base_runs" / "d4", steps=300)
    (run,) = find_runs(["d4"])
    assert run.steps == 300 and run.unfinished


# --- axes ---


def test_every_axis(base: Path) -> None:
    for tag in ("d4", "d4-mc"):
        write_run(base / "base_runs" / tag, steps=100, memory=tag.endswith("-mc"))
    write_info(base / "base_runs" / "d4", 100)
    plain, memory = find_runs(["d4", "d4-mc"])
    ends = {axis: (plain.curve(LOSS, axis)[-1][0], memory.curve(LOSS, axis)[-1][0]) for axis in ("tokens", "flops", "time", "step")}
    assert ends == {"tokens": (100 * BATCH,) * 2, "flops": (1e11, 2e11), "time": (100, 200), "step": (100, 100)}
    assert plain.curve(LOSS, "effective_step")[-1][0] == 100 * BATCH / ROW, "rows seen"
    assert memory.curve(LOSS, "effective_step")[-1][0] == 2 * 100 * BATCH / ROW
    assert memory.curve("val/bpb", "effective_step")[0][0] == 2 * 100 * BATCH / ROW, "of the record of the same step"


def test_rows_of_unknown_length_cannot_be_counted(base: Path) -> None:
    write_run(base / "base_runs" / "d4")
    with pytest.raises(UserError, match="choose another --x"):
        find_runs(["d4"])[0].curve(LOSS, "effective_step")


# --- smooth curves ---


@given(st.floats(-3, 3), st.floats(-1, 1), st.integers(1, 60))
def test_a_line_over_the_logarithm_stays_as_it_is(level: float, slope: float, n: int) -> None:
    values = [level + slope * math.log(i) for i in range(1, n + 1)]
    assert smooth(values) == pytest.approx(values, abs=1e-9)


def test_noise_is_taken_out_and_nothing_is_late() -> None:
    true = np.array([3 + 6 / i**0.5 for i in range(1, 61)])
    rng = np.random.default_rng(0)
    errors = np.array([np.array(smooth(true + 0.2 * rng.standard_normal(60))) - true for _ in range(400)])
    assert abs(errors[:, 5:].mean(0)).max() < 0.1 and abs(errors[:, 20:].mean(0)).max() < 0.03
    assert errors[:, 20:].std(0).max() < 0.14 and errors[:, 20:-5].std(0).max() < 0.1
    assert smooth([]) == [] and smooth([4.0]) == [4.0]


def test_where_a_loss_is_reached() -> None:
    points = [(float(x), 10 - math.log(i)) for i, x in enumerate(range(100, 2100, 100), start=1)]
    assert reached(points, 11.0) == 100 and reached(points, 1.0) is None and reached([], 1.0) is None
    between = (points[4][1] + points[5][1]) / 2
    assert reached(points, between) == pytest.approx((points[4][0] + points[5][0]) / 2)
    assert reached(points, points[9][1] + 1e-9) == pytest.approx(points[9][0], rel=1e-4)
