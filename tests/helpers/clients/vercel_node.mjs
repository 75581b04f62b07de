// The Vercel AI SDK.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { BEFORE, MODEL, SAID, SCHEMA, URL, isShipment, works } from "./common.mjs";

const here = createOpenAICompatible({ name: "here", baseURL: `${URL}/v1`, apiKey: "none", supportsStructuredOutputs: true });
const asked = { model: here(MODEL), prompt: "go", maxRetries: 0 };

works("chat", (await generateText(asked)).text, SAID);
let streamed = "";
for await (const part of streamText(asked).textStream) streamed += part;
works("stream", streamed, SAID);
works("stop", (await generateText({ ...asked, stopSequences: ["-d"] })).text, BEFORE);
const expressions = [];
const calculator = tool({
  description: "Calculates.",
  inputSchema: jsonSchema({ type: "object", properties: { expression: { type: "string" } }, required: ["expression"] }),
  execute: async ({ expression }) => { expressions.push(expression); return "42"; },
});
const after = await generateText({ ...asked, tools: { calculator }, stopWhen: stepCountIs(3) });
works("tools", [after.text, expressions], ["-done!", ["6*7"]]);
const ship = tool({ description: "Ships boxes.", inputSchema: jsonSchema(SCHEMA) });
const demanded = await generateText({ ...asked, tools: { ship }, toolChoice: "required" });
works("demanded call", isShipment(demanded.toolCalls[0].input), true);
const { output } = await generateText({ ...asked, output: Output.object({ schema: jsonSchema(SCHEMA) }) });
works("JSON schema", isShipment(output), true);
const completed = await generateText({ ...asked, model: here.completionModel(MODEL), maxOutputTokens: 5 });
works("text completion", completed.text.length > 0, true);
