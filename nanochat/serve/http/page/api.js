// Requests to the server that gave us this page.

/** What the user is told when a request fails. `status` is 0 where there was no answer at all. */
export class RequestError extends Error {
  constructor(message, status, code = null, param = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

const RETRY_MS = 300;
const RETRIES = 10;

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

const refusal = async (response) => refusalOf(response.status, await response.text().catch(() => ""));

function refusalOf(status, text) {
  try {
    const { message, code, param } = JSON.parse(text).error;
    return new RequestError(sentence(message), status, code, param);
  } catch {
    return new RequestError(`The server answered with status ${status}.`, status);
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** The models: [{id, context_tokens, max_reply_tokens, defaults, sessions}]. */
export const fetchModels = async (token) => (await json("/v1/models", token)).data;
/** The HTML of a Markdown text, of its first characters at least: {html, formatted}. */
export const fetchHtml = (text, token) => json("/v1/render", token, asJson({ text }));

const inSession = (name, what) => `/v1/sessions/${encodeURIComponent(name)}${what}`;
const json = async (path, token, options) => (await request(path, token, options)).json();
const asJson = (body) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** The sessions, the one written last first: [{name, tokens, trouble, busy, …}]. */
export const fetchSessions = async (token) => (await json("/v1/sessions", token)).data;
/** A new session, a copy of `forkOf` where that is given. */
export const createSession = (name, forkOf, token) => json("/v1/sessions", token, asJson({ name, fork_of: forkOf }));
export const deleteSession = (name, token) => json(inSession(name, ""), token, { method: "DELETE" });
/** Where its focus is: {tokens, entries, budget, spans: [[level, start, end, entries]], …}. */
export const fetchFocus = (name, token) => json(inSession(name, "/focus"), token);
/** Its last messages: {messages: [{role, parts, cut}], earlier}. */
export const fetchMessages = (name, token) => json(inSession(name, "/messages"), token);
export const fetchText = (name, start, end, token) => json(inSession(name, `/text?start=${start}&end=${end}`), token);

/**
 * Has a file read into a session. Calls `sent(share)` while it is sent and `read({read, total})`, in tokens, while it is read.
 * Returns {tokens, focus}.
 */
export function uploadDocument(name, file, token, signal, { sent, read }) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch does not say how far it has come with sending
    let [seen, last] = [0, {}];
    sending.open("POST", inSession(name, `/documents?name=${encodeURIComponent(file.name)}`));
    if (token) sending.setRequestHeader("authorization", `Bearer ${token}`);
    sending.upload.onprogress = (event) => event.lengthComputable && sent(event.loaded / event.total);
    sending.upload.onload = () => sent(1);
    sending.onprogress = () => {
      if (sending.status !== 200) return;
      const events = sending.responseText.slice(seen).split("\n\n");
      seen = sending.responseText.length - events.pop().length;
      for (const data of events.map((event) => event.slice(6))) {
        if (data === "[DONE]") continue;
        last = JSON.parse(data);
        if (last.stage === "add") read(last);
      }
    };
    sending.onload = () => {
      if (sending.status !== 200) reject(refusalOf(sending.status, sending.responseText));
      else if (last.error) reject(new RequestError(sentence(last.error.message), 500));
      else if (!last.focus) reject(new RequestError("The connection was lost while the document was being read.", 0));
      else resolve(last);
    };
    sending.onerror = () => reject(new RequestError("The document could not be sent. Is the server still running?", 0));
    sending.onabort = () => reject(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(file);
  });
}

/** Asks for the stream of a reply. A session that is still busy with the end of the last reply is asked again. */
async function askForReply(body, token, signal) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await request("/v1/chat/completions", token, { ...asJson({ ...body, stream: true, stream_options: { include_usage: true } }), signal });
    } catch (error) {
      if (error.code !== "session_conflict" || attempt >= RETRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      signal.throwIfAborted();
    }
  }
}

/**
 * Asks for a reply. Calls `accepted()` when it begins, `part({type, text})` for each piece as it comes, and `focus(focus)` where the
 * focus of its session moves. Returns {finish, usage}: why it ended, "stop" or "length", and its tokens.
 */
export async function streamReply(body, token, signal, { accepted, part, focus }) {
  const response = await askForReply(body, token, signal);
  accepted();
  let [finish, usage] = [null, null];
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") return { finish, usage };
    const event = JSON.parse(data);
    if (event.error) throw new RequestError(sentence(event.error.message), 503, event.error.code);
    const choice = event.choices[0];
    if (choice?.delta.content) part({ type: "text", text: choice.delta.content });
    if (choice?.delta.part) part(choice.delta.part);
    if (choice?.delta.focus) focus(choice.delta.focus);
    finish = choice?.finish_reason ?? finish;
    usage = event.usage ?? usage;
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
