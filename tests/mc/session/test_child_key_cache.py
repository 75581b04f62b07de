"""What lies below a session's Working Context: the same whether it was kept or is made anew, and made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mc.session.child_key_cache import ChildKeyCache
from tests.mc.session.test_session import EAGER, GISTS, memory, random_tokens, session


@pytest.mark.parametrize("gist", GISTS[:3])
@torch.no_grad()
def test_what_is_kept_is_what_would_be_encoded(gist: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = memory(gist=gist)
    s, matching, newest = session(controller, EAGER), controller.focus.lensnet.matching, controller.focus.lensnet.newest
    kept = ChildKeyCache(controller.model, s.tree, matching)
    made: list[tuple[int, int]] = []
    make = ChildKeyCache._encoded

    def noting(self: ChildKeyCache, level: int, nodes: np.ndarray) -> torch.Tensor:
        if self is kept:
            made.extend((level, node) for node in nodes.tolist())
        return make(self, level, nodes)

    monkeypatch.setattr(ChildKeyCache, "_encoded", noting)
    before, edits = set(), 0
    for piece in random_tokens(700).split([100, 3, 97, 1, 1, 300, 198]):
        s.append(piece)
        tiling, x = s.context.tiling, s.context.x
        got, fresh = kept(tiling, x, newest), ChildKeyCache(controller.model, s.tree, matching)(tiling, x, newest)
        assert torch.equal(got.entry, fresh.entry)
        torch.testing.assert_close(got.keys, fresh.keys, rtol=0, atol=1e-6)
        span = s.tree.spec.geometry.span
        now = {(level, start // span(level)) for level, start in zip(tiling.lod.tolist(), tiling.start.tolist(), strict=True) if level}
        assert set(made) == now - before and len(made) == len(set(made)), "nodes that were entries at the last look are not read again"
        edits += len(before - now)
        made.clear()
        before = now
    assert edits > 0 and {level for level, _ in before} >= {1, 2}


@torch.no_grad()
def test_a_history_shorter_than_what_is_looked_for_has_nothing_below() -> None:
    controller = memory()
    s = session(controller)
    s.append(random_tokens(5))
    below = s._child_keys(s.context.tiling, s.context.x, controller.focus.lensnet.newest)
    assert below.entry.shape == (1, 0) and below.keys.shape[:2] == (1, 0)
    assert np.isfinite(s.scores()).all() and len(s.scores()) == 5
