"""Rows of the recall bench hold what they are said to, and a worker measures what it trained."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.mc_recall import COMMON, settings, summary
from bench.recall_rows import EASY, FOCUS, HARD, make_rows
from bench.recall_training import PlainRecall, RecallRows, asked_only, new_model, train
from bench.recall_worker import RecallWorker
from bench.session_recall import LONG_ALL, LONG_ROWS, SHORT_ROWS
from nanochat.common import ROOT, UserError
from nanochat.flags import parse
from nanochat.model.cross_entropy import IGNORE
from nanochat.runtime.device import RuntimeFlags, start


@pytest.mark.parametrize("task", [EASY, HARD, FOCUS, SHORT_ROWS, LONG_ALL, LONG_ROWS])
def test_what_is_asked_was_told_once_and_long_ago(task) -> None:
    rows = make_rows(task, 50, (0, 3))
    far = task.length - task.tail
    for tokens, asked, where in zip(rows.tokens, rows.asked, rows.where, strict=True):
        told = [place for place in range(far) if tokens[place] < task.keys]
        assert len(told) == task.pairs == len(set(tokens[told])), "each key once"
        assert all(task.keys <= tokens[place + 1] < task.keys + task.values for place in told)
        assert set(where) <= set(told) and len(asked) == (task.named or task.pairs)
        assert (tokens[asked] == tokens[where]).all() and (tokens[asked + 1] == tokens[where + 1]).all()
        later = [place for place in range(far, task.length) if tokens[place] < task.keys]
        named = [place for place in later if place < far + task.tail // 2] if task.named else []
        assert sorted(set(later) - set(named)) == sorted(asked)
        assert not task.named or sorted(tokens[named]) == sorted(tokens[asked]), "named before the decision point"
    counted = rows.targets != IGNORE
    assert counted.sum() == rows.asked.size and (rows.targets[counted] >= task.keys).all()
    assert (rows.targets[counted] == rows.tokens[:, 1:][counted]).all()


def test_rows_follow_from_their_seed() -> None:
    assert np.array_equal(make_rows(HARD, 4, (1, 2)).tokens, make_rows(HARD, 4, (1, 2)).tokens)
    assert not np.array_equal(make_rows(HARD, 4, (1, 2)).tokens, make_rows(HARD, 4, (1, 3)).tokens)


@pytest.mark.parametrize("task", [EASY, HARD, FOCUS, SHORT_ROWS, LONG_ALL, LONG_ROWS])
def test_training_asks_for_the_values_of_the_tail_and_nothing_else(task) -> None:
    rows = make_rows(task, 20, (0, 4))
    tokens = torch.from_numpy(rows.tokens)
    assert torch.equal(asked_only(task, tokens[:, :-1], tokens[:, 1:]), torch.from_numpy(rows.targets))


def test_a_worker_trains_and_measures(base: Path) -> None:
    command = ["bench.recall_worker", "--task=focus", "--steps=3", "--batch=2", "--allocator-recent-tokens=32", "--mc-horizon=32"]
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *command, "--mc-train-wc-length=171", "--mc-max-lod=1", "--show-every=2"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    for name in ("full", "gist", "focus", "random", "oracle"):
        assert 0 <= figures[f"{name}_accuracy"] <= 0.1, "nothing is learned in three steps"
    assert 0.5 < figures["lens_hit_rate"] <= 1, "but what is named is found by matches; by chance three of fourteen blocks are"


def test_every_setting_is_one_a_worker_takes() -> None:
    short, every = settings("short"), settings("long")
    assert set(short) < set(every) and len(set(every)) == len(every)
    tasks = {parse(RecallWorker, [*COMMON, *setting]).task for setting in every}
    assert tasks == {"easy", "hard", "focus"}


def test_the_summary_takes_the_best_gists_and_the_worst_full_accuracy() -> None:
    focus = {"task": "focus", "full_accuracy": 0.98, "gist_accuracy": 0.5, "focus_accuracy": 0.9, "random_accuracy": 0.6}
    focus |= {"oracle_accuracy": 0.99, "lens_hit_rate": 0.8}
    hard = [{"task": "hard", "full_accuracy": full, "gist_accuracy": gist} for full, gist in ((1.0, 0.4), (0.99, 0.8))]
    assert summary([focus, *hard]) == {
        "full_accuracy": 0.98,
        "hard_gist_accuracy": 0.8,
        "focus_accuracy": 0.9,
        "random_accuracy": 0.6,
        "oracle_accuracy": 0.99,
        "lens_hit_rate": 0.8,
    }


def test_a_stopped_training_is_an_error_and_signals_are_as_before(base: Path) -> None:
    runtime, before = start(RuntimeFlags(compile=False)), signal.getsignal(signal.SIGTERM)
    model = PlainRecall(new_model(EASY, 32, 0, runtime), EASY)

    def stop(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(UserError, match=r"stopped by SIGTERM at step \d+ of 300"):
        train(model, RecallRows(EASY, 0), 300, 2, 0.1, runtime, stop, 1)
    assert signal.getsignal(signal.SIGTERM) is before
