"""The model of training on many GPUs: published runs, and each of its counts against the code it stands for."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import scaling_model
from bench.scaling_model import PUBLISHED, Cluster, Run, collectives, losses, recipe, report, small_all_reduces, step_seconds
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.train.muon import MuonExtras, orthogonalize
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan
from nanochat.train.shards import ROW_SHARD_MIN
from tests.helpers.fake_group import FakeGroup

SMALL = GPTConfig(depth=3, aspect_ratio=64, head_dim=64, max_seq_len=256, window_pattern="SL", vocab_size=2048)
GROUPED = GPTConfig(depth=4, aspect_ratio=64, head_dim=32, kv_heads=2, max_seq_len=256, window_pattern="L", vocab_size=1024)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_are_reproduced(name: str) -> None:
    run, seconds, source = PUBLISHED[name]
    assert "nanochat" in source and run.gpus * run.rows * run.passes * 2048 == 2**19
    assert sum(step_seconds(run, Cluster()).values()) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(
    "name, flops", [("speedrun, d20", 3.491758e9), ("run1000, d32", 1.207960e10), ("GPT-2 record, d24", 4.330784e19 / 16704 / 2**19)]
)
def test_the_published_runs_have_the_published_flops(name: str, flops: float) -> None:
    """Those of a token, which count every key of a window, seen or not."""
    run = PUBLISHED[name].run
    keys = sum(run.window if window and run.window else window or 2048 for window in run.config.windows)
    assert scaling_model.matmul_flops(run.config) + 12 * run.config.width * keys == pytest.approx(flops, rel=0.001)


@pytest.mark.parametrize("world", [8, 64])
@pytest.mark.parametrize("config", [SMALL, GROUPED], ids=["small", "grouped"])
def test_collectives_are_those_of_the_optimizer(config: GPTConfig, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    group = FakeGroup(world, monkeypatch)
    objective = NextTokenObjective(GPT(config, torch.bfloat16).init_weights())
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(256, 1, 1.0, 1.0)))
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.reduce_gradients()
    optimizer.clip_gradients(0.0)
    optimizer.step()
    told = Counter(map(tuple, collectives(config, world)))
    large = Counter(moved for moved in group.moved if moved[0] not in ("all_reduce", "all_gather") or moved[1] >= 2 * ROW_SHARD_MIN)
    assert told == large
    assert len(group.moved) - large.total() == small_all_reduces(config) - 1  # the loss is the trainer's


def test_a_single_gpu_moves_nothing() -> None:
    assert collectives(SMALL, 1) == [] and scaling_model.communication_seconds(Run(SMALL, 1, 1, 256, 1), Cluster()) == 0


def test_a_backward_hides_what_it_completes_before_its_end() -> None:
    run, cluster = recipe(20, 8, Cluster()), Cluster()
    moved = collectives(run.config, 8)
    first, rest = moved[: scaling_model.early(run.config, 8)], moved[scaling_model.early(run.config, 8) :]
    assert {each.kind for each in first[:-1]} == {"reduce"} and first[-1].size == 4 * run.config.vocab_size * run.config.width
    assert [each.kind for each in rest[:2]] == ["reduce_scatter"] * 2 and {each.kind for each in rest[2:]} == {"broadcast", "all_gather"}
    exposed, hidden = (scaling_model.communication_seconds(run, cluster, backward) for backward in (0.0, 1.0))
    assert exposed - hidden == pytest.approx(sum(scaling_model.collective_seconds(each, 8, cluster) for each in first))


def test_flops_are_those_of_the_model_and_of_muon() -> None:
    told = scaling_model.matmul_flops(SMALL) + scaling_model.attention_flops(Run(SMALL, 1, 1, 256, 1))
    assert told == pytest.approx(SMALL.flops_per_token())
    with FlopCounterMode(display=False) as counter:
        D, L = SMALL.width, SMALL.depth
        for shape in ((4 * L, D, D), (L, 4 * D, D), (L, D, 4 * D)):
            orthogonalize(torch.randn(shape), MuonExtras(), torch.float32)
    assert scaling_model.muon_flops(SMALL, 1) == counter.get_total_flops()


def test_a_checkpoint_is_weights_and_state() -> None:
    objective = NextTokenObjective(GPT(SMALL).init_weights())
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(256, 1, 1.0, 1.0)))
    saved = [*objective.state_dict().values(), *optimizer.state_tensors().values()]
    assert scaling_model.checkpoint_bytes(SMALL) == pytest.approx(sum(tensor.nbytes for tensor in saved), rel=0.01)


def test_failures_are_those_of_llama_3_and_the_interval_wastes_least() -> None:
    cluster = Cluster()
    assert losses(16384, 30.0, cluster).failures_a_day == pytest.approx(419 / 54)
    best = losses(1024, 30.0, cluster)

    def wasted(interval: float) -> float:
        return 30.0 / interval + (interval / 2 + cluster.restart) * best.failures_a_day / scaling_model.DAY

    assert wasted(best.interval) == pytest.approx(best.share)
    assert min(wasted(best.interval * factor) for factor in (0.5, 0.9, 1.1, 2)) > best.share


def test_many_gpus_keep_the_batch_until_a_row_each_is_more() -> None:
    cluster = Cluster()
    assert [recipe(12, gpus, cluster).batch for gpus in (1, 64, 256, 1024)] == [2**19, 2**19, 2**19, 2**21]
    far = report(recipe(20, 1024, cluster), cluster)
    near = report(recipe(20, 8, cluster), cluster)
    assert far["parts"]["communication"] > 0.7 * far["seconds"] and near["parts"]["communication"] < 0.1 * near["seconds"]
    assert far["node_sharded_s"] < far["seconds"] and near["node_sharded_s"] == pytest.approx(near["seconds"])
    assert near["fits"] and not report(recipe(40, 1, cluster), cluster)["fits"]


def test_it_prints_tables_and_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling_model.main(["--depths=4", "--gpus=1,8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert [(run["depth"], run["gpus"]) for run in figures["runs"]] == [(4, 1), (4, 8)]
    assert lines[0].startswith("| published run") and sum(line.startswith("| d4 |") for line in lines) == 2
    deepest = figures["deepest"]["8"]
    assert deepest["141 GB, as it is"] > deepest["80 GB, as it is"] < deepest["80 GB, layers recomputed"] < deepest["80 GB, sharded"]


@pytest.mark.parametrize("argument", ["--gpus=0", "--depths=d12"])
def test_what_is_no_number_is_refused(argument: str) -> None:
    with pytest.raises(SystemExit):
        scaling_model.main([argument])
