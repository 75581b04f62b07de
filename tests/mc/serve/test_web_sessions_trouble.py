"""Sessions of a server whose disk is full, documents that are refused, and what is said of both."""

from __future__ import annotations

import queue
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mc.train.controller import MCController
from nanochat.infer.request import TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import SessionError
from nanochat.serve.time_share import ALONE_SECONDS, PIECE_SECONDS
from tests.helpers.tiny_memory import tiny_memory
from tests.mc.serve.test_web_sessions import Server, asked, collect, said, serving


@pytest.fixture(scope="module")
def controller() -> MCController:
    return tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()


@pytest.fixture(autouse=True)
def output(capsys: pytest.CaptureFixture[str]) -> None:
    """In memory: the file that pytest else writes it to could not grow either."""


@contextmanager
def full_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))  # no file can grow
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def stored_turns(server: Server, name: str) -> int:
    return len(server.ask("messages", session=name)["messages"]) // 2


@pytest.mark.parametrize("ended_by", ["its length", "a stop string"])
def test_a_turn_that_could_not_be_stored_is_an_error(controller: MCController, tmp_path: Path, ended_by: str) -> None:
    with serving(controller, tmp_path) as server:
        server.ask("create", session="a")
        collect(server.say("a", "hello", Sampling(temperature=0, max_tokens=3)))
        turns = stored_turns(server, "a")
        if ended_by == "its length":
            with full_disk():
                last = collect(server.say("a", "x", Sampling(temperature=0, max_tokens=1)))[-1]
        else:
            inbox: queue.Queue[list[TokenEvent]] = queue.Queue()
            server.submit(asked("x"), inbox.put, "a")  # without a stop token, which a random model may say at once
            first = collect(inbox, lambda updates: bool(said(updates)))[0]
            with full_disk():
                server.serving.finish(first.id, 0)
                last = collect(inbox)[-1]
        assert last.finish == "error" and last.news["error"]["status"] == 507
        assert str(tmp_path) not in last.news["error"]["message"] and "\n" not in last.news["error"]["message"]
        assert stored_turns(server, "a") >= turns and server.serving.counts().failed == 1
        assert collect(server.say("a", "again", Sampling(temperature=0, max_tokens=3)))[-1].finish != "error"


def test_a_full_disk_is_no_conflict(controller: MCController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(controller, tmp_path / "s") as server:
        server.ask("create", session="old")
        (path := tmp_path / "text").write_text("word " * 500)
        for operation, arguments in (
            ("create", {"session": "new"}),
            ("fork", {"session": "old", "new": "new"}),
            ("ingest", {"session": "old", "path": str(path), "title": "t"}),
        ):
            with full_disk(), pytest.raises(SessionError) as error:
                server.ask(operation, **arguments)
            assert error.value.status == 507 and str(tmp_path) not in str(error.value), operation
        assert server.ask("list")["sessions"] == []  # half a document is none, and its session held nothing else
        server.ask("create", session="new")
        monkeypatch.setattr("mc.session.ingest.bytes_per_token", lambda spec: 1e15)
        with pytest.raises(SessionError, match="free some space") as error:
            server.ask("ingest", session="new", path=str(path), title="t")
        assert error.value.status == 507 and str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_refused_document_leaves_no_session(controller: MCController, tmp_path: Path, kind: str) -> None:
    (path := tmp_path / "text").write_bytes(b"a\0b")
    with serving(controller, tmp_path / "s", kind=kind) as server:
        for name in ("used", "empty"):
            server.ask("create", session=name)
        collect(server.say("used", "hello", Sampling(temperature=0, max_tokens=3)))
        for name in ("used", "empty"):
            with pytest.raises(SessionError, match="NUL"):
                server.ask("ingest", session=name, path=str(path), title="t")
        assert [each["name"] for each in server.ask("list")["sessions"]] == ["used"] and stored_turns(server, "used") == 1
        server.ask("create", session="empty")  # the name is free again
        for name in ("used", "empty"):
            server.ask("delete_empty", session=name)
        assert [each["name"] for each in server.ask("list")["sessions"]] == ["used"]


def test_no_answer_names_a_folder_of_the_server(controller: MCController, tmp_path: Path) -> None:
    with serving(controller, tmp_path / "s") as server:
        for name in ("damaged", "open"):
            server.ask("create", session=name)
            collect(server.say(name, "hello", Sampling(temperature=0, max_tokens=3)))
    (tmp_path / "s" / "damaged" / "manifest.json").write_text("{")
    (tmp_path / "s" / "open" / "tokens.bin").unlink()
    with serving(controller, tmp_path / "s") as server:
        for name in ("damaged", "open"):
            with pytest.raises(SessionError) as error:
                server.ask("focus", session=name)
            assert str(tmp_path) not in str(error.value) and name in str(error.value)
        assert str(tmp_path) not in str(server.ask("list"))


def test_a_document_s_pieces_follow_who_else_is_there(controller: MCController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pieces are short, and each may take as long as the others can wait."""
    (path := tmp_path / "text").write_text("The quick brown fox. " * 200, encoding="utf-8")
    with serving(controller, tmp_path / "s") as server:
        allowed: list[float] = []
        whole = server.sessions.ingest
        monkeypatch.setattr(
            server.sessions, "ingest", lambda arguments, seconds: whole(arguments, lambda: allowed.append(seconds()) or allowed[-1])
        )
        for name in "ab":
            server.ask("create", session=name)
        server.asked("ingest", session="a", path=str(path), title="fox.txt")
        assert set(allowed) == {ALONE_SECONDS}
        allowed.clear()
        inbox = server.say("b", "go")
        collect(inbox, lambda updates: bool(said(updates)))
        answers = server.asked("ingest", session="a", path=str(path), title="fox.txt")
        if not any(update.finish for update in collect_all(inbox)):
            assert set(allowed) == {PIECE_SECONDS}
        read = [answer["read"] for answer in answers if answer.get("stage") == "add"]
        assert read[0] <= 128 and all(b - a <= 2 * max(128, a) for a, b in zip(read, read[1:], strict=False))


def collect_all(inbox) -> list:
    updates = []
    while not inbox.empty():
        updates += inbox.get()
    return updates
