"""Documents that are read while others wait: the size of a step follows the time that it may take, and changes nothing else."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest

from mc.config import SessionConfig
from mc.session.base_session import session_spec
from mc.session.ingest import LEAST_TOKENS, Pace, ingest
from mc.session.session import MCSession
from mc.session.tree import RamTree
from tests.helpers.tiny_memory import tiny_memory
from tests.helpers.tiny_model import TEXT, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = SessionConfig(mc_session_lod=3)


def test_a_step_takes_the_time_it_may_take() -> None:
    """On a machine that needs 20 units of time before it begins and then 1 per token."""
    allowed = 1000.0
    pace, taken = Pace(8, 5000, lambda: allowed), []
    for _ in range(30):
        size = pace.size()
        taken.append(20 + size)
        pace.took(size, taken[-1])
    assert taken[0] == 28 and max(taken) <= allowed and taken[-1] > 700
    allowed = 100.0  # somebody has come
    for _ in range(10):
        size = pace.size()
        assert 20 + size <= allowed
        pace.took(size, 20 + size)
    assert size > 40
    allowed = 10.0  # less than it can do
    assert (pace.size(), pace.took(8, 28), pace.size()) == (8, None, 8)
    allowed = math.inf
    assert pace.size() == 5000


def test_a_text_read_in_haste_is_the_same_and_the_focus_moves_at_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.session.ingest.STEP", 1000)
    controller = tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()
    (path := tmp_path / "a.txt").write_text(TEXT * 30, encoding="utf-8")
    refocused: dict[float, list[int]] = {}
    whole, texts = MCSession.refocus, {}

    def noted(self: MCSession, iterations: int | None = None) -> int:
        refocused[most].append(self.length)
        return whole(self, iterations)

    monkeypatch.setattr(MCSession, "refocus", noted)
    for most in (math.inf, 1e-9):
        session = MCSession(controller, RamTree(session_spec(controller, CONFIG)), CONFIG)
        refocused[most] = []
        done = [
            step.done for step in ingest(session, TOKENIZER, path, chat=True, seconds=functools.partial(float, most)) if step.stage == "add"
        ]
        steps = [b - a for a, b in zip([0, *done], done, strict=False) if b > a]
        assert max(steps) == (1000 if most == math.inf else LEAST_TOKENS) and done[-1] > 2500
        texts[most] = session.tree.tokens(0, session.tree.length).tolist()
    assert texts[math.inf] == texts[1e-9]
    assert refocused[math.inf] == refocused[1e-9] and len(refocused[math.inf]) >= 3
