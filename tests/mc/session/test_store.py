"""Sessions by their names: opened, gone on with, forked and refused, in files and in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mc.config import AllocatorConfig, SessionConfig
from mc.session.session import MCSession
from mc.session.store import FOCUS, SessionStore
from nanochat.common import UserError
from tests.helpers.tiny_memory import tiny_memory

IDENTITY = {"model": "base tiny-mc, step 3", "weights": "0123456789abcdef", "tokenizer": "feedbeef"}
KINDS = ("ram", "disk")


def store(root: Path, kind: str = "disk", identity: dict | None = None, seed: int = 0, **config) -> SessionStore:
    controller = tiny_memory(seed).requires_grad_(False).eval()
    allocator = AllocatorConfig(allocator_expand_threshold=0.0, allocator_collapse_threshold=0.0)
    return SessionStore(
        controller, identity or IDENTITY, SessionConfig(kind, **({"mc_session_lod": 3} | config), allocator=allocator), root
    )


def tokens(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_is_closed_and_gone_on_with(tmp_path: Path, kind: str) -> None:
    sessions = store(tmp_path, kind)
    assert not sessions.exists("a") and sessions.list() == []
    first = sessions.open("a")
    first.append(tokens(300))
    before = [part.clone() for part in first.read()[0]]
    with pytest.raises(UserError, match="session a is in use"):
        sessions.open("a")
    sessions.close("a")
    assert sessions.exists("a") and [(info.name, info.tokens) for info in sessions.list()] == [("a", 300)]
    again = sessions.open("a")
    assert again.length == 300 and torch.equal(again.tree.tokens(0, 300), tokens(300))
    if kind == "disk":
        assert all(torch.equal(now, then) for now, then in zip(again.read()[0], before, strict=True))
        assert (tmp_path / "a" / FOCUS).exists()
    sessions.close_all()
    sessions.delete("a")
    assert not sessions.exists("a")
    with pytest.raises(UserError, match="no session a"):
        sessions.delete("a")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_goes_on_by_itself(tmp_path: Path, kind: str) -> None:
    sessions = store(tmp_path, kind)
    first = sessions.open("a")
    first.append(tokens(203))
    second = sessions.fork("a", "b")
    second.append(tokens(100, 1))
    first.append(tokens(7, 2))
    assert (first.length, second.length) == (210, 303)
    assert torch.equal(second.tree.tokens(0, 203), first.tree.tokens(0, 203))
    unfocused = MCSession(first.memory, first.tree, first.config).focused()
    for _ in range(3):
        first.refocus()
    third = sessions.fork("a", "third")
    assert third.focused() == first.focused() and third.focused()["lod"] != unfocused["lod"]
    with pytest.raises(UserError, match="session b already exists"):
        sessions.fork("a", "b")
    with pytest.raises(ValueError, match="session c is not open"):
        sessions.fork("c", "d")
    sessions.close_all()


def test_sessions_of_others_are_refused_by_what_differs(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    sessions.open("a").append(tokens(99))
    sessions.close_all()
    for name, value in {"weights": "x", "tokenizer": "y", "model": "z"}.items():
        with pytest.raises(UserError, match=f"{name}.*{IDENTITY[name]}"):
            store(tmp_path, identity={**IDENTITY, name: value}).open("a")
    with pytest.raises(UserError, match="max_lod"):
        store(tmp_path, mc_session_lod=2).open("a")
    assert store(tmp_path).open("a").length == 99


def test_a_session_is_open_once(tmp_path: Path) -> None:
    sessions, other = store(tmp_path), store(tmp_path)
    sessions.open("a")
    with pytest.raises(UserError, match="session a is already open"):
        other.open("a")
    sessions.close("a")
    other.open("a")


def test_a_session_that_cannot_be_opened_is_let_go(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    sessions.open("a").append(tokens(99))
    sessions.close("a")
    (tmp_path / "a" / FOCUS).write_text("{")
    for _ in range(2):
        with pytest.raises(UserError, match=f"{FOCUS} is not readable"):
            sessions.open("a")
    (tmp_path / "a" / FOCUS).unlink()
    assert sessions.open("a").length == 99


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "x" * 65, "ä", "a b"])
def test_what_can_be_no_name_is_refused(tmp_path: Path, name: str) -> None:
    for kind in KINDS:
        sessions = store(tmp_path, kind)
        for use in (sessions.open, sessions.exists, sessions.delete):
            with pytest.raises(ValueError, match="invalid session name"):
                use(name)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_session_is_named_and_cut_where_asked(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    sessions.open("a").append(tokens(240))
    sessions.close("a")
    data = bytearray((tmp_path / "a" / "tokens.bin").read_bytes())
    data[2 * 100] ^= 1
    (tmp_path / "a" / "tokens.bin").write_bytes(data)
    with pytest.raises(UserError, match="session a.*repair"):
        sessions.open("a")
    session = sessions.open("a", repair=True)
    assert session.length == 96 and torch.equal(session.tree.tokens(0, 96), tokens(96 + 144)[:96])
    session.append(tokens(50, 1))


def test_a_budget_that_is_too_small_leaves_no_half_session(tmp_path: Path) -> None:
    config = SessionConfig("disk", 3, allocator=AllocatorConfig(allocator_soft_max_length=20))
    with pytest.raises(ValueError, match="allocator_soft_max_length is 20"):
        SessionStore(tiny_memory(0), IDENTITY, config, tmp_path).open("a")
    assert not list(tmp_path.iterdir())
