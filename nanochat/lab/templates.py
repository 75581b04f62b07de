"""What is tried: the sweeps of the runbook as data, and those of a user's own YAML file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.lab.knobs import check_knobs
from nanochat.lab.profiles import read_yaml

BUDGETS = ("tokens", "flops", "time")


@dataclass(frozen=True)
class Template:
    """A family of candidates that are compared with the baseline at an equal budget.

    `candidates` maps names to knobs. Where a value is a dict `{"best_of": TEMPLATE}` in place of knobs, the candidate takes the
    knobs of the best of that sweep, and `{"all_of": [candidates]}` joins those of others here.
    """

    name: str
    title: str
    candidates: Mapping[str, Mapping[str, Any]]
    budget: str = "tokens"
    fixed: Mapping[str, Any] = field(default_factory=dict)  # knobs of every candidate

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"{self.name}: budget is {self.budget!r}; it must be {', '.join(BUDGETS)}")
        if not self.candidates:
            raise ValueError(f"{self.name}: there is nothing to try; give a grid or candidates")

    def check(self, defaults: Mapping[str, Any]) -> None:
        """Raises `ValueError` for a knob that base_train does not have."""
        for candidate, knobs in self.candidates.items():
            if not {"best_of", "all_of"} & knobs.keys():
                try:
                    check_knobs({**self.fixed, **knobs}, defaults)
                except ValueError as error:
                    raise ValueError(f"{self.name}: candidate {candidate}: {error}") from error


def grid(**axes: tuple[Any, ...]) -> dict[str, dict[str, Any]]:
    """Every combination of the values, by a name that says them: `lr_mult=0.9,wd_mult=1.4`."""
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return {",".join(f"{name}={_show(value)}" for name, value in knobs.items()): knobs for knobs in combinations}


def _show(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "A",
            "theory slice: the best of B, C and D, one by one and together",
            {
                "warmdown": {"best_of": "B"},
                "batch": {"best_of": "C"},
                "rates": {"best_of": "D"},
                "bundle": {"all_of": ["warmdown", "batch", "rates"]},
            },
        ),
        Template("B", "warm-down", grid(warmdown_ratio=(0.2, 0.3, 0.4, 0.5), warmdown_shape=("linear", "cosine"))),
        Template("C", "batch around the predicted one, rates coupled", grid(batch_mult=(0.7, 1.0, 1.4))),
        Template("D", "rates and weight decay around the nominal ones", grid(lr_mult=(0.9, 1.0, 1.1), wd_mult=(0.7, 1.0, 1.4))),
        Template(
            "E",
            "data and horizon",
            {
                **grid(horizon_mult=(0.8, 1.25)),
                **grid(final_lr_frac=(0.0, 0.1)),
                **grid(horizon_mult=(0.8,), warmdown_ratio=(0.5, 0.8), final_lr_frac=(0.0,)),
            },
        ),
        Template(
            "F",
            "shape at equal FLOPs",
            {**grid(depth_mult=(0.67, 1.5)), **grid(head_dim_mult=(0.5,)), **grid(depth_mult=(1.5,), head_dim_mult=(0.5,))},
            budget="flops",
        ),
        Template("G", "norm and cross-entropy", grid(fused_rmsnorm=(False, True), chunked_ce=(True, False))),
    )
}


def load_template(name: str, defaults: Mapping[str, Any]) -> Template:
    """The template A–G of that name, or that of a YAML file.

    A file has `grid` (knob → values), `candidates` (name → knobs) or both, and may have `name`, `title`, `budget` (tokens, flops or
    time) and `fixed` (knobs of every candidate). Raises `ValueError` for what is wrong in it, `UserError` where it cannot be read.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"template is {name!r}; it must be one of {', '.join(TEMPLATES)} or a YAML file")
    try:
        template = _from_yaml(Path(name))
        template.check(defaults)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return template


def _from_yaml(path: Path) -> Template:
    text = read_yaml(path)
    known = ("name", "title", "budget", "fixed", "grid", "candidates")
    if unknown := [key for key in text if key not in known]:
        raise ValueError(f"unknown key {unknown[0]!r}; keys are {', '.join(known)}")
    for key in ("fixed", "grid", "candidates"):
        if not isinstance(text.get(key, {}), dict):
            raise ValueError(f"{key} must be a mapping of names")
    axes = {knob: tuple(values) if isinstance(values, list) else (values,) for knob, values in text.get("grid", {}).items()}
    candidates = (grid(**axes) if axes else {}) | text.get("candidates", {})
    name = str(text.get("name", path.stem))
    if wrong := [key for key, knobs in candidates.items() if not isinstance(knobs, dict)]:
        raise ValueError(f"candidate {wrong[0]} must be a mapping of knobs")
    if name in TEMPLATES or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(f"name is {name!r}; give letters, digits, - and _, and not the name of a template A–G")
    return Template(name, str(text.get("title", name)), candidates, str(text.get("budget", "tokens")), text.get("fixed", {}))
