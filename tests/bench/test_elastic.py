"""Real agents of torchrun over loopback, started by runs/multinode.sh: a process, an agent and a machine are killed, and come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import elastic
from bench.elastic import FLAGS, LONG, STEPS, Cluster, machines_lost, process_killed, same_training
from bench.tiny_run import Home, new_home

pytestmark = pytest.mark.slow


def test_a_killed_process_is_started_again_and_the_run_ends_with_the_same_weights(home: Home, tmp_path: Path) -> None:
    whole = new_home(tmp_path / "whole", home.corpus, home.warm)
    processes = whole.start_group(2, *FLAGS, f"--num-iterations={STEPS}")
    assert [process.wait(elastic.SECONDS) for process in processes] == [0, 0], processes[0].stderr
    with Cluster(home, tmp_path / "cluster", "2:2", (f"--num-iterations={STEPS}",)) as cluster:
        assert process_killed(cluster, whole)
        said = "".join(node.text() for node in cluster.started)
    assert "died while this process waited for it in" in said and "Traceback" not in said


def test_a_run_goes_on_without_machines_that_are_lost_and_with_those_that_come_back(home: Home, tmp_path: Path) -> None:
    with Cluster(home, tmp_path / "cluster", "1:2", (f"--num-iterations={LONG}",)) as cluster:
        assert set(machines_lost(cluster).values()) == {True}
    whole = new_home(tmp_path / "whole", home.corpus, home.warm)
    processes = whole.start_group(2, *FLAGS, f"--num-iterations={LONG}")
    processes[0].until(lambda: whole.logged(home.metrics()[-1]["step"]), elastic.SECONDS)
    assert same_training(home, whole)
