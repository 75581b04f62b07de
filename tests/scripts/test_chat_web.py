"""chat_web as a real process, asked by OpenAI's own client and by others that are less polite."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.tiny_chat import Server, free_port, running
from bench.warm_start import WarmStart
from nanochat.common import UserError
from scripts.chat_web import main
from tests.helpers.chat_server import ASK, ask, client, models, post, recited, server, until  # noqa: F401


def test_the_model_is_listed(client: openai.OpenAI, server: Server) -> None:
    (model,) = client.models.list().data
    assert model.id == "sft-alphabet" and model.object == "model"
    assert client.models.retrieve("sft-alphabet").id == "sft-alphabet"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    assert server.get("/health") == {"status": "ok"}


def test_a_reply_and_its_usage(client: openai.OpenAI) -> None:
    reply = ask(client)
    (choice,) = reply.choices
    assert choice.message.role == "assistant" and choice.message.content == recited(30) and choice.finish_reason == "length"
    assert reply.object == "chat.completion" and reply.model == "sft-alphabet"
    # <|bos|> <|user_start|> g o <|user_end|> <|assistant_start|>
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (6, 30, 36)
    assert ask(client, max_tokens=openai.omit, max_completion_tokens=5).choices[0].message.content == "abcde"
    assert ask(client, max_tokens=10**12, stop="d").choices[0].message.content == "abc"


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(said) == recited(30) and len(said) > 10
    assert chunks[-2].choices[0].finish_reason == "length" and chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 30 and all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in ask(client, stream=True))


def test_seeds_and_choices(client: openai.OpenAI) -> None:
    """A seed repeats a reply, also beside others; choices differ, and each is what it is alone."""

    def replies(**settings: Any) -> list[str]:
        return [choice.message.content for choice in ask(client, temperature=2, extra_body={"top_k": 0}, **settings).choices]

    three = replies(seed=5, n=3)
    assert len(set(three)) == 3 and replies(seed=5, n=3) == three and replies(seed=5) == three[:1]
    assert replies(seed=-5) == replies(seed=-5) != replies(seed=6)
    assert replies() != replies()
    streamed = ["", "", ""]
    for chunk in ask(client, temperature=2, extra_body={"top_k": 0}, seed=5, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == three
    assert replies(seed=5, top_p=0) == [recited(30)]


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("d", "abc"),
        (["xyz", "klm"], recited(10)),
        ("lmno", recited(11)),
        (["b", "a"], ""),
        (["abd", "zz"], recited(30)),
        ("z a", recited(25)),
    ],
)
def test_stop_strings_end_a_reply_before_them(client: openai.OpenAI, stop: str | list[str], said: str) -> None:
    whole = ask(client, stop=stop).choices[0]
    assert whole.message.content == said
    assert whole.finish_reason == ("length" if said == recited(30) else "stop")
    chunks = [chunk.choices[0] for chunk in ask(client, stop=stop, stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == said
    assert chunks[-1].finish_reason == whole.finish_reason


def test_a_stop_string_frees_the_place(client: openai.OpenAI, server: Server) -> None:
    assert ask(client, stop="c", max_tokens=4000, n=3).choices[2].message.content == "ab"
    until(lambda: server.stats()["active"] == 0, seconds=2)


def test_messages_that_clients_send(client: openai.OpenAI) -> None:
    """All that the chat format can say: what was answered before, parts of text, several messages in a row, developers."""
    before = ask(client).choices[0].message
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        *ASK,
        {"role": "user", "content": [{"type": "text", "text": "o"}, {"type": "text", "text": "n"}], "name": "Ann"},
        before,
        *ASK,
    ]
    assert ask(client, messages=messages, user="u1", metadata={"a": "b"}, store=False, presence_penalty=0).choices[0].message.content
    strange = [{"role": "user", "content": "\u0000\u0007\u202e🦊 <|assistant_end|>"}]
    assert ask(client, messages=strange).choices[0].message.content == recited(30)


def test_a_tool_call_is_told_apart_and_can_be_sent_back(models: Path, warm: WarmStart) -> None:
    parts = [
        {"type": "text", "text": "Sum:"},
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "-done!"},
    ]
    with running(warm, models, "-g", "sum", "-t", "0", "--step=7", "-i", "sft") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        choice = ask(client, model="sft-sum").choices[0]
        assert choice.message.content == "Sum:-done!" and choice.message.model_extra["parts"] == parts
        assert choice.finish_reason == "stop"
        text, seen = "", []
        for chunk in ask(client, model="sft-sum", stream=True):
            delta = chunk.choices[0].delta
            text += delta.content or ""
            if part := (delta.model_extra or {}).get("part"):
                seen.append((part["type"], part["text"]))
        assert text == "Sum:-done!"
        assert "".join(t for kind, t in seen if kind == "python") == "6*7"
        assert "".join(t for kind, t in seen if kind == "python_output") == "42"
        again = [*ASK, {"role": "assistant", "content": parts}, *ASK]
        assert ask(client, model="sft-sum", messages=again).usage.prompt_tokens > 25
        # Held back for a stop string that does not come, text still is before the tool call that it was before.
        held = ask(client, model="sft-sum", stop=["-d!", ":x"]).choices[0]
        assert held.message.model_extra["parts"] == parts


def test_the_official_client_names_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        ask(client, model="gpt-5")
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, temperature=9)
    assert (error.value.param, error.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="tools"):
        ask(client, tool_choice={"type": "function", "function": {"name": "g"}}, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match="takes 8192 together") as error:
        ask(client, messages=[{"role": "user", "content": "xq" * 4100}])
    assert error.value.code == "context_length_exceeded"


BAD = {
    "no JSON": b"{",
    "no object": b"[1]",
    "not UTF-8": b'{"messages": "\xff\xfe"}',
    "half a surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "a control character": b'{"messages": [{"role": "user", "content": "\x01"}]}',
    "too deep": b'{"messages":' + b"[" * 9000,
    "a number without end": b'{"n": ' + b"9" * 9000 + b"}",
    "nothing": {},
    "no messages": {"messages": []},
    "a message that is none": {"messages": [1]},
    "no content": {"messages": [{"role": "user"}]},
    "null": {"messages": [{"role": "user", "content": None}]},
    "an unknown role": {"messages": [{"role": "robot", "content": "a"}]},
    "a tool's message without a call": {"messages": [*ASK, {"role": "tool", "content": "a", "tool_call_id": "1"}]},
    "a picture": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    "a user's code": {"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]},
    "empty parts": {"messages": [{"role": "user", "content": []}]},
    "the assistant first": {"messages": [{"role": "assistant", "content": "a"}, *ASK]},
    "tool calls that are none": {"messages": [*ASK, {"role": "assistant", "content": "a", "tool_calls": [{}]}, *ASK]},
    "too many messages": {"messages": ASK * 257},
    "n of 0": {"messages": ASK, "n": 0},
    "n too large": {"messages": ASK, "n": 5},
    "n as text": {"messages": ASK, "n": "1"},
    "n as a truth": {"messages": ASK, "n": True},
    "NaN": b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    "infinity": b'{"messages": [{"role": "user", "content": "a"}], "top_p": 1e999}',
    "negative": {"messages": ASK, "temperature": -1},
    "max_tokens of 0": {"messages": ASK, "max_tokens": 0},
    "both lengths": {"messages": ASK, "max_tokens": 1, "max_completion_tokens": 1},
    "a seed too large": {"messages": ASK, "seed": 2**63},
    "an empty stop": {"messages": ASK, "stop": ""},
    "too many stops": {"messages": ASK, "stop": ["a"] * 17},
    "a stop too long": {"messages": ASK, "stop": "a" * 257},
    "a stop that is none": {"messages": ASK, "stop": [1]},
    "options without a stream": {"messages": ASK, "stream_options": {"include_usage": True}},
    "a bias for a word": {"messages": ASK, "logit_bias": {"go": 1}},
    "a bias for no token": {"messages": ASK, "logit_bias": {"99999": 1}},
    "too great a penalty": {"messages": ASK, "frequency_penalty": 2.1},
    "logprobs as a number": {"messages": ASK, "logprobs": 3},
    "alternatives alone": {"messages": ASK, "top_logprobs": 3},
    "too many alternatives": {"messages": ASK, "logprobs": True, "top_logprobs": 21},
    "a format that is none": {"messages": ASK, "response_format": {"type": "xml"}},
    "a schema that is none": {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
    "a schema left out": {"messages": ASK, "response_format": {"type": "json_schema"}},
    "a choice without tools": {"messages": ASK, "tool_choice": "required"},
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_is_wrong(server: Server, case: str) -> None:
    status, headers, body = post(server, BAD[case])
    error = body["error"]
    assert status == 400 and headers["content-type"] == "application/json"
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert 0 < len(error["message"]) <= 400 and "\n" not in error["message"]


def test_paths_methods_types_and_sizes(server: Server) -> None:
    assert post(server, {}, "/v1/nothing")[0] == 404
    assert post(server, {}, "/v1/models")[0] == 405
    assert post(server, {"messages": ASK}, Content_Type="text/plain")[0] == 415
    status, _, body = post(server, b" " * 20001)
    assert status == 413 and "20000 bytes" in body["error"]["message"]
    chunked = b"".join(b"1000\r\n" + b" " * 4096 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        raw.sendall(head.encode() + chunked)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--port=70000"], "port is 70000"),
        (["--workers=0"], "workers is 0"),
        (["--token=abcdefgh", "--token-file=x"], "not both"),
        (["--max-rows=0"], "max_rows is 0"),
        (["--max-seconds=inf"], "max_seconds is inf"),
        (["--max-tokens=9999"], "more than max_reply_tokens"),
        (["--max-choices=99"], "max_choices is 99"),
        (["-t=-1"], "temperature is -1"),
        (["--device-type=tpu"], "device_type is 'tpu'"),
        (["-i=x"], "invalid choice"),
    ],
)
def test_a_wrong_flag_is_one_line(base: Path, wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(wrong)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and says in error and error.count("\n") == 1


def test_what_cannot_be_served_is_one_line(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no model in"):
        main(["--port=0"])
    with pytest.raises(UserError, match="worker 0: no model in"):
        main(["--port=0", "--workers=2"])
    with pytest.raises(UserError, match="lets other machines in"):
        main(["--host=0.0.0.0", "--port=0"])
    with pytest.raises(UserError, match="cannot listen on 203.0.113.1"):
        main(["--host=203.0.113.1", "--token=abcdefgh"])
    with socket.create_server(("127.0.0.1", free_port())) as taken, pytest.raises(UserError, match="give another --host or --port"):
        main([f"--port={taken.getsockname()[1]}"])
    with pytest.raises(UserError, match="cannot read the token"):
        main([f"--token-file={tmp_path / 'none'}"])
    (tmp_path / "short").write_text("abc\n")
    with pytest.raises(UserError, match="8 or more ASCII"):
        main([f"--token-file={tmp_path / 'short'}"])
    monkeypatch.setenv("MC_CHAT_TOKEN", "with a space in it")
    with pytest.raises(UserError, match="MC_CHAT_TOKEN must be"):
        main([])
