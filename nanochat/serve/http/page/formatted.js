// Text of the model as HTML, which the server makes of its Markdown: one request at a time, a few in a second.

import { RequestError } from "./api.js";
import { copyButton, element } from "./elements.js";

const APART_MS = 200; // between the beginnings of two requests while a reply is written
const SHARE = 3; // and so many times as long as the last one took
const KEPT = 300; // texts whose HTML is kept

const kept = new Map();
const waiting = new Set();
let running = false;

/** A text that is shown formatted as soon as it can be, and plain where that fails. `fetchHtml(text)` gives {html, formatted}. */
export class FormattedText {
  constructor(fetchHtml, changed) {
    this.fetchHtml = fetchHtml;
    this.changed = changed; // is called around each change, with the change
    this.element = element("div", { class: "text" });
    this.text = "";
    this.bare = true; // nothing formatted is shown yet
  }

  /** Shows `text`; `writing`: more of it is to come. */
  set(text, writing) {
    if (this.text === text && this.writing === writing) return;
    this.text = text;
    this.writing = writing;
    if (kept.has(text)) this.show(text, kept.get(text));
    else {
      if (this.bare) this.showPlain(text);
      waiting.delete(this);
      waiting.add(this);
      run();
    }
  }

  async format() {
    const { text } = this;
    try {
      const rendered = kept.get(text) ?? (await this.fetchHtml(text));
      if (!this.writing) keep(text, rendered);
      this.show(text, rendered);
    } catch (error) {
      this.showPlain(this.text, this.writing ? "" : "Shown as plain text: the server could not format it.");
      if (!(error instanceof RequestError)) console.error(error);
    }
  }

  show(text, { html, formatted }) {
    const made = element("div");
    made.innerHTML = html; // without any markup of the model's: the server escapes it
    for (const code of made.querySelectorAll(".code")) code.firstElementChild.append(copyButton(() => code.querySelector("code").textContent));
    if (formatted < text.length) {
      made.append(element("p", { class: "unformatted" }, text.slice(formatted)));
      if (!this.writing) made.append(aside(`Shown as plain text${formatted ? " from here on" : ""}: it is too long or too deeply nested to be formatted.`));
    }
    this.bare = false;
    this.changed(() => this.element.replaceChildren(...made.childNodes));
  }

  showPlain(text, note = "") {
    this.bare = true;
    this.changed(() => this.element.replaceChildren(element("p", { class: "unformatted" }, text), ...(note ? [aside(note)] : [])));
  }
}

const aside = (note) => element("p", { class: "aside" }, note);

function keep(text, rendered) {
  kept.set(text, rendered);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
}

/** Formats what waits, the newest first: that is what is looked at. */
async function run() {
  if (running) return;
  running = true;
  while (waiting.size) {
    const next = [...waiting].at(-1);
    waiting.delete(next);
    if (!next.element.isConnected) {
      await new Promise(requestAnimationFrame); // it may be on its way into the page
      if (!next.element.isConnected) continue;
    }
    const began = performance.now();
    await next.format();
    const took = performance.now() - began;
    if (next.writing) await new Promise((resolve) => setTimeout(resolve, Math.max(APART_MS - took, SHARE * took)));
  }
  running = false;
}
