"""Telemetry of sessions: hooks that make events of the growth of the tree, the edits of the focus, and the times of turns."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Sequence

import numpy as np

from mc.layout.draw import at_most, runs
from mc.layout.tiling import Edit, Tiling
from mc.session.hooks import ObservedSession, SessionHooks
from mc.session.tree import RamTree
from mc.telemetry.provider import NoOpTelemetryProvider, TelemetryProvider
from mc.telemetry.schema import MOST_RUNS, TelemetryEvent, Value

SNAPSHOT_SECONDS = 0.25  # minimum between two snapshots of one type and session


class SessionTelemetry:
    """Makes the hooks of the sessions of one process. A session's name is sent as a hash with a random key of the process."""

    def __init__(self, provider: TelemetryProvider | None = None) -> None:
        self._provider = provider or NoOpTelemetryProvider()
        self._key = secrets.token_bytes(16)

    def hooks(self, name: str) -> SessionHooks:
        """Hooks of the session called `name`; when it is opened again, its events continue in the same trace."""
        if isinstance(self._provider, NoOpTelemetryProvider):
            return SessionHooks()
        session_id = hashlib.blake2b(name.encode("utf-8"), key=self._key, digest_size=16).hexdigest()
        return SessionEvents(self._provider, session_id)

    def close(self) -> None:
        """Closes the provider."""
        self._provider.close()


class SessionEvents(SessionHooks):
    """`SessionHooks` that send events. Snapshots of one type are at least `snapshot_seconds` apart; their counts are since the last."""

    def __init__(self, provider: TelemetryProvider, session_id: str, snapshot_seconds: float = SNAPSHOT_SECONDS) -> None:
        self._provider, self._session_id, self._snapshot_seconds = provider, session_id, snapshot_seconds
        self._newest: dict[str, float] = {}  # time of the newest snapshot of each type
        self._expanded = self._collapsed = 0  # since the newest focus_allocator event
        self._begun = 0.0  # start of the refocus
        self._turn_begun, self._turn_length, self._turn_refocuses, self._turn_refocus_seconds = 0.0, 0, 0, 0.0

    def appended(self, session: ObservedSession) -> None:
        """See `SessionHooks`."""
        if not self._due("mc_tree_snapshot"):
            return
        tree, spec = session.tree, session.tree.spec
        self._log(
            "mc_tree_snapshot",
            {
                "where": "session",
                "tokens": tree.length,
                "block_size": spec.geometry.block_size,
                "max_lod": spec.max_lod,
                "nodes": [tree.nodes(level) for level in range(1, spec.max_lod + 1)],
                "tree": "ram" if isinstance(tree, RamTree) else "disk",
            },
        )

    def refocusing(self, session: ObservedSession) -> None:
        """See `SessionHooks`."""
        self._begun = time.perf_counter()

    def refocused(self, session: ObservedSession, edits: Sequence[Edit]) -> None:
        """See `SessionHooks`."""
        seconds = time.perf_counter() - self._begun
        self._turn_refocus_seconds += seconds
        expanded = sum(edit.expand for edit in edits)
        self._expanded, self._collapsed = self._expanded + expanded, self._collapsed + len(edits) - expanded
        if self._due("focus_allocator"):
            moved: dict[str, Value] = {"expanded": self._expanded, "collapsed": self._collapsed, "refocus_ms": seconds * 1e3}
            self._expanded = self._collapsed = 0
            self._log("focus_allocator", {"where": "session", "refocuses": session.figures.refocuses, **_shares(session), **moved})
        if self._due("working_context_snapshot"):
            layout = layout_payload(session.context.tiling, session.tree.length, session.budget.most, session.budget.recent)
            self._log("working_context_snapshot", {"where": "session", **layout})

    def turn_begins(self, session: ObservedSession) -> None:
        """See `SessionHooks`."""
        self._turn_begun, self._turn_length = time.perf_counter(), session.length
        self._turn_refocuses, self._turn_refocus_seconds = session.figures.refocuses, 0.0

    def turn_ends(self, session: ObservedSession, reply_tokens: int) -> None:
        """See `SessionHooks`."""
        seconds, new = time.perf_counter() - self._turn_begun, session.length - self._turn_length
        self._log(
            "inference_update",
            {
                "tokens": session.length,
                "new_tokens": new,
                "reply_tokens": reply_tokens,
                "entries": len(session.context),
                **_shares(session),
                "refocuses": session.figures.refocuses - self._turn_refocuses,
                "refocus_ms": self._turn_refocus_seconds * 1e3,
                "turn_ms": seconds * 1e3,
                "tok_per_sec": new / max(seconds, 1e-9),
            },
        )

    def _due(self, event_type: str) -> bool:
        now = time.monotonic()
        due = now - self._newest.get(event_type, -math.inf) >= self._snapshot_seconds
        if due:
            self._newest[event_type] = now
        return due

    def _log(self, event_type: str, payload: dict[str, Value]) -> None:
        self._provider.log_event(TelemetryEvent(self._session_id, event_type, payload))


def layout_payload(tiling: Tiling, length: int, budget: int, recent: int) -> dict[str, Value]:
    """Payload of `working_context_snapshot`: `tiling` of `length` tokens, of which the last `recent` stay raw, and its `budget`."""
    spans = runs(tiling, length)
    lod, start, _, count, _ = at_most(spans, MOST_RUNS).astype(np.int64).T.tolist()
    entries = len(tiling.lod)
    return {
        "tokens": length,
        "entries": entries,
        "budget": budget,
        "residency": entries / budget,
        "recent": recent,
        "entries_per_lod": np.bincount(tiling.lod).tolist(),
        "layout_lod": lod,
        "layout_start": start,
        "layout_count": count,
        "layout_runs": len(spans),
    }


def _shares(session: ObservedSession) -> dict[str, Value]:
    return {"swap_rate": float(session.figures.swap_rate), "residency": float(session.figures.residency)}
