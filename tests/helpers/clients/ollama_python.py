"""Ollama's client."""

import json

from common import ASK, BEFORE, CALCULATOR, MODEL, SAID, SCHEMA, URL, is_shipment, works
from ollama import Client

client = Client(host=URL)


def ask(**fields):
    return client.chat(model=MODEL, messages=ASK, **fields)


works("models", [model.model for model in client.list().models], [MODEL])
works("chat", ask().message.content, SAID)
works("stream", "".join(part.message.content or "" for part in ask(stream=True)), SAID)
works("stop", ask(options={"stop": ["-d"]}).message.content, BEFORE)
reply = ask(tools=[CALCULATOR]).message
(call,) = reply.tool_calls
messages = [*ASK, reply, {"role": "tool", "tool_name": "calculator", "content": "42"}]
after = client.chat(model=MODEL, messages=messages, tools=[CALCULATOR]).message.content
works("tools", (call.function.arguments, after), ({"expression": "6*7"}, "-done!"))
works("JSON schema", is_shipment(ask(format=SCHEMA).message.content))
works("JSON object", type(json.loads(ask(format="json").message.content)), dict)
works("text completion", len(client.generate(model=MODEL, prompt="Sum", raw=True, options={"num_predict": 3}).response) > 0)
