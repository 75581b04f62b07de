"""chat_web as a real process: fixtures of a server and a client, and requests as other clients send them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.tiny_chat import ALPHABET, Server, running, save_chat_model
from bench.warm_start import WarmStart

ASK = [{"role": "user", "content": "go"}]


TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("chat")
    save_chat_model(base, "sum")
    save_chat_model(base, "alphabet")
    return base


@pytest.fixture(scope="module")
def server(models: Path, warm: WarmStart) -> Iterator[Server]:
    with running(warm, models, "-g", "alphabet", "--max-rows=4", "--max-queue=4", "--max-body-bytes=20000", "-t=0") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    return client.chat.completions.create(**({"model": "sft-alphabet", "messages": ASK, "max_tokens": 30} | settings))


def recited(characters: int) -> str:
    return (ALPHABET * (characters // len(ALPHABET) + 1))[:characters]


def post(server: Server, body: bytes | dict, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict, dict]:
    """Status, headers and JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, sent, {"Content-Type": "application/json", **given})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert len(content) <= 4096
    return response.status, dict(response.getheaders()), json.loads(content)


def until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
