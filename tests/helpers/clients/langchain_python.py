"""langchain-openai."""

from common import ASK, BEFORE, CALCULATOR, MODEL, SAID, SCHEMA, SHIP, URL, works
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

model = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_retries=0)

works("chat", model.invoke(ASK).content, SAID)
works("stream", "".join(chunk.content for chunk in model.stream(ASK)), SAID)
works("stop", model.invoke(ASK, stop=["-d"]).content, BEFORE)
scored = model.bind(logprobs=True, top_logprobs=1).invoke(ASK).response_metadata["logprobs"]["content"]
works("logprobs", "".join(each["token"] for each in scored), SAID)
asked, able = [HumanMessage("go")], model.bind_tools([CALCULATOR])
first = able.invoke(asked)
(call,) = first.tool_calls
after = able.invoke([*asked, first, ToolMessage("42", tool_call_id=call["id"])]).content
works("tools", (call["args"], after), ({"expression": "6*7"}, "-done!"))
(call,) = model.bind_tools([SHIP], tool_choice="ship").invoke(ASK).tool_calls
works("demanded call", set(call["args"]), {"to", "boxes"})
named = {"title": "shipment", "description": "A shipment.", **SCHEMA}
works("JSON schema", set(model.with_structured_output(named, method="json_schema").invoke(ASK)), {"to", "boxes"})
works("JSON object", type(model.with_structured_output(named, method="json_mode").invoke(ASK)), dict)
text = OpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_retries=0, max_tokens=5)
works("text completion", len(text.invoke("Sum")) > 0)
