"""litellm."""

import json

import litellm
from common import ASK, BEFORE, CALCULATOR, MODEL, SAID, SCHEMA, SHIP, URL, is_shipment, works

settings = {"model": f"hosted_vllm/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none", "num_retries": 0}


def ask(**fields):
    return litellm.completion(messages=ASK, **settings, **fields)


works("chat", ask().choices[0].message.content, SAID)
works("stream", "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True)), SAID)
works("stop", ask(stop=["-d"]).choices[0].message.content, BEFORE)
works("logprobs", "".join(each.token for each in ask(logprobs=True, top_logprobs=1).choices[0].logprobs.content), SAID)
(call,) = ask(tools=[CALCULATOR]).choices[0].message.tool_calls
works("tools", json.loads(call.function.arguments), {"expression": "6*7"})
(call,) = ask(tools=[SHIP], tool_choice="required").choices[0].message.tool_calls
works("demanded call", is_shipment(call.function.arguments))
wanted = {"type": "json_schema", "json_schema": {"name": "shipment", "schema": SCHEMA}}
works("JSON schema", is_shipment(ask(response_format=wanted).choices[0].message.content))
works("JSON object", type(json.loads(ask(response_format={"type": "json_object"}).choices[0].message.content)), dict)
text = litellm.text_completion(prompt="Sum", max_tokens=2, **{**settings, "model": f"text-completion-openai/{MODEL}"})
works("text completion", len(text.choices[0].text) > 0)
