// Conversations as files.

import { createChat, createLinear, isMessage, newChat } from "./chats.js";
import { titleOf } from "./conversation.js";
import { element } from "./elements.js";
import { NAMES } from "./message.js";
import { newId } from "./tree.js";

const FORMAT = "megacontext-chats";
const MOST_BYTES = 64e6;

/** Has the browser save `text` as a file. */
export function download(name, text, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const fileName = (title, ending) => `${title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation"}.${ending}`;

const fenced = (text) => {
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)));
  return `${fence}\n${text}\n${fence}`;
};

/** What is shown of a conversation, as Markdown. */
export function toMarkdown(title, path) {
  const said = path.map(({ role, parts }) => `## ${NAMES[role]}\n\n${parts.map(({ type, text }) => (type === "text" ? text : fenced(text))).join("\n\n")}`);
  return [`# ${title}`, ...said].join("\n\n") + "\n";
}

/** Conversations, each {chat, messages}, with all their branches. */
export const toJson = (conversations) =>
  JSON.stringify({ format: FORMAT, version: 1, conversations: conversations.map(({ chat, messages }) => ({ ...chat, messages })) }, null, 1);

export class ImportError extends Error {}

const invalid = (name, reason) => new ImportError(`${name} cannot be imported: ${reason}; expected an export of this page, or a list of {"role": …, "content": …}.`);

/** Stores the conversations of a file; returns how many. Nothing is stored if one of them is invalid. */
export async function importFile(file) {
  if (file.size > MOST_BYTES) throw invalid(file.name, "it is larger than 64 MB");
  let data;
  try {
    data = JSON.parse(await file.text());
  } catch {
    throw invalid(file.name, "it is not JSON");
  }
  const listed = Array.isArray(data) ? data : data?.messages;
  if (Array.isArray(listed)) {
    const messages = listed.filter((each) => each?.role !== "system").map(({ role, content }) => ({ role, parts: [{ type: "text", text: content }] }));
    if (!messages.length || !messages.every(isMessage)) throw invalid(file.name, "a message in it has no role or no text");
    await createLinear(titleOf(messages), messages);
    return 1;
  }
  if (data?.format !== FORMAT || !Array.isArray(data.conversations)) throw invalid(file.name, "it is of another kind");
  const checked = data.conversations.map((each, i) => checkedCopy(each, () => invalid(file.name, `conversation ${i + 1} is damaged`)));
  for (const { chat, messages } of checked) await createChat(chat, messages);
  return checked.length;
}

/** A copy with ids of its own, which may be imported beside the original. */
function checkedCopy(one, damaged) {
  if (typeof one?.title !== "string" || !Array.isArray(one.messages) || !one.messages.every(isMessage)) throw damaged();
  const following = new Map();
  for (const message of one.messages) {
    const parent = message.parent ?? null;
    following.set(parent, [...(following.get(parent) ?? []), message]);
  }
  const ids = new Map([[null, null]]);
  const copies = [];
  for (const known of ids.keys()) {
    for (const { id, role, parts, created, note, usage, seconds, limit } of following.get(known) ?? []) {
      if (typeof id !== "string" || ids.has(id) || !Number.isFinite(created)) throw damaged();
      ids.set(id, newId());
      const counted = Number.isFinite(usage?.prompt_tokens + usage?.completion_tokens) ? { usage, seconds, limit } : {};
      const said = { role, parts: parts.map(({ type, text }) => ({ type, text })), created, ...(typeof note === "string" ? { note } : {}) };
      copies.push({ id: ids.get(id), parent: ids.get(known), ...said, ...counted });
    }
  }
  if (copies.length !== one.messages.length) throw damaged(); // one follows a message that is not there
  const updated = Number.isFinite(one.updated) ? { updated: one.updated } : {};
  return { chat: { ...newChat(one.title.slice(0, 200)), ...updated, leaf: ids.get(one.leaf) ?? null }, messages: copies };
}
