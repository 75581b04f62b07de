"""Conditions that evaluations compare: what the model may read of one history, under one budget of entries unless it says otherwise.

- `full`: every token, without a budget;
- `window`: the last tokens only, at their true positions;
- `random`, `recency`, `lens`, `oracle`: recent tokens raw, gists of all before, and as much of that expanded as the budget allows:
  anything, the most recent, what LensNet scores highest, what the tokens to come need. The oracle has seen what it is judged on: it
  bounds what choosing can do;
- `gists`: recent tokens raw, gists of all before, nothing expanded.
"""

from __future__ import annotations

from typing import Literal, get_args

Condition = Literal["full", "window", "random", "recency", "lens", "oracle", "gists"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
LAYOUTS: tuple[Condition, ...] = CONDITIONS[2:]  # those with gists
OLD_NAMES: dict[str, Condition] = {"focus": "lens", "collapsed": "gists"}  # of earlier versions
