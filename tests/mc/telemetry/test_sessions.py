"""What a real session says while it grows, refocuses and takes turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from mc.config import AllocatorConfig, SessionConfig
from mc.session.base_session import session_spec
from mc.session.hooks import SessionHooks
from mc.session.session import MCSession
from mc.session.tree import RamTree
from mc.telemetry.provider import NoOpTelemetryProvider
from mc.telemetry.schema import TelemetryEvent, allowed
from mc.telemetry.sessions import SessionEvents, SessionTelemetry
from mc.train.controller import MCController
from tests.helpers.tiny_memory import tiny_memory

CONFIG = SessionConfig(mc_session_lod=3, mc_infer_refocus_interval=8, allocator=AllocatorConfig(allocator_soft_max_length=64))


@dataclass
class Kept:
    """A provider that keeps what it may send."""

    events: list[TelemetryEvent] = field(default_factory=list)
    closed: int = 0

    def log_event(self, event: TelemetryEvent) -> None:
        kept, left_out = allowed(event.event_type, event.payload)
        assert not left_out, f"{event}: only {kept} may be sent"
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    def of(self, event_type: str) -> list[dict[str, Any]]:
        return [dict(event.payload) for event in self.events if event.event_type == event_type]


@pytest.fixture(scope="module")
def controller() -> MCController:
    return tiny_memory().requires_grad_(False).eval()


def session(controller: MCController, hooks: SessionHooks | None) -> MCSession:
    return MCSession(controller, RamTree(session_spec(controller, CONFIG)), CONFIG, hooks=hooks)


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (count,), generator=torch.Generator().manual_seed(seed))


def test_a_session_at_work(controller: MCController) -> None:
    kept = Kept()
    watched = session(controller, SessionEvents(kept, "a", snapshot_seconds=0))
    edits = []
    for piece in tokens(400).split(20):
        before = watched.figures.edits
        watched.append(piece)
        edits.append(watched.figures.edits - before)
    assert {event.session_id for event in kept.events} == {"a"} and sum(edits) > 0

    trees, focus, layouts = kept.of("mc_tree_snapshot"), kept.of("focus_allocator"), kept.of("working_context_snapshot")
    assert [tree["tokens"] for tree in trees] == list(range(20, 401, 20))
    assert trees[-1] | {"block_size": 8, "max_lod": 3, "nodes": [50, 6, 0], "tree": "ram", "where": "session"} == trees[-1]
    assert len(focus) == len(layouts) == watched.figures.refocuses
    assert [event["refocuses"] for event in focus] == list(range(1, len(focus) + 1))
    assert sum(event["expanded"] + event["collapsed"] for event in focus) == watched.figures.edits
    assert any(event["expanded"] for event in focus) and any(event["collapsed"] for event in focus)
    assert focus[-1]["swap_rate"] == watched.figures.swap_rate and all(event["refocus_ms"] > 0 for event in focus)
    lod, start = watched.context.tiling
    shown = [(level, begin) for level, begin in zip(layouts[-1]["layout_lod"], layouts[-1]["layout_start"], strict=True)]
    changes = [i for i in range(len(lod)) if i == 0 or lod[i] != lod[i - 1]]
    assert shown == [(int(lod[i]), int(start[i])) for i in changes] and layouts[-1]["entries"] == len(lod)


def test_a_turn(controller: MCController) -> None:
    kept = Kept()
    watched = session(controller, SessionEvents(kept, "a"))
    watched.append(tokens(30))
    refocuses = watched.figures.refocuses
    watched.hooks.turn_begins(watched)
    watched.append(tokens(40))
    watched.hooks.turn_ends(watched, 12)
    (turn,) = kept.of("inference_update")
    assert (turn["tokens"], turn["new_tokens"], turn["reply_tokens"]) == (70, 40, 12)
    assert turn["entries"] == len(watched.context) and turn["refocuses"] == watched.figures.refocuses - refocuses >= 1
    assert turn["turn_ms"] >= turn["refocus_ms"] > 0 and turn["tok_per_sec"] == pytest.approx(40e3 / turn["turn_ms"])


def test_snapshots_are_rare_and_counts_are_whole(controller: MCController) -> None:
    kept = Kept()
    watched = session(controller, SessionEvents(kept, "a", snapshot_seconds=1e6))
    for piece in tokens(400).split(20):
        watched.append(piece)
    for event_type in ("mc_tree_snapshot", "focus_allocator", "working_context_snapshot"):
        assert len(kept.of(event_type)) == 1
    (first,) = kept.of("focus_allocator")
    hooks = watched.hooks
    hooks._snapshot_seconds = 0
    watched.append(tokens(8))
    first, last = kept.of("focus_allocator")
    assert first["expanded"] + first["collapsed"] + last["expanded"] + last["collapsed"] == watched.figures.edits > 0


def test_watching_changes_nothing(controller: MCController) -> None:
    seen = session(controller, SessionEvents(Kept(), "a", snapshot_seconds=0))
    unseen = session(controller, None)
    for piece in tokens(300).split(17):
        seen.append(piece)
        unseen.append(piece)
    assert (seen.context.tiling.lod == unseen.context.tiling.lod).all() and (seen.context.tiling.start == unseen.context.tiling.start).all()
    assert torch.equal(seen.context.x, unseen.context.x)


def test_a_name_becomes_an_id_that_lasts_as_long_as_the_process() -> None:
    kept = Kept()
    telemetry, other = SessionTelemetry(kept), SessionTelemetry(kept)
    ids = []
    for maker, name in ((telemetry, "my diary"), (telemetry, "my diary"), (telemetry, "work"), (other, "my diary")):
        hooks = maker.hooks(name)
        hooks._log("inference_update", {})
        ids.append(kept.events[-1].session_id)
    assert ids[0] == ids[1] and len(set(ids)) == 3 and "diary" not in "".join(ids)
    telemetry.close()
    assert kept.closed == 1


def test_nobody_watches_where_nothing_is_sent() -> None:
    assert type(SessionTelemetry().hooks("a")) is type(SessionTelemetry(NoOpTelemetryProvider()).hooks("a")) is SessionHooks
