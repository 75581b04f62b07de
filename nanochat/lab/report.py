"""Report of a cycle: what is locked, sweeps with figures and tables, decisions, depth sweep, scaling fits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from nanochat import markdown
from nanochat.common import atomic_write, ensure_dir
from nanochat.lab import decisions
from nanochat.lab.curve import read_curve, read_summary
from nanochat.lab.cycle import BASELINE, Cycle
from nanochat.lab.figures import Bar, Line, curves_png, depths_png, gains_png, mean_line, scaling_png
from nanochat.lab.gates import Measured, saved, target_gain
from nanochat.lab.measurements import hashes, measure, run_records
from nanochat.lab.run_outcome import OK
from nanochat.lab.scaling import SCALING, SERIES
from nanochat.lab.templates import TEMPLATES


def write_report(cycle: Cycle, folder: Path) -> Path:
    """Writes report.md and its figures into `folder`; returns the page."""
    ensure_dir(folder)
    blocks = [f"# Speedrun lab: {markdown.escape(cycle.name)}", _locked(cycle), *_variance(cycle)]
    for sweep in _sweeps(cycle):
        blocks += _sweep(cycle, sweep, folder)
    blocks += _decisions(cycle) + _series(cycle, folder) + _scaling(cycle, folder)
    page = folder / "report.md"
    atomic_write(page, "\n\n".join(blocks) + "\n")
    return page


def _locked(cycle: Cycle) -> str:
    here = cycle.surroundings
    threshold = f" ≤ {cycle.threshold:.4f}" if cycle.threshold is not None else ", threshold not locked yet"
    rows = [
        ("profile", f"{cycle.profile.name}: {cycle.profile.about}"),
        ("target", cycle.metric + threshold),
        ("seeds", ", ".join(map(str, cycle.seeds))),
        ("hardware", here.hardware),
        ("commit", here.commit or "unknown"),
        ("flags", " ".join(f"--{name.replace('_', '-')} {value}" for name, value in cycle.profile.flags.items())),
        ("runs", len(cycle.results.rows())),
    ]
    return markdown.table(("", ""), rows)


def _variance(cycle: Cycle) -> list[str]:
    if not cycle.variance:
        return []
    rows = [
        (markdown.label(name), f"{found['mean']:.5g}", f"{found['deviation']:.2g}", f"{found['relative']:.2%}")
        for name, found in cycle.variance.items()
    ]
    table = markdown.table(("", "mean", "standard deviation", "relative"), rows, right=(1, 2, 3))
    return ["## Variance of the baseline between seeds", table]


def _sweeps(cycle: Cycle) -> list[str]:
    names = dict.fromkeys(name.partition("/")[0] for name in hashes(cycle) if "/" in name)
    return [name for name in names if name not in (SERIES, SCALING)]


def _sweep(cycle: Cycle, sweep: str, folder: Path) -> list[str]:
    """Figures and table of the candidates of a sweep that have run at every seed."""
    rows = cycle.results.newest()
    configs = hashes(cycle)
    complete = [n for n, config in configs.items() if n.startswith(f"{sweep}/") and all((config, seed) in rows for seed in cycle.seeds)]
    title = TEMPLATES[sweep].title if sweep in TEMPLATES else ""
    blocks = [f"## Sweep {markdown.escape(sweep)}{': ' + markdown.escape(title) if title else ''}"]
    if not complete:
        return [*blocks, "No candidate has run at every seed yet."]
    runs = {name: measure(cycle, name, cycle.seeds) for name in (BASELINE, *complete)}
    lines = {name: _line(cycle, name) for name, measured in runs.items() if all(run.status == OK for run in measured)}
    if BASELINE in lines:
        baseline, shown = lines.pop(BASELINE), f"{sweep}: means over {len(cycle.seeds)} seeds"
        png = curves_png(shown, cycle.metric, baseline, list(lines.values()), cycle.require_threshold())
        blocks.append(_show(folder, f"sweep_{_slug(sweep)}", f"{sweep}: {cycle.metric} against tokens and time", png))
    png = gains_png(f"{sweep}: time to {cycle.metric} ≤ {cycle.require_threshold():.4f}", _bars(runs, len(complete)))
    if png is not None:
        caption = f"{sweep}: time saved, with intervals for {len(complete)} candidates at once"
        blocks.append(_show(folder, f"gains_{_slug(sweep)}", caption, png))
    return [*blocks, decisions.table(runs)]


def _bars(runs: dict[str, list[Measured]], among: int) -> list[Bar]:
    whole = {name: measured for name, measured in runs.items() if all(run.status == OK for run in measured)}
    bars = []
    for name in whole:
        gain = None if name == BASELINE else target_gain(whole, name, BASELINE, 2 * among)
        if gain is not None:
            bars.append(Bar(name.partition("/")[2], saved(gain.mean), saved(gain.low), saved(gain.high)))
    return bars


def _line(cycle: Cycle, name: str) -> Line:
    config, rows = hashes(cycle)[name], cycle.results.newest()
    logged = [run_records(cycle, rows[config, seed]) for seed in cycle.seeds]
    curves = [read_curve(records, cycle.metric) for records in logged]
    pace = [read_summary(records).tok_per_sec for records in logged]
    return mean_line(name.partition("/")[2] or name, [(curve.tokens, curve.values) for curve in curves], pace)


def _decisions(cycle: Cycle) -> list[str]:
    found = decisions.kept(cycle)
    if not found:
        return []
    rows = [(r["date"], r["candidate"], r["verdict"], "–" if r["gain"] is None else f"{r['gain']:+.1%}", r["why"]) for r in found]
    return ["## Decisions", markdown.table(("date", "candidate", "verdict", "saved", "why"), rows, right=(3,))]


def _series(cycle: Cycle, folder: Path) -> list[str]:
    """Depth sweep of the baseline, and of each candidate that was swept."""
    series: dict[str, list[tuple[int, float, float]]] = {}
    rows = cycle.results.newest()
    for name, config in hashes(cycle).items():
        if not name.startswith(f"{SERIES}/d"):
            continue
        depth, _, experiment = name.removeprefix(f"{SERIES}/d").partition("/")
        logged = [run_records(cycle, row) for row in rows.values() if row["config_hash"] == config and row["status"] == OK]
        ends = [(records[-1]["total_training_flops"], read_curve(records, cycle.metric).values[-1]) for records in logged]
        if ends:
            flops, values = zip(*ends, strict=True)
            series.setdefault(experiment, []).append((int(depth), float(np.mean(flops)), float(np.mean(values))))
    if not series:
        return []
    blocks = ["## Depth sweep"]
    for number, answer in enumerate(cycle.saved(SERIES).values() or [None]):
        shares = [] if answer is None else [(found["depth"], found["saved"]) for found in answer["depths"]]
        shown = series if answer is None else {n: p for n, p in series.items() if n in (answer["base"], answer["candidate"])}
        png = depths_png("Depth sweep: as many tokens per parameter at each depth", cycle.metric, shown, shares)
        blocks.append(_show(folder, f"{SERIES}{number or ''}", "Depth sweep", png))
        if answer is not None:
            verdict = "holds" if answer["passed"] else "does not hold"
            blocks.append(f"{markdown.escape(answer['candidate'])} {verdict} across depths: {markdown.escape(answer['why'])}.")
    return blocks


def _scaling(cycle: Cycle, folder: Path) -> list[str]:
    if not (answer := cycle.saved(SCALING)):
        return []
    rows = []
    for best in answer["best"]:
        edge = "" if best["inside"] else " (at the edge)"
        rows.append((f"{best['budget']:.3g}", f"{best['parameters']:,.0f}{edge}", f"{best['tokens']:,.0f}", f"{best['value']:.4f}"))
    png = scaling_png("Scaling laws: sizes trained to equal FLOPs", answer)
    return [
        "## Scaling laws",
        _show(folder, SCALING, "Scaling laws", png),
        markdown.table(("FLOPs", "best parameters", "tokens", answer["metric"]), rows, right=(0, 1, 2, 3)),
    ]


def _show(folder: Path, name: str, caption: str, png: bytes) -> str:
    atomic_write(folder / f"{name}.png", png)
    return f"![{markdown.escape(caption)}]({name}.png)"


def _slug(name: str) -> str:
    return re.sub(r"\W", "_", name)
