"""Sessions of several keys: each sees its own, whatever another calls its sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import SessionRequest
from nanochat.serve.key_sessions import backend_of


class Recording:
    """A backend that answers with what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.answer: dict[str, Any] = {"done": True}
        self.sessions: list[str | None] = []

    def ask(self, request: SessionRequest, deliver: Callable[[dict[str, Any]], None]) -> None:
        self.asked.append(request.arguments)
        deliver(self.answer)

    def submit(self, request: ReplyRequest, deliver: Callable[[list[TokenEvent]], None]) -> None:
        self.sessions.append(request.session)
        deliver([TokenEvent(request.id, 0, None, finish="error", news=self.answer), TokenEvent(request.id, 0, 5)])


@pytest.fixture
def backend() -> Recording:
    return Recording()


def asked(backend: Recording, key: str, operation: str, **arguments: Any) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    backend_of(backend, key).ask(SessionRequest(operation, arguments), answers.append)
    return answers[0]


def test_names_get_the_key_s_and_lose_it_again(backend: Recording) -> None:
    backend.answer = {"name": "new.ann", "fork_of": "old.ann", "tokens": 5, "done": True}
    assert asked(backend, "ann", "fork", session="old", new="new") == {"name": "new", "fork_of": "old", "tokens": 5, "done": True}
    assert backend.asked == [{"session": "old.ann", "new": "new.ann"}]
    backend.answer = {"error": {"message": "session x.ann is busy", "status": 409}}
    assert asked(backend, "ann", "delete", session="x")["error"] == {"message": "session x is busy", "status": 409}
    assert asked(backend, "", "delete", session="x.ann") == backend.answer


def test_a_list_has_the_key_s_own_sessions(backend: Recording) -> None:
    names = ("a.ann", "a.bob", "a", "b.ann.bob", "ann", ".ann")
    backend.answer = {"sessions": [{"name": name, "trouble": f"session {name} is damaged"} for name in names], "done": True}
    seen = asked(backend, "ann", "list")["sessions"]
    assert seen == [{"name": name, "trouble": f"session {name} is damaged"} for name in ("a", "")]
    assert [info["name"] for info in asked(backend, "bob", "list")["sessions"]] == ["a", "b.ann"]
    assert len(asked(backend, "", "list")["sessions"]) == len(names)


def test_a_reply_is_written_into_the_key_s_session(backend: Recording) -> None:
    events: list[TokenEvent] = []
    backend.answer = {"error": {"message": "session a.ann does not exist", "status": 404}}
    mine = backend_of(backend, "ann")
    mine.submit(ReplyRequest([1], Sampling(), session="a"), events.extend)
    mine.submit(ReplyRequest([1], Sampling()), lambda events: None)
    assert backend.sessions == ["a.ann", None]
    assert events[0].news == {"error": {"message": "session a does not exist", "status": 404}} and events[1].news is None
