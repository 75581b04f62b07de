"""OpenAI's client for Python."""

import json

from common import ASK, BEFORE, CALCULATOR, MODEL, SAID, SCHEMA, SHIP, URL, is_shipment, works
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
chat = client.chat.completions

works("models", [model.id for model in client.models.list()], [MODEL])
reply = chat.create(model=MODEL, messages=ASK)
works("chat", (reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage.prompt_tokens > 0), (SAID, "stop", True))
works("stream", "".join(chunk.choices[0].delta.content or "" for chunk in chat.create(model=MODEL, messages=ASK, stream=True)), SAID)
works("stop", chat.create(model=MODEL, messages=ASK, stop="-d").choices[0].message.content, BEFORE)
scored = chat.create(model=MODEL, messages=ASK, logprobs=True, top_logprobs=2).choices[0].logprobs.content
works("logprobs", ("".join(each.token for each in scored), {len(each.top_logprobs) for each in scored}), (SAID, {2}))
message = chat.create(model=MODEL, messages=ASK, tools=[CALCULATOR]).choices[0].message
(call,) = message.tool_calls
result = {"role": "tool", "tool_call_id": call.id, "content": "42"}
after = chat.create(model=MODEL, messages=[*ASK, message, result], tools=[CALCULATOR]).choices[0].message.content
works("tools", (json.loads(call.function.arguments), after), ({"expression": "6*7"}, "-done!"))
(call,) = chat.create(model=MODEL, messages=ASK, tools=[CALCULATOR, SHIP], tool_choice="required").choices[0].message.tool_calls
works("demanded call", call.function.name in ("calculator", "ship"))
wanted = {"type": "json_schema", "json_schema": {"name": "shipment", "strict": True, "schema": SCHEMA}}
works("JSON schema", is_shipment(chat.create(model=MODEL, messages=ASK, response_format=wanted).choices[0].message.content))
works(
    "JSON object",
    type(json.loads(chat.create(model=MODEL, messages=ASK, response_format={"type": "json_object"}).choices[0].message.content)),
    dict,
)
text = client.completions.create(model=MODEL, prompt="Sum", max_tokens=2, echo=True, logprobs=1, temperature=0).choices[0]
works("text completion", (text.text[:3], len(text.logprobs.tokens)), ("Sum", 5))
