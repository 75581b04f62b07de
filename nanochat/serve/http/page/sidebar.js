// The list of conversations beside the one that is open.

import { changeChat, createChat, findChats, listChats, loadChat, removeChat, watchChats } from "./chats.js";
import { byId, element, iconButton, textButton, toast } from "./elements.js";
import * as store from "./store.js";
import { download, fileName, importFile, toJson, toMarkdown } from "./transfer.js";
import { Tree } from "./tree.js";

const SEARCH_MS = 150;
const narrow = matchMedia("(max-width: 60rem)");
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** `actions` is {open(id), fresh(), removed(id), changed(id), current(), trouble(error)}; `removed` and `changed` are of other tabs as well. */
export class Sidebar {
  constructor(actions) {
    this.actions = actions;
    this.chats = [];
    this.found = null; // ids that the search has found
    this.expanded = null; // id of the conversation whose buttons are shown
    this.refreshing = 0;
    byId("new").addEventListener("click", () => this.leaveTo(actions.fresh));
    byId("toggle-chats").addEventListener("click", () => this.toggle(byId("chats").hidden));
    byId("shade").addEventListener("click", () => this.toggle(false));
    byId("search").addEventListener("input", () => this.searchSoon());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", () => this.import());
    byId("export-all").addEventListener("click", () => this.exportAll());
    byId("chats").addEventListener("keydown", (event) => {
      const naming = event.target.matches("#chat-list input") || byId("search").value;
      if (event.key === "Escape" && !naming && narrow.matches) this.toggle(false);
    });
    watchChats((id, gone) => {
      this.refresh();
      (gone ? actions.removed : actions.changed)(id);
    });
    narrow.addEventListener("change", () => this.toggle(!narrow.matches && store.loadFlag("chats", true), false));
    this.toggle(!narrow.matches && store.loadFlag("chats", true), false);
  }

  /** Shows or hides the list; on a narrow screen it lies over the conversation. */
  toggle(shown, chosen = true) {
    byId("chats").hidden = !shown;
    byId("toggle-chats").setAttribute("aria-expanded", String(shown));
    const over = shown && narrow.matches;
    byId("shade").hidden = !over;
    for (const part of document.querySelectorAll("header, #memory, main, footer")) part.inert = over;
    if (!chosen) return;
    if (!narrow.matches) store.saveFlag("chats", shown);
    (shown ? byId("search") : byId("toggle-chats")).focus();
  }

  leaveTo(action) {
    if (narrow.matches) this.toggle(false);
    action();
  }

  async refresh() {
    const mine = (this.refreshing += 1);
    const chats = await this.attempt(listChats);
    if (!chats || mine !== this.refreshing) return;
    this.chats = chats;
    this.draw();
  }

  searchSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.search(), SEARCH_MS);
  }

  async search() {
    const words = byId("search").value.trim();
    this.found = words ? await this.attempt(() => findChats(words)) : null;
    this.draw();
  }

  draw() {
    if (byId("chat-list").querySelector("input")) return; // a name is being typed
    const words = byId("search").value.trim().toLowerCase();
    const shown = this.found ? this.chats.filter(({ id, title }) => this.found.has(id) || title.toLowerCase().includes(words)) : this.chats;
    byId("chat-list").replaceChildren(...shown.map((chat) => this.item(chat)));
    byId("no-chats").hidden = shown.length > 0;
    byId("no-chats").textContent = words ? `Nothing was said about “${words}”.` : "What you talk about is listed here, in this browser only.";
    byId("export-all").disabled = this.chats.length === 0;
  }

  item(chat) {
    const open = element("button", { type: "button", class: "chat-open", title: `${chat.title}\n${when.format(chat.updated)}` }, chat.title);
    open.addEventListener("click", () => this.leaveTo(() => this.actions.open(chat.id)));
    const expanded = this.expanded === chat.id;
    const more = iconButton("more", `More about ${chat.title}`, () => {
      this.expanded = expanded ? null : chat.id;
      this.draw();
      this.row(chat.id).querySelector(".icon").focus();
    });
    more.setAttribute("aria-expanded", String(expanded));
    const row = element("li", { "data-id": chat.id }, open, more);
    if (chat.id === this.actions.current()) open.setAttribute("aria-current", "true");
    if (expanded) {
      const buttons = element("div", { class: "chat-actions", role: "group", "aria-label": chat.title });
      buttons.append(
        textButton("Rename", () => this.rename(chat)),
        textButton("Delete", () => this.remove(chat)),
        textButton("Export Markdown", () => this.export(chat.id, "md")),
        textButton("Export JSON", () => this.export(chat.id, "json")),
      );
      buttons.children[2].title = "Save what is shown as a Markdown file";
      buttons.children[3].title = "Save with all versions as a JSON file, which can be imported";
      row.append(buttons);
    }
    return row;
  }

  row(id) {
    return [...byId("chat-list").children].find((row) => row.dataset.id === id);
  }

  /** Runs what may fail, and tells if it does. */
  async attempt(work) {
    try {
      return await work();
    } catch (error) {
      this.actions.trouble(error);
      return null;
    }
  }

  rename(chat) {
    const field = element("input", { "aria-label": "Name of the conversation", maxlength: "200" });
    field.value = chat.title;
    this.row(chat.id).querySelector(".chat-open").replaceWith(field);
    field.select();
    let over = false;
    const end = async (title) => {
      if (over) return;
      over = true;
      if (title && title !== chat.title) await this.attempt(() => changeChat(chat.id, { title }));
      field.remove();
      this.expanded = null;
      await this.refresh();
    };
    field.addEventListener("blur", () => end(field.value.trim()));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) end(field.value.trim());
      if (event.key === "Escape") end(null);
    });
  }

  async remove(chat) {
    const removed = await this.attempt(() => removeChat(chat.id));
    await this.refresh();
    if (!removed) return;
    const wasOpen = this.actions.current() === chat.id;
    this.actions.removed(chat.id, true);
    toast(`“${chat.title}” was deleted.`, async () => {
      await this.attempt(() => createChat(removed.chat, removed.messages));
      await this.refresh();
      if (wasOpen) this.actions.open(chat.id);
    });
  }

  async export(id, ending) {
    const found = await this.attempt(() => loadChat(id));
    if (!found) return;
    const { chat, messages } = found;
    if (ending === "json") download(fileName(chat.title, "json"), toJson([found]), "application/json");
    else download(fileName(chat.title, "md"), toMarkdown(chat.title, new Tree(messages, chat.leaf).path), "text/markdown");
  }

  async exportAll() {
    const all = await this.attempt(() => Promise.all(this.chats.map(({ id }) => loadChat(id))));
    if (all) download("conversations.json", toJson(all.filter(Boolean)), "application/json");
  }

  async import() {
    const [file] = byId("import-file").files;
    byId("import-file").value = "";
    const count = file && (await this.attempt(() => importFile(file)));
    await this.refresh();
    if (count) toast(count === 1 ? "1 conversation was imported." : `${count} conversations were imported.`);
  }
}
