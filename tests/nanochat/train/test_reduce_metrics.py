"""Means of metrics over micro-batches and processes that need not all have measured the same, and the slowest process."""

from __future__ import annotations

import json
import math

import torch

from bench.warm_start import WarmStart
from nanochat.train.reduce_metrics import mean_metrics, slowest
from tests.helpers.tiny import warm  # noqa: F401 (pytest finds fixtures by name)
from tests.helpers.two_processes import new_world

CPU = torch.device("cpu")


def test_each_metric_is_the_mean_over_those_that_have_it() -> None:
    metrics = [{"a": torch.tensor(1.0), "b": torch.tensor(math.nan), "n": 2**24 + 1}, {"a": 2.0, "b": torch.tensor(4.0)}, {"a": 6.0}]
    assert mean_metrics(metrics, CPU) == {"a": 3.0, "b": 4.0, "n": 2**24 + 1}
    assert mean_metrics([{"a": torch.tensor(math.nan)}, {}], CPU) == {}
    assert mean_metrics([{}, {}], CPU) == {} == mean_metrics([], CPU)
    assert slowest(7.5) == {}, "alone"
    assert mean_metrics([{"a": math.inf}], CPU) == {"a": math.inf}, "only NaN means nothing"


def test_two_processes_get_the_same_means_whoever_measured(warm: WarmStart) -> None:  # noqa: F811
    world = new_world()
    workers = [warm.start("tests.helpers.mean_metrics_worker", [], world | {"RANK": rank}) for rank in "01"]
    assert [worker.wait() for worker in workers] == [0, 0], workers[0].stderr + workers[1].stderr
    assert workers[0].stdout == workers[1].stdout
    means, nothing, most = map(json.loads, workers[0].stdout.splitlines())
    assert means == {"all": 3.0, "first": 5.0, "é": 1.0, "a much longer name of the second": 7.0} and nothing == {}
    assert most == {"train/slowest_rank": 1, "train/slowest_rank_ms": 9.25}
