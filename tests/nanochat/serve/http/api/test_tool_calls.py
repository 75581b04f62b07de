"""Tools of the client and JSON replies, through OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from nanochat.serve.http.api.prompts import chat_prompt
from nanochat.serve.http.api.schema import Message
from tests.helpers.http_client import CONTEXT_TOKENS, TOKENIZER, recite, serving
from tests.helpers.tiny_model import tiny_model

ASK = [{"role": "user", "content": "go"}]
TEXT = {"type": "string"}


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": "A function.", "parameters": parameters}}


CALCULATOR, PYTHON = function("calculator", expression=TEXT), function("run_python", code=TEXT)
WEATHER = function("weather", city=TEXT)
SHIP = function("ship", to={"enum": ["Oslo", "Rome"]}, boxes={"type": "integer", "minimum": 1, "maximum": 9})


@pytest.fixture(scope="module")
def summing() -> Iterator[openai.OpenAI]:
    """The model that calls the calculator with 6*7."""
    with serving(recite(tool=True)) as client:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture(scope="module")
def random_model() -> Iterator[openai.OpenAI]:
    with serving(tiny_model(depth=4, vocab_size=TOKENIZER.vocab_size, max_seq_len=2 * CONTEXT_TOKENS)) as client:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "sft-tiny", "messages": ASK, "max_tokens": 60, **fields})


def test_the_model_s_code_is_a_call_of_the_client_s_function(summing: openai.OpenAI) -> None:
    for tools, name, parameter in (
        ([WEATHER, CALCULATOR], "calculator", "expression"),
        ([PYTHON], "run_python", "code"),
        ([PYTHON, CALCULATOR], "calculator", "expression"),
    ):
        choice = ask(summing, tools=tools).choices[0]
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", name, {parameter: "6*7"})
        assert choice.finish_reason == "tool_calls" and choice.message.content == "Sum:" and call.id.startswith("call_")


def test_a_stream_has_the_same_call(summing: openai.OpenAI) -> None:
    chunks = [chunk.choices[0] for chunk in ask(summing, tools=[CALCULATOR], stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Sum:" and chunks[-1].finish_reason == "tool_calls"
    (call,) = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert (call.index, call.function.name, json.loads(call.function.arguments)) == (0, "calculator", {"expression": "6*7"})
    assert not any("part" in (chunk.delta.model_extra or {}) for chunk in chunks)


def test_the_result_of_a_call_continues_the_reply(summing: openai.OpenAI) -> None:
    """As if the server had run it: the prompt is the same, and so is the rest of the reply."""
    message = ask(summing, tools=[CALCULATOR]).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "42"}
    choice = ask(summing, tools=[CALCULATOR], messages=[*ASK, message, result]).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == ("-done!", "stop", None)
    parts = [{"type": "text", "text": "Sum:"}, {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
    sent = [Message.model_validate(each) for each in (*ASK, message.model_dump(exclude_none=True), result)]
    assert chat_prompt(TOKENIZER, sent) == chat_prompt(TOKENIZER, [sent[0], Message(role="assistant", content=parts)])
    without_text = {"role": "assistant", "content": None, "tool_calls": [message.tool_calls[0].model_dump()]}
    assert ask(summing, tools=[CALCULATOR], messages=[*ASK, without_text, result, *ASK]).choices[0].message.content


def test_without_a_function_for_it_the_server_runs_the_code(summing: openai.OpenAI) -> None:
    for fields in ({}, {"tools": [WEATHER]}, {"tools": [CALCULATOR], "tool_choice": "none"}, {"tools": []}):
        choice = ask(summing, **fields).choices[0]
        assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == ("Sum:-done!", "stop", None)


def test_a_call_that_is_demanded_always_comes(random_model: openai.OpenAI) -> None:
    for choice in ({"type": "function", "function": {"name": "ship"}}, "required"):
        for seed in range(3):
            tools = [SHIP] if choice == "required" else [WEATHER, SHIP]
            reply = ask(random_model, tools=tools, tool_choice=choice, temperature=2, seed=seed).choices[0]
            (call,) = reply.message.tool_calls
            arguments = json.loads(call.function.arguments)
            assert call.function.name == "ship" and arguments["to"] in ("Oslo", "Rome") and 1 <= arguments["boxes"] <= 9
            assert reply.finish_reason == "tool_calls" and reply.message.content is None
    (call,) = ask(random_model, tools=[WEATHER, SHIP], tool_choice="required", temperature=2, seed=1).choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"weather": {"city"}, "ship": {"to", "boxes"}}[call.function.name]
    chunks = list(ask(random_model, tools=[SHIP], tool_choice="required", stream=True))
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert json.loads(call.function.arguments)["to"] in ("Oslo", "Rome")
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_a_call_that_is_cut_off_is_text_in_a_stream_too(random_model: openai.OpenAI, summing: openai.OpenAI) -> None:
    demanded = {"tools": [SHIP], "tool_choice": "required", "max_tokens": 3}
    whole = ask(random_model, **demanded).choices[0]
    assert whole.finish_reason == "length" and not whole.message.tool_calls
    chunks = [chunk.choices[0] for chunk in ask(random_model, stream=True, **demanded)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content != ""
    assert chunks[-1].finish_reason == "length"
    cut = {"tools": [CALCULATOR], "max_tokens": 7}  # within the code
    parts = ask(summing, **cut).choices[0].message.model_extra["parts"]
    assert [part["type"] for part in parts] == ["text", "python"]
    sent = [chunk.choices[0].delta.model_extra or {} for chunk in ask(summing, stream=True, **cut)]
    assert [each["part"] for each in sent if "part" in each] == parts[1:]


def test_json_replies_always_parse(random_model: openai.OpenAI) -> None:
    schema = {"name": "ship", "strict": True, "schema": SHIP["function"]["parameters"]}
    for seed in range(3):
        reply = ask(random_model, response_format={"type": "json_schema", "json_schema": schema}, temperature=2, seed=seed).choices[0]
        assert json.loads(reply.message.content)["to"] in ("Oslo", "Rome") and reply.finish_reason == "stop"
        reply = ask(random_model, response_format={"type": "json_object"}, temperature=2, seed=seed, n=2)
        assert all(isinstance(json.loads(choice.message.content), dict) for choice in reply.choices)
    assert ask(random_model, response_format={"type": "text"}, max_tokens=3).choices[0].message.content


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool_choice": "required"},
        {"tools": [SHIP], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [SHIP], "tool_choice": "sometimes"},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": []}}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}], "tool_choice": "required"},
        {"tools": [CALCULATOR], "extra_body": {"session": "a"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
        {"messages": [*ASK, {"role": "tool", "content": "a", "tool_call_id": "1"}]},
        {"messages": [{**ASK[0], "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}]},
    ],
)
def test_what_cannot_be_called_is_refused(summing: openai.OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(summing, **wrong)
