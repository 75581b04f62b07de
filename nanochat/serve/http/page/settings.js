// The settings dialog. A slider that was never touched shows the server's default and sends nothing.

import { byId } from "./elements.js";
import * as store from "./store.js";

const NUMBERS = ["temperature", "top_k", "max_tokens"];

export class Settings {
  constructor() {
    this.values = store.loadSettings();
    this.defaults = { temperature: 0.8, top_k: 50, max_tokens: 256 };
    for (const name of [...NUMBERS, "seed", "system"]) byId(name).addEventListener("input", () => this.changed(name));
    byId("reset").addEventListener("click", () => {
      this.values = {};
      this.keep();
    });
    byId("open-settings").addEventListener("click", () => byId("settings").showModal());
    byId("settings").addEventListener("click", (event) => {
      if (event.target === byId("settings")) byId("settings").close(); // beside the box
    });
    this.show();
  }

  /** Takes the defaults and limits of the model. */
  use(model) {
    this.defaults = model.defaults;
    byId("max_tokens").max = model.max_reply_tokens;
    byId("max_tokens").min = Math.min(16, model.max_reply_tokens);
    byId("max_tokens").step = model.max_reply_tokens > 512 ? 16 : 1;
    this.show();
  }

  changed(name) {
    const text = byId(name).value;
    if (text.trim() === "" || !byId(name).checkValidity()) delete this.values[name];
    else this.values[name] = name === "system" ? text : Number(text);
    store.saveSettings(this.values);
    this.showOutput(name);
  }

  keep() {
    store.saveSettings(this.values);
    this.show();
  }

  show() {
    for (const name of NUMBERS) {
      byId(name).value = this.values[name] ?? this.defaults[name];
      this.showOutput(name);
    }
    byId("seed").value = this.values.seed ?? "";
    byId("system").value = this.values.system ?? "";
  }

  showOutput(name) {
    const output = document.querySelector(`output[for="${name}"]`);
    if (output) output.value = name === "top_k" && byId(name).value === "0" ? "all" : byId(name).value;
  }

  /** The fields of a request. */
  get request() {
    const { system, ...numbers } = this.values;
    return numbers;
  }

  get system() {
    return this.values.system ?? "";
  }
}
