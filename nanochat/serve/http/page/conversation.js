// The conversation on the screen, and where it is kept.

import { changeChat, createChat, loadChat, newChat } from "./chats.js";
import { textOf } from "./message.js";
import { Tree, linked } from "./tree.js";

const TITLE_CHARACTERS = 60;

export function titleOf(messages) {
  const words = textOf(messages.find(({ role }) => role === "user")?.parts ?? []).trim().split("\n")[0];
  return words.length > TITLE_CHARACTERS ? `${words.slice(0, TITLE_CHARACTERS - 1).trimEnd()}…` : words || "Conversation";
}

export class Conversation {
  /** `chat` is its record, null where the server keeps what is said. `trouble(error)` is called when it cannot be stored, with null when it is. */
  constructor(chat, messages, trouble) {
    this.chat = chat;
    this.tree = new Tree(messages, chat?.leaf);
    this.stored = messages.length > 0;
    this.trouble = trouble;
    this.saving = Promise.resolve();
    this.unsaved = new Map(); // by id, as they are to be stored
  }

  static fresh(trouble) {
    return new Conversation(newChat(), [], trouble);
  }

  static inSession(messages, trouble) {
    return new Conversation(null, linked(messages), trouble);
  }

  static async load(id, trouble) {
    const found = await loadChat(id);
    return found && new Conversation(found.chat, found.messages, trouble);
  }

  get id() {
    return this.chat?.id ?? null;
  }

  get path() {
    return this.tree.path;
  }

  /** Stores `messages` and which branch is shown, with what could not be stored before. */
  keep(...messages) {
    if (!this.chat) return this.saving;
    for (const message of messages) this.unsaved.set(message.id, structuredClone(message));
    const fields = { leaf: this.tree.leaf, ...(messages.length ? { updated: Date.now() } : {}) };
    this.saving = this.saving.then(() => this.store(fields)).then(() => this.trouble(null), this.trouble);
    return this.saving;
  }

  async store(fields) {
    const messages = [...this.unsaved.values()];
    if (this.stored) {
      await changeChat(this.chat.id, fields, messages);
    } else if (messages.length) {
      await createChat({ ...this.chat, title: titleOf(messages), ...fields }, messages);
      this.stored = true;
    }
    for (const message of messages) {
      if (this.unsaved.get(message.id) === message) this.unsaved.delete(message.id);
    }
  }

  /** Takes what another tab has added. */
  async refresh() {
    const found = await loadChat(this.chat.id);
    if (found) this.tree.take(found.messages.filter(({ id }) => !this.tree.messages.has(id)));
  }
}
