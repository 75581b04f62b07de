import json
import time
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.tracking import run_log
from nanochat.tracking.metric_bounds import LEVEL, Band, MetricBound
from nanochat.tracking.run_log import open_metrics
from nanochat.tracking.sinks import MetricsLogger

BOUNDS = (MetricBound("mc/x", Band(high=0.5, alert_high=1.0), "x", "y"),)


def opened(folder: Path, resumed: int | None = None, wandb_name: str | None = None, rank: int = 0) -> MetricsLogger:
    run = {"steps": 20, "identity": {"depth": 4}, "record": {"depth": 4}, "wandb_name": wandb_name, "rank": rank}
    return open_metrics(resumed, folder, **run, bounds=BOUNDS, least={"mc/x": 1.0})


def log(metrics: MetricsLogger, steps: range, value: float) -> None:
    for step in steps:
        metrics.log({"step": step, "mc/x": value, "train/loss": 3.0})


def alerts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("alert: ")]


def test_an_alert_is_one_line_on_the_terminal_and_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tmp_path) as metrics:
        log(metrics, range(1, 13), 2.0)
    message = "mc/x is 2, above 1 (aim: at most 0.5); look at y"
    assert alerts(tmp_path) == [{"step": 1 + LEVEL, "metric": "mc/x", "value": 2.0, "band": "above 1", "message": message}]
    assert said(capsys) == [f"alert: step {1 + LEVEL}: {message}"]
    info = json.loads((tmp_path / "run.json").read_text())
    assert info == {"steps": 20, "identity": {"depth": 4}, "least": {"mc/x": 1.0}}


def test_a_run_in_its_bands_has_an_empty_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tmp_path) as metrics:
        log(metrics, range(1, 13), 0.9)
    assert alerts(tmp_path) == [] and said(capsys) == []


@pytest.mark.parametrize("resumed", [3, LEVEL + 1, LEVEL + 2, 12])
def test_a_resumed_run_has_the_alerts_of_an_uninterrupted_one(tmp_path: Path, resumed: int, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, ends in (tmp_path / "whole", [None]), (tmp_path / "parts", [13, resumed]):
        first = True
        for end in ends:
            with opened(folder, None if first else end) as metrics:
                log(metrics, range(1 if first else end, 21 if not first or end is None else end), 2.0)
            first = False
    assert alerts(tmp_path / "parts") == alerts(tmp_path / "whole") and len(alerts(tmp_path / "whole")) == 1
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert len(said(capsys)) == (2 if resumed > LEVEL + 1 else 3), "what was told and is not done again is not told again"


def test_a_new_run_begins_with_no_alerts_and_keeps_those_of_the_one_before(tmp_path: Path) -> None:
    for value in (2.0, 0.1):
        with opened(tmp_path) as metrics:
            log(metrics, range(1, 13), value)
    assert alerts(tmp_path) == [] and len((tmp_path / "alerts.previous.jsonl").read_text().splitlines()) == 1


def test_wandb_is_marked(tmp_path: Path) -> None:
    deadline = time.monotonic() + 60
    with opened(tmp_path, wandb_name="demo") as metrics:
        log(metrics, range(1, 13), 2.0)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # W&B's own process may still be writing.
    while (told := file.read_bytes().count(b"mc/x is 2, above 1")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told == 2 and b"alert/mc/x" in file.read_bytes(), "an alert, and a line of the summary"


def test_no_live_bar_is_left_on_the_terminal_if_wandb_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("cannot log to W&B")

    monkeypatch.setattr(run_log, "WandbSink", refuse)
    monkeypatch.setattr(run_log, "TerminalSink", lambda steps: pytest.fail("a bar was started that nothing stops"))
    with pytest.raises(UserError, match="cannot log to W&B"):
        opened(tmp_path, wandb_name="demo")


def test_other_processes_are_silent(tmp_path: Path) -> None:
    with opened(tmp_path / "run", rank=1) as metrics:
        log(metrics, range(1, 13), 2.0)
    assert not (tmp_path / "run").exists()
