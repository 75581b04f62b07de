// The map of a session: which level of detail each part of its history has in what the model reads.

import { byId, element, number } from "./elements.js";
import { Scale } from "./scale.js";
import * as store from "./store.js";

const LEVELS = 5; // colours; a level above is drawn as the last
const MOVE_MS = 280;
const [TOP, BAR, FOOT] = [4, 40, 18]; // CSS pixels
const TICKS_APART = 64;
const compact = new Intl.NumberFormat("en-US", { notation: "compact" });
const percent = new Intl.NumberFormat("en-US", { style: "percent", maximumFractionDigits: 0 });

const nameOf = (level) => (level === 0 ? "raw tokens" : `gists of level ${level}`);
/** Height of a level on the map: more detail is higher. */
const heightOf = (level) => 1 - 0.72 * (Math.min(level, LEVELS - 1) / (LEVELS - 1));

/** `fetchText(start, end)` gives {text, cut}. */
export class FocusMap {
  constructor(fetchText) {
    [this.canvas, this.tip, this.legend, this.figures] = ["map", "span", "legend", "figures"].map(byId);
    this.fetchText = fetchText;
    this.focus = undefined;
    this.columns = [];
    this.before = null; // columns that are being moved from
    this.at = null; // index of the span that the keyboard is on
    this.texts = new Map();
    this.asked = 0;
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.hide());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => {
      if (this.canvas.matches(":focus-visible")) this.go(this.at ?? this.last);
    });
    this.canvas.addEventListener("blur", () => this.hide());
    const toggle = byId("toggle-map");
    const unfold = (shown) => {
      this.canvas.parentElement.hidden = !shown;
      toggle.setAttribute("aria-expanded", String(shown));
    };
    toggle.addEventListener("click", () => {
      unfold(this.canvas.parentElement.hidden);
      store.saveFlag("map", !this.canvas.parentElement.hidden);
    });
    unfold(store.loadFlag("map", !matchMedia("(max-width: 40rem), (max-height: 30rem)").matches));
    new ResizeObserver(() => this.layOut(false)).observe(this.canvas);
    new MutationObserver(() => this.layOut(false)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  get last() {
    return this.focus ? this.focus.spans.length - 1 : -1;
  }

  /**
   * Shows `focus`, as the server says it: null for a session that is not made yet, undefined until it is known. `moved`: it is the
   * same session's, a moment later.
   */
  show(focus, moved = false) {
    if (!moved || !focus || focus.tokens < (this.focus?.tokens ?? 0)) this.texts.clear();
    this.focus = focus;
    this.at = this.at === null || !focus ? null : Math.min(this.at, this.last);
    const empty = focus === null || focus?.tokens === 0;
    if (empty) {
      this.columns = [];
      this.hide();
    }
    this.canvas.hidden = empty;
    this.layOut(moved);
    this.showFigures();
    if (empty) this.legend.textContent = "Nothing has been read yet.";
    if (!this.tip.hidden && this.pointed !== undefined) this.point(this.pointed);
  }

  showFigures() {
    const { focus } = this;
    const figures = focus
      ? [
          ["History", `${number.format(focus.tokens)} tokens`],
          ["Entries", `${number.format(focus.entries)} of ${number.format(focus.budget)}`],
          ["Residency", percent.format(focus.residency)],
          ["Swap rate", percent.format(focus.swap_rate)],
          ["Refocuses", number.format(focus.refocuses)],
        ]
      : [];
    this.figures.parentElement.classList.toggle("empty", !focus);
    this.figures.replaceChildren(...figures.map(([name, value]) => element("span", {}, `${name} `, element("b", {}, value))));
    const present = focus ? [...new Set(focus.spans.map(([level]) => Math.min(level, LEVELS - 1)))].sort((a, b) => a - b) : [];
    this.legend.replaceChildren(
      ...present.map((level) => {
        const name = level === 0 ? "raw" : `LOD${level}: ${compact.format(focus.block_size ** level)} tokens a gist`;
        return element("span", {}, element("i", { class: `level${level}` }), name);
      }),
    );
  }

  /** Finds out what each pixel column shows: the finest level in it, so that detail in a long past is seen. */
  layOut(moved) {
    const width = this.canvas.clientWidth;
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round((TOP + BAR + FOOT) * ratio);
    this.scale = new Scale(this.focus?.tokens ?? 1, width);
    const old = this.columns;
    this.columns = this.focus?.tokens ? this.finest(Math.round(width)) : [];
    const animated = moved && old.length === this.columns.length && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.before = animated ? old : null;
    this.began = performance.now();
    cancelAnimationFrame(this.frame);
    this.paint();
  }

  finest(width) {
    const columns = [];
    let span = 0;
    for (let x = 0; x < width; x += 1) {
      const [from, upto] = [this.scale.token(x), Math.max(this.scale.token(x), this.scale.token(x + 1) - 1)];
      while (span < this.last && this.focus.spans[span][2] <= from) span += 1;
      let best = span;
      for (let next = span; next <= this.last && this.focus.spans[next][1] <= upto; next += 1) {
        if (this.focus.spans[next][0] < this.focus.spans[best][0]) best = next;
      }
      columns.push({ span: best, level: this.focus.spans[best][0] });
    }
    return columns;
  }

  paint() {
    const share = this.before ? Math.min(1, (performance.now() - this.began) / MOVE_MS) : 1;
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const colours = Array.from({ length: LEVELS }, (_, level) => style.getPropertyValue(`--level${level}`));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.clientWidth, TOP + BAR + FOOT);
    const bottom = TOP + BAR;
    this.columns.forEach(({ level }, x) => {
      const from = this.before?.[x].level ?? level;
      const height = BAR * (heightOf(from) + (heightOf(level) - heightOf(from)) * share);
      context.fillStyle = colours[Math.min(share < 0.5 ? from : level, LEVELS - 1)];
      context.fillRect(x, bottom - height, 1.02, height);
    });
    if (this.columns.length) this.paintAxis(context, style, bottom);
    if (this.marked) {
      context.strokeStyle = style.getPropertyValue("--text");
      context.lineWidth = 1.5;
      const [left, right] = this.marked.map((token) => this.scale.x(token));
      context.strokeRect(left, TOP - 2, Math.max(2, right - left), BAR + 3);
    }
    if (share < 1) this.frame = requestAnimationFrame(() => this.paint());
    else this.before = null;
  }

  paintAxis(context, style, bottom) {
    context.fillStyle = style.getPropertyValue("--quiet");
    context.font = `11px ${style.getPropertyValue("--sans")}`;
    context.textBaseline = "top";
    context.textAlign = "right";
    context.fillText("now", this.scale.width, bottom + 5);
    context.textAlign = "center";
    for (const { age, x } of this.scale.ticks(TICKS_APART)) {
      context.fillRect(x, bottom, 1, 4);
      context.fillText(`−${compact.format(age)}`, x, bottom + 5);
    }
    context.textAlign = "left";
    context.fillText("start", 0, bottom + 5);
  }

  // ---- what is under the pointer or the keyboard

  point(x) {
    const column = this.columns[Math.max(0, Math.min(this.columns.length - 1, Math.floor(x)))];
    if (!column) return;
    this.pointed = x;
    this.describe(column.span, x, this.scale.token(x));
  }

  key(event) {
    if (!this.focus?.spans.length) return;
    const now = this.at ?? this.last;
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, Home: 0, End: this.last }[event.key];
    if (event.key === "Escape") {
      if (!this.tip.hidden) event.stopPropagation();
      this.hide();
    } else if (to !== undefined) {
      event.preventDefault();
      this.go(Math.max(0, Math.min(this.last, to)));
    }
  }

  go(index) {
    if (index < 0) return;
    this.at = index;
    this.pointed = undefined;
    const [, start, end] = this.focus.spans[index];
    this.describe(index, (this.scale.x(start) + this.scale.x(end)) / 2, start);
  }

  /** Tells of span `index` at pixel `x`, and shows the text of it from the node or block on that `token` is in. */
  describe(index, x, token) {
    const [level, start, end, entries] = this.focus.spans[index];
    const size = this.focus.block_size ** Math.max(1, level);
    const inside = Math.max(start, Math.min(token, end - 1));
    const from = Math.max(start, Math.floor(inside / size) * size);
    const upto = Math.min(end, (Math.floor(inside / size) + 1) * size);
    const what = `${level === 0 ? "Raw" : `LOD${level}`} · tokens ${number.format(start)}–${number.format(end - 1)} · ${number.format(entries)} ${entries === 1 ? "entry" : "entries"}`;
    this.canvas.setAttribute("aria-valuemax", String(this.last));
    this.canvas.setAttribute("aria-valuenow", String(index));
    this.canvas.setAttribute("aria-valuetext", `${nameOf(level)}, tokens ${start} to ${end - 1}, ${entries} entries`);
    const score = this.focus.scores?.[index];
    const weighed = score === undefined ? "" : ` · score ${score < 0 ? "−" : "+"}${Math.abs(score).toFixed(2)}`;
    this.tip.querySelector(".span-head").textContent = what + weighed;
    this.tip.querySelector(".span-from").textContent = from > start ? `From token ${number.format(from)} on:` : "";
    this.tip.hidden = false;
    const left = Math.max(0, Math.min(this.canvas.clientWidth - this.tip.offsetWidth, x - this.tip.offsetWidth / 2));
    this.tip.style.left = `${left}px`;
    this.marked = [start, end];
    if (!this.before) this.paint();
    this.showText(from, upto);
  }

  async showText(start, end) {
    const key = `${start}-${end}`;
    const box = this.tip.querySelector(".span-text");
    this.shown = key;
    if (this.texts.has(key)) {
      box.textContent = this.texts.get(key);
      return;
    }
    this.asked += 1;
    const mine = this.asked;
    box.textContent = "…";
    await new Promise((resolve) => setTimeout(resolve, 90)); // a pointer that only passes by asks for nothing
    if (mine !== this.asked) return;
    try {
      const { text, cut } = await this.fetchText(start, end);
      this.texts.set(key, `${text.trim()}${cut ? " …" : ""}` || "(no text)");
    } catch {
      if (this.shown === key) box.textContent = "(the text cannot be had now)";
      return;
    }
    if (this.shown === key) box.textContent = this.texts.get(key);
  }

  hide() {
    this.tip.hidden = true;
    this.marked = null;
    this.pointed = undefined;
    this.asked += 1;
    if (this.scale && !this.before) this.paint();
  }
}
