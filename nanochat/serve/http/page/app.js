// The chat: what the user does, and what it changes.

import { RequestError, fetchFocus, fetchMessages, fetchModel, fetchText, streamReply } from "./api.js";
import { watchAppearance } from "./appearance.js";
import { FocusMap } from "./focus.js";
import { Sessions } from "./sessions.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { element } from "./markdown.js";
import { editMessage, grow, icon, isSend, messageElement, resize, textOf } from "./view.js";

const byId = (id) => document.getElementById(id);
const [scroller, log, input, send, errorBox] = ["scroller", "messages", "input", "send", "error"].map(byId);
const settings = new Settings();
let messages = store.loadMessages();
let token = store.loadToken();
let model = null;
let writing = null; // the AbortController of the reply that is being written
let sessions = null; // where the server keeps the conversation
let opening = null; // the promise of the session that is being shown
const map = new FocusMap((start, end) => fetchText(sessions.name, start, end, token));

// ---- the conversation on the screen

const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
const toEnd = () => scroller.scrollTo({ top: scroller.scrollHeight });

function draw() {
  const actions = (i) => (sessions ? null : { edit: () => edit(i), again: () => regenerate(i) }); // what a session has heard stays
  log.replaceChildren(...messages.map((message, i) => messageElement(message, actions(i))));
  byId("welcome").hidden = messages.length > 0;
  byId("new").disabled = messages.length === 0;
}

function showError(text) {
  errorBox.hidden = !text;
  errorBox.querySelector("p").textContent = text ?? "";
  if (text) toEnd();
}

function say(text) {
  byId("status").textContent = text;
}

// ---- replies

function keep() {
  if (!sessions) store.saveMessages(messages);
}

function requestMessages() {
  const said = sessions ? messages.slice(-1) : messages;
  const turns = said.map(({ role, parts }) => ({
    role,
    content: parts.some((part) => part.type !== "text") ? parts.map(({ type, text }) => ({ type, text })) : textOf(parts),
  }));
  return settings.system && said.length === messages.length ? [{ role: "system", content: settings.system }, ...turns] : turns;
}

async function reply() {
  const body = { messages: requestMessages(), ...settings.request, ...(model ? { model: model.id } : {}) };
  const message = { role: "assistant", parts: [] };
  messages.push(message);
  draw();
  showError(null);
  toEnd();
  const shown = log.lastElementChild;
  let frame = 0;
  const show = () => {
    frame = 0;
    const follow = atEnd();
    shown.show(message, true);
    if (follow) toEnd();
  };
  show();
  setWriting(new AbortController());
  const mine = writing;
  const saving = setInterval(keep, 1000);
  const take = (part) => {
    const last = message.parts.at(-1);
    if (last?.type === part.type) last.text += part.text;
    else message.parts.push({ ...part });
    frame ||= requestAnimationFrame(show);
  };
  try {
    if (sessions) body.session = await sessions.current();
    const finish = await streamReply(body, token, mine.signal, take, (focus) => map.show(focus, true));
    if (finish === "length") message.note = "The reply ends here because it has reached its greatest length.";
    if (message.parts.length === 0) showError("The model ended its turn without a word.");
    say("The reply is complete.");
  } catch (error) {
    if (error.name === "AbortError") {
      message.note = "Stopped.";
      say("Stopped.");
    } else if (error instanceof RequestError) {
      if (error.status === 401) askForToken();
      showError(error.message);
    } else {
      throw error;
    }
  } finally {
    cancelAnimationFrame(frame);
    clearInterval(saving);
    if (writing === mine) setWriting(null);
    if (sessions && body.session === sessions.name) afterReply(sessions.name);
    if (messages.at(-1) === message) {
      if (message.parts.length === 0) messages.pop();
      keep();
      const follow = atEnd();
      draw();
      if (follow) toEnd();
    }
  }
}

function setWriting(controller) {
  writing = controller;
  send.setAttribute("aria-label", writing ? "Stop" : "Send");
  send.title = writing ? "Stop (Esc)" : "Send (Enter)";
  send.replaceChildren(icon(writing ? "stop" : "send"));
  send.classList.toggle("stop", writing !== null);
  log.setAttribute("aria-busy", String(writing !== null));
  enableSend();
}

function enableSend() {
  send.disabled = !writing && !input.value.trim();
}

/** Ends the reply that is being written and keeps what there is of it. */
function stop() {
  writing?.abort();
}

async function submit(text) {
  await opening; // what a session holds comes before what is said in it
  stop();
  messages.push({ role: "user", parts: [{ type: "text", text }] });
  keep();
  reply();
}

function regenerate(index) {
  stop();
  messages = messages.slice(0, index);
  reply();
}

function edit(index) {
  const text = textOf(messages[index].parts);
  const resend = (changed) => {
    stop();
    messages = messages.slice(0, index);
    submit(changed);
    input.focus();
  };
  editMessage(log.children[index], text, resend, () => {
    draw();
    input.focus();
  });
}

function newChat() {
  stop();
  const before = messages;
  messages = [];
  store.saveMessages(messages);
  draw();
  showError(null);
  input.focus();
  toast("The conversation was cleared.", () => {
    messages = [...before.filter((message) => message.parts.length), ...messages];
    store.saveMessages(messages);
    draw();
    toEnd();
  });
}

let toastEnds = 0;
function toast(text, undo) {
  const box = byId("toast");
  box.firstElementChild.textContent = text;
  box.hidden = false;
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => (box.hidden = true), 6000);
  box.querySelector("button").onclick = () => {
    box.hidden = true;
    undo();
  };
}

// ---- sessions

/** Opens a session; a message that is sent meanwhile waits for it. */
const openSession = (name) => (opening = showSession(name));

/** Shows what a session holds and where its focus is; null: a new one. */
async function showSession(name) {
  stop();
  showError(null);
  messages = [];
  draw();
  map.show(null);
  if (name === null) return;
  try {
    const [{ messages: last, earlier }, focus] = await Promise.all([fetchMessages(name, token), fetchFocus(name, token)]);
    if (sessions.name !== name) return;
    messages = last.map(({ role, parts, cut }) => ({ role, parts, ...(cut ? { note: "Only the end of this is shown; the session has all of it." } : {}) }));
    draw();
    if (earlier) log.prepend(element("p", { class: "aside earlier" }, "What was said before is in the session, and on the map."));
    map.show(focus);
    toEnd();
  } catch (error) {
    fail(error);
  }
}

/** The focus and the size of the session, when a reply is over. */
async function afterReply(name) {
  try {
    const focus = await fetchFocus(name, token);
    if (sessions.name === name && !writing) map.show(focus, true);
    await sessions.refresh();
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  if (!(error instanceof RequestError)) throw error;
  if (error.status === 401) askForToken();
  showError(error.message);
}

async function startSessions({ max_document_bytes: limit }) {
  byId("new").hidden = true; // the bar has its own
  sessions ??= new Sessions({
    token: () => token,
    busy: () => writing !== null,
    opened: openSession,
    say,
    error: fail,
    added: (title, focus) => {
      openSession(sessions.name);
      say(focus ? `${title} was read.` : `Stopped. What was read of ${title} stays.`);
    },
  });
  try {
    await sessions.start(limit);
  } catch (error) {
    fail(error);
  }
}

// ---- the server

async function connect() {
  try {
    model = await fetchModel(token);
    byId("model").textContent = model.id;
    settings.use(model);
    if (model.sessions) await startSessions(model.sessions);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.status === 401) askForToken();
    else showError(error.message);
  }
}

function askForToken() {
  const login = byId("login");
  if (login.open) return;
  byId("token").value = "";
  login.showModal();
}

byId("login").addEventListener("close", () => {
  token = byId("token").value.trim();
  if (!token) return;
  store.saveToken(token);
  showError(null);
  connect();
});

// ---- what the user does

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (writing) {
    stop();
  } else if (input.value.trim()) {
    const text = input.value;
    input.value = "";
    resize(input);
    submit(text);
  }
});
input.addEventListener("keydown", (event) => {
  if (!isSend(event)) return;
  event.preventDefault();
  if (!writing) byId("composer").requestSubmit();
});
input.addEventListener("input", enableSend);
grow(input);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && writing && !document.querySelector("dialog[open]")) stop();
});
byId("new").addEventListener("click", newChat);
byId("examples").addEventListener("click", (event) => {
  if (event.target.matches("button")) submit(event.target.textContent);
});
errorBox.querySelector("button").addEventListener("click", () => {
  showError(null);
  if (!model) connect();
  if (messages.at(-1)?.role === "user") reply();
  else if (messages.length && !sessions) regenerate(messages.length - 1);
});
scroller.addEventListener("scroll", () => (byId("latest").hidden = atEnd()));
byId("latest").addEventListener("click", toEnd);
addEventListener("pagehide", keep);

watchAppearance();
setWriting(null);
draw();
toEnd();
connect();
