"""chat_web as a real process: access, queues, deadlines, clients that disconnect, and workers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

import openai
import pytest

from bench.tiny_chat import Server, running
from bench.warm_start import WarmStart
from bench.web_fuzz import disconnect, fuzz
from tests.helpers.chat_server import ASK, TOKEN, ask, client, models, post, recited, server, until  # noqa: F401


def test_without_a_token_this_machine_alone_may_ask(server: Server) -> None:
    body = {"messages": ASK, "max_tokens": 1}
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"):
        assert post(server, body, Host=host)[0] in (400, 403), host
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000"):
        assert post(server, body, Host=host)[0] == 200, host
    assert post(server, body, Origin="http://evil.example")[0] == 403
    assert post(server, body, Origin="null")[0] == 403
    assert post(server, body, Origin=server.url)[0] == 200


def test_the_headers_that_browsers_keep_to(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for path in ("/", "/page/app.js", "/stats", "/nothing"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        policy = response.getheader("content-security-policy")
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert response.getheader("x-content-type-options") == "nosniff" and response.getheader("x-frame-options") == "DENY"
        assert response.getheader("access-control-allow-origin") is None and response.getheader("server") is None
    connection.close()


def test_a_full_queue_says_when_to_come_again(server: Server) -> None:
    """Four rows and four places to wait: a request for one more is refused, and those that wait are served in order."""
    streams = [open_stream(server, {"messages": ASK, "max_tokens": 4000, "n": 4}) for _ in range(2)]
    try:
        until(lambda: (server.stats()["active"], server.stats()["queued"]) == (4, 4))
        status, headers, body = post(server, {"messages": ASK})
        assert status == 429 and body["error"]["type"] == "rate_limit_error" and int(headers["retry-after"]) >= 1
    finally:
        for stream in streams:
            stream.close()
    until(lambda: (server.stats()["active"], server.stats()["queued"]) == (0, 0))
    assert post(server, {"messages": ASK, "max_tokens": 1})[0] == 200


def open_stream(server: Server, body: dict) -> socket.socket:
    """A connection on which a stream has been asked for."""
    raw = socket.create_connection(("127.0.0.1", server.port), 20)
    sent = json.dumps({**body, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    raw.sendall(head.encode() + sent)
    return raw


def test_who_goes_away_frees_the_place(server: Server) -> None:
    for streaming in (True, False):
        cancelled = server.stats()["cancelled"]
        raw = open_stream(server, {"messages": ASK, "max_tokens": 4000}) if streaming else None
        if raw is None:
            raw = socket.create_connection(("127.0.0.1", server.port), 20)
            sent = json.dumps({"messages": ASK, "max_tokens": 4000}).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        until(lambda: server.stats()["active"] == 1)
        raw.close()
        until(lambda: server.stats()["active"] == 0, seconds=1)
        assert server.stats()["cancelled"] == cancelled + 1


def test_prompts_are_nowhere_in_the_log_or_the_figures(server: Server, client: openai.OpenAI) -> None:
    ask(client, messages=[{"role": "user", "content": "xyzzy-secret"}])
    post(server, {"messages": [{"role": "user", "content": "xyzzy-secret"}], "foo": 1})
    assert "xyzzy" not in server.process.stdout + server.process.stderr + json.dumps(server.stats())
    assert {"active", "queued", "requests", "tokens", "tokens_per_second"} <= server.stats().keys()


def test_a_request_ends_when_its_time_is_up(models: Path, warm: WarmStart) -> None:
    """Also one that still waits; where no token came of it, with 429. And SIGTERM ends the server in good order."""
    with running(
        warm, models, "-g", "alphabet", "--max-rows=1", "--max-seconds=1", "--context-tokens=100000", "--max-reply-tokens=90000"
    ) as server:
        first = open_stream(server, {"messages": ASK, "max_tokens": 90000})
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        status, _, _ = post(server, {"messages": ASK, "max_tokens": 90000})
        assert status in (200, 429)
        text = b""
        while b"[DONE]" not in text:
            text += first.recv(65536)
        assert b'"finish_reason": "length"' in text
        first.close()
        stream = open_stream(server, {"messages": ASK, "max_tokens": 300})
        stream.recv(100)
        server.process.signal(signal.SIGTERM)
        text = b""
        while more := stream.recv(65536):
            text += more
        assert b"[DONE]" in text  # the reply that was being written is written to its end
        assert server.process.wait() == 0
        assert server.process.stderr.splitlines()[-1] == "model: sft alphabet, step 7"


def test_who_does_not_finish_to_ask_is_not_waited_for(models: Path, warm: WarmStart) -> None:
    """Nothing at all, a head byte by byte, the same after an answer, a body that does not come; more connections than allowed."""
    ask_health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    half_a_body = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with running(warm, models, "-g=alphabet", "--max-send-seconds=1", "--max-connections=4") as server:
        for begin, dribble, status in ((b"", b"", b""), (b"GET", b" ", b""), (ask_health, b"GET", b"200"), (half_a_body, b" ", b"408")):
            with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
                raw.sendall(begin)
                began, answer = time.monotonic(), b""
                raw.settimeout(0.2)
                while time.monotonic() < began + 8:
                    try:
                        more = raw.recv(4096)
                    except TimeoutError:
                        raw.sendall(dribble[:1])
                        continue
                    except ConnectionError:
                        break
                    if not more:
                        break
                    answer += more
                assert 0.8 < time.monotonic() - began < 6 and answer[9:12] == status
        idle = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(6)]
        idle[-1].sendall(ask_health)
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 503")
        for raw in idle:
            raw.close()
        until(lambda: server.get("/health") == {"status": "ok"})


def test_a_token_is_asked_of_everyone(models: Path, warm: WarmStart) -> None:
    with running(warm, models, "--host=0.0.0.0", "-g=alphabet", environment={"MC_CHAT_TOKEN": TOKEN}) as server:
        for wrong in ({}, {"Authorization": "Bearer wrong-token"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
            assert post(server, {"messages": ASK}, **wrong)[0] == 401
        assert post(server, {"messages": ASK, "max_tokens": 1}, Authorization=f"bearer {TOKEN}")[0] == 200
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0)
        assert ask(client).choices[0].message.content
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong-token", max_retries=0).models.list()
        assert server.get("/health") == {"status": "ok"}
        assert server.get("/stats", {"Authorization": f"Bearer {TOKEN}"})["model"] == "sft-alphabet"
        assert post(server, {"messages": ASK, "max_tokens": 1}, Host="chat.example", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert TOKEN.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert TOKEN not in server.process.stdout + server.process.stderr


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_several_workers_share_the_work_and_one_that_dies_is_started_again(models: Path, warm: WarmStart) -> None:
    with running(warm, models, "-g=alphabet", "--workers=2", "--max-rows=1", "--max-queue=1", "--max-choices=2", "-t=0") as server:
        (spawner,) = children(server.process.pid)
        workers = children(spawner)
        assert len(workers) == 2 and server.get("/health") == {"status": "ok", "ready": 2, "workers": 2}
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert ask(client, n=2, stop="f").choices[1].message.content == "abcde"
        streams = [open_stream(server, {"messages": ASK, "max_tokens": 4000}) for _ in range(3)]
        until(lambda: (server.stats()["active"], server.stats()["queued"]) == (2, 1))
        assert post(server, {"messages": ASK})[0] == 429
        for stream in streams:
            stream.close()
        until(lambda: server.stats()["active"] == 0)
        stream = open_stream(server, {"messages": ASK, "max_tokens": 4000})
        stream.recv(1000)
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: "worker 0 has ended; 1 of 2 continue" in server.process.stderr)
        assert ask(client).choices[0].message.content == recited(30)
        stream.close()
        until(lambda: server.get("/health") == {"status": "ok", "ready": 2, "workers": 2}, seconds=30)
        for worker in children(spawner):
            os.kill(worker, signal.SIGKILL)
        until(lambda: post(server, {"messages": ASK, "max_tokens": 5})[0] == 503)
        until(lambda: post(server, {"messages": ASK, "max_tokens": 5})[0] == 200, seconds=30)
        workers = children(spawner)
    assert not any(Path(f"/proc/{child}/cmdline").exists() for child in (spawner, *workers))


def test_one_client_does_not_hold_all_connections(models: Path, warm: WarmStart) -> None:
    def connect(address: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), 10, source_address=(address, 0))

    with running(warm, models, "-g=alphabet", "--max-connections=8") as server:
        held = [connect("127.0.0.2") for _ in range(20)]
        until(lambda: all(raw.recv(100).startswith(b"HTTP/1.1 503") for raw in held[4:]))
        assert server.get("/health") == {"status": "ok"}
        for raw in held:
            raw.close()

        def answered() -> bool:
            with connect("127.0.0.2") as raw:
                raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return raw.recv(100).startswith(b"HTTP/1.1 200")

        until(answered)


def test_bad_requests_and_lost_connections_leave_nothing_behind(server: Server) -> None:
    """The small form of `python -m bench.web_fuzz`."""
    found = fuzz(server, requests=200, seed=1)
    assert found["answered_5xx"] == 0 and found["longest_answer_bytes"] <= 4096 and found["answered"] == 200
    assert disconnect(server, disconnects=20, seed=1)["rows_left"] == 0
