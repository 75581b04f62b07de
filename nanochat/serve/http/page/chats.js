// The conversations in this browser, one database for all tabs of this origin. Each message is a record of its own, written by the
// tab in which it was said; so tabs add to a conversation without overwriting each other.

import { linked, newId } from "./tree.js";

const NAME = "megacontext";
const OLD = "chat"; // in the local storage: the one conversation of earlier versions

export class StorageError extends Error {}

let opened = null;
const channel = new BroadcastChannel(NAME);
const tell = (id, gone = false) => channel.postMessage({ id, gone });

let writes = 0;
let writing = () => {};

/** Calls `changed(busy)` when the first write begins and when the last one has ended: a page that is closed between them loses what was not written. */
export const watchWrites = (changed) => (writing = changed);

/** Calls `changed(id, gone)` when another tab changes or deletes a conversation. */
export const watchChats = (changed) => channel.addEventListener("message", ({ data }) => changed(data.id, data.gone));

function open() {
  opened ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("chats", { keyPath: "id" });
      opening.result.createObjectStore("messages", { keyPath: "id" }).createIndex("chat", "chat");
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  return opened;
}

const result = (asked) => new Promise((resolve, reject) => ([asked.onsuccess, asked.onerror] = [() => resolve(asked.result), () => reject(asked.error)]));

/** Runs `work(chats, messages)`, all of it or nothing. */
async function transact(mode, work) {
  try {
    const transaction = (await open()).transaction(["chats", "messages"], mode);
    const over = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const [value] = await Promise.all([work(transaction.objectStore("chats"), transaction.objectStore("messages")), over]);
    return value;
  } catch (error) {
    const full = error?.name === "QuotaExceededError";
    throw new StorageError(
      full
        ? "This browser's storage is full: what you write now is lost when the page closes. Export or delete conversations."
        : "This browser stores nothing for this page: conversations are lost when the page closes. Export those that matter.",
    );
  }
}

/** Runs `work(chats, messages)`, which writes. */
async function change(work) {
  if (++writes === 1) writing(true);
  try {
    return await transact("readwrite", work);
  } finally {
    if (--writes === 0) writing(false);
  }
}

/** A conversation that is not stored yet. */
export const newChat = (title = "") => ({ id: newId(), title, created: Date.now(), updated: Date.now(), leaf: null });

/** All conversations, the one changed last first: [{id, title, created, updated, leaf}]. */
export const listChats = async () => (await transact("readonly", (chats) => result(chats.getAll()))).sort((a, b) => b.updated - a.updated);

const isPart = (part) => ["text", "python", "python_output"].includes(part?.type) && typeof part.text === "string";
export const isMessage = (message) => ["user", "assistant"].includes(message?.role) && Array.isArray(message.parts) && message.parts.every(isPart);

/** A conversation: {chat, messages}, null if there is none. */
export async function loadChat(id) {
  const [chat, messages] = await transact("readonly", (chats, all) => Promise.all([result(chats.get(id)), result(all.index("chat").getAll(id))]));
  return chat ? { chat, messages: messages.filter(isMessage) } : null;
}

/** Stores a new conversation, or one that was deleted. */
export async function createChat(chat, messages) {
  await change(async (chats, all) => {
    chats.put(chat);
    for (const message of messages) all.put({ ...message, chat: chat.id });
  });
  tell(chat.id);
}

/** Adds `messages` to a conversation and changes `fields` of it. Nothing happens to one that was deleted meanwhile: false then. */
export async function changeChat(id, fields, messages = []) {
  const there = await change(async (chats, all) => {
    const chat = await result(chats.get(id));
    if (!chat) return false;
    chats.put({ ...chat, ...fields });
    for (const message of messages) all.put({ ...message, chat: id });
    return true;
  });
  if (there) tell(id);
  return there;
}

/** Deletes a conversation; returns it. */
export async function removeChat(id) {
  const before = await loadChat(id);
  await change(async (chats, all) => {
    chats.delete(id);
    for (const key of await result(all.index("chat").getAllKeys(id))) all.delete(key);
  });
  tell(id, true);
  return before;
}

/** The ids of the conversations with `words` in what was said. */
export async function findChats(words) {
  const wanted = words.toLowerCase();
  const all = await transact("readonly", (_, messages) => result(messages.getAll()));
  return new Set(all.filter(({ parts }) => parts?.some?.(({ text }) => text.toLowerCase().includes(wanted))).map(({ chat }) => chat));
}

/** A stored conversation out of messages that follow each other. */
export async function createLinear(title, messages) {
  const chat = newChat(title);
  const following = linked(messages);
  await createChat({ ...chat, leaf: following.at(-1).id }, following);
  return chat.id;
}

/** Takes over the conversation of an earlier version of the page; returns its id, null if there is none. */
export async function adoptOldChat(titleOf) {
  let messages = null;
  try {
    messages = JSON.parse(localStorage.getItem(OLD));
  } catch {
    return null; // switched off, or not ours
  }
  if (!Array.isArray(messages) || !messages.length || !messages.every(isMessage)) return null;
  const id = await createLinear(titleOf(messages), messages);
  localStorage.removeItem(OLD);
  return id;
}
