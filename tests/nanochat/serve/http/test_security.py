"""What the guard in front of the routes lets through, and what it says to the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from nanochat.infer.continuous_batching import Batcher
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.http.app import ChatServer
from nanochat.serve.http.keys import FREE_GUESSES
from tests.helpers.tiny_model import tiny_model, tiny_tokenizer
from tests.nanochat.serve.http.test_app import Client

KEYS = {"correct-horse": "ann", "battery-staple": "bob"}


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with DecodeThread(Batcher(tiny_model(), 1), 1, 1) as serving:
        yield ChatServer(serving, tiny_tokenizer(), "m", 100)


def get(client: Client, path: str = "/health", **headers: str) -> int:
    client.body = b""
    asyncio.run(client.ask(path, [], **headers))
    return client.status


@pytest.mark.parametrize(
    "host", ["user@localhost", "u:p@127.0.0.1:80", "localhost/x", "localhost?x", "local host", "localhost#", "a,b", "[::1"]
)
@pytest.mark.parametrize("keys", [None, KEYS])
def test_a_host_that_is_none(server: ChatServer, host: str, keys: dict[str, str] | None) -> None:
    server.keys = keys
    assert get(Client(server), host=host) == 400
    assert get(Client(server), host="[::1]:80") == 200 == get(Client(server), host="LOCALHOST")
    assert get(Client(server), host="evil.example") == (403 if keys is None else 200)


def test_a_body_of_two_lengths(server: ChatServer) -> None:
    server.keys, client = None, Client(server)
    assert get(client, content_length="0", transfer_encoding="chunked") == 400 and client.headers["connection"] == "close"
    assert get(client, content_length="0") == 200 == get(client, transfer_encoding="chunked")


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/stats", "/page/app.js"])
def test_head_is_get_without_the_body(server: ChatServer, path: str) -> None:
    server.keys, client = None, Client(server)
    assert get(client, path) == 200
    length = client.headers["content-length"]
    assert get(client, path, method="HEAD") == 200 and client.headers["content-length"] == length and client.body == b""
    assert get(client, "/v1/chat/completions", method="HEAD") == 405


def test_keys_are_asked_of_all_that_is_not_the_page(server: ChatServer) -> None:
    server.keys = KEYS
    client = Client(server)
    for path in ("/stats", "/v1/models", "/v1/sessions", "/tokenize", "/metrics", "/api/tags", "/nothing"):
        assert get(client, path) == 401 and "send Authorization" in json.loads(client.body)["error"]["message"]
        assert client.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/health", "/page/app.js"):
        assert get(client, path) == 200
    for header in ("bearer correct-horse", "BEARER battery-staple"):
        assert get(client, "/stats", authorization=header) == 200
    assert get(client, "/stats", authorization="Bearer wrong-horse") == 401
    assert "the token is wrong" in json.loads(client.body)["error"]["message"] and b"wrong-horse" not in client.body


def test_guessing_is_slow(server: ChatServer) -> None:
    server.keys = KEYS
    client = Client(server)
    assert get(client, "/stats", authorization="Bearer correct-horse") == 200
    statuses = [get(client, "/stats", authorization=f"Bearer guess-{i:05}") for i in range(100)]
    assert 429 in statuses and statuses.count(401) < 2 * FREE_GUESSES and int(client.headers["retry-after"]) >= 1
    assert get(client, "/stats", authorization="Bearer battery-staple") == 429  # it could be a guess
    assert get(client, "/stats", authorization="Bearer correct-horse") == 200 == get(client, "/health")
