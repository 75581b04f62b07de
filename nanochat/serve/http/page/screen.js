// What is on the screen: the conversation, what is wrong, whether a reply is being written.

import { byId, element, icon, number, resize } from "./elements.js";
import { messageElement, textOf } from "./message.js";

const [scroller, log, input, send, errorBox] = ["scroller", "messages", "input", "send", "error"].map(byId);

const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
export const toEnd = () => scroller.scrollTo({ top: scroller.scrollHeight });

/** Makes a change, and stays at the end of the conversation if that is shown. */
export function following(change) {
  const follow = atEnd();
  change();
  if (follow) toEnd();
}

/** A message, as plain text if anything is wrong with it. */
function drawn(message, actions) {
  try {
    return messageElement(message, actions);
  } catch (error) {
    console.error(error);
    return element("article", { class: `message ${message.role}` }, element("div", { class: "body" }, textOf(message.parts)));
  }
}

/** Draws the messages of `path`. `actionsOf(message)` tells what can be done with one. */
export function drawMessages(path, actionsOf) {
  const last = path.findLast(({ role }) => role === "assistant");
  log.replaceChildren(...path.map((message) => drawn(message, actionsOf(message))));
  const from = last?.from ? path.findIndex(({ id }) => id === last.from) : -1;
  if (from > 0) {
    const limit = last.limit ? `its ${number.format(last.limit)} tokens` : "what it takes";
    log.children[from].before(element("p", { class: "slid" }, `The model no longer reads what is above: the conversation is longer than ${limit}.`));
  }
  byId("welcome").hidden = path.length > 0;
}

/** How much of the `limit` tokens of the context the conversation has used; no limit: nothing. */
export function showContext(path, limit) {
  const last = path.findLast(({ usage }) => usage);
  const used = last ? last.usage.prompt_tokens + last.usage.completion_tokens : 0;
  byId("context").hidden = !limit;
  byId("context-text").textContent = `Context: ${number.format(used)} of ${number.format(limit ?? 0)} tokens`;
  byId("context-bar").max = limit ?? 1;
  byId("context-bar").value = used;
}

let again = null;
/** Tells what went wrong, null for nothing, with a button where `retry` can help. */
export function showError(text, retry = null) {
  again = retry;
  errorBox.hidden = !text;
  errorBox.querySelector("p").textContent = text ?? "";
  errorBox.querySelector("button").hidden = retry === null;
  if (text) toEnd();
}

/** Tells those who listen to the page. */
export function say(text) {
  byId("status").textContent = text;
}

/** Shows whether a reply is being written. */
export function showWriting(writing) {
  send.setAttribute("aria-label", writing ? "Stop" : "Send");
  send.title = writing ? "Stop (Esc)" : "Send (Enter)";
  send.replaceChildren(icon(writing ? "stop" : "send"));
  send.classList.toggle("stop", writing);
  log.setAttribute("aria-busy", String(writing));
  enableSend(writing);
}

export function enableSend(writing) {
  send.disabled = !writing && !input.value.trim();
}

/** Puts a text that was not taken back where it was written. */
export function compose(text) {
  if (!input.value.trim()) input.value = text;
  resize(input);
  enableSend(false);
  input.focus();
}

errorBox.querySelector("button").addEventListener("click", () => {
  const retry = again;
  showError(null);
  retry();
});
scroller.addEventListener("scroll", () => (byId("latest").hidden = atEnd()));
byId("latest").addEventListener("click", toEnd);
