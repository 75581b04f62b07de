// Light and dark.

import * as store from "./store.js";
import { icon } from "./elements.js";

const button = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function showTheme() {
  button.replaceChildren(icon(isDark() ? "sun" : "moon"));
  button.setAttribute("aria-label", isDark() ? "Light appearance" : "Dark appearance");
}

button.addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  // What the system says anyway need not be remembered: it may change its mind at night.
  const asSystem = (chosen === "dark") === dark.matches;
  if (asSystem) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  store.saveTheme(asSystem ? null : chosen);
  showTheme();
});

/** Shows on the button what it leads to, from now on. */
export function watchAppearance() {
  dark.addEventListener("change", showTheme);
  showTheme();
}
