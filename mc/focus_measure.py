"""How the focus of a trained memory moves over a text longer than its Working Context, for reports."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from torch import Tensor

from mc.layout.draw import draw_history
from mc.session import MCSession, session_spec
from mc.train.controller import MCController
from mc.tree import RamTree

REFOCUSES = 64  # that are measured at most, after the Working Context is full


class MeasuredFocus(NamedTuple):
    """`figures` for a table, means over the refocuses behind a full Working Context, and a `picture` of the last one."""

    figures: dict[str, Any]
    picture: str


def measure_focus(controller: MCController, tokens: Tensor) -> MeasuredFocus | None:
    """Has a session read `tokens`, int64 [n], a refocus at a time. None where they leave no refocus behind a full Working Context.

    swap_rate is the share of the Working Context's blocks that a refocus edited, residency the entries in use by those there
    are. Raises `UserError` where the memory's positions do not work in a session.
    """
    config = controller.config.session
    session = MCSession(controller, RamTree(session_spec(controller, config)), config)
    budget, interval = session.budget, session.budget.interval
    begin, end = budget.most, min(len(tokens), session.capacity, budget.most + REFOCUSES * interval)
    if end - begin < interval:
        return None
    session.append(tokens[:begin])
    swaps, residencies, edits = [], [], session.figures.edits
    for at in range(begin, end - interval + 1, interval):
        session.append(tokens[at : at + interval])
        swaps.append(session.figures.swap_rate)
        residencies.append(session.figures.residency)
    figures = {
        "tokens_read": session.length,
        "entries": budget.most,
        "refocuses": len(swaps),
        "edits": session.figures.edits - edits,
        "swap_rate": statistics.fmean(swaps),
        "residency": statistics.fmean(residencies),
    }
    return MeasuredFocus(figures, draw_history(session.context.tiling, session.length, session.tree.spec.geometry))
