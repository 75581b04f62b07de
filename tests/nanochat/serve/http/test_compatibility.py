"""What clients that were made for other servers send: unknown parameters, other models, late system messages, other sites' pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from nanochat.serve.http.api.prompts import chat_prompt, to_conversation
from nanochat.serve.http.api.schema import Message
from nanochat.serve.http.compatibility import ClientFlags, IgnoredNames
from tests.helpers.http_client import TOKENIZER, recite, serving

SITE = "http://localhost:3000"
ASK = [{"role": "user", "content": "go"}]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving(recite(), clients=ClientFlags(aliases="gpt-4o, llama3", cors_origins=f"{SITE},https://a.example")) as started:
        yield started


def ask(client: TestClient, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **fields: Any) -> Any:
    prompt = {"prompt": "ab"} if path == "/v1/completions" else {"messages": ASK}
    return client.post(path, json={**prompt, "max_tokens": 3, **fields}, headers=headers)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_unknown_parameters_are_ignored_and_named(client: TestClient, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    client.server.ignored = IgnoredNames()
    for stream in (False, True):
        answer = ask(client, path, chat_template_kwargs={"a": 1}, mirostat=2, user="u", nothing=None, stream=stream, **{"é\r\nx,": 1})
        assert answer.status_code == 200 and answer.headers["x-ignored-parameters"] == "chat_template_kwargs, mirostat, ???x?"
    assert "x-ignored-parameters" not in ask(client, path, user="u").headers
    assert capfd.readouterr().err.count("mirostat") == 1


def test_names_in_header_and_log_are_few_and_short(capfd: pytest.CaptureFixture[str]) -> None:
    ignored = IgnoredNames()
    for i in range(300):
        header = ignored.headers([f"{i} {j} {'x' * 100}" for j in range(30)])["x-ignored-parameters"]
        assert len(header) < 20 * 65
    assert len(capfd.readouterr().err) < 10_000
    assert ignored.headers([]) == {}
    # A header must not end with a space, or the connection is closed without an answer.
    assert ignored.headers(["", " a b "])["x-ignored-parameters"] == "?, ?a?b?"


def test_a_strict_server_refuses_them() -> None:
    with serving(recite(), clients=ClientFlags(lenient=False)) as client:
        answer = ask(client, tempreature=1)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "unknown_parameter"
        assert ask(client, **{"é" * 2000: 1}).status_code == 400
        assert ask(client, model="gpt-4o").status_code == 404


def test_aliases_are_the_model(client: TestClient) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["sft-tiny", "gpt-4o", "llama3"]
    for name in names:
        assert ask(client, model=name).json()["model"] == "sft-tiny"
        assert ask(client, "/v1/completions", model=name).status_code == 200
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    assert ask(client, model="gpt-5").status_code == 404
    assert ClientFlags(aliases="*").means("anything", "m") and ClientFlags(aliases="*").names == []


def test_pages_of_listed_sites_only(client: TestClient) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    preflight = client.options("/v1/chat/completions", headers={"origin": SITE, **asked})
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == SITE
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = ask(client, headers={"origin": SITE})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == SITE
    assert "x-ignored-parameters" in answer.headers["access-control-expose-headers"]
    for other in ("http://localhost:3001", "https://localhost:3000", "null", "http://evil.example"):
        answer = ask(client, headers={"origin": other})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
        assert client.options("/v1/models", headers={"origin": other, **asked}).status_code == 400
    with serving(recite()) as closed:
        assert ask(closed, headers={"origin": SITE}).status_code == 403


@pytest.mark.parametrize("wrong", ["*", "localhost:3000", "http://a.example/path", "ftp://a.example", "http://"])
def test_an_origin_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        ClientFlags(cors_origins=wrong)


def conversation(*messages: tuple[str, str]) -> list[tuple[str, str]]:
    several = [Message(role=role, content=content) for role, content in messages]
    return [(each["role"], each["content"]) for each in to_conversation(several)["messages"]]


def test_a_system_message_may_be_anywhere() -> None:
    assert conversation(("user", "a"), ("system", "s"), ("user", "b")) == [("user", "a\n\ns\n\nb")]
    assert conversation(("system", "s"), ("user", "a"), ("assistant", "b"), ("developer", "t"), ("user", "c")) == [
        *(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "t\n\nc")),
    ]
    assert conversation(("system", "s")) == [("user", "s")]
    assert conversation(("system", "s"), ("assistant", "b"), ("user", "c")) == [("user", "s"), ("assistant", "b"), ("user", "c")]


def test_the_assistant_s_last_message_is_continued(client: TestClient) -> None:
    """The model recites what follows the last letter."""
    answer = ask(client, messages=[*ASK, {"role": "assistant", "content": "mno"}]).json()
    assert answer["choices"][0]["message"]["content"] == "pqr"
    special = TOKENIZER.special_tokens
    prompt = chat_prompt(TOKENIZER, [Message(role="user", content="a"), Message(role="assistant", content="b")])
    names = ("<|bos|>", "<|user_start|>", "a", "<|user_end|>", "<|assistant_start|>", "b")
    assert prompt == [special.get(name) or ord(name) for name in names]
    official = openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=client)
    messages = [*ASK, {"role": "assistant", "content": None}, *ASK]
    assert official.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=2).choices[0].message.content == "ab"


def test_penalties_and_biases_are_followed(client: TestClient) -> None:
    def said(**fields: Any) -> str:
        return ask(client, **fields).json()["choices"][0]["message"]["content"]

    assert said(logit_bias={str(ord("x")): 100}) == "xxx"
    assert said(logit_bias={str(ord("x")): 100}, frequency_penalty=2, max_tokens=60).count("x") < 60
    assert said(logit_bias={str(ord("a")): -100})[0] != "a"
    assert said(temperature=2, top_k=0, min_p=1) == "abc"
