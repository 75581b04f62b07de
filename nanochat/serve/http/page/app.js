// The chat: what the user does, and what it changes.

import { RequestError, fetchFocus, fetchHtml, fetchMessages, fetchModels, fetchText, streamReply } from "./api.js";
import { watchAppearance } from "./appearance.js";
import { StorageError, adoptOldChat, watchWrites } from "./chats.js";
import { firstSent, isTooLong, requestMessages, streamSliding } from "./context.js";
import { Conversation, titleOf } from "./conversation.js";
import { byId, element, grow, isSend, resize, toast } from "./elements.js";
import { FocusMap } from "./focus.js";
import { editMessage, textOf } from "./message.js";
import { compose, drawMessages, enableSend, following, say, showContext, showError, showWriting, toEnd } from "./screen.js";
import { Sessions } from "./sessions.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { ImportError } from "./transfer.js";

const [log, input] = ["messages", "input"].map(byId);
const settings = new Settings();
let conversation = Conversation.fresh(trouble);
let token = store.loadToken();
let [models, model] = [[], null];
let writing = null; // the AbortController of the reply that is being written
let unsaved = null; // the reply that is being written, and its conversation
let sessions = null; // where the server keeps the conversation
let opening = null; // the promise of the conversation that is being opened
const map = new FocusMap((start, end) => fetchText(sessions.name, start, end, token));
const inSession = () => Boolean(sessions) && sessions.name !== "";

const sidebar = new Sidebar({
  open: (id) => leaveSession(() => open(id)),
  fresh: () => leaveSession(fresh),
  current: () => conversation.id,
  trouble,
  changed: async (id) => {
    if (id !== conversation.id) return;
    const before = conversation.tree.messages.size;
    await conversation.refresh().catch(trouble);
    if (conversation.tree.messages.size > before && !writing && !log.querySelector("form")) draw();
  },
  removed: (id, here) => {
    if (id !== conversation.id) return;
    fresh();
    if (!here) toast("This conversation was deleted in another tab.");
  },
});

// ---- the conversation

function actionsOf(message) {
  const shown = { fetchHtml: (text) => fetchHtml(text, token), changed: following };
  if (inSession()) return shown; // what a session has heard stays
  const choose = (other) => {
    stop();
    conversation.tree.choose(other);
    conversation.keep();
    draw();
  };
  return { ...shown, edit: () => edit(message), again: () => regenerate(message), choose, versions: conversation.tree.versions(message) };
}

function trouble(error) {
  if (error === null || error instanceof StorageError) {
    byId("storage").hidden = error === null;
    byId("storage").textContent = error?.message;
  } else if (error instanceof RequestError || error instanceof ImportError) {
    if (error.status === 401) askForToken();
    showError(error.message);
  } else {
    throw error;
  }
}

function draw() {
  drawMessages(conversation.path, actionsOf);
  drawContext();
}

const drawContext = () => showContext(conversation.path, inSession() ? null : model?.context_tokens);

// ---- replies

function ask(path, on, signal) {
  const body = { ...settings.request, ...(model ? { model: model.id } : {}) };
  if (inSession()) {
    const messages = requestMessages(path.slice(-1), path.length === 1 ? settings.system : "");
    return sessions.current().then((session) => streamReply({ ...body, session, messages }, token, signal, { ...on, accepted: () => on.accepted(0) }));
  }
  const limit = model?.context_tokens;
  const reserve = Math.min(body.max_tokens ?? settings.defaults.max_tokens, (limit ?? 0) / 4);
  return streamSliding(path, firstSent(path, limit, reserve), settings.system, body, token, signal, on);
}

/**
 * Has the end of the conversation replied to. `said` is the message of the user that is not stored yet, null if there is none;
 * `before` the last message that was shown before, to return to if nothing comes; `refused(text)` takes back what was said.
 */
async function reply({ said = null, before = null, refused = null } = {}) {
  const mine = conversation;
  const session = inSession() ? sessions : null;
  const path = mine.path;
  const message = mine.tree.add("assistant", []);
  draw();
  showError(null);
  toEnd();
  const shown = log.lastElementChild;
  let [frame, first, then] = [0, 0, null];
  const show = () => {
    frame = 0;
    following(() => shown.show(message, true));
  };
  show();
  setWriting(new AbortController());
  const own = writing;
  unsaved = { conversation: mine, message };
  const saving = setInterval(keepUnsaved, 1000);
  const keep = (kept) => mine.keep(kept).then(() => sidebar.refresh());
  const on = {
    accepted: (begin) => {
      if (said) keep(said);
      if (!session) message.limit = model?.context_tokens;
      if (begin > 0) message.from = path[begin].id;
    },
    part: (part) => {
      first ||= performance.now();
      const last = message.parts.at(-1);
      if (last?.type === part.type) last.text += part.text;
      else message.parts.push({ ...part });
      frame ||= requestAnimationFrame(show);
    },
    focus: (focus) => map.show(focus, true),
  };
  try {
    const { finish, usage } = await ask(path, on, own.signal);
    if (usage) Object.assign(message, { usage, seconds: (performance.now() - first) / 1000 });
    if (finish === "length") message.note = `The reply ends here because ${isFull(message) ? "the context is full; the next message makes room" : "it has reached its greatest length"}.`;
    if (message.parts.length === 0) showError("The model ended its turn without a word.", () => reply());
    say("The reply is complete.");
  } catch (error) {
    if (error.name === "AbortError") {
      message.note = "Stopped.";
      say("Stopped.");
    } else if (!(error instanceof RequestError)) {
      throw error;
    } else if (said && refused && !message.parts.length && [400, 413, 422].includes(error.status)) {
      mine.tree.remove(message);
      mine.tree.remove(said);
      mine.tree.leaf = before;
      then = () => {
        refused(textOf(said.parts));
        showError(isTooLong(error) ? `${error.message} Nothing was stored: shorten the message, or split it.` : error.message);
      };
    } else {
      if (said) keep(said);
      if (error.status === 401) askForToken();
      if (mine === conversation) showError(error.message, said || !before ? () => reply() : () => regenerate(message));
    }
  } finally {
    cancelAnimationFrame(frame);
    clearInterval(saving);
    unsaved = null;
    if (writing === own) setWriting(null);
    if (session && session.name) afterReply(session.name);
    if (message.parts.length === 0) {
      mine.tree.remove(message);
      if (before && !said) mine.tree.leaf = before;
    } else {
      keep(message);
    }
    if (mine === conversation) {
      following(draw);
      then?.();
    }
  }
}

const isFull = ({ usage, limit }) => Boolean(limit && usage) && usage.prompt_tokens + usage.completion_tokens >= limit;

function keepUnsaved() {
  if (unsaved?.message.parts.length) unsaved.conversation.keep(unsaved.message);
}

function setWriting(controller) {
  writing = controller;
  showWriting(writing !== null);
}

/** Ends the reply that is being written and keeps what there is of it. */
function stop() {
  writing?.abort();
}

async function submit(text) {
  await opening; // what a conversation holds comes before what is said in it
  if (conversation.id) store.saveOpenChat(conversation.id);
  send(text, conversation.tree.leaf, compose);
}

/** Says `text` after the message `parent`; `refused(text)` takes it back. */
function send(text, parent, refused) {
  stop();
  const before = conversation.tree.leaf;
  const said = conversation.tree.add("user", [{ type: "text", text }], parent);
  reply({ said, before, refused });
}

function regenerate(message) {
  stop();
  const before = conversation.tree.leaf;
  conversation.tree.leaf = message.parent;
  reply({ before });
}

function edit(message, text = textOf(message.parts)) {
  const close = () => {
    draw();
    input.focus();
  };
  const resend = (changed) => {
    send(changed, message.parent, (refused) => edit(message, refused));
    input.focus();
  };
  const index = conversation.path.indexOf(message);
  editMessage(log.querySelectorAll("article")[index], text, resend, close);
}

// ---- opening

function show(opened) {
  stop();
  conversation = opened;
  showError(null);
  draw();
  toEnd();
  sidebar.draw();
}

function fresh() {
  show(Conversation.fresh(trouble));
  store.saveOpenChat("");
  input.focus();
}

/** Opens a stored conversation; a message that is sent meanwhile waits for it. */
function open(id) {
  opening = Conversation.load(id, trouble).then((found) => {
    if (!found) return fresh();
    show(found);
    store.saveOpenChat(id);
  }, trouble);
  return opening;
}

function leaveSession(then) {
  if (inSession()) sessions.leave();
  then();
}

/** Opens what this tab showed, or in a new tab the newest conversation. */
async function openLast() {
  const id = store.loadOpenChat() ?? sidebar.chats[0]?.id;
  if (id) await open(id);
  else fresh();
}

const openSession = (name) => (opening = name === "" ? openLast() : showSession(name));

/** Shows what a session holds and where its focus is; null: a new one. */
async function showSession(name) {
  show(Conversation.inSession([], trouble));
  map.show(name === null ? null : undefined);
  if (name === null) return;
  try {
    const [{ messages, earlier }, focus] = await Promise.all([fetchMessages(name, token), fetchFocus(name, token)]);
    if (sessions.name !== name) return;
    const cut = { note: "Only the end of this is shown; the session has all of it." };
    show(Conversation.inSession(messages.map((message) => ({ role: message.role, parts: message.parts, ...(message.cut ? cut : {}) })), trouble));
    if (earlier) log.prepend(element("p", { class: "aside earlier" }, "What was said before is in the session, and on the map."));
    map.show(focus);
    toEnd();
  } catch (error) {
    trouble(error);
  }
}

/** The focus and the size of the session, when a reply is over. */
async function afterReply(name) {
  try {
    const focus = await fetchFocus(name, token);
    if (sessions.name === name && !writing) map.show(focus, true);
    await sessions.refresh();
  } catch (error) {
    trouble(error);
  }
}

async function startSessions({ max_document_bytes: limit }) {
  sessions ??= new Sessions({
    token: () => token,
    busy: () => writing !== null,
    opened: openSession,
    say,
    error: trouble,
    added: (title, focus) => {
      openSession(sessions.name);
      say(focus ? `${title} was read.` : `Stopped. What was read of ${title} stays.`);
    },
  });
  await sessions.start(limit);
}

// ---- the server

async function connect() {
  try {
    models = await fetchModels(token);
    const chosen = store.loadModel();
    byId("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
    byId("model").disabled = models.length < 2;
    use(models.find(({ id }) => id === chosen) ?? models[0]);
    const kept = models.find((each) => each.sessions)?.sessions;
    if (kept) await startSessions(kept);
    else if (!conversation.path.length) await openLast();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.status === 401) askForToken();
    else showError(error.message, connect);
  }
}

function use(chosen) {
  model = chosen;
  byId("model").value = model.id;
  settings.use(model);
  drawContext();
}

function askForToken() {
  const login = byId("login");
  if (login.open) return;
  byId("token").value = "";
  login.showModal();
}

byId("model").addEventListener("change", () => {
  use(models.find(({ id }) => id === byId("model").value));
  store.saveModel(model.id);
});
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
input.addEventListener("input", () => enableSend(writing !== null));
grow(input);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && writing && !document.querySelector("dialog[open]")) stop();
});
byId("examples").addEventListener("click", (event) => {
  if (event.target.matches("button")) submit(event.target.textContent);
});
addEventListener("pagehide", keepUnsaved);
watchWrites((busy) => (byId("chats").ariaBusy = String(busy)));

async function begin() {
  watchAppearance();
  setWriting(null);
  draw();
  const adopted = await adoptOldChat(titleOf).catch(trouble);
  await sidebar.refresh();
  if (adopted) store.saveOpenChat(adopted);
  if (!store.loadSession()) await openLast();
  await connect();
}
begin();
