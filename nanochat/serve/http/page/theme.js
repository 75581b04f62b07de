// Runs before the page is drawn, so that it does not flash in the wrong colours.
(() => {
  let chosen;
  try {
    chosen = /light|dark/.exec(localStorage.getItem("theme"))?.[0];
  } catch {
    // Storage is switched off: the system's appearance it is.
  }
  document.documentElement.dataset.theme = chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
})();
