// Sessions: which one the conversation belongs to, and the documents that are read into it.

import { RequestError, createSession, deleteSession, fetchSessions, uploadDocument } from "./api.js";
import { byId, number } from "./elements.js";
import * as store from "./store.js";

const NEW = " "; // no session has this name

/**
 * The bar above the conversation. `actions` is {token(), opened(name), busy(), say(text), error(error), added(title, focus)}:
 * `opened` is called with the session to show, null for one that is not made yet, "" for none.
 */
export class Sessions {
  constructor(actions) {
    this.actions = actions;
    this.list = [];
    this.name = store.loadSession();
    this.planned = null; // the name of the session to make
    this.limit = Infinity;
    this.upload = null;
    byId("session").addEventListener("change", () => this.open(byId("session").value));
    byId("new-session").addEventListener("click", () => this.ask("New session", "Create", this.freeName("chat"), (name) => this.create(name)));
    byId("fork-session").addEventListener("click", () =>
      this.ask(`Fork ${this.name}`, "Fork", this.freeName(`${this.name}-fork`), (name) => this.create(name, this.name)),
    );
    byId("delete-session").addEventListener("click", () => this.confirmDelete());
    byId("add-document").addEventListener("click", () => byId("document").click());
    byId("document").addEventListener("change", () => {
      const [file] = byId("document").files;
      byId("document").value = "";
      if (file) this.add(file);
    });
    byId("reading").querySelector("button").addEventListener("click", () => this.upload?.abort());
    this.takeDrops();
  }

  /** Begins: the server keeps sessions, and takes documents up to `limit` bytes. */
  async start(limit) {
    this.limit = limit;
    byId("memory").hidden = false;
    await this.refresh();
    if (this.name === "") return this.open("");
    const usable = this.list.filter((session) => !session.trouble);
    const kept = usable.find((session) => session.name === this.name);
    return this.open((kept ?? usable[0])?.name ?? null);
  }

  /** Goes to the conversations without a session; the caller opens one. */
  leave() {
    this.upload?.abort();
    this.name = "";
    store.saveSession("");
    this.draw();
  }

  async refresh() {
    this.list = await fetchSessions(this.actions.token());
    this.draw();
  }

  open(name) {
    this.upload?.abort();
    this.planned = null;
    this.name = name;
    store.saveSession(name);
    this.draw();
    return this.actions.opened(name);
  }

  draw() {
    const picker = byId("session");
    const option = ({ name, tokens, trouble }) => {
      const made = new Option(`${name} · ${number.format(tokens)} tokens${trouble ? " · cannot be opened" : ""}`, name);
      made.disabled = Boolean(trouble);
      made.title = trouble ?? "";
      return made;
    };
    const none = this.name === null ? [new Option("New session", NEW)] : [];
    picker.replaceChildren(...none, ...this.list.map(option), new Option("No session: a plain conversation", ""));
    picker.value = this.name ?? NEW;
    for (const id of ["fork-session", "delete-session"]) byId(id).disabled = !this.name;
    for (const element of document.querySelectorAll("#memory .of-session")) element.hidden = this.name === "";
  }

  freeName(stem) {
    const taken = new Set(this.list.map((session) => session.name));
    const short = stem.slice(0, 58);
    for (let i = 1; ; i += 1) {
      if (!taken.has(`${short}-${i}`)) return `${short}-${i}`;
    }
  }

  ask(title, action, suggested, then) {
    const dialog = byId("name-session");
    byId("name-session-title").textContent = title;
    dialog.querySelector(".primary").textContent = action;
    byId("session-name").value = suggested;
    dialog.returnValue = "cancel";
    // The first of the buttons is what Enter would press; a name that was typed is meant.
    byId("session-name").onkeydown = (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      dialog.querySelector(".primary").click();
    };
    dialog.onclose = () => {
      if (dialog.returnValue === "ok") then(byId("session-name").value.trim());
    };
    dialog.showModal();
    byId("session-name").select();
  }

  async create(name, forkOf) {
    try {
      await createSession(name, forkOf, this.actions.token());
      await this.refresh();
      this.open(name);
      this.actions.say(forkOf ? `You are in ${name}, a copy of ${forkOf}.` : `You are in ${name}.`);
    } catch (error) {
      this.actions.error(error);
    }
  }

  /** The session to write into: made now, where there is none yet. */
  async current() {
    if (this.name === null) {
      const name = this.planned ?? this.freeName("chat");
      await createSession(name, undefined, this.actions.token());
      this.name = name;
      this.planned = null;
      store.saveSession(name);
      await this.refresh();
    }
    return this.name;
  }

  confirmDelete() {
    const dialog = byId("confirm-delete");
    const [name, session] = [this.name, this.list.find((each) => each.name === this.name)];
    dialog.querySelector("p").textContent = `${name} with its ${number.format(session?.tokens ?? 0)} tokens is deleted for good.`;
    dialog.returnValue = "cancel";
    dialog.onclose = async () => {
      if (dialog.returnValue !== "ok") return;
      try {
        await deleteSession(name, this.actions.token());
        await this.refresh();
        this.open(this.list.find((each) => !each.trouble)?.name ?? null);
        this.actions.say(`${name} was deleted.`);
      } catch (error) {
        this.actions.error(error);
      }
    };
    dialog.showModal();
  }

  // ---- documents

  takeDrops() {
    let depth = 0;
    const shown = (change) => {
      depth = Math.max(0, depth + change);
      byId("drop").hidden = depth === 0 || !this.takesDocuments;
    };
    const files = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => files(event) && shown(1));
    addEventListener("dragleave", (event) => files(event) && shown(-1));
    addEventListener("dragover", (event) => files(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      shown(-depth);
      const [file] = event.dataTransfer.files;
      if (file && this.takesDocuments) this.add(file);
    });
  }

  get takesDocuments() {
    return !byId("memory").hidden && this.name !== "";
  }

  async add(file) {
    if (this.upload || this.actions.busy()) {
      this.actions.error(new RequestError("Wait until what is being written now is done, or stop it.", 409));
      return;
    }
    if (file.size > this.limit) {
      const most = number.format(Math.floor(this.limit / 1e4) / 100);
      this.actions.error(new RequestError(`${file.name} is too large: this server takes up to ${most} MB.`, 413));
      return;
    }
    this.upload = new AbortController();
    this.showProgress(`Sending ${file.name}`, 0);
    try {
      const name = await this.current();
      const { focus } = await uploadDocument(name, file, this.actions.token(), this.upload.signal, {
        sent: (share) => this.showProgress(share < 1 ? `Sending ${file.name}` : `Checking ${file.name}`, share < 1 ? share : null),
        read: ({ read, total }) => this.showProgress(`Reading ${file.name}: ${number.format(read)} of ${number.format(total)} tokens`, read / total),
      });
      this.actions.added(file.name, focus);
    } catch (error) {
      if (error.name === "AbortError") this.actions.added(file.name, null);
      else this.actions.error(error);
    } finally {
      this.upload = null;
      byId("reading").hidden = true;
      byId("add-document").disabled = false;
      this.afterDocument().catch(this.actions.error);
    }
  }

  /** The server may drop an empty session with its refused document; it is made again, by its name, for what is said next. */
  async afterDocument() {
    await this.refresh();
    if (!this.name || this.list.some(({ name }) => name === this.name)) return;
    [this.planned, this.name] = [this.name, null];
    this.draw();
  }

  showProgress(text, share) {
    byId("add-document").disabled = true;
    byId("reading").hidden = false;
    byId("reading").querySelector("span").textContent = text;
    const bar = byId("reading").querySelector("progress");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    bar.setAttribute("aria-label", text);
  }
}
