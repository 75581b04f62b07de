"""chat_web --mc as a real process: sessions asked for by OpenAI's own client and by others, over restarts and several workers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.tiny_chat import ALPHABET, Server, running, save_chat_model
from bench.warm_start import WarmStart
from bench.web_fuzz import fuzz_sessions
from nanochat.common import UserError
from scripts.chat_web import main

ASK = [{"role": "user", "content": "go"}]
TOKEN = "correct-horse-battery"
MEMORY = ("--mc", "--mc-tree=disk", "-g=alphabet", "-t=0", "--allocator-expand-threshold=0", "--allocator-collapse-threshold=0")
SMALL = ("--allocator-soft-max-length=200", "--mc-infer-refocus-interval=8")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("mc-chat")
    save_chat_model(base, "alphabet", context_tokens=512, memory=True)
    return base


@pytest.fixture(scope="module")
def server(models: Path, warm: WarmStart) -> Iterator[Server]:
    limits = ("--max-rows=4", "--max-body-bytes=20000", "--max-document-bytes=300000", "--ingest-quota=150000")
    with running(warm, models, *MEMORY, *SMALL, *limits) as started:
        yield started


def call(server: Server, method: str, path: str, body: bytes | dict | None = None, **headers: str) -> tuple[int, Any]:
    """Status and answer: JSON, or the events of a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, sent, ({"Content-Type": "application/json"} if isinstance(body, dict) else {}) | given)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert "default-src 'none'" in response.getheader("content-security-policy") and response.getheader("cache-control") == "no-store"
    if response.getheader("content-type").startswith("text/event-stream"):
        return response.status, [json.loads(line[6:]) for line in content.decode().split("\n\n") if line and line != "data: [DONE]"]
    assert response.status < 400 or len(content) <= 4096
    return response.status, json.loads(content)


@pytest.fixture(scope="module")
def wronged(server: Server) -> str:
    """A session with a conversation, which wrong requests name."""
    create(server, "wronged")
    ask(server, "wronged")
    return "wronged"


def create(server: Server, name: str, **more: str) -> None:
    status, made = call(server, "POST", "/v1/sessions", {"name": name, **more})
    assert status == 201 and made["name"] == name


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(server: Server, session: str, messages: list = ASK, **settings: Any) -> Any:
    body = {"model": "sft-alphabet", "messages": messages, "max_tokens": 30, "extra_body": {"session": session}}
    return client(server).chat.completions.create(**(body | settings))


def recited(characters: int) -> str:
    return (ALPHABET * (characters // len(ALPHABET) + 1))[:characters]


def texts(server: Server, session: str) -> list[tuple[str, str]]:
    messages = call(server, "GET", f"/v1/sessions/{session}/messages")[1]["messages"]
    return [(message["role"], "".join(part["text"] for part in message["parts"])) for message in messages]


def tokens(server: Server, session: str) -> int:
    return call(server, "GET", f"/v1/sessions/{session}/focus")[1]["tokens"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def test_only_what_is_new_is_read_whatever_the_client_sends(server: Server) -> None:
    create(server, "client")
    first = ask(server, "client")
    assert first.choices[0].message.content == recited(30) and first.usage.prompt_tokens == 5
    assert texts(server, "client") == [("user", "go"), ("assistant", recited(30))]
    history = [{"role": "system", "content": "Be brief."}, *ASK, first.choices[0].message]
    second = ask(server, "client", [*history, {"role": "user", "content": "on"}, {"role": "user", "content": "and on"}])
    assert second.choices[0].message.content == recited(30)
    assert texts(server, "client")[2:] == [("user", "on\n\nand on"), ("assistant", recited(30))]
    third = ask(server, "client", [{"role": "system", "content": "Be brief."}, *ASK])
    assert third.choices[0].message.content and texts(server, "client")[4] == ("user", "Be brief.\n\ngo")
    # Without a session nothing is remembered, and the model's own context is all there is.
    plain = client(server).chat.completions.create(model="sft-alphabet", messages=ASK, max_tokens=5)
    assert plain.usage.prompt_tokens == 6


def test_the_stream_has_the_focus_where_it_moves(server: Server) -> None:
    """And OpenAI's client reads it as if it had not."""
    create(server, "stream")
    moves, text = [], ""
    for chunk in ask(server, "stream", stream=True, max_tokens=300):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        if focus := (delta.model_extra or {}).get("focus"):
            moves.append((len(text), focus))
    assert text == recited(300) and len(moves) > 30
    for (_, one), (_, other) in zip(moves, moves[1:], strict=False):
        assert one["refocuses"] < other["refocuses"] and one["tokens"] < other["tokens"]
    assert len({json.dumps(focus["spans"]) for _, focus in moves}) > 30
    assert {span[0] for _, focus in moves for span in focus["spans"]} >= {0, 1}
    status, focus = call(server, "GET", "/v1/sessions/stream/focus")
    assert status == 200 and focus["tokens"] == 307 and focus["entries"] <= focus["budget"] == 200
    assert focus["spans"][0][1] == 0 and focus["spans"][-1][2] == 307 and sum(span[3] for span in focus["spans"]) == focus["entries"]
    status, text = call(server, "GET", "/v1/sessions/stream/text?start=6&end=16")
    assert status == 200 and text == {"start": 6, "end": 16, "text": recited(10), "cut": False}


def test_a_document_is_read_and_says_how_far_it_is(server: Server) -> None:
    create(server, "doc")
    text = "".join(f"Line {i}: Grüße aus 東京.\n" for i in range(4000))
    status, events = call(server, "POST", "/v1/sessions/doc/documents?name=gr%C3%BC%C3%9Fe.txt", text.encode())
    assert status == 200 and [event["stage"] for event in events[:-1]] == ["add"] * (len(events) - 1) and len(events) > 3
    assert [event["read"] for event in events[:-1]] == sorted(event["read"] for event in events[:-1]) and "focus" in events[-1]
    assert tokens(server, "doc") == events[-1]["tokens"] > events[-2]["total"]
    assert texts(server, "doc")[-1] == ("assistant", "I have read grüße.txt.") and "Line 3999" in texts(server, "doc")[0][1]
    assert ask(server, "doc").choices[0].message.content == recited(30)
    status, focus = call(server, "GET", "/v1/sessions/doc/focus")
    assert max(span[0] for span in focus["spans"]) >= 3 and len(json.dumps(focus)) < 50_000


def test_sessions_are_listed_forked_and_deleted(server: Server) -> None:
    create(server, "one")
    ask(server, "one")
    create(server, "two", fork_of="one")
    ask(server, "two")
    assert tokens(server, "two") > tokens(server, "one") > 30
    listed = {each["name"]: each for each in call(server, "GET", "/v1/sessions")[1]["data"]}
    assert listed["two"]["tokens"] == tokens(server, "two") and listed["two"]["bytes"] > 0 and listed["two"]["trouble"] is None
    assert call(server, "DELETE", "/v1/sessions/two") == (200, {"name": "two", "deleted": True})
    assert call(server, "DELETE", "/v1/sessions/two")[0] == 404 == call(server, "GET", "/v1/sessions/two/focus")[0]


def test_two_requests_for_one_session(server: Server) -> None:
    create(server, "busy")
    raw = stream(server, "busy", 4000)
    raw.recv(100)
    for method, path, body in (
        ("POST", "/v1/chat/completions", {"messages": ASK, "session": "busy"}),
        ("POST", "/v1/chat/completions", {"messages": ASK, "session": "busy", "stream": True}),
        ("POST", "/v1/sessions/busy/documents?name=a", b"text"),
        ("POST", "/v1/sessions", {"name": "busy2", "fork_of": "busy"}),
        ("DELETE", "/v1/sessions/busy", None),
    ):
        status, answer = call(server, method, path, body)
        assert status == 409 and answer["error"]["code"] == "session_conflict" and "busy" in answer["error"]["message"]
    assert call(server, "GET", "/v1/sessions/busy/focus")[0] == 200
    raw.close()
    until(lambda: call(server, "POST", "/v1/chat/completions", {"messages": ASK, "session": "busy", "max_tokens": 3})[0] == 200)
    said = texts(server, "busy")
    assert [role for role, _ in said] == ["user", "assistant"] * 2 and recited(4000).startswith(said[1][1]) and said[3][1] == "abc"


def stream(server: Server, session: str, max_tokens: int) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", server.port), 20)
    sent = json.dumps({"messages": ASK, "session": session, "stream": True, "max_tokens": max_tokens}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    raw.sendall(head.encode() + sent)
    return raw


BAD: dict[str, tuple[str, str, Any, int]] = {
    "no such session": ("POST", "/v1/chat/completions", {"messages": ASK, "session": "none"}, 404),
    "a path for a session": ("POST", "/v1/chat/completions", {"messages": ASK, "session": "../../etc"}, 400),
    "an empty name": ("POST", "/v1/chat/completions", {"messages": ASK, "session": ""}, 400),
    "a number for a session": ("POST", "/v1/chat/completions", {"messages": ASK, "session": 5}, 400),
    "a long name": ("POST", "/v1/chat/completions", {"messages": ASK, "session": "a" * 3000}, 400),
    "two replies": ("POST", "/v1/chat/completions", {"messages": ASK, "session": "wronged", "n": 2}, 400),
    "nothing new": ("POST", "/v1/chat/completions", {"messages": [*ASK, {"role": "assistant", "content": "a"}], "session": "wronged"}, 400),
    "a new name that is a path": ("POST", "/v1/sessions", {"name": "a/b"}, 400),
    "a new name that is hidden": ("POST", "/v1/sessions", {"name": ".a"}, 400),
    "no new name": ("POST", "/v1/sessions", {}, 400),
    "an unknown field": ("POST", "/v1/sessions", {"name": "x", "size": 1}, 400),
    "a fork of none": ("POST", "/v1/sessions", {"name": "x", "fork_of": "none"}, 404),
    "no JSON": ("POST", "/v1/sessions", b"{", 415),
    "a method": ("PUT", "/v1/sessions", {"name": "x"}, 405),
    "text without numbers": ("GET", "/v1/sessions/wronged/text?start=a&end=5", None, 400),
    "text without an end": ("GET", "/v1/sessions/wronged/text?start=1", None, 400),
    "text backwards": ("GET", "/v1/sessions/wronged/text?start=9&end=5", None, 400),
    "text of nothing": ("GET", "/v1/sessions/wronged/text?start=5&end=5", None, 400),
    "text of huge numbers": ("GET", f"/v1/sessions/wronged/text?start=0&end={'9' * 400}", None, 400),
    "text of superscripts": ("GET", "/v1/sessions/wronged/text?start=%C2%B2&end=5", None, 400),
    "focus of a path": ("GET", "/v1/sessions/..%2f..%2fx/focus", None, 404),
    "focus of a name with spaces": ("GET", "/v1/sessions/a%20b/focus", None, 400),
    "focus of what is no UTF-8": ("GET", "/v1/sessions/%ff/focus", None, 400),
    "deleting none": ("DELETE", "/v1/sessions/none", None, 404),
    "a document without a name": ("POST", "/v1/sessions/wronged/documents", b"text", 400),
    "a document with a long name": ("POST", f"/v1/sessions/wronged/documents?name={'a' * 300}", b"text", 400),
    "a document for none": ("POST", "/v1/sessions/none/documents?name=a", b"text", 404),
    "an empty document": ("POST", "/v1/sessions/wronged/documents?name=a", b"", 422),
    "a binary document": ("POST", "/v1/sessions/wronged/documents?name=a", b"\x7fELF\0\0", 422),
    "a document that is no UTF-8": ("POST", "/v1/sessions/wronged/documents?name=a", b"ab\xffcd", 422),
    "a document with too many bytes": ("POST", "/v1/sessions/wronged/documents?name=a", b"word " * 80_000, 413),
    "a document with too many tokens": ("POST", "/v1/sessions/wronged/documents?name=a", "é ".encode() * 99_000, 422),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_and_changes_nothing(server: Server, wronged: str, case: str) -> None:
    before = texts(server, wronged)
    method, path, body, expected = BAD[case]
    status, answer = call(server, method, path, body)
    error = answer["error"]
    assert status == expected and set(error) == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) <= 400 and "\n" not in error["message"] and "/tmp" not in error["message"]
    assert before and texts(server, wronged) == before


def test_a_document_that_is_not_sent_to_its_end_is_none(server: Server) -> None:
    create(server, "half")
    head = b"POST /v1/sessions/half/documents?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
        raw.sendall(head + b"word " * 1000)
        time.sleep(0.2)
    until(lambda: call(server, "POST", "/v1/sessions/half/documents?name=b", b"whole")[0] == 200)
    assert [text for role, text in texts(server, "half") if role == "assistant"] == ["I have read b."]


def test_malformed_requests_are_refused(server: Server) -> None:
    """The small form of `python -m bench.web_fuzz`."""
    found = fuzz_sessions(server, requests=150, seed=1)
    assert found["answered_5xx"] == 0 and found["longest_answer_bytes"] <= 4096 and found["answered"] == 150


def test_sessions_outlive_the_server(models: Path, warm: WarmStart) -> None:
    with running(warm, models, *MEMORY, *SMALL) as server:
        create(server, "kept")
        ask(server, "kept", max_tokens=200)
        focus = call(server, "GET", "/v1/sessions/kept/focus")[1]
        raw = stream(server, "kept", 400)  # is written to its end, within the time that the server takes to stop
        raw.recv(100)
    with running(warm, models, *MEMORY, *SMALL) as server:
        said = texts(server, "kept")
        assert [role for role, _ in said] == ["user", "assistant"] * 2 and said[1][1] == recited(200)
        assert tokens(server, "kept") > focus["tokens"]
        raw = stream(server, "kept", 400)
        raw.recv(100)
        server.process.signal(9)
        server.process.wait()
    with running(warm, models, *MEMORY, *SMALL) as server:
        assert ask(server, "kept").choices[0].message.content == recited(30)
        assert [role for role, _ in texts(server, "kept")][:4] == ["user", "assistant"] * 2


def test_a_session_is_one_worker_s_and_goes_to_another_when_that_ends(models: Path, warm: WarmStart) -> None:
    with running(warm, models, *MEMORY, *SMALL, "--workers=2") as server:
        names = [f"w{i}" for i in range(4)]
        for name in names:
            create(server, name)
            for _ in range(2):
                assert ask(server, name).choices[0].message.content == recited(30)
        create(server, "w-fork", fork_of="w0")
        assert ask(server, "w-fork").choices[0].message.content == recited(30)
        status, events = call(server, "POST", "/v1/sessions/w1/documents?name=a.txt", b"some words " * 100)
        assert status == 200 and "focus" in events[-1]
        listed = {each["name"]: each["tokens"] for each in call(server, "GET", "/v1/sessions")[1]["data"]}
        assert all(listed[name] == tokens(server, name) for name in [*names, "w-fork"])
        assert call(server, "GET", "/v1/sessions/none/focus")[0] == 404
        (spawner,) = children(server.process.pid)
        os.kill(children(spawner)[0], 9)
        until(lambda: "worker 0 has ended" in server.process.stderr)
        for name in names:
            assert ask(server, name).choices[0].message.content == recited(30)
        until(lambda: server.get("/health")["ready"] == 2)
        for name in names:  # also those that are open where they were meanwhile
            assert ask(server, name).choices[0].message.content == recited(30)
        call(server, "DELETE", "/v1/sessions/w-fork")


def test_a_token_is_asked_of_everyone(models: Path, warm: WarmStart) -> None:
    with running(warm, models, *MEMORY, *SMALL, environment={"MC_CHAT_TOKEN": TOKEN}) as server:
        for method, path in (
            ("GET", "/v1/sessions"),
            ("POST", "/v1/sessions"),
            ("DELETE", "/v1/sessions/kept"),
            ("GET", "/v1/sessions/kept/focus"),
            ("GET", "/v1/sessions/kept/messages"),
            ("GET", "/v1/sessions/kept/text?start=0&end=9"),
            ("POST", "/v1/sessions/kept/documents?name=a"),
        ):
            assert call(server, method, path)[0] == 401
            assert call(server, method, path, Authorization="Bearer wrong-token")[0] == 401
        assert call(server, "GET", "/v1/sessions", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_each_key_has_its_own_sessions(models: Path, warm: WarmStart, tmp_path: Path) -> None:
    (keys := tmp_path / "keys").write_text(f"ann {TOKEN}\nbob {TOKEN}-2\n")
    with running(warm, models, *MEMORY, *SMALL, f"--token-file={keys}") as server:
        ann, bob = {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"bearer {TOKEN}-2"}
        for who in (ann, bob):
            assert call(server, "POST", "/v1/sessions", {"name": "notes"}, **who)[0] == 201
        assert call(server, "POST", "/v1/chat/completions", {"messages": ASK, "session": "notes", "max_tokens": 5}, **ann)[0] == 200
        for who, length in ((ann, 2), (bob, 0)):
            assert [each["name"] for each in call(server, "GET", "/v1/sessions", **who)[1]["data"]] == ["notes"]
            assert len(call(server, "GET", "/v1/sessions/notes/messages", **who)[1]["messages"]) == length
        assert call(server, "POST", "/v1/sessions", {"name": "mine"}, **ann)[0] == 201
        for method, path, body in (
            ("GET", "/v1/sessions/mine/focus", None),
            ("GET", "/v1/sessions/mine.ann/focus", None),
            ("DELETE", "/v1/sessions/mine", None),
            ("POST", "/v1/sessions", {"name": "x", "fork_of": "mine"}),
            ("POST", "/v1/sessions/mine/documents?name=a", b"text"),
            ("POST", "/v1/chat/completions", {"messages": ASK, "session": "mine"}),
        ):
            status, answer = call(server, method, path, body, **bob)
            assert status == 404 and ".bob" not in answer["error"]["message"]
        status, answer = call(server, "POST", "/v1/sessions/notes/documents?name=a", b"\0", **bob)
        assert status == 422 and call(server, "GET", "/v1/sessions", **bob)[1]["data"] == []
        assert call(server, "DELETE", "/v1/sessions/notes", **ann)[1] == {"name": "notes", "deleted": True}
        assert TOKEN not in server.process.stdout + server.process.stderr


def test_a_refused_upload_leaves_no_empty_session(server: Server) -> None:
    for content, status in ((b"\0", 422), (b"word " * 80_000, 413)):
        create(server, "refused")
        assert call(server, "POST", "/v1/sessions/refused/documents?name=a", content)[0] == status
        assert call(server, "GET", "/v1/sessions/refused/focus")[0] == 404


def test_other_sites_are_kept_out(server: Server) -> None:
    assert call(server, "GET", "/v1/sessions", Host="evil.example")[0] == 403
    assert call(server, "POST", "/v1/sessions/client/documents?name=a", b"text", Origin="http://evil.example")[0] == 403


def test_without_a_memory_there_are_no_sessions(models: Path, warm: WarmStart) -> None:
    with running(warm, models, "-g=alphabet", "-t=0") as server:
        status, answer = call(server, "POST", "/v1/chat/completions", {"messages": ASK, "session": "a"})
        assert status == 400 and "--mc" in answer["error"]["message"] and answer["error"]["param"] == "session"
        for method, path in (("GET", "/v1/sessions"), ("DELETE", "/v1/sessions/a"), ("POST", "/v1/sessions/a/documents?name=a")):
            status, answer = call(server, method, path)
            assert status == 404 and "--mc" in answer["error"]["message"]
        assert server.get("/v1/models")["data"][0]["sessions"] is None
        assert (
            client(server).chat.completions.create(model="sft-alphabet", messages=ASK, max_tokens=5).choices[0].message.content == "abcde"
        )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--mc-tree=disk"], "mc_tree: no effect without --mc"),
        (["--mc", "--workers=2"], "--mc-tree disk"),
        (["--mc", "--mc-tree=tape"], "invalid choice"),
        (["--mc", "--max-open-sessions=0"], "max_open_sessions is 0"),
        (["--mc", "--ingest-quota=0"], "ingest_quota is 0"),
        (["--mc", "--session-idle-seconds=0"], "session_idle_seconds is 0"),
    ],
)
def test_a_wrong_flag_is_one_line(base: Path, wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(wrong)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and says in error and error.count("\n") == 1


def test_what_cannot_be_served_is_one_line(base: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_chat_model(base, "sum")
    with pytest.raises(UserError, match="was trained without a memory"):
        main(["--mc", "--port=0", "--device-type=cpu"])
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(models))
    with pytest.raises(UserError, match="allocator_soft_max_length is 20"):
        main(["--mc", "--port=0", "--device-type=cpu", "--allocator-soft-max-length=20"])
