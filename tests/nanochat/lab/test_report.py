import re
from datetime import date
from pathlib import Path

import numpy as np

from nanochat.common import write_json
from nanochat.lab import decisions
from nanochat.lab.cycle import BASELINE
from nanochat.lab.report import write_report
from nanochat.lab.scaling import fit_points, judge_series
from tests.helpers.planted import new_cycle, plant, plant_sweep
from tests.nanochat.lab.test_decisions import plant_series


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_the_page_shows_all_there_is(base: Path, tmp_path: Path) -> None:
    cycle = new_cycle()
    name, targets = plant_series(cycle, {2: 0.1, 3: 0.08})
    judge_series(cycle, BASELINE, name, targets)
    decisions.keep(cycle, decisions.decide(cycle, name, date(2026, 1, 2)))
    points = [
        {"budget": c, "depth": d, "parameters": 1e4 * d, "tokens": c / d, "value": 2 - 0.1 * np.log10(c) + 0.1 * np.log(d / 2) ** 2}
        for c in (1e10, 1e11, 1e12)
        for d in (1, 2, 3, 4)
    ]
    write_json(cycle.folder / "scaling.json", {"metric": "val/bpb", "points": points, **fit_points(points)})
    page = write_report(cycle, tmp_path / "page").read_text()
    for shown in (
        "## Sweep X",
        "X/lr\\_mult=1.1",
        "## Decisions",
        "| promote |",
        "## Depth sweep",
        "holds across depths",
        "## Scaling laws",
    ):
        assert shown in page, shown
    figures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    assert figures == ["sweep_X.png", "gains_X.png", "miniseries.png", "scaling.png"]
    for figure in figures:
        width, height = png_size(tmp_path / "page" / figure)
        assert width > 600 and height > 150


def test_a_cycle_that_has_just_begun_has_a_page(base: Path, tmp_path: Path) -> None:
    cycle = new_cycle(threshold=None)
    assert "threshold not locked yet" in write_report(cycle, tmp_path).read_text()


def test_an_unfinished_sweep_and_one_that_failed(base: Path, tmp_path: Path) -> None:
    cycle = new_cycle(seeds=2)
    for seed in cycle.seeds:
        plant(cycle, cycle.baseline, seed)
        plant(cycle, cycle.experiment("Y/bad", {"lr_mult": 9.0}), seed, status="diverged")
    plant(cycle, cycle.experiment("X/half", {"lr_mult": 2.0}), 1)
    page = write_report(cycle, tmp_path).read_text()
    assert "No candidate has run at every seed yet." in page and "diverged" in page and "sweep_Y.png" in page


def test_no_gain_is_drawn_where_there_is_none(base: Path, tmp_path: Path) -> None:
    cycle = new_cycle(threshold=0.1)  # never reached, nor extrapolated to
    plant_sweep(cycle)
    page = write_report(cycle, tmp_path).read_text()
    assert "sweep_X.png" in page and "gains_X.png" not in page
