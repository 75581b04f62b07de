"""Layered sessions that are saved, opened again, forked, and made of the tokens of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mc.session.layered_context
from mc.session.files import read_header
from mc.session.layered_session import LayeredSession
from mc.session.store import SessionStore
from mc.session.tree import RamTree
from nanochat.common import UserError
from nanochat.infer.memory_kv_cache import MemoryKVCache
from tests.helpers.layered_memory import K, layered_memory, layered_session, session_config, some_tokens
from tests.mc.session.test_store import IDENTITY
from tests.mc.session.test_store import store as embedded_store


def store(root: Path, kind: str = "disk", **identity: str) -> SessionStore:
    return SessionStore(layered_memory(trained=True), {**IDENTITY, **identity}, session_config(mc_tree=kind), root)


def decoded(s: LayeredSession, tokens: torch.Tensor) -> torch.Tensor:
    """Hidden states of a prompt of 3 tokens and then single ones."""
    cache = MemoryKVCache(s.memory.model, [s])
    return torch.stack([cache.append(piece[None]).clone()[0] for piece in tokens.split([3, *[1] * (len(tokens) - 3)])])


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_session_is_closed_and_gone_on_with(tmp_path: Path, kind: str) -> None:
    sessions = store(tmp_path, kind)
    first = sessions.open("a")
    first.append(some_tokens(405))
    before = decoded(first, some_tokens(32, 1))
    other = sessions.fork("a", "b")
    focus, gists = first.focused(), first.tree.gists(1, torch.arange(54))
    assert other.focused() == first.focused() and len(other.context.tiling.lod) > 0
    sessions.close("a")
    again = sessions.open("a")
    assert torch.equal(again.tree.gists(1, torch.arange(54)), gists) and gists.dtype == torch.bfloat16
    if kind == "disk":
        assert again.focused() | {"since": 0} == focus | {"since": 0}
    for s in (again, other):
        assert s.scores().any()  # by the queries of the tokens that were read again
        assert s.length == 437 and sorted(s.context.slot.tolist()) == list(range(len(s.context)))
    assert before.isfinite().all() and torch.equal(decoded(again, some_tokens(40, 2)), decoded(other, some_tokens(40, 2))) == (
        kind == "disk"
    )
    sessions.close_all()


@torch.no_grad()
def test_raw_blocks_are_read_again_as_they_were() -> None:
    """All of a short history: what is read again is what was read first."""
    memory, config = layered_memory(), session_config(400)
    first = layered_session(memory, config)
    first.append(some_tokens(101))
    tree = first.tree
    assert isinstance(tree, RamTree)
    second = LayeredSession(memory, tree.copy(), config, focus=first.focused())
    torch.testing.assert_close(decoded(second, some_tokens(20, 1)), decoded(first, some_tokens(20, 1)), rtol=0, atol=5e-5)


@torch.no_grad()
def test_an_expanded_block_that_was_dropped_is_read_behind_gists_and_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, config = layered_memory(), session_config(400)
    s = layered_session(memory, config)
    s.append(some_tokens(101))
    editor, plain = s.allocator.editor, s.context.slots.keys[-1][:, s.context.slot[5 * K : 6 * K]].clone()
    s.context.change(*editor.collapsed(s.context.tiling, s.context.tiling.start.searchsorted([0, 3 * K, 4 * K, 5 * K])))

    def expanded() -> torch.Tensor:
        tiling = s.context.tiling
        first = tiling.start.searchsorted([5 * K])
        s.context.change(*editor.replaced(tiling, first, first * 0 + 1, first * 0, first * 0 + K))
        at = s.context.slot[s.context.tiling.start.searchsorted(range(5 * K, 6 * K))]
        return s.context.slots.keys[-1][:, at].clone()

    def error(neighbours: int) -> float:
        monkeypatch.setattr(mc.session.layered_context, "NEIGHBOURS", neighbours)
        s.context.change(*editor.collapsed(s.context.tiling, s.context.tiling.start.searchsorted([5 * K])))
        s.context.pool._places.clear()
        return float((expanded() - plain).abs().mean() / plain.abs().mean())

    torch.testing.assert_close(expanded(), plain, rtol=0, atol=1e-6)
    assert 1e-4 < error(mc.session.layered_context.NEIGHBOURS) < 0.8 * error(0) < 0.3


def test_sessions_with_other_gists_are_refused_and_their_tokens_read_again(tmp_path: Path) -> None:
    old = embedded_store(tmp_path)
    old.open("a").append(some_tokens(250))
    old.close_all()
    assert "gists" not in read_header(tmp_path / "a").spec.describe()  # files of earlier versions stay as they are
    sessions = store(tmp_path, weights="others")
    with pytest.raises(UserError, match="a was made with embedded gists, not layered ones.*--session a-new --regist a") as error:
        sessions.open("a")
    assert "\n" not in str(error.value)
    new = sessions.regist("a", "a-new")
    assert torch.equal(new.tree.tokens(0, 250), some_tokens(250)) and new.tree.nodes(2) == 3
    sessions.close_all()
    with pytest.raises(UserError, match="was made with layered gists, not embedded ones"):
        embedded_store(tmp_path).open("a-new")
    with pytest.raises(UserError, match="a-new already exists"):
        sessions.regist("a", "a-new")
    with pytest.raises(UserError, match="tokenizer"):
        store(tmp_path, tokenizer="other").regist("a", "b")
    with pytest.raises(UserError, match="is not a session"):
        sessions.regist("nothing", "b")
    assert not (tmp_path / "b").exists()


def test_half_a_history_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = embedded_store(tmp_path)
    old.open("a").append(some_tokens(250))
    old.close_all()
    monkeypatch.setattr(LayeredSession, "check_room", lambda self, tokens: (_ for _ in ()).throw(UserError("no room")))
    sessions = store(tmp_path)
    with pytest.raises(UserError, match="no room"):
        sessions.regist("a", "b")
    assert [info.name for info in sessions.list()] == ["a"]
