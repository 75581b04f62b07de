// OpenAI's client for Node.
import OpenAI from "openai";
import { ASK, BEFORE, CALCULATOR, MODEL, SAID, SCHEMA, SHIP, URL, isShipment, works } from "./common.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none", maxRetries: 0 });
const ask = (fields) => client.chat.completions.create({ model: MODEL, messages: ASK, ...fields });

works("models", (await client.models.list()).data.map((model) => model.id), [MODEL]);
works("chat", (await ask()).choices[0].message.content, SAID);
let streamed = "";
for await (const chunk of await ask({ stream: true })) streamed += chunk.choices[0].delta.content ?? "";
works("stream", streamed, SAID);
works("stop", (await ask({ stop: "-d" })).choices[0].message.content, BEFORE);
const scored = (await ask({ logprobs: true, top_logprobs: 1 })).choices[0].logprobs.content;
works("logprobs", scored.map((each) => each.token).join(""), SAID);
const message = (await ask({ tools: [CALCULATOR] })).choices[0].message;
const [call] = message.tool_calls;
const result = { role: "tool", tool_call_id: call.id, content: "42" };
const after = (await ask({ tools: [CALCULATOR], messages: [...ASK, message, result] })).choices[0].message.content;
works("tools", [JSON.parse(call.function.arguments), after], [{ expression: "6*7" }, "-done!"]);
const demanded = (await ask({ tools: [SHIP], tool_choice: "required" })).choices[0].message.tool_calls[0];
works("demanded call", isShipment(JSON.parse(demanded.function.arguments)), true);
const format = { type: "json_schema", json_schema: { name: "shipment", schema: SCHEMA } };
works("JSON schema", isShipment(JSON.parse((await ask({ response_format: format })).choices[0].message.content)), true);
const object = JSON.parse((await ask({ response_format: { type: "json_object" } })).choices[0].message.content);
works("JSON object", typeof object, "object");
const text = await client.completions.create({ model: MODEL, prompt: "Sum", max_tokens: 2, echo: true, temperature: 0 });
works("text completion", text.choices[0].text.slice(0, 3), "Sum");
