"""Text completions and log-probabilities over HTTP: those of the full forward, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from nanochat.model.gpt import GPT
from tests.helpers.http_client import CONTEXT_TOKENS, TOKENIZER, recite, serving
from tests.helpers.tiny_model import full_logits, tiny_model

BOS = TOKENIZER.bos_id
PROMPT = [*b"abc", *TOKENIZER.encode(" the "), 200]  # the last is half a character


@pytest.fixture(scope="module")
def model() -> GPT:
    return tiny_model(vocab_size=TOKENIZER.vocab_size, max_seq_len=CONTEXT_TOKENS)


@pytest.fixture(scope="module")
def client(model: GPT) -> Iterator[TestClient]:
    with serving(model) as started:
        yield started


@pytest.fixture(scope="module")
def reciting() -> Iterator[TestClient]:
    with serving(recite()) as started:
        yield started


def complete(client: TestClient, status: int = 200, path: str = "/v1/completions", **fields: Any) -> Any:
    answer = client.post(path, json=fields)
    assert answer.status_code == status, answer.text
    return answer.json()


def streamed(client: TestClient, path: str = "/v1/completions", **fields: Any) -> list[dict[str, Any]]:
    lines = client.post(path, json={**fields, "stream": True}).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_a_text_is_continued_as_a_document(reciting: TestClient) -> None:
    answer = complete(reciting, prompt="xyzab", max_tokens=5, echo=True, n=2, model="sft-tiny")
    assert answer["object"] == "text_completion" and [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert {choice["text"] for choice in answer["choices"]} == {"xyzabcdefg"} and answer["choices"][0]["logprobs"] is None
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 6, "completion_tokens": 10, "total_tokens": 16}
    assert complete(reciting, prompt="ab", stop=["f"])["choices"][0] == {
        **{"index": 0, "text": "cde", "logprobs": None, "finish_reason": "stop"}
    }
    assert complete(reciting, prompt="ab", max_tokens=0, echo=True)["choices"][0]["text"] == "ab"


def test_prompts_of_all_kinds_and_their_order(reciting: TestClient) -> None:
    prompts = [["ab", "m"], [[*b"ab"], [BOS, *b"m"]], ["ab", [*b"m"]]]
    for several in prompts:
        texts = [choice["text"] for choice in complete(reciting, prompt=several, n=2, max_tokens=3)["choices"]]
        assert texts == ["cde", "cde", "nop", "nop"]
    assert complete(reciting, prompt=[*b"ab"], max_tokens=3)["choices"][0]["text"] == "cde"


def test_scores_of_prompt_and_reply_are_the_model_s(client: TestClient, model: GPT) -> None:
    (choice,) = complete(client, prompt=PROMPT, echo=True, logprobs=2, max_tokens=4)["choices"]
    found = choice["logprobs"]
    logprobs = full_logits(model, PROMPT).log_softmax(-1)
    assert len(found["tokens"]) == len(PROMPT) + 4 == len(found["text_offset"]) == len(found["token_logprobs"])
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None and found["tokens"][:3] == ["a", "b", "c"]
    assert found["tokens"][len(PROMPT) - 1] == "bytes:\\xc8"
    for i, token in enumerate(PROMPT[1:], 1):
        assert found["token_logprobs"][i] == pytest.approx(logprobs[i - 1, token].item(), abs=1e-4)
        assert max(found["top_logprobs"][i].values()) == pytest.approx(logprobs[i - 1].max().item(), abs=1e-4)
        assert found["tokens"][i] in found["top_logprobs"][i] and len(found["top_logprobs"][i]) in (2, 3)
    # Greedy: what is decoded is the likeliest.
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())
    # The same text as a text: the first token has a score too, after <|bos|>.
    (choice,) = complete(client, prompt="abc", echo=True, logprobs=0, max_tokens=0)["choices"]
    logprobs = full_logits(model, [BOS, *b"abc"]).log_softmax(-1)
    assert choice["logprobs"]["token_logprobs"] == pytest.approx([logprobs[i, byte].item() for i, byte in enumerate(b"abc")], abs=1e-4)
    assert choice["logprobs"]["text_offset"] == [0, 1, 2] and choice["text"] == "abc"


def test_scores_end_where_the_text_does(reciting: TestClient) -> None:
    for fields in ({"prompt": "ab", "stop": "fg"}, {"prompt": "ab", "max_tokens": 3}):
        (choice,) = complete(reciting, logprobs=1, **fields)["choices"]
        assert choice["text"] == "cde" == "".join(choice["logprobs"]["tokens"])
        assert choice["logprobs"]["text_offset"] == [0, 1, 2]


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": 2}, {"echo": True}, {"echo": True, "logprobs": 2, "n": 2}, {"logprobs": 1, "stop": "f"}]
)
def test_a_stream_adds_up_to_the_whole(reciting: TestClient, fields: dict[str, Any]) -> None:
    fields = {"prompt": "xyzab", "max_tokens": 7, **fields}
    whole = complete(reciting, **fields)
    chunks = streamed(reciting, **fields, stream_options={"include_usage": True})
    assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == []
    for choice in whole["choices"]:
        parts = [part for chunk in chunks[:-1] for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]
        if choice["logprobs"]:
            for name, values in choice["logprobs"].items():
                assert [value for part in parts for value in (part["logprobs"] or {name: []})[name]] == values


def test_log_probabilities_in_chat(client: TestClient, model: GPT) -> None:
    asked = {"path": "/v1/chat/completions", "messages": [{"role": "user", "content": "go"}], "max_tokens": 6}
    (choice,) = complete(client, **asked, logprobs=True, top_logprobs=2)["choices"]
    prompt = complete(client, path="/tokenize", messages=asked["messages"])["tokens"]
    tokens = [token for each in choice["logprobs"]["content"] for token in each["bytes"]]
    assert bytes(tokens).decode("utf-8", errors="replace") == choice["message"]["content"]
    first = choice["logprobs"]["content"][0]
    likeliest = full_logits(model, prompt)[-1].log_softmax(-1).topk(2)
    assert first["logprob"] == pytest.approx(likeliest.values[0].item(), abs=1e-4)
    assert [each["logprob"] for each in first["top_logprobs"]] == pytest.approx(likeliest.values.tolist(), abs=1e-4)
    parts = [chunk["choices"][0] for chunk in streamed(client, **asked, logprobs=True, top_logprobs=2)]
    assert [each for part in parts for each in (part["logprobs"] or {"content": []})["content"]] == choice["logprobs"]["content"]
    assert complete(client, **asked)["choices"][0]["logprobs"] is None


def test_scores_in_chat_are_those_of_what_is_said() -> None:
    with serving(recite(tool=True)) as client:
        asked = {"path": "/v1/chat/completions", "messages": [{"role": "user", "content": "go"}], "max_tokens": 30}
        (choice,) = complete(client, **asked, logprobs=True)["choices"]
        assert "".join(each["token"] for each in choice["logprobs"]["content"]) == choice["message"]["content"] == "Sum:-done!"
        raw = complete(client, prompt=[TOKENIZER.special_tokens["<|assistant_start|>"]], max_tokens=30)["choices"][0]["text"]
        assert raw.startswith("Sum:6*7") and "42" not in raw  # no tools here


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": None},
        {"prompt": {"text": "a"}},
        {"prompt": ["a"] * 65},
        {"prompt": [True]},
        {"prompt": [1, "a"]},
        {"prompt": [TOKENIZER.vocab_size]},
        {"prompt": [-1]},
        {"prompt": [1] * (CONTEXT_TOKENS + 1)},
        {"prompt": [1] * CONTEXT_TOKENS},
        {"prompt": ["a"] * 13},
        {"prompt": "a", "logprobs": 21},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "echo": 1},
        {"prompt": "a", "model": "other"},
        {"prompt": "\ud800"},
    ],
)
def test_a_bad_request_is_refused(client: TestClient, wrong: dict[str, Any]) -> None:
    answer = client.post("/v1/completions", content=json.dumps(wrong), headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and len(answer.content) < 4096 and answer.json()["error"]["message"], answer.text


def test_tokens_of_texts_and_texts_of_tokens(client: TestClient) -> None:
    def tokenize(**fields: Any) -> Any:
        return complete(client, path="/tokenize", **fields)

    for text in ("Grüße, the 🦊", "", "<|bos|> spelled"):
        tokens = tokenize(prompt=text)["tokens"]
        assert tokens == TOKENIZER.encode(text, bos=True) and tokenize(prompt=text, add_special_tokens=False)["tokens"] == tokens[1:]
        assert complete(client, path="/detokenize", tokens=tokens[1:]) == {"prompt": text}
    counted = tokenize(prompt="the", return_token_strs=True)
    assert counted["count"] == len(counted["tokens"]) and "".join(counted["token_strs"]) == "<|bos|>the"
    assert tokenize(prompt="<|bos|>", add_special_tokens=False)["tokens"] == [BOS]
    information = client.get("/tokenizer_info").json()
    assert information["bos_token"] == information["eos_token"] == "<|bos|>"
    assert complete(client, 400, path="/tokenize")["error"]["param"] == "prompt"
    assert complete(client, 400, path="/detokenize", tokens=[TOKENIZER.vocab_size])["error"]["param"] == "tokens"
    assert complete(client, 400, path="/detokenize", tokens=[-1])["error"]
