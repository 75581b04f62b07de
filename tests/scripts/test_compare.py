import fnmatch
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.tiny_run import Home, new_home
from bench.warm_start import WarmStart
from mc.eval.metric_bounds import MEMORY_BOUNDS
from nanochat.tracking.run_reader import LoggedRun, read_run
from scripts.compare import main
from scripts.wandb_dashboard import TEMPLATE, read_template
from tests.helpers.run_files import write_info, write_run

FLAGS = ("--max-seq-len=128", "--total-batch-size=512", "--num-iterations=8", "--warmup-steps=2", "--eval-every=4", "--eval-tokens=512")
MEMORY = ("--mc", "--block-size=8", "--device-batch-size=1", "--run=demo")


def read_of(home: Home) -> Callable[[str], LoggedRun]:
    """Reads a run of `home` by its tag."""
    return lambda tag: read_run(home.base / "base_runs" / tag / "metrics.jsonl", tag)


@pytest.fixture
def runs(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a baseline and its run with a memory; the working folder is another."""
    for tag in ("d4", "d4-mc"):
        write_run(base / "base_runs" / tag, memory=tag.endswith("-mc"), train__mfu=0.5)
        write_info(base / "base_runs" / tag, 300)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return base / "base_runs"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """A baseline and the same with a memory, really trained. Not to be changed."""
    home = new_home(tmp_path_factory.mktemp("trained") / "base", corpus, warm)
    for more in ((), MEMORY):
        process = home.train(*FLAGS, *more)
        assert process.code == 0, process.stderr
    return home


def test_two_runs_with_no_flags(trained: Home, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    process = trained.run("scripts.compare", f"--out={out}")
    assert process.code == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[0].split() == ["tiny", "tiny-mc"] and out.read_bytes().startswith(b"\x89PNG")
    assert any(line.split()[-2:] == ["4,096", "4,096"] for line in lines if line.startswith("tokens "))
    verdict = "comparable: tiny-mc with tiny: same tokens, batch and learning rate at all 8 steps that both logged"
    assert verdict in lines and lines[-1] == f"drawn: {out}"


def test_effective_steps_are_the_working_contexts_of_all_steps(trained: Home) -> None:
    records = [r for r in read_of(trained)("tiny-mc").records if "mc/effective_step" in r]
    total = 0.0
    for record in records:
        total += record["mc/effective_batch_size"]
        assert record["mc/effective_step"] == pytest.approx(total)
    assert records[-1]["train/grad_accum_steps"] > 1


def test_training_tells_of_what_leaves_its_band(trained: Home) -> None:
    """In eight steps LensNet learns nothing, which is one alert, once."""
    runs = trained.base / "base_runs"
    info = json.loads((runs / "tiny-mc" / "run.json").read_text())
    assert info["steps"] == 8 and info["identity"]["max_seq_len"] == 128 and info["least"]["mc/variants_total"] >= 4
    alerts = [json.loads(line) for line in (runs / "tiny-mc" / "alerts.jsonl").read_text().splitlines()]
    assert [alert["metric"] for alert in alerts].count("mc/lens_explained") == 1 and (runs / "tiny" / "alerts.jsonl").read_text() == ""
    (file,) = (runs / "tiny-mc").glob("wandb/offline-run-*/run-*.wandb")
    assert b"alert/mc/lens_explained" in file.read_bytes()
    process = trained.run("scripts.compare", "tiny-mc", "--check", "--out=")
    assert process.code == 1 and "alert: tiny-mc: mc/lens_explained is" in process.stdout


def test_every_metric_that_a_dashboard_or_a_target_names_is_logged(trained: Home, home: Home) -> None:
    """Some where gists predict only, but no panel is empty by default."""
    process = home.train(*FLAGS, *MEMORY, "--gistnet-type=transformer", "--mc-joint=mean")
    assert process.code == 0, process.stderr
    plain, default, predicting = (
        {key for record in run.records for key in record}
        for run in (read_of(trained)("tiny"), read_of(trained)("tiny-mc"), read_of(home)("tiny-mc"))
    )
    memory = default | predicting
    for panel in read_template(TEMPLATE).panels:
        assert set(panel.metrics) <= plain | memory and set(panel.metrics) & default, panel
    assert {read_template(TEMPLATE).x} <= plain & memory
    for target in MEMORY_BOUNDS:
        if target.metric not in ("mc/swap_rate", "mc/residency"):  # of sessions
            assert fnmatch.filter(memory, target.metric), target.metric
    assert "train/mfu" not in plain, "the peak of a CPU is not known"


def test_the_table_fits_a_terminal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("comparable"))]
    assert len({len(line) for line in table}) == 1 and len(table[0]) <= 100 and Path("report/compare.png").exists()


def test_a_page(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["d4", "d4-mc", "--out", "pages/both.md", "--x", "time"]) == 0
    text = Path("pages/both.md").read_text("utf-8")
    assert (
        "|  | d4 | d4-mc |" in text
        and "![Curves of the runs](both.png)" in text
        and "- comparable: d4\\-mc" in text
        or "comparable" in text
    )
    assert Path("pages/both.png").read_bytes().startswith(b"\x89PNG") and capsys.readouterr().out.endswith("drawn: pages/both.md\n")


@pytest.mark.parametrize("arguments", [["d4", "--json", "d4-mc", "--out="], ["--json", "d4", "d4-mc", "--out", ""], ["--json=1", "--out="]])
def test_json_is_all_that_is_printed(runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main([*arguments, "--check"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (
        [run["run"] for run in record["runs"]] == ["d4", "d4-mc"] and record["comparable"] and record["alerts"] == {"d4": [], "d4-mc": []}
    )
    assert not Path("report").exists()


def test_the_targets(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--targets"]) == 0
    assert "train/mfu: " in (text := capsys.readouterr().out) and "  aim: 0.45 … 0.55; alert: below 0.38" in text
    assert main(["--targets", "--json"]) == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"train/mfu", "heartbeat", "mc/delta_nll@*", "mc/swap_rate", "mc/residency", "mc/lens_explained"} <= rows.keys()


# --- checks ---


def check(*arguments: str) -> int:
    return main([*arguments, "--check", "--out="])


def test_a_run_in_its_bands_passes(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("d4", "d4-mc") == 0 and check("d4-mc") == 0
    assert capsys.readouterr().out.endswith("check: passed\n")


def test_a_band_that_was_left_and_reached_again_passes_and_one_that_is_left_at_the_end_does_not(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "d4", train__mfu=lambda step: 0.3 if 100 < step < 200 else 0.5)
    assert check("d4") == 0
    write_run(runs / "d4", train__mfu=lambda step: 0.3 if step > 200 else 0.5)
    capsys.readouterr()
    assert check("d4", "d4-mc") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("alert: ")] == [
        "alert: d4: train/mfu is 0.3, below 0.38 (aim: 0.45 … 0.55); look at --device-batch-size, train/grad_accum_steps and "
        "train/time/data: the device waits for the host"
    ]
    assert lines[-1] == "check: failed" and main(["d4", "--out="]) == 0, "only --check changes the exit code"


def test_a_memory_that_does_not_learn_is_found(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "d4-mc", memory=True, mc__token_loss=lambda step: 3 + step / 300, mc__variants_total=15.0)
    info = json.loads((runs / "d4-mc" / "run.json").read_text())
    (runs / "d4-mc" / "run.json").write_text(json.dumps(info | {"least": {"mc/variants_total": 16.0}}))
    assert check("d4-mc") == 1
    out = capsys.readouterr().out
    assert "mc/token_loss is 3.867, not falling" in out and "mc/variants_total is 15, below 16" in out


def test_runs_that_cannot_be_compared_fail_the_check_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "d4-mc", memory=True, train__tokens_per_step=4096)
    assert main(["--out="]) == 0 and "not comparable: d4-mc with d4: tokens per step 4096 against 8192" in capsys.readouterr().out
    assert check() == 1


def test_a_run_that_has_gone_silent(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "d4" / "metrics.jsonl"
    write_info(runs / "d4", 1000)
    assert check("d4") == 0
    os.utime(path, (time.time() - 3600,) * 2)
    assert check("d4") == 1
    assert "alert: d4: heartbeat is 360" in capsys.readouterr().out
    write_info(runs / "d4", 300)
    assert check("d4") == 0, "it has finished"
    write_run(runs / "d4", total_training_time=lambda step: 200.0 * step)
    write_info(runs / "d4", 1000)
    os.utime(path, (time.time() - 3600,) * 2)
    assert check("d4") == 0, "it logs every 2000 seconds"


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["d5"], 1, "no run d5"),
        (["--x", "miles"], 2, "argument --x: invalid choice"),
        (["--target-loss", "-1"], 2, "target_loss is -1.0; it must be a positive number"),
        (["--target-loss", "nan"], 2, "expected a number"),
        (["--out", "a.pdf"], 2, "must end in .png or .md"),
        (["--metric", "train/loss,"], 2, "separated by commas"),
        (["--metric", "nothing"], 1, "no run has logged nothing"),
        (["--x", "effective_step", "bare"], 1, "choose another --x"),
        (["--out", "/dev/null/a.png"], 1, "cannot create /dev/null"),
        (["--oot", "a.png"], 2, "unknown flag or argument --oot; did you mean --out?"),
        (["empty"], 1, "no record yet"),
        (["broken"], 1, "line 1 of"),
    ],
)
def test_bad_input_is_one_line(
    runs: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanochat.flags import run

    write_run(runs / "bare")
    for tag, content in ("empty", ""), ("broken", 'x\n{"step": 1}\n'):
        (runs / tag).mkdir()
        (runs / tag / "metrics.jsonl").write_text(content)
    with pytest.raises(SystemExit) as ended:
        run(lambda: main(arguments))
    err = capsys.readouterr().err
    assert ended.value.code == code and err.startswith("error: ") and message in err and err.count("\n") == 1, err
    assert not Path("report").exists()
