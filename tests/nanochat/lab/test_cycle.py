import dataclasses
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from nanochat.common import UserError, ensure_dir
from nanochat.lab.curve import read_curve, read_summary
from nanochat.lab.cycle import cycle_names, exclusive, open_cycle, reopen
from nanochat.lab.measurements import measure, members
from nanochat.lab.run_outcome import CRASHED, DIVERGED, OK, classify, metrics_folder
from nanochat.lab.runner import LabRun, outcome_file, run_all
from nanochat.lab.surroundings import Surroundings, changed_files, training_code
from nanochat.lab.templates import Template, at_budget, at_seeds, experiments, load_template
from tests.helpers.planted import BATCH, STEPS, new_cycle, plant, plant_sweep, records, surroundings


def test_what_is_locked_comes_back(base: Path) -> None:
    cycle = new_cycle()
    again = open_cycle("planted", cycle.defaults)
    assert again == cycle and cycle_names() == ["planted"]


def test_unknown_and_damaged_cycles(base: Path) -> None:
    with pytest.raises(UserError, match="there is no cycle 'x'"):
        open_cycle("x", {})
    cycle = new_cycle()
    (cycle.folder / "lab.json").write_text('{"profile": {}}')
    with pytest.raises(UserError, match="lab.json is damaged"):
        open_cycle("planted", {})


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"tokenizer": "u"}, "the tokenizer is not that"),
        ({"hardware": "another"}, "ran on a machine, this is another"),
        ({"code": {"a.py": "2"}}, r"training code has changed since the baseline \(a.py\)"),
    ],
)
def test_other_surroundings_are_refused(base: Path, changed: dict, says: str) -> None:
    cycle = new_cycle()
    cycle.check(surroundings(commit="def"))
    with pytest.raises(UserError, match=says):
        cycle.check(surroundings(**changed))


def test_changed_training_code_is_accepted_with_same_code_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle = new_cycle()
    monkeypatch.setattr(Surroundings, "here", staticmethod(lambda jobs: surroundings(code={"room/a.py": "1"})))  # moved
    with pytest.raises(UserError) as refused:
        reopen("planted", None, False, cycle.defaults, pytest.fail)
    assert "training code has changed since the baseline (a.py, room/a.py)" in str(refused.value)
    assert str(refused.value).endswith("or give --same-code if the change cannot matter") and "\n" not in str(refused.value)
    said: list[str] = []
    again = reopen("planted", None, True, cycle.defaults, said.append)
    assert said == ["the training code has changed since the baseline (2 files); accepted as the same"]
    assert again.hash(again.baseline) == cycle.hash(cycle.baseline) and open_cycle("planted", cycle.defaults) == cycle


def test_the_hash_goes_by_flags_code_and_tokenizer_and_by_nothing_else(base: Path) -> None:
    cycle = new_cycle()
    one = cycle.experiment("a", {"lr_mult": 1.1})
    assert cycle.hash(one) == cycle.hash(cycle.experiment("b", {"lr_mult": 1.1})) != cycle.hash(cycle.baseline)
    assert cycle.hash(cycle.experiment("same", {"chunked_ce": True, "lr_mult": 1})) == cycle.hash(cycle.baseline)
    for changed in ({"code": {"a.py": "2"}}, {"tokenizer": "u"}):
        assert dataclasses.replace(cycle, surroundings=surroundings(**changed)).hash(one) != cycle.hash(one)
    assert dataclasses.replace(cycle, surroundings=surroundings(commit="def")).hash(one) == cycle.hash(one)


def test_the_training_code_is_what_training_imports() -> None:
    code = training_code()
    assert {"scripts/base_train.py", "nanochat/train/trainer.py", "nanochat/model/gpt.py", "mc/train/controller.py"} <= code.keys()
    assert not [name for name in code if name.startswith(("nanochat/lab", "nanochat/serve", "tests"))]
    assert changed_files({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]


def test_one_command_at_a_time(base: Path) -> None:
    cycle = new_cycle()
    with exclusive(cycle), pytest.raises(UserError, match="another command of the lab"), exclusive(cycle):
        pass
    with exclusive(cycle):
        pass


def test_candidates_that_are_the_baseline_are_left_out_and_seeds_take_turns(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    wanted = experiments(cycle, load_template("C", cycle.defaults), "tokens")
    small, large = "C/batch_mult=0.7", "C/batch_mult=1.4"
    assert [e.name for e in wanted] == [small, large]
    assert [str(run) for run in at_seeds(cycle, wanted)] == [f"{small} seed 1", f"{large} seed 1", f"{small} seed 2", f"{large} seed 2"]


def test_budgets_are_those_that_the_baseline_spent(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    wide = cycle.experiment("X/wide", {"aspect_ratio": 32})
    with pytest.raises(UserError, match="no finished run"):
        at_budget(cycle, wide, "flops", cycle.baseline)
    for seed in cycle.seeds:
        plant(cycle, cycle.baseline, seed, tok_per_sec=500.0)
    flops = at_budget(cycle, wide, "flops", cycle.baseline)
    assert flops.flags["target_flops"] == 6e3 * STEPS * BATCH and "num_iterations" not in flops.flags
    assert at_budget(cycle, wide, "time", cycle.baseline).budget_seconds == STEPS * BATCH / 500
    assert at_budget(cycle, wide, "tokens", cycle.baseline) == wide


def test_the_best_of_sweeps_is_taken_over(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    slice_ = Template("A", "", {"w": {"best_of": "B"}, "both": {"all_of": ["w"]}})
    with pytest.raises(UserError, match="has not swept; sweep B first"):
        experiments(cycle, slice_, "tokens")
    name = "B/warmdown_ratio=0.3,warmdown_shape=linear"
    better = cycle.experiment(name, {"warmdown_ratio": 0.3, "warmdown_shape": "linear"})
    for seed in cycle.seeds:
        plant(cycle, cycle.baseline, seed)
        plant(cycle, better, seed, tok_per_sec=1200.0)
    assert [e.knobs for e in experiments(cycle, slice_, "tokens")] == [{"warmdown_ratio": 0.3, "warmdown_shape": "linear"}] * 2
    with pytest.raises(ValueError, match="only is 'v'; A has w, both"):
        experiments(cycle, slice_, "tokens", only="v")


def test_a_run_that_two_experiments_share_has_a_row_for_each(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    for name in ("B/x", "A/warmdown", "A/warmdown"):
        for seed in cycle.seeds:
            plant(cycle, cycle.experiment(name, {"warmdown_ratio": 0.3}), seed)
    assert [row["experiment_name"] for row in cycle.results.rows()] == ["B/x", "B/x", "A/warmdown", "A/warmdown"]
    assert len(cycle.results.newest()) == 2 and members(cycle, "A") == ["A/warmdown"]
    assert measure(cycle, "A/warmdown", cycle.seeds) == measure(cycle, "B/x", cycle.seeds)


def test_figures_leave_out_what_compiling_took() -> None:
    found = read_summary(records(end=1.5, tok_per_sec=1000.0))
    assert (found.tok_per_sec, found.step_ms, found.steady_seconds) == (1000.0, 1000.0, 200.0)
    assert found.wall_seconds == 205
    assert found.final_loss == pytest.approx(2 * (1.5 + 2.0 * 0.02)) and found.min_bpb == 1.5 and found.spike == 0
    bumpy = records()
    bumpy[-2]["train/loss"] *= 1.5
    assert read_summary(bumpy).spike == pytest.approx(1.5 * 1.5 / 1.54 - 1)
    assert read_summary(records()[:2]) is None
    gaps = records()
    gaps[1]["val/bpb"] = None
    assert len(read_curve(gaps, "val/bpb").values) == len(records()) // 2 - 1


def test_what_an_earlier_lab_has_left_under_way_is_waited_for(base: Path) -> None:
    cycle = new_cycle()
    plant_sweep(cycle)
    finished = outcome_file(cycle, LabRun(cycle.baseline, 1))
    finished.unlink()  # trained to its end, so that nothing is left but to say so
    held = os.open(ensure_dir(cycle.folder / "runs" / "another-s1") / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    found: list[bool] = []

    def release() -> None:
        found.append(finished.exists())
        os.close(held)

    threading.Timer(1.0, release).start()
    said: list[str] = []
    run_all(cycle, [LabRun(cycle.baseline, 1)], said.append, with_rows=False)
    assert found == [False] and finished.exists()
    assert said[1] == "an earlier lab has left another-s1 in progress; no more than 1 will run at a time"


def test_how_a_run_ended(base: Path) -> None:
    cycle = new_cycle()
    plant_sweep(cycle)
    run = cycle.run_folder(cycle.baseline, 1)
    assert classify(run, 0) == (OK, "") == classify(run, None)
    (run / "output.txt").write_text("step 3\nerror: no space\n\n")
    assert classify(run, 1) == (CRASHED, "exit code 1: error: no space")
    assert classify(run, -9)[0] == CRASHED
    (metrics_folder(run) / "bad_batches.jsonl").write_text("{}\n{}\n{}\n")
    assert classify(run, 1) == (DIVERGED, "3 steps without a finite loss")
    (metrics_folder(run) / "run.json").write_text('{"steps": 999}')
    assert classify(run, 0) == (CRASHED, "it was stopped from outside before its last step")
    rising = cycle.experiment("X/r", {"lr_mult": 50.0})
    plant(cycle, rising, 1)
    file = metrics_folder(cycle.run_folder(rising, 1)) / "metrics.jsonl"
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    logged[0]["train/loss"] = 1.0
    file.write_text("".join(json.dumps(record) + "\n" for record in logged))
    assert classify(cycle.run_folder(rising, 1), 0)[0] == DIVERGED
