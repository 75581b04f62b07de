"""Ollama's API as its clients use it: streams of JSON lines, options, formats, tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from nanochat.serve.http.api.generation import Delta, Generation
from nanochat.serve.http.errors import ApiError
from tests.helpers.http_client import CONTEXT_TOKENS, TOKENIZER, recite, serving
from tests.helpers.tiny_model import tiny_model
from tests.nanochat.serve.http.api.test_tool_calls import CALCULATOR, SHIP

ASK = [{"role": "user", "content": "go"}]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving(recite()) as started:
        yield started


def lines(client: TestClient, path: str, **fields: Any) -> list[dict[str, Any]]:
    """What comes; the body has no content type, as curl sends it."""
    answer = client.post(path, content=json.dumps({"model": "sft-tiny", **fields}))
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_chat_streams_by_default(client: TestClient) -> None:
    parts = lines(client, "/api/chat", messages=ASK, options={"num_predict": 5, "num_ctx": 4096})
    assert "".join(part["message"]["content"] for part in parts) == "abcde" and len(parts) > 2
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("length", 6, 5) and last["total_duration"] > 0
    (whole,) = lines(client, "/api/chat", messages=ASK, stream=False, options={"stop": ["d"], "num_predict": -1})
    assert whole["message"] == {"role": "assistant", "content": "abc"} and whole["done_reason"] == "stop" and whole["model"] == "sft-tiny"


def test_a_stream_that_fails_ends_with_the_reason(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = Generation.deltas

    async def failing(generation: Generation) -> AsyncIterator[list[Delta]]:
        yield await anext(deltas(generation))
        raise ApiError(503, "the model could not continue")

    monkeypatch.setattr(Generation, "deltas", failing)
    parts = lines(client, "/api/chat", messages=ASK)
    assert not parts[0]["done"] and parts[-1] == {"error": "the model could not continue"}


def test_a_generation_is_a_chat_or_raw(client: TestClient) -> None:
    (whole,) = lines(client, "/api/generate", prompt="xyz", system="Be brief.", stream=False, options={"num_predict": 3})
    assert whole["response"] == "abc"
    parts = lines(client, "/api/generate", prompt="lm", raw=True, model="sft-tiny:latest", options={"num_predict": 3})
    assert "".join(part["response"] for part in parts) == "nop"


def test_models_and_versions_are_told(client: TestClient) -> None:
    (model,) = client.get("/api/tags").json()["models"]
    assert model["name"] == model["model"] == "sft-tiny" and model["details"]["family"] == "megacontext"
    (shown,) = lines(client, "/api/show")
    assert shown["model_info"]["megacontext.context_length"] == CONTEXT_TOKENS
    assert client.get("/api/version").json()["version"]
    assert lines(client, "/api/chat")[0]["done"] and lines(client, "/api/generate")[0]["done"]  # clients load a model so


def test_formats_and_tools() -> None:
    with serving(tiny_model(depth=4, vocab_size=TOKENIZER.vocab_size, max_seq_len=CONTEXT_TOKENS)) as client:
        options = {"temperature": 2, "num_predict": 60, "seed": 1}
        for form in ("json", SHIP["function"]["parameters"]):
            (whole,) = lines(client, "/api/chat", messages=ASK, stream=False, format=form, options=options)
            assert isinstance(json.loads(whole["message"]["content"]), dict)
    with serving(recite(tool=True)) as client:
        for stream in (True, False):
            parts = lines(client, "/api/chat", messages=ASK, tools=[CALCULATOR], stream=stream, options={"num_predict": 40})
            call = {"function": {"name": "calculator", "arguments": {"expression": "6*7"}}}
            assert parts[-1]["message"]["tool_calls"] == [call] and "".join(part["message"]["content"] for part in parts) == "Sum:"
        said = [*ASK, {"role": "assistant", "content": "Sum:", "tool_calls": [call]}, {"role": "tool", "content": "42"}]
        (whole,) = lines(client, "/api/chat", messages=said, tools=[CALCULATOR], stream=False)
        assert whole["message"]["content"] == "-done!"


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/api/chat", {"model": "other", "messages": ASK}),
        ("/api/chat", {"messages": ASK}),
        ("/api/chat", {"model": "sft-tiny", "messages": [1]}),
        ("/api/chat", {"model": "sft-tiny", "messages": ASK, "options": {"temperature": "hot"}}),
        ("/api/chat", {"model": "sft-tiny", "messages": ASK, "format": "xml"}),
        ("/api/generate", {"model": "sft-tiny", "prompt": "a" * 2 * CONTEXT_TOKENS, "raw": True}),
        ("/api/show", {"model": "other"}),
    ],
)
def test_a_bad_request_is_refused(client: TestClient, path: str, wrong: dict[str, Any]) -> None:
    answer = client.post(path, json=wrong)
    assert 400 <= answer.status_code < 500 and isinstance(answer.json()["error"], str)


def test_what_a_reply_does_not_follow_is_told(client: TestClient) -> None:
    for stream in (True, False):
        options = {"num_predict": 10**6, "num_ctx": 4096, "stop": ["b"]}
        answer = client.post("/api/chat", json={"model": "sft-tiny", "messages": ASK, "stream": stream, "options": options})
        assert answer.headers["x-ignored-parameters"] == "options.num_ctx"
        assert answer.headers["x-max-tokens"] == str(CONTEXT_TOKENS - 6)
