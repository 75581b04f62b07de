// The chat: what the user does, and what it changes.

import { RequestError, fetchModel, streamReply } from "./api.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { editMessage, grow, icon, isSend, messageElement, resize, textOf } from "./view.js";

const byId = (id) => document.getElementById(id);
const [scroller, log, input, send, errorBox] = ["scroller", "messages", "input", "send", "error"].map(byId);
const settings = new Settings();
let messages = store.loadMessages();
let token = store.loadToken();
let model = null;
let writing = null; // the AbortController of the reply that is being written

// ---- the conversation on the screen

const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
const toEnd = () => scroller.scrollTo({ top: scroller.scrollHeight });

function draw() {
  log.replaceChildren(...messages.map((message, i) => messageElement(message, { edit: () => edit(i), again: () => regenerate(i) })));
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

function requestMessages() {
  const turns = messages.map(({ role, parts }) => ({
    role,
    content: parts.some((part) => part.type !== "text") ? parts.map(({ type, text }) => ({ type, text })) : textOf(parts),
  }));
  return settings.system ? [{ role: "system", content: settings.system }, ...turns] : turns;
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
  const saving = setInterval(() => store.saveMessages(messages), 1000);
  try {
    const finish = await streamReply(body, token, mine.signal, (part) => {
      const last = message.parts.at(-1);
      if (last?.type === part.type) last.text += part.text;
      else message.parts.push({ ...part });
      frame ||= requestAnimationFrame(show);
    });
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
    if (messages.at(-1) === message) {
      if (message.parts.length === 0) messages.pop();
      store.saveMessages(messages);
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

function submit(text) {
  stop();
  messages.push({ role: "user", parts: [{ type: "text", text }] });
  store.saveMessages(messages);
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

// ---- the server

async function connect() {
  try {
    model = await fetchModel(token);
    byId("model").textContent = model.id;
    settings.use(model);
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
  else if (messages.length) regenerate(messages.length - 1);
});
scroller.addEventListener("scroll", () => (byId("latest").hidden = atEnd()));
byId("latest").addEventListener("click", toEnd);
addEventListener("pagehide", () => store.saveMessages(messages));

// ---- light and dark

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function showTheme() {
  byId("theme").replaceChildren(icon(isDark() ? "sun" : "moon"));
  byId("theme").setAttribute("aria-label", isDark() ? "Light appearance" : "Dark appearance");
}

byId("theme").addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  // What the system says anyway need not be remembered: it may change its mind at night.
  const asSystem = (chosen === "dark") === dark.matches;
  if (asSystem) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  store.saveTheme(asSystem ? null : chosen);
  showTheme();
});
dark.addEventListener("change", showTheme);

showTheme();
setWriting(null);
draw();
toEnd();
connect();
