"""The routes without a process around them: what happens where the model, the client or the server itself fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.tiny_chat import ALPHABET, alphabet, reciting_model, tiny_tokenizer
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.sampling import Sampling
from nanochat.model.gpt import GPT
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.http.api import replies
from nanochat.serve.http.app import ChatServer, create_app

ASK = {"messages": [{"role": "user", "content": "go"}]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def model(tokenizer: Tokenizer) -> GPT:
    return reciting_model(tokenizer, alphabet(tokenizer), 9.0, 100_000)


@pytest.fixture
def server(model: GPT, tokenizer: Tokenizer) -> Iterator[ChatServer]:
    with DecodeThread(Batcher(model, 2), 2, 2) as serving:
        yield ChatServer(serving, tokenizer, "sft-alphabet", 100_000, Sampling(temperature=0, max_tokens=10))


class Client:
    """Speaks ASGI with an application: `chunks` is a request's body, what it sends comes back."""

    def __init__(self, server: ChatServer) -> None:
        self.app = create_app(server)
        self.status, self.body = 0, b""
        self.headers: dict[str, str] = {}

    async def ask(self, path: str, chunks: list[bytes], seconds_between: float = 0.0, method: str = "", **more: str) -> None:
        given = {"host": "localhost", "content-type": "application/json"} | {name.replace("_", "-"): text for name, text in more.items()}
        headers = [(name.encode(), text.encode("latin-1")) for name, text in given.items()]
        scope = {
            **{
                "type": "http",
                "method": method or ("POST" if chunks else "GET"),
                "path": path,
                "client": ("10.0.0.1", 5),
                "raw_path": path.encode(),
                "query_string": b"",
            },
            **{
                "client": ("10.0.0.1", 5),
                "headers": headers,
                "http_version": "1.1",
                "scheme": "http",
                "root_path": "",
                "asgi": {"version": "3.0"},
            },
        }
        left = list(chunks)

        async def receive() -> dict[str, Any]:
            if not left:
                await asyncio.sleep(60)
            await asyncio.sleep(seconds_between)
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.body += message["body"]
                await self.sent()

        await self.app(scope, receive, send)

    async def sent(self) -> None:
        """Called after each piece of an answer."""


def ask(server: ChatServer, body: dict[str, Any] | None, path: str = "/v1/chat/completions", **settings: float) -> tuple[int, Any]:
    client = Client(server)
    asyncio.run(client.ask(path, [] if body is None else [json.dumps(body).encode()], **settings))
    return client.status, json.loads(client.body)


def test_a_reply_has_the_room_that_the_conversation_leaves(server: ChatServer) -> None:
    """Six tokens of conversation: <|bos|> <|user_start|> g o <|user_end|> <|assistant_start|>."""
    server.context_tokens = 9
    for more in (100, 4096, 4097, 10**12):  # more than the server allows, or than there is room for: the same
        client = Client(server)
        asyncio.run(client.ask("/v1/chat/completions", [json.dumps({**ASK, "max_tokens": more}).encode()]))
        assert client.status == 200 and client.headers["x-max-tokens"] == "3"
    client = Client(server)
    asyncio.run(client.ask("/v1/chat/completions", [json.dumps({**ASK, "max_tokens": 3}).encode()]))
    assert "x-max-tokens" not in client.headers
    status, reply = ask(server, {**ASK, "max_tokens": 100})
    assert status == 200 and reply["choices"][0]["message"]["content"] == "abc" and reply["choices"][0]["finish_reason"] == "length"
    server.context_tokens = 6
    status, reply = ask(server, ASK)
    assert status == 400 and reply["error"]["code"] == "context_length_exceeded"


def test_a_model_that_has_stopped_is_said_so(server: ChatServer) -> None:
    assert ask(server, None, "/health") == (200, {"status": "ok"})
    server.backend.close()
    assert ask(server, None, "/health") == (503, {"status": "stopped"})
    status, body = ask(server, ASK)
    assert status == 503 and body["error"]["type"] == "server_error" and "restart the server" in body["error"]["message"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_fails_in_the_middle_ends_the_stream_with_an_error(server: ChatServer, model: GPT) -> None:
    class Breaking(Client):
        async def sent(self) -> None:
            if ALPHABET[:5] in "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in self.events()):
                model._modules.pop("wte", None)

        def events(self) -> list[str]:
            return [line for line in self.body.decode().split("\n\n") if line.startswith('data: {"id')]

    client = Breaking(server)
    asyncio.run(client.ask("/v1/chat/completions", [json.dumps({**ASK, "stream": True, "max_tokens": 4000}).encode()]))
    last = client.body.decode().strip().split("\n\n")[-1]
    assert client.status == 200 and json.loads(last.removeprefix("data: "))["error"]["code"] == "model_stopped"
    assert server.backend.counts().active == 0


def test_a_client_that_does_not_read_is_given_up(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sleeping(Client):
        async def sent(self) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr(replies, "READ_SECONDS", 0.2)
    server.limits.max_seconds = 0.2
    client = Sleeping(server)
    asyncio.run(client.ask("/v1/chat/completions", [json.dumps({**ASK, "stream": True, "max_tokens": 4000}).encode()]))
    assert client.body and b"[DONE]" not in client.body
    end = time.monotonic() + 10
    while server.backend.counts().active:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_body_that_does_not_come_is_not_waited_for(server: ChatServer) -> None:
    server.limits.max_send_seconds = 0.1
    client = Client(server)
    asyncio.run(client.ask("/v1/chat/completions", [b"{", b"}"], seconds_between=5))
    assert client.status == 408 and json.loads(client.body)["error"]["type"] == "invalid_request_error"


def test_what_nobody_thought_of_is_an_error_in_the_same_form(server: ChatServer) -> None:
    server.tokenizer = None
    client = Client(server)
    with pytest.raises(AttributeError):  # raised again for the server's log
        asyncio.run(client.ask("/v1/chat/completions", [json.dumps(ASK).encode()]))
    assert client.status == 500 and json.loads(client.body)["error"] == {
        "message": "internal server error; the server's log has the details",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert client.headers["x-content-type-options"] == "nosniff"


def test_what_ends_in_a_stop_string_is_finished_and_no_more_finish_than_ask(server: ChatServer) -> None:
    for streaming in (False, True):
        client = Client(server)
        body = {**ASK, "stop": "d", "n": 3, "max_tokens": 4000, "stream": streaming}
        asyncio.run(client.ask("/v1/chat/completions", [json.dumps(body).encode()]))
        assert client.status == 200
        if not streaming:
            reply = json.loads(client.body)
            assert [choice["message"]["content"] for choice in reply["choices"]] == ["abc"] * 3
            assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop"] * 3 and reply["usage"]["completion_tokens"] == 12
    status, stats = ask(server, None, "/stats")
    assert (stats["requests"], stats["finished"], stats["cancelled"], stats["active"]) == (2, 2, 0, 0)
