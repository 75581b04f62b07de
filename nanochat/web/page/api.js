// Requests to the server that gave us this page.

/** What the user is told when a request fails. `status` is 0 where there was no answer at all. */
export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(path, token, options = {}) {
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server cannot be reached. Is it still running?", 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = sentence((await response.json()).error.message);
  } catch {
    // No JSON: the status has to do.
  }
  return new RequestError(message, response.status);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** The model: {id, context_tokens, max_reply_tokens, defaults}. */
export async function fetchModel(token) {
  const response = await request("/v1/models", token);
  return (await response.json()).data[0];
}

/**
 * Asks for a reply and calls `onPart({type, text})` for each piece as it comes. Returns why it ended: "stop" or "length".
 */
export async function streamReply(body, token, signal, onPart) {
  const response = await request("/v1/chat/completions", token, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  let finish = null;
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") return finish;
    const event = JSON.parse(data);
    if (event.error) throw new RequestError(sentence(event.error.message), 503);
    const choice = event.choices[0];
    if (choice?.delta.content) onPart({ type: "text", text: choice.delta.content });
    if (choice?.delta.part) onPart(choice.delta.part);
    finish = choice?.finish_reason ?? finish;
  }
  throw new RequestError("The connection was lost in the middle of the reply.", 0);
}

/** The data of each server-sent event in a stream of bytes. */
async function* eventData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let chunk;
    try {
      chunk = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return;
    }
    if (chunk.done) return;
    const events = (text + chunk.value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) yield event.slice(6);
    }
  }
}
