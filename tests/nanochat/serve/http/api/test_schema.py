"""Requests as data: whatever the bytes are, the answer is a request or a short and clear refusal."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.web_fuzz import NAMES, VALUES, malformed
from nanochat.data.chat_template import render_prompt
from nanochat.data.conversation_forms import read_conversation
from nanochat.data.messages import to_turns
from nanochat.infer.sampling import Sampling
from nanochat.serve.http.api.prompts import chat_prompt, new_messages, to_conversation
from nanochat.serve.http.api.schema import ChatRequest, Message, parse_request, to_sampling
from nanochat.serve.http.compatibility import ClientFlags
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.limits import WebLimits
from tests.helpers.tiny_model import tiny_tokenizer

LIMITS = WebLimits(max_characters=10_000)
STRICT = ClientFlags(lenient=False)
TOKENIZER = tiny_tokenizer()
ASK = [{"role": "user", "content": "go"}]


def outcome(body: bytes) -> ChatRequest | ApiError:
    """The request, which can then be rendered and sampled, or the refusal."""
    try:
        request = parse_request(body, LIMITS, "m", STRICT)
        assert chat_prompt(TOKENIZER, request.messages)
        to_sampling(request, Sampling())
        return request
    except ApiError as error:
        assert 400 <= error.status < 500 and len(json.dumps(error.body())) <= 4096 and error.message.strip()
        return error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([v for v in VALUES if v != "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first text takes a second, once
@given(st.dictionaries(st.sampled_from([*NAMES, "role", "content"]), JSON, max_size=5))
def test_any_json_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    outcome(json.dumps(fields).encode())
    outcome(json.dumps({"messages": ASK, **fields}).encode())
    outcome(json.dumps({"messages": [fields]}).encode())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert isinstance(outcome(body), ApiError)


def test_what_the_fuzzer_sends_is_refused_but_for_what_is_right() -> None:
    """Few of its bodies are requests: else it would not test much."""
    rng = random.Random(3)
    bodies = [malformed(rng).partition(b"\r\n\r\n")[2] for _ in range(1000)]
    taken = [body for body in bodies if isinstance(outcome(body), ChatRequest)]
    assert len(taken) < 150


def test_an_error_never_repeats_what_was_sent() -> None:
    secret = "xyzzy-secret"
    for body in (
        {"messages": [{"role": secret, "content": "a"}]},
        {"messages": ASK, "temperature": secret},
        {"messages": ASK, "stop": [secret] * 99},
        {"messages": [{"role": "user", "content": {"text": secret}}]},
    ):
        error = outcome(json.dumps(body).encode())
        assert isinstance(error, ApiError) and secret not in json.dumps(error.body())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Sampling(0.7, 40, 0.9, 99)),
        ({"temperature": 0}, Sampling(0.0, 40, 1.0, 99)),
        ({"temperature": 1e-300}, Sampling(0.0, 40, 1.0, 99)),
        ({"top_p": 0}, Sampling(0.0, 40, 1.0, 99)),
        ({"temperature": 2, "top_p": 0.5, "top_k": 0, "max_tokens": 3}, Sampling(2.0, 0, 0.5, 3)),
        ({"min_p": 0.1, "presence_penalty": 1, "repetition_penalty": 1.5}, Sampling(0.7, 40, 0.9, 99, 42, 0.1, 1.5, 0.0, 1.0)),
        ({"temperature": None, "max_completion_tokens": 4, "n": None, "stop": None}, Sampling(0.7, 40, 0.9, 4)),
    ],
)
def test_sampling_is_the_request_s_else_the_server_s(fields: dict[str, Any], expected: Sampling) -> None:
    request = parse_request(json.dumps({"messages": ASK, "seed": 42, **fields}).encode(), LIMITS, "m", STRICT)
    assert to_sampling(request, Sampling(0.7, 40, 0.9, 99)) == expected


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_of_openai_s_is_one(seed: int) -> None:
    request = parse_request(json.dumps({"messages": ASK, "seed": seed}).encode(), LIMITS, "m", STRICT)
    assert to_sampling(request, Sampling()).seed == (seed if seed >= 0 else seed + 2**63)


def test_messages_of_one_author_are_one() -> None:
    def message(role: str, content: Any) -> Message:
        return Message(role=role, content=content)

    parts = [{"type": "text", "text": "a"}, {"type": "python", "text": "1"}, {"type": "python_output", "text": "1"}]
    conversation = to_conversation(
        [
            message("system", "s"),
            message("developer", "d"),
            message("user", "u"),
            message("user", [{"type": "text", "text": "v"}, {"type": "text", "text": "w"}]),
            message("assistant", parts),
            message("assistant", "b"),
            message("user", "x"),
        ]
    )
    assert conversation["messages"] == [
        {"role": "system", "content": "s\n\nd"},
        {"role": "user", "content": "u\n\nvw"},
        {"role": "assistant", "content": [*parts, {"type": "text", "text": "\n\n"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "x"},
    ]


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
HISTORY = [
    *ASK,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "assistant", "content": "Three."},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "now?"}], "name": "Ann"},
]


def test_the_server_reads_what_training_reads() -> None:
    request = parse_request(json.dumps({"messages": HISTORY}).encode(), LIMITS, "m", STRICT)
    conversation = to_conversation(request.messages)
    assert conversation == to_turns(HISTORY)
    trained = read_conversation({"messages": [*HISTORY, {"role": "assistant", "content": "Four."}]}).conversation
    assert render_prompt(TOKENIZER, conversation) == render_prompt(TOKENIZER, trained)
    assert [message.content for message in new_messages(request.messages[:3])] == []
    assert new_messages(request.messages) == request.messages[4:]
    assert sum(message.characters for message in request.messages[1:2]) > len(str(CALL["function"]))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": None}, "messages.1.content"),
        ({"role": "assistant", "content": "a", "tool_calls": [{}]}, "messages.1.tool_calls"),
        ({"role": "tool", "content": "a"}, "messages.1.role"),
        ({"role": "user", "content": [{"type": "python", "text": "a"}]}, "messages.1.content"),
    ],
)
def test_a_wrong_message_is_named(message: dict[str, Any], param: str) -> None:
    error = outcome(json.dumps({"messages": [*ASK, message, *ASK]}).encode())
    assert isinstance(error, ApiError) and error.param == param


@pytest.mark.parametrize(("name", "wrong"), [("max_rows", 0), ("max_queue", -1), ("max_seconds", math.inf), ("max_body_bytes", 0)])
def test_a_limit_that_is_none_is_refused(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=name):
        WebLimits(**{name: wrong})
