// A conversation with its branches: each message follows another, and several may follow the same one.

export const newId = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** Copies of `messages`, each of which follows the one before. */
export function linked(messages) {
  const begin = Date.now();
  let parent = null;
  return messages.map((message, i) => {
    const one = { ...message, id: newId(), parent, created: begin + i };
    parent = one.id;
    return one;
  });
}

/** The messages are {id, parent, role, parts: [{type, text}], created, …}; `leaf` is the id of the last one that is shown, null for none. */
export class Tree {
  constructor(messages = [], leaf = null) {
    this.messages = new Map();
    this.take(messages);
    this.leaf = this.messages.has(leaf) ? leaf : null;
    if (this.leaf === null && messages.length) this.choose(this.children(null).at(-1));
  }

  /** Takes messages that come from elsewhere; what is shown stays. */
  take(messages) {
    for (const message of messages) this.messages.set(message.id, message);
  }

  /** What is shown, from the first message on. */
  get path() {
    const path = [];
    for (let at = this.messages.get(this.leaf); at; at = this.messages.get(at.parent)) path.unshift(at);
    return path;
  }

  children(parent) {
    return [...this.messages.values()].filter((message) => message.parent === parent).sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  }

  /** The versions of a message, itself included, the oldest first. */
  versions(message) {
    return this.children(message.parent).filter((other) => other.role === message.role);
  }

  /** A new message after `parent`; it is shown from now on. */
  add(role, parts, parent = this.leaf) {
    const message = { id: newId(), parent, role, parts, created: Date.now() };
    this.messages.set(message.id, message);
    this.leaf = message.id;
    return message;
  }

  /** Takes back a message that nothing follows. */
  remove(message) {
    this.messages.delete(message.id);
    if (this.leaf === message.id) this.leaf = message.parent;
  }

  /** Shows `message` and the newest of what follows it. */
  choose(message) {
    for (let at = message; at; at = this.children(at.id).at(-1)) this.leaf = at.id;
  }
}
