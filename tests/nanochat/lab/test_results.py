import csv
import multiprocessing
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.lab.results import COLUMNS, Results

# The runbook's columns in its order, then what tells configurations and machines apart.
RUNBOOK = """timestamp git_commit experiment_name seed depth max_seq_len device_batch_size total_batch_size
    target_param_data_ratio warmdown_ratio warmdown_shape target_metric_name target_metric_threshold
    time_to_target_sec_measured time_to_target_sec_extrapolated extrapolation_method tok_per_sec_median dt_median_ms
    wall_time_sec final_train_loss min_val_bpb peak_mem_mib status"""


def row(name: str = "baseline", seed: int = 1) -> dict:
    return dict.fromkeys(COLUMNS, None) | {"experiment_name": name, "seed": seed, "config_hash": f"h-{name}", "final_train_loss": 1 / 3}


def append_some(path: Path, name: str) -> None:
    for seed in range(8):
        Results(path).append(row(name, seed))


def test_the_columns_are_those_of_the_runbook() -> None:
    assert list(COLUMNS) == [*RUNBOOK.split(), "config_hash", "hardware"]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    results = Results(tmp_path / "lab" / "results.csv")
    assert results.rows() == []
    results.append(row('a, "quoted" name'))
    results.append(row("b", 2))
    with open(results.path, newline="") as f:
        plain = list(csv.DictReader(f))
    assert plain == results.rows() and [r["experiment_name"] for r in plain] == ['a, "quoted" name', "b"]
    assert plain[0]["status"] == "" and plain[0]["final_train_loss"] == "0.3333333333"
    assert results.newest().keys() == {('h-a, "quoted" name', 1), ("h-b", 2)}


def test_the_newest_row_of_a_configuration_counts(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    results.append(row() | {"status": "crashed"})
    results.append(row() | {"status": "ok"})
    assert [r["status"] for r in results.newest().values()] == ["ok"] and len(results.rows()) == 2


def test_a_torn_row_is_no_row_and_is_cut_off_by_the_next(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    results.append(row("a"))
    whole = results.path.read_bytes()
    for cut in (1, 7, len(whole) // 2):
        results.path.write_bytes(whole + whole[:cut])
        assert [r["experiment_name"] for r in results.rows()] == ["a"]
        results.append(row("b"))
        assert [r["experiment_name"] for r in results.rows()] == ["a", "b"]
    results.path.write_bytes(whole[:9])  # not even a header
    results.append(row("c"))
    assert [r["experiment_name"] for r in results.rows()] == ["c"]


def test_several_processes_append_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    processes = [multiprocessing.get_context("fork").Process(target=append_some, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = [(r["experiment_name"], int(r["seed"])) for r in Results(path).rows()]
    assert sorted(found) == [(name, seed) for name in "abc" for seed in range(8)]


@pytest.mark.parametrize(
    "text, says", [("a,b\n1,2\n", "other columns"), (",".join(COLUMNS) + "\n1,2\n", "line 2"), ("\xff\n", "cannot read")]
)
def test_what_is_no_file_of_results_is_refused_and_left_alone(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(text.encode("latin-1"))
    for action in (Results(path).rows, lambda: Results(path).append(row())):
        with pytest.raises(UserError, match=says):
            action()
    assert path.read_bytes() == text.encode("latin-1")
