"""The sessions of a server, in the thread that decodes: turns, documents, what is refused, what is closed, and disks that are full."""

from __future__ import annotations

import itertools
import queue
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mc.config import AllocatorConfig, SessionConfig
from mc.loading import LoadedMemory
from mc.serve.web_sessions import WebSessions, open_sessions
from mc.session.store import SessionStore
from mc.train.controller import MCController
from nanochat.common import UserError
from nanochat.data.chat_template import closing, render_prompt
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.engine import Engine
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import SessionError, SessionRequest
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.http.limits import WebLimits
from tests.helpers.tiny_memory import tiny_memory
from tests.helpers.tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
STOP = frozenset(stop_tokens(TOKENIZER))
SPECIAL = {number: name for name, number in TOKENIZER.special_tokens.items()}
IDENTITY = {"model": "sft tiny", "weights": "00", "tokenizer": TOKENIZER.fingerprint}
LONG = Sampling(temperature=1.0, top_k=0, max_tokens=100_000, seed=3)


def config(kind: str = "disk") -> SessionConfig:
    allocator = AllocatorConfig(allocator_expand_threshold=0, allocator_collapse_threshold=0)
    return SessionConfig(kind, mc_session_lod=3, mc_infer_refocus_interval=8, allocator=allocator)


@pytest.fixture(scope="module")
def controller() -> MCController:
    return tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()


class Server:
    """A thread that decodes, and what it says."""

    def __init__(self, controller: MCController, root: Path, kind: str = "disk", idle_seconds: float = 60.0, **settings: Any) -> None:
        limits = WebLimits(**({"max_open_sessions": 4, "max_sessions": 9, "ingest_quota": 5_000} | settings))
        limits.session_idle_seconds = idle_seconds  # shorter than the flag allows
        self.controller, self.store = controller, SessionStore(controller, IDENTITY, config(kind), root)
        self.sessions = WebSessions(self.store, TOKENIZER, limits)
        self.serving = DecodeThread(Batcher(controller.model, 2), 2, 8, sessions=self.sessions)

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The last answer. Raises `SessionError`."""
        return self.asked(operation, **arguments)[-1]

    def asked(self, operation: str, **arguments: Any) -> list[dict[str, Any]]:
        """All answers."""
        inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self.serving.ask(SessionRequest(operation, arguments), inbox.put)
        answers = []
        while not answers or not ({"done", "error"} & answers[-1].keys()):
            answers.append(inbox.get(timeout=20))
        if "error" in answers[-1]:
            raise SessionError(answers[-1]["error"]["message"], answers[-1]["error"]["status"])
        return answers

    def submit(self, prompt: list[int], deliver: Callable[[list[TokenEvent]], None], name: str | None, **settings: Any) -> int:
        """Asks for a reply; returns the request's id."""
        request = ReplyRequest(prompt, **{"sampling": LONG, "session": name} | settings)
        self.serving.submit(request, deliver)
        return request.id

    def say(self, name: str, text: str, sampling: Sampling = LONG) -> queue.Queue[list[TokenEvent]]:
        inbox: queue.Queue[list[TokenEvent]] = queue.Queue()
        self.submit(asked(text), inbox.put, name, sampling=sampling, stop=STOP)
        return inbox

    def history(self, name: str) -> list[int]:
        """The tokens of a session, out of its files or its tree, when the server has closed it."""
        session = self.store.open(name)
        tokens = session.tree.tokens(0, session.length).tolist()
        self.store.close(name)
        return tokens


@contextmanager
def serving(controller: MCController, root: Path, **settings: Any) -> Iterator[Server]:
    server = Server(controller, root, **settings)
    try:
        yield server
    finally:
        server.serving.close()


def collect(inbox: queue.Queue[list[TokenEvent]], until: Callable[[list[TokenEvent]], bool] = lambda updates: False) -> list[TokenEvent]:
    """What came, up to the end or until enough of it has."""
    updates: list[TokenEvent] = []
    while not (updates and (updates[-1].finish is not None or until(updates))):
        updates += inbox.get(timeout=30)
    return updates


def said(updates: list[TokenEvent]) -> list[int]:
    return [update.token for update in updates if update.token is not None]


def assert_whole_turns(tokens: list[int], turns: int) -> None:
    names = [SPECIAL[token] for token in tokens if token in SPECIAL]
    turn = ["<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"]
    assert [name for name in names if name in turn or name == "<|bos|>"] == ["<|bos|>", *turn * turns]
    assert tokens[-1] == TOKENIZER.special_tokens["<|assistant_end|>"]


def asked(text: str, first: bool = False) -> list[int]:
    return render_prompt(TOKENIZER, {"messages": [{"role": "user", "content": text}]}, first)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_replies_are_what_the_engine_says_and_the_history_is_what_was_said(controller: MCController, tmp_path: Path, kind: str) -> None:
    short, first, second = Sampling(temperature=0, max_tokens=30), "What is a loop? " * 20, "And now?"
    alone = SessionStore(controller, IDENTITY, config("ram")).open("alone")
    engine = Engine(controller.model, lambda rows, tokens: MemoryKVCache(controller.model, [alone]))
    expected = [token for (token,) in engine.stream([asked(first, True)], short, STOP)]
    with serving(controller, tmp_path, kind=kind) as server:
        server.ask("create", session="a")
        replies = []
        for text in (first, second):
            updates = collect(server.say("a", text, short))
            replies.append(said(updates))
            focuses = [update.news["focus"] for update in updates if update.news is not None]
            moves = [focus["refocuses"] for focus in focuses]
            assert moves == sorted(set(moves)) and len(moves) >= len(replies[-1]) // 8
            assert [len(focus["refocus_ms"]) for focus in focuses[1:]] == [new - old for old, new in itertools.pairwise(moves)]
            assert all(ms > 0 for focus in focuses for ms in focus["refocus_ms"])
        assert replies[0] == expected
        whole: list[int] = []
        for text, reply in zip((first, second), replies, strict=True):
            whole += [*asked(text, not whole), *(token for token in reply if token not in STOP)]
            whole += closing(TOKENIZER, [token for token in whole if token in SPECIAL][-1])  # code that it left open, too
        assert server.ask("focus", session="a")["tokens"] == len(whole)
    assert server.history("a") == whole
    assert_whole_turns(whole, 2)


def test_what_is_cancelled_leaves_whole_turns_and_what_was_never_read_leaves_none(controller: MCController, tmp_path: Path) -> None:
    with serving(controller, tmp_path) as server:
        for name in "abc":
            server.ask("create", session=name)
        # A model of random weights may end its turn at once: these do not stop.
        prompt, inboxes, tickets = asked("go on"), [queue.Queue() for _ in range(3)], []
        for name, inbox in zip("abc", inboxes, strict=True):  # c waits for one of two rows
            tickets.append(server.submit(prompt, inbox.put, name))
        tokens = [said(collect(inbox, lambda updates: len(said(updates)) >= 20)) for inbox in inboxes[:2]]
        server.serving.cancel(tickets[2])
        server.serving.cancel(tickets[0])
        assert server.ask("check", session="a") == {"done": True} == server.ask("check", session="c")
        with pytest.raises(SessionError, match="session b is busy"):
            server.ask("check", session="b")
    assert server.history("c") == []
    for name, begun in zip("ab", tokens, strict=True):  # b ended with the server
        history = server.history(name)
        assert history[: len(prompt) + 21] == [TOKENIZER.bos_id, *prompt, *begun][: len(prompt) + 21] and history[-1] in STOP


def test_a_session_does_one_thing_at_a_time(controller: MCController, tmp_path: Path) -> None:
    with serving(controller, tmp_path) as server:
        server.ask("create", session="a")
        inbox: queue.Queue[list[TokenEvent]] = queue.Queue()
        ticket = server.submit(asked("go"), inbox.put, "a")
        collect(inbox, lambda updates: len(said(updates)) > 3)
        (path := tmp_path / "text").write_text("word " * 50)
        (refused,) = collect(server.say("a", "me too"))
        assert refused.finish == "error" and refused.news["error"]["status"] == 409 and "busy" in refused.news["error"]["message"]
        for operation, arguments in (("delete", {}), ("fork", {"new": "b"}), ("ingest", {"path": str(path), "title": "t"})):
            with pytest.raises(SessionError, match="session a is busy") as error:
                server.ask(operation, session="a", **arguments)
            assert error.value.status == 409
        assert server.ask("focus", session="a")["tokens"] > 3 and server.ask("list")["sessions"][0]["busy"]
        assert server.ask("text", session="a", start=1, end=5)["text"].startswith("<|user_start|>")
        server.serving.cancel(ticket)
        assert server.ask("ingest", session="a", path=str(path), title="t").keys() == {"done"}
        assert not server.ask("list")["sessions"][0]["busy"]


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_sessions_are_made_forked_listed_and_deleted(controller: MCController, tmp_path: Path, kind: str) -> None:
    with serving(controller, tmp_path, kind=kind, max_sessions=3) as server:
        assert server.ask("list")["sessions"] == []
        server.ask("create", session="a")
        collect(server.say("a", "hello", Sampling(temperature=0, max_tokens=9)))
        forked = server.ask("fork", session="a", new="b")
        assert forked["tokens"] == server.ask("focus", session="b")["tokens"] > 5
        collect(server.say("b", "more", Sampling(temperature=0, max_tokens=9)))
        listed = {each["name"]: each for each in server.ask("list")["sessions"]}
        assert listed["b"]["tokens"] > listed["a"]["tokens"] == forked["tokens"] and listed["a"]["trouble"] is None
        server.ask("create", session="c")
        refusals = [
            (409, "session a already exists", "create", {"session": "a"}),
            (409, "session b already exists", "fork", {"session": "a", "new": "b"}),
            (409, "the maximum", "create", {"session": "d"}),
            (404, "session d does not exist", "fork", {"session": "d", "new": "e"}),
            (404, "session d does not exist", "delete", {"session": "d"}),
            (404, "session d does not exist", "focus", {"session": "d"}),
            (404, "session d does not exist", "messages", {"session": "d"}),
            (404, "session d does not exist", "text", {"session": "d", "start": 0, "end": 1}),
            (404, "session d does not exist", "ingest", {"session": "d", "path": "x", "title": "x"}),
            (400, "invalid session name", "create", {"session": "../x"}),
            (400, "invalid session name", "delete", {"session": ""}),
            (400, "invalid session name", "fork", {"session": "a", "new": ".."}),
            (400, "start is 3", "text", {"session": "a", "start": 3, "end": 3}),
        ]
        for status, message, operation, arguments in refusals[3:]:
            if operation == "fork" and message.endswith("does not exist"):
                server.ask("delete", session="c")  # else there would be too many
            with pytest.raises(SessionError, match=message) as error:
                server.ask(operation, **arguments)
            assert error.value.status == status, arguments
        server.ask("create", session="c")
        for status, message, operation, arguments in refusals[:3]:
            with pytest.raises(SessionError, match=message) as error:
                server.ask(operation, **arguments)
            assert error.value.status == status, arguments
        (refused,) = collect(server.say("d", "hello"))
        assert refused.news["error"]["status"] == 404
        server.ask("delete", session="a")
        assert {each["name"] for each in server.ask("list")["sessions"]} == {"b", "c"}


def test_those_not_used_for_longest_are_closed_and_all_of_them_when_idle(controller: MCController, tmp_path: Path) -> None:
    with serving(controller, tmp_path, max_open_sessions=2, idle_seconds=0.3) as server:
        for name in "abc":
            server.ask("create", session=name)
        assert list(server.store._open) == ["b", "c"]
        server.ask("focus", session="b")
        server.ask("focus", session="a")
        assert list(server.store._open) == ["b", "a"]
        inboxes = [queue.Queue(), queue.Queue()]
        tickets = [server.submit(asked("go"), inbox.put, name) for name, inbox in zip("ab", inboxes, strict=True)]
        for inbox in inboxes:
            collect(inbox, lambda updates: bool(said(updates)))
        with pytest.raises(SessionError, match="2 sessions are in use") as error:
            server.ask("focus", session="c")
        assert error.value.status == 429
        time.sleep(0.4)
        assert len(server.store._open) == 2  # busy ones stay
        for ticket in tickets:
            server.serving.cancel(ticket)
        end = time.monotonic() + 10
        while server.store._open:
            assert time.monotonic() < end
            time.sleep(0.02)
        other = SessionStore(controller, IDENTITY, config(), tmp_path)  # as another process, that nothing keeps out
        assert other.open("a").length > 3
        with pytest.raises(SessionError, match="session a is already open") as error:
            server.ask("focus", session="a")
        assert error.value.status == 409
        other.close_all()
        assert server.ask("focus", session="a")["tokens"] > 3


def test_a_document_is_read_between_the_tokens_of_others(controller: MCController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.session.ingest.STEP", 100)
    (path := tmp_path / "text").write_text("The quick brown fox. " * 200, encoding="utf-8")
    with serving(controller, tmp_path / "s") as server:
        server.ask("create", session="a")
        server.ask("create", session="b")
        inbox: queue.Queue[list[TokenEvent]] = queue.Queue()
        server.submit(asked("go"), inbox.put, "b")
        collect(inbox, lambda updates: bool(said(updates)))
        answers = server.asked("ingest", session="a", path=str(path), title="fox.txt")
        added = [answer for answer in answers if answer.get("stage") == "add"]
        assert [answer["read"] for answer in added] == sorted(answer["read"] for answer in added) and len(added) > 20
        assert added[-1]["read"] == added[-1]["total"] and answers[-2]["focus"]["tokens"] == answers[-2]["tokens"] > added[-1]["total"]
        others = 0
        while not inbox.empty():
            others += len(said(inbox.get()))
        assert others >= len(added) - 1
        messages = server.ask("messages", session="a")["messages"]
        assert messages[0]["role"] == "user" and messages[1]["parts"] == [{"type": "text", "text": "I have read fox.txt."}]
        inbox = queue.Queue()
        question = SessionRequest("ingest", {"session": "a", "path": str(path), "title": "again.txt"})
        server.serving.ask(question, inbox.put)
        while inbox.get(timeout=20).get("stage") != "add":
            pass
        server.serving.drop(question.id)
        assert server.ask("check", session="a") == {"done": True}
        assert "the beginning of again.txt" in server.ask("messages", session="a")["messages"][-1]["parts"][0]["text"]
    assert_whole_turns(server.history("a"), 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "doc is empty"),
        (b"a\0b", "doc is not text: byte 1 is NUL"),
        (b"ok \xff", "byte 3"),
        (b"word " * 9000, "more than 5,000 tokens"),
    ],
)
def test_a_document_that_is_none_changes_nothing(controller: MCController, tmp_path: Path, content: bytes, says: str) -> None:
    (path := tmp_path / "where-it-is-kept").write_bytes(content)
    with serving(controller, tmp_path / "s") as server:
        server.ask("create", session="a")
        collect(server.say("a", "hello", Sampling(temperature=0, max_tokens=9)))
        before = server.ask("focus", session="a")["tokens"]
        with pytest.raises(SessionError, match=says) as error:
            server.ask("ingest", session="a", path=str(path), title="doc")
        assert error.value.status == 422 and str(tmp_path) not in str(error.value)
        assert server.ask("focus", session="a")["tokens"] == before
        with pytest.raises(SessionError, match="cannot read doc"):
            server.ask("ingest", session="a", path=str(tmp_path / "none"), title="doc")


def test_a_full_disk_ends_one_reply_and_no_other(controller: MCController, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(controller, tmp_path) as server:
        server.ask("create", session="a")
        collect(server.say("a", "hello " * 50, Sampling(temperature=0, max_tokens=9)))
        saved = server.ask("focus", session="a")["tokens"]
        other, plain = queue.Queue(), queue.Queue()
        server.submit(asked("go"), other.put, "a")
        server.submit([1, 2, 3], plain.put, None)
        collect(other, lambda updates: len(said(updates)) > 3)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))  # no file can grow
        try:
            last = collect(other)[-1]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert last.finish == "error" and last.news["error"]["status"] == 507 and "session a" in last.news["error"]["message"]
        assert "\n" not in last.news["error"]["message"] and server.serving.alive
        while not plain.empty():
            plain.get()
        assert said(collect(plain, lambda updates: len(said(updates)) > 3))
        assert server.ask("focus", session="a")["tokens"] >= saved  # and it can be opened again
        collect(server.say("a", "better?", Sampling(temperature=0, max_tokens=9)))
    tokens = server.history("a")
    turns = tokens.count(TOKENIZER.special_tokens["<|user_start|>"])
    assert turns in (2, 3)  # what there was of the one that failed is in the files, if it filled a block
    assert_whole_turns(tokens, turns)
    assert TOKENIZER.decode(tokens).count("better?") == 1


def test_settings_that_do_not_fit_are_one_line(controller: MCController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    loaded = LoadedMemory(controller, TOKENIZER, {}, IDENTITY)
    assert open_sessions(loaded, config(), WebLimits()).answer("list", {}) == {"sessions": []}
    narrow = SessionConfig(allocator=AllocatorConfig(allocator_soft_max_length=50))
    with pytest.raises(UserError, match="allocator_soft_max_length is 50"):
        open_sessions(loaded, narrow, WebLimits())
