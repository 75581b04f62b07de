// Light and dark: as the system is, until the other one is chosen.

import * as store from "./store.js";
import { byId, icon } from "./elements.js";

const { dataset } = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const ofSystem = () => (dark.matches ? "dark" : "light");
let chosen = store.loadTheme();

/** Shows the page in a theme, and on the button what it leads to. */
function show(theme) {
  dataset.theme = theme;
  byId("theme").replaceChildren(icon(theme === "dark" ? "sun" : "moon"));
  byId("theme").setAttribute("aria-label", theme === "dark" ? "Light appearance" : "Dark appearance");
}

byId("theme").addEventListener("click", () => {
  show(dataset.theme === "dark" ? "light" : "dark");
  // What the system says anyway need not be remembered: it may change its mind at night.
  chosen = dataset.theme === ofSystem() ? null : dataset.theme;
  store.saveTheme(chosen);
});

/** Begins with the theme that the page was drawn in, and follows the system's where none is chosen. */
export function watchAppearance() {
  dark.addEventListener("change", () => chosen ?? show(ofSystem()));
  show(dataset.theme);
}
