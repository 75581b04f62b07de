"""Conditions that evaluations compare: what the model reads of a history, all but `full` within one budget of entries.

- `full`: every token;
- `window`: the last tokens only, at their true positions;
- `random`, `recency`, `lens`, `oracle`: recent tokens raw, gists of all before, and as many of these expanded as the budget allows: at
  random, the most recent, those that LensNet scores highest, those that the next tokens need. The oracle has seen these tokens; it is
  an upper bound on what a choice can achieve;
- `gists`: recent tokens raw, gists of all before, nothing expanded.
"""

from __future__ import annotations

from typing import Literal, get_args

Condition = Literal["full", "window", "random", "recency", "lens", "oracle", "gists"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
LAYOUTS: tuple[Condition, ...] = CONDITIONS[2:]  # those with gists
OLD_NAMES: dict[str, Condition] = {"focus": "lens", "collapsed": "gists"}  # of earlier versions
